"""Log files of a state directory: finding, reading the end, going on with what is written.

Called by ``logs``. Files may be rotated or cut to nothing at any moment.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

_ENDING = ".log"
_PIECE = 1 << 16


@dataclass(frozen=True, slots=True)
class LogFile:
    """One log; `name` is its path below the log directory without the ending."""

    name: str
    path: Path


def find_logs(directory: Path, target: str | None, environment: str | None) -> list[LogFile]:
    """Return the logs that `target` means, by name.

    Parameters
    ----------
    target
        A whole name (``replicas/production/fraud-2-0``), its end (``production/fraud-2-0``), or a
        deployment (``fraud``: its replicas); None for all.
    environment
        Only logs of this environment.
    """
    every = [
        LogFile(str(path.relative_to(directory)).removesuffix(_ENDING), path)
        for path in sorted(directory.rglob(f"*{_ENDING}"))
    ]
    if environment is not None:
        every = [log for log in every if environment in log.name.split("/")[1:]]
    if target is None:
        return every
    exact = [log for log in every if f"/{log.name}".endswith(f"/{target}")]
    if exact:
        return exact
    return [log for log in every if _is_replica_of(log.name, target)]


def _is_replica_of(name: str, deployment: str) -> bool:
    group, _, rest = name.partition("/")
    return group == "replicas" and rest.rpartition("/")[2].startswith(f"{deployment}-")


def read_tail(path: Path, lines: int) -> str:
    """Return the last `lines` lines of a file, each ended; empty when it is gone."""
    if lines == 0:
        return ""
    try:
        with path.open("rb") as file:
            position = file.seek(0, os.SEEK_END)
            raw = b""
            while position > 0 and raw.count(b"\n") <= lines:
                length = min(_PIECE, position)
                position -= length
                file.seek(position)
                raw = file.read(length) + raw
    except FileNotFoundError:
        return ""
    text = b"\n".join(raw.rstrip(b"\n").split(b"\n")[-lines:]).decode(errors="replace")
    return text + "\n" if text else ""


class LogFollower:
    """Reads what is added to a file, over rotations."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._inode, self._offset = self._look()

    def _look(self) -> tuple[int, int]:
        try:
            found = self._path.stat()
        except FileNotFoundError:
            return 0, 0
        return found.st_ino, found.st_size

    def read_new(self) -> str:
        """Return what was added since the last call; a new or cut file is read from its start."""
        inode, end = self._look()
        if inode != self._inode or end < self._offset:
            self._inode, self._offset = inode, 0
        if end == self._offset:
            return ""
        with self._path.open("rb") as file:
            file.seek(self._offset)
            raw = file.read(end - self._offset)
        whole = raw[: raw.rfind(b"\n") + 1]
        self._offset += len(whole)
        return whole.decode(errors="replace")
