"""The records beside the trees: which version each stored tree is.

Used by `trees`. One small file for each version, ``.versions/<unique id>.json``, with what the
id was made from; `registry check` writes lacking ones again from the database.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from modelplane.decisions.registry_check import VersionLabel, says_same
from modelplane.errors import FieldError, InvalidResource

_FOLDER = ".versions"
_ENDING = ".json"
_ID = re.compile(r"[A-Za-z0-9][-A-Za-z0-9]{0,99}")
_TIMES = ("LastModified", "last_modified", "mtime", "created")
"""Where the file systems say when a file was written: s3, az, a folder and gs, memory."""


class LabelFiles:
    """The records in one storage; its methods block and raise what the storage raises."""

    def __init__(self, files: Any, root: str, *, is_local: bool) -> None:
        self._files = files
        self._folder = f"{root}/{_FOLDER}"
        self._is_local = is_local

    def write(self, label: VersionLabel) -> None:
        """Write a record, unless one that says the same is there."""
        place = self._place(label.id)
        found = self._read([place])
        if found and says_same(found[0], label):
            return
        created_at = label.created_at.isoformat() if label.created_at else None
        content = json.dumps(
            {
                "id": label.id,
                "model": label.model,
                "version": label.version,
                "digest": label.digest,
                "created_at": created_at,
            }
        )
        if self._is_local:
            _write_whole(Path(place), content)
        else:
            self._files.pipe_file(place, content.encode())

    def read(self, written_since: datetime | None = None) -> Sequence[VersionLabel]:
        """Return the records by id, or only those written since a time."""
        self._files.invalidate_cache()
        places = [
            str(path)
            for path, info in self._files.find(self._folder, detail=True).items()
            if str(path).endswith(_ENDING)
            and _ID.fullmatch(_id_of(str(path)))
            and (written_since is None or _is_since(info, written_since))
        ]
        return self._read(sorted(places))

    def remove(self, version_id: str) -> None:
        """Remove a record; an unknown id changes nothing."""
        place = self._place(version_id)
        if self._files.exists(place):
            self._files.rm(place)

    def _place(self, version_id: str) -> str:
        if not _ID.fullmatch(version_id):  # it becomes a path
            fault = FieldError("id", f"{version_id[:80]!r} is not a version's unique id")
            raise InvalidResource("not a unique id", [fault])
        return f"{self._folder}/{version_id}{_ENDING}"

    def _read(self, places: Sequence[str]) -> list[VersionLabel]:
        contents = self._files.cat(list(places), on_error="return") if places else {}
        found = []
        for place in places:
            content = contents[place]
            if isinstance(content, FileNotFoundError):
                continue
            if isinstance(content, Exception):
                raise content
            found.append(_parse(_id_of(place), content))
        return found


def modified_at(info: Mapping[str, Any]) -> datetime | None:
    """Return when a file was written, by what its file system tells; None when it does not."""
    time = next((info[name] for name in _TIMES if info.get(name) is not None), None)
    if isinstance(time, datetime):
        return time.astimezone(UTC) if time.tzinfo else time.replace(tzinfo=UTC)
    return datetime.fromtimestamp(time, UTC) if isinstance(time, int | float) else None


def _is_since(info: Mapping[str, Any], since: datetime) -> bool:
    written_at = modified_at(info)
    return written_at is None or written_at >= since


def _id_of(place: str) -> str:
    return place.rpartition("/")[2].removesuffix(_ENDING)


def _parse(version_id: str, content: bytes) -> VersionLabel:
    """Return what a record says; only the id of its file when it says nothing that fits."""
    try:
        data = json.loads(content)
        created_at = datetime.fromisoformat(data["created_at"]) if data["created_at"] else None
        if created_at is not None and created_at.tzinfo is None:
            raise ValueError("no time zone")
        model, version, digest = data["model"], data["version"], data["digest"]
        is_text = all(isinstance(value, str) for value in (model, version, digest))
        if data["id"] == version_id and is_text:
            return VersionLabel(version_id, model, version, digest, created_at)
    except (ValueError, KeyError, TypeError):
        pass
    return VersionLabel(version_id)


def _write_whole(place: Path, content: str) -> None:
    """Write a file on this machine whole or not at all."""
    place.parent.mkdir(exist_ok=True)
    temporary = place.with_suffix(".new")
    with temporary.open("w") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())
    temporary.rename(place)
