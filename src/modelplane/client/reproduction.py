"""A push that is only recorded: how `Client.push` behaves while a version is being reproduced.

`modelplane reproduce` runs a version's training command again with the variable `VARIABLE` set
to a folder. There, `Client.push` leaves the artifact and the record in that folder and sends
nothing, and no other request of a `Client` changes anything. Called by `synchronous` in the
training process, and by the command, which reads what was left.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
from pydantic import ValidationError

from modelplane.client.answers import Applied
from modelplane.client.artifacts import list_files
from modelplane.decisions.datasets import clean_dataset_name
from modelplane.errors import TerminalError
from modelplane.resources.dataset import DatasetReference, DatasetVersion, DatasetVersionSpec
from modelplane.resources.meta import Metadata
from modelplane.resources.model import (
    ModelVersion,
    ModelVersionSpec,
    ModelVersionStatus,
    version_id,
)

VARIABLE = "MODELPLANE_REPRODUCE_DIR"

_MAX_PUSHES = 1000
_RECORD = "version.json"
_FILES = "artifact"
_STATUS = ("tags", "description")
_NOT_SENT = "this push was not sent: a version is being reproduced"


@dataclass(frozen=True, slots=True)
class RecordedPush:
    """What a reproduced command would have pushed, and where its files are."""

    version: ModelVersion
    artifact: Path


def recording_folder() -> Path | None:
    """Return where pushes are recorded instead of sent; None when nothing is being reproduced."""
    folder = os.environ.get(VARIABLE)
    return Path(folder) if folder else None


def guarded_transport() -> httpx.BaseTransport | None:
    """Return the network of a client: one that only reads while something is reproduced."""
    return _ReadingTransport() if recording_folder() else None


class _ReadingTransport(httpx.HTTPTransport):
    def handle_request(self, request: httpx.Request) -> httpx.Response:
        if request.method not in {"GET", "HEAD"}:
            raise TerminalError(
                f"{request.method} {request.url.path} was not sent: a version is being "
                "reproduced, which changes nothing"
            )
        return super().handle_request(request)


def record_push(folder: Path, path: Path, body: Mapping[str, Any]) -> Applied[ModelVersion]:
    """Keep what would be pushed in a folder of its own below `folder`.

    Parameters
    ----------
    folder
        Where pushes are recorded.
    path
        The artifact: a file or folder.
    body
        What would be sent: see `pushing.describe_push`.

    Returns
    -------
    Applied
        ``created``, with the version as it would be registered, without a number.
    """
    place = _make_place(folder)
    for name, file in list_files(path):
        target = place / _FILES / name
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(file, target)
    spec = {key: value for key, value in body.items() if key not in _STATUS}
    said = {key: body[key] for key in _STATUS if key in body}
    found = ModelVersionSpec.model_validate(spec)
    digest = found.artifact.digest if found.artifact else ""
    version = ModelVersion(
        metadata=Metadata(name=f"{found.model}@{found.version}"),
        spec=found.with_(id=version_id(found.model, found.version, digest)),
        status=ModelVersionStatus.model_validate(said),
    )
    # The record is the mark that all of it is there, and comes last.
    temporary = place / f"{_RECORD}.new"
    temporary.write_text(json.dumps(version.to_dict()))
    temporary.replace(place / _RECORD)
    return Applied("created", version, warnings=(_NOT_SENT,))


def answer_dataset_push(body: Mapping[str, Any]) -> Applied[DatasetVersion]:
    """Return what a script gets that registers data, of which nothing is kept.

    The data is that of the version anyway, where the script says so when it pushes it.
    """
    data = DatasetReference.model_validate(body["data"])
    described = data.model_dump(exclude={"name", "version", "context"})
    spec = DatasetVersionSpec(
        dataset=clean_dataset_name(data.name),
        version=body.get("version") or data.version or "1",
        number=1,
        **described,
    )
    name = Metadata(name=f"{spec.dataset}@{spec.version}")
    made = DatasetVersion(metadata=name, spec=spec)
    return Applied("unchanged", made, warnings=(_NOT_SENT,))


def _make_place(folder: Path) -> Path:
    for number in range(_MAX_PUSHES):
        place = folder / f"push-{number:04}"
        try:
            place.mkdir(parents=True)
        except FileExistsError:
            continue
        return place
    raise TerminalError(f"more than {_MAX_PUSHES} versions were pushed while reproducing one")


def read_pushes(folder: Path) -> list[RecordedPush]:
    """Return what was recorded in `folder`, in the order of pushing.

    Raises
    ------
    TerminalError
        A record is damaged.
    """
    found = []
    for record in sorted(folder.glob(f"push-*/{_RECORD}")):
        try:
            version = ModelVersion.model_validate_json(record.read_bytes())
        except (OSError, ValidationError) as error:
            raise TerminalError(f"the recorded push in {record} cannot be read: {error}") from None
        found.append(RecordedPush(version, record.parent / _FILES))
    return found


def choose_push(pushes: list[RecordedPush], model: str, version: str) -> RecordedPush | None:
    """Return the push that stands for ``model@version``: its own, else the model's last.

    A script that pushes once may have named the version otherwise, by the day say.
    """
    own = [push for push in pushes if push.version.spec.model == model]
    exact = [push for push in own if push.version.spec.version == version]
    chosen = exact or own
    return chosen[-1] if chosen else None
