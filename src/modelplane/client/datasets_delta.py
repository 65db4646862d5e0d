"""Delta tables: version, schema, rows and digest, from the transaction log alone.

Called by `datasets`. Reads JSON commits with the standard library and checkpoints with pyarrow,
which is needed only where the commits before a checkpoint were cleaned away.

The log's format is https://github.com/delta-io/delta/blob/master/PROTOCOL.md.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import unquote

from modelplane.client.datasets_parquet import has_arrow, read_rows
from modelplane.decisions.datasets import clean_dataset_name
from modelplane.errors import InvalidResource
from modelplane.resources.dataset import DataColumn, DatasetReference

_LOG = "_delta_log"
_COMMIT = re.compile(r"(\d{20})\.json")
_CHECKPOINT = re.compile(r"(\d{20})\.checkpoint(?:\.(\d{10})\.(\d{10})|\.[0-9a-f-]{36})?\.(\w+)")

Action = Mapping[str, Any]


@dataclass(slots=True)
class _Table:
    """The table as the log has it so far: its metadata and its files, removed ones left out."""

    id: str = ""
    schema: str = ""
    files: dict[tuple[str, str], Action] = field(default_factory=dict)

    def apply(self, action: Action) -> None:
        """Take in one action of the log."""
        if (added := action.get("add")) is not None:
            self.files[_file_key(added)] = added
        elif (removed := action.get("remove")) is not None:
            self.files.pop(_file_key(removed), None)
        elif (metadata := action.get("metaData")) is not None:
            self.id, self.schema = str(metadata["id"]), str(metadata["schemaString"])


def is_delta(path: Path) -> bool:
    """Whether a folder is a Delta table."""
    return (path / _LOG).is_dir()


def describe_delta(path: Path, version: int | None) -> DatasetReference:
    """Return the reference to one version of a Delta table, the latest when none is given.

    The digest is over the table's id, the version and the files that belong to it: the same
    wherever the table is copied to, and another after each commit.

    Raises
    ------
    InvalidResource
        There is no such version, or its log or its files are gone or unreadable.
    """
    try:
        log = _read_names(path)
        wanted = log.latest if version is None else version
        table = _replay(path, log, wanted)
        _check_files(path, table, wanted)
    except (KeyError, TypeError, AttributeError) as error:
        raise InvalidResource(
            f"the log of the Delta table {path} has a form that is not known: {error!r}"
        ) from None
    except OSError as error:
        place = error.filename or path
        raise InvalidResource(
            f"the Delta table's {place} cannot be read: {error.strerror}"
        ) from None
    files = sorted(table.files.items())
    return DatasetReference(
        name=clean_dataset_name(path.resolve().name),
        digest=_digest(table, wanted, [(*key, int(file.get("size") or 0)) for key, file in files]),
        version=str(wanted),
        rows=_count_rows(file for _, file in files),
        size_bytes=sum(int(file.get("size") or 0) for _, file in files),
        files=len(files),
        uri=f"{path}@{wanted}",
        format="delta",
        columns=_columns_of(path, table),
    )


@dataclass(frozen=True, slots=True)
class _Log:
    """The files of a log by version."""

    commits: Mapping[int, Path]
    checkpoints: Mapping[int, tuple[Path, ...]]

    @property
    def latest(self) -> int:
        return max((*self.commits, *self.checkpoints))


def _read_names(path: Path) -> _Log:
    commits: dict[int, Path] = {}
    checkpoints: dict[int, list[Path]] = {}
    parts: dict[int, int] = {}
    for file in sorted((path / _LOG).iterdir()):
        if match := _COMMIT.fullmatch(file.name):
            commits[int(match[1])] = file
        elif match := _CHECKPOINT.fullmatch(file.name):
            version, of = int(match[1]), int(match[3] or 1)
            # Each way to write a checkpoint is whole in itself: the last one seen counts.
            if of == 1 or parts.get(version) != of:
                checkpoints[version] = []
            checkpoints[version].append(file)
            parts[version] = of
    whole = {v: tuple(found) for v, found in checkpoints.items() if len(found) == parts[v]}
    if not commits and not whole:
        raise InvalidResource(
            f"{path / _LOG} holds no commit", hint="is the table still being written, or copied?"
        )
    return _Log(commits, whole)


def _replay(path: Path, log: _Log, wanted: int) -> _Table:
    """Return the table at version `wanted`, from the last checkpoint before it and commits."""
    known = [v for v in (-1, *log.checkpoints) if v <= wanted]
    starts = [v for v in known if all(n in log.commits for n in range(v + 1, wanted + 1))]
    if not starts or wanted > log.latest:
        raise InvalidResource(
            f"the Delta table {path} has no version {wanted}",
            hint=f"{_tell_versions(log)}; its older logs may have been cleaned away",
        )
    table = _Table()
    can_skip = has_arrow()
    if not can_skip and -1 not in starts:
        raise InvalidResource(
            f"version {wanted} of the Delta table {path} begins with a checkpoint",
            hint="install pyarrow, which reads it",
        )
    start = max(starts) if can_skip else -1
    for checkpoint in log.checkpoints.get(start, ()):
        for action in _read_checkpoint(checkpoint):
            table.apply(action)
    for number in range(start + 1, wanted + 1):
        for action in _read_commit(log.commits[number]):
            table.apply(action)
    if not table.id:
        raise InvalidResource(f"the log of the Delta table {path} never says what the table is")
    return table


def _tell_versions(log: _Log) -> str:
    return f"the log reaches from {min((*log.commits, *log.checkpoints))} to {log.latest}"


def _read_commit(file: Path) -> Iterator[Action]:
    with file.open(encoding="utf-8") as lines:
        for number, line in enumerate(lines, 1):
            if not line.strip():
                continue
            try:
                action = json.loads(line)
                if not isinstance(action, dict):
                    raise ValueError("not an object")
            except ValueError as error:
                raise InvalidResource(
                    f"{file} is damaged: line {number} is no JSON object ({error})",
                    hint="restore it from a backup, or name an earlier version: PATH@N",
                ) from None
            yield action


def _read_checkpoint(file: Path) -> Iterator[Action]:
    """Yield the actions of a checkpoint file, and those of the sidecars that it names."""
    actions = _read_commit(file) if file.suffix == ".json" else _read_rows(file)
    for action in actions:
        if sidecar := action.get("sidecar"):
            yield from _read_rows(file.parent / "_sidecars" / Path(unquote(sidecar["path"])).name)
        else:
            yield action


def _read_rows(file: Path) -> Iterator[Action]:
    return read_rows(file, ("add", "metaData", "sidecar"))


def _file_key(file: Action) -> tuple[str, str]:
    """Return what names a file of a table: its path and its deletion vector, if it has one."""
    vector = file.get("deletionVector")
    if not vector:
        return str(file["path"]), ""
    offset = vector.get("offset")
    end = "" if offset is None else f"@{offset}"
    return str(file["path"]), f"{vector['storageType']}{vector['pathOrInlineDv']}{end}"


def _check_files(path: Path, table: _Table, version: int) -> None:
    """Check that the data is still there: cleaning a table takes away what old versions need."""
    for name, _ in table.files:
        file = unquote(name)
        if "://" not in file and not (path / file).exists():
            raise InvalidResource(
                f"version {version} of the Delta table {path} needs {file}, which is gone",
                hint="name a later version, or restore the file",
            )


def _digest(table: _Table, version: int, files: Iterable[tuple[str, str, int]]) -> str:
    text = [f"{table.id}\0{version}\n", *(f"{p}\0{v}\0{size}\n" for p, v, size in files)]
    return f"delta:{hashlib.sha256(''.join(text).encode()).hexdigest()}"


def _count_rows(files: Iterable[Action]) -> int | None:
    """Return the rows of all files; None when one of them does not tell."""
    total = 0
    for file in files:
        rows = _rows_of(file)
        if rows is None:
            return None
        total += rows
    return total


def _rows_of(file: Action) -> int | None:
    stats = file.get("stats_parsed")
    if not stats:
        try:
            stats = json.loads(file.get("stats") or "{}")
        except ValueError:
            return None
    rows = stats.get("numRecords") if isinstance(stats, dict) else None
    deleted = (file.get("deletionVector") or {}).get("cardinality", 0)
    return rows - deleted if isinstance(rows, int) else None


def _columns_of(path: Path, table: _Table) -> tuple[DataColumn, ...]:
    try:
        fields = json.loads(table.schema)["fields"]
        return tuple(DataColumn(name=one["name"], type=_type_name(one["type"])) for one in fields)
    except (ValueError, KeyError, TypeError):
        raise InvalidResource(f"the log of the Delta table {path} has an unknown schema") from None


def _type_name(type_: Any) -> str:
    """Return a type in the words of Spark: ``array<long>``, ``struct<a:string>``."""
    if isinstance(type_, str):
        return type_
    kind = type_["type"]
    if kind == "array":
        return f"array<{_type_name(type_['elementType'])}>"
    if kind == "map":
        return f"map<{_type_name(type_['keyType'])},{_type_name(type_['valueType'])}>"
    fields = ",".join(f"{one['name']}:{_type_name(one['type'])}" for one in type_["fields"])
    return f"struct<{fields}>"
