"""The files of one job: where it works, what it is given, what it leaves.

Called by `agent.job_runner`, in threads where a tree is walked. What a job leaves is not trusted:
reads are bounded, links are not followed, and nothing but plain files is taken.
"""

from __future__ import annotations

import contextlib
import json
import math
import os
import shutil
import stat
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple, cast, get_args

from pydantic_core import from_json

from modelplane.client.artifacts import digest_tree
from modelplane.decisions.agent_jobs import Interruption
from modelplane.errors import InvalidResource

MAX_RESULT_BYTES = 256 * 2**10
MAX_OUTPUT_BYTES = 256 * 2**20
MAX_OUTPUT_FILES = 10_000
_MAX_RESULT_DEPTH = 32
_ENTRY_BYTES = 4096
_MAX_PROGRESS_BYTES = 4096
_MAX_PROGRESS_CHARS = 200


@dataclass(frozen=True, slots=True)
class NotedEnd:
    """That the agent ended a job, written down before it did."""

    interruption: Interruption
    log_tail: str


class Progress(NamedTuple):
    """How far a job says it is: 0 to 1 or None, and in words."""

    share: float | None
    message: str


@dataclass(frozen=True, slots=True)
class Output:
    """What a job left as its output: its digest, or None, and what there is to say of it."""

    digest: str | None = None
    message: str = ""


@dataclass(frozen=True, slots=True)
class JobFiles:
    """The folder of one job.

    Attributes
    ----------
    root
        Holds everything of the job.
    sockets
        A folder with a short path, for Unix sockets.
    """

    root: Path
    sockets: Path

    @property
    def work_dir(self) -> Path:
        """The working directory."""
        return self.root / "work"

    @property
    def output_dir(self) -> Path:
        """What it leaves here is kept."""
        return self.root / "output"

    def prepare(
        self, given: Mapping[str, Any] | None, cause: Mapping[str, Any] | None = None
    ) -> None:
        """Make everything anew, with what the job is given, and what causes a training."""
        self.remove()
        for folder in (self.work_dir / "tmp", self.output_dir, self.sockets):
            folder.mkdir(mode=0o700, parents=True)
        for folder in (self.root, self.work_dir):
            folder.chmod(0o700)
        if given is not None:
            self._input.write_text(json.dumps(dict(given)))
        if cause is not None:
            self._cause.write_text(json.dumps(dict(cause)))

    def variables(self, artifacts: Mapping[str, Path]) -> dict[str, str]:
        """Return the variables that tell the job where its files are."""
        found = {
            "TMPDIR": str(self.work_dir / "tmp"),
            "MODELPLANE_JOB_RESULT": str(self._result),
            "MODELPLANE_JOB_PROGRESS": str(self._progress),
            "MODELPLANE_JOB_OUTPUT": str(self.output_dir),
            "MODELPLANE_JOB_SOCKETS": str(self.sockets),
        }
        if self._input.exists():
            found["MODELPLANE_JOB_INPUT"] = str(self._input)
        if self._cause.exists():
            found["MODELPLANE_CAUSE"] = str(self._cause)
        for name, folder in artifacts.items():
            found[artifact_variable(name)] = str(folder)
        return found

    def note_end(self, noted: NotedEnd) -> None:
        """Write down that the job is about to be ended, for the next agent should this one die."""
        scratch = self._end.with_suffix(".new")
        with contextlib.suppress(OSError):
            scratch.write_text(json.dumps([noted.interruption, noted.log_tail]))
            scratch.replace(self._end)

    def noted_end(self) -> NotedEnd | None:
        """Return what was written down, or None."""
        try:
            interruption, log_tail = json.loads(self._end.read_text())
        except (OSError, ValueError, TypeError):
            return None
        if interruption not in get_args(Interruption) or not isinstance(log_tail, str):
            return None
        return NotedEnd(cast("Interruption", interruption), log_tail)

    def size_bytes(self, limit_bytes: int | None = None) -> int:
        """Return what the files take on the disk; counts no further than `limit_bytes`.

        Each file counts for 4 KiB at the least, or many small ones would count for nothing.
        """
        total = 0
        for entry in _walk(self.root):
            with contextlib.suppress(OSError):
                total += max(_ENTRY_BYTES, 512 * entry.stat(follow_symlinks=False).st_blocks)
            if limit_bytes is not None and total >= limit_bytes:
                break
        return total

    def read_result(self) -> dict[str, Any] | str | None:
        """Return the object that the job left, what is wrong with it, or None without one."""
        try:
            content = _read_plain(self._result, MAX_RESULT_BYTES + 1)
        except FileNotFoundError:
            return None
        except OSError as error:
            return f"its result cannot be read: {error.strerror}"
        return "its result is no plain file" if content is None else parse_result(content)

    def read_progress(self) -> Progress | None:
        """Return how far the job says it is; None when it says nothing that could be read."""
        try:
            content = _read_plain(self._progress, _MAX_PROGRESS_BYTES)
        except OSError:
            return None
        return parse_progress(content) if content is not None else None

    def gather_output(self) -> Output:
        """Take away what cannot be kept of the output, and return the digest of the rest."""
        odd = files = size_bytes = 0
        for entry in list(_walk(self.output_dir)):
            with contextlib.suppress(OSError):
                found = entry.stat(follow_symlinks=False)
                if stat.S_ISDIR(found.st_mode):
                    continue
                if not stat.S_ISREG(found.st_mode) or not _is_text(entry.name):
                    Path(entry.path).unlink(missing_ok=True)
                    odd += 1
                    continue
                files += 1
                size_bytes += found.st_size
        if files > MAX_OUTPUT_FILES or size_bytes > MAX_OUTPUT_BYTES:
            return Output(
                message=f"its output is not kept: {files:,} files with {size_bytes:,} bytes; at "
                f"most {MAX_OUTPUT_FILES:,} with {MAX_OUTPUT_BYTES // 2**20} MiB are"
            )
        message = f"{odd} entries of its output that are no plain files are left out" if odd else ""
        if not files:
            return Output(message=message)
        try:
            return Output(digest_tree(self.output_dir).digest, message)
        except InvalidResource as error:
            return Output(message=f"its output is not kept: {error}")

    def remove(self) -> None:
        """Remove everything."""
        for folder in (self.root, self.sockets):
            remove_tree(folder)

    @property
    def _input(self) -> Path:
        return self.root / "input.json"

    @property
    def _cause(self) -> Path:
        return self.root / "cause.json"

    @property
    def _progress(self) -> Path:
        return self.root / "progress.json"

    @property
    def _result(self) -> Path:
        return self.root / "result.json"

    @property
    def _end(self) -> Path:
        return self.root / "end.json"


def artifact_variable(name: str) -> str:
    """Return the variable that tells a job where an artifact lies."""
    return "MODELPLANE_ARTIFACT_" + "".join(c if c.isalnum() else "_" for c in name).upper()


def parse_progress(content: bytes) -> Progress | None:
    """Return what ``{"progress": 0.4, "message": "epoch 4"}`` says; None when it is none.

    A file that is just being written is none; the next look finds it whole.
    """
    try:
        found = from_json(content, allow_inf_nan=False)
    except ValueError:
        return None
    if not isinstance(found, dict):
        return None
    share, message = found.get("progress"), found.get("message", "")
    told = message[:_MAX_PROGRESS_CHARS] if isinstance(message, str) else ""
    if isinstance(share, int | float) and not isinstance(share, bool):
        return Progress(min(1.0, max(0.0, float(share))), told)
    return Progress(None, told) if told else None


def parse_result(content: bytes) -> dict[str, Any] | str:
    """Return the JSON object in `content`, or why it is none that the API would take."""
    if len(content) > MAX_RESULT_BYTES:
        return f"its result has more than {MAX_RESULT_BYTES // 1024} KiB"
    try:
        found = from_json(content, allow_inf_nan=False)
    except ValueError as error:
        return f"its result is not JSON: {error}"
    if not isinstance(found, dict):
        return "its result is no JSON object"
    waiting: list[tuple[object, int]] = [(found, 1)]
    while waiting:
        value, depth = waiting.pop()
        if depth > _MAX_RESULT_DEPTH:
            return f"its result is nested deeper than {_MAX_RESULT_DEPTH}"
        if isinstance(value, dict):
            waiting.extend((each, depth + 1) for each in value.values())
        elif isinstance(value, list):
            waiting.extend((each, depth + 1) for each in value)
        elif isinstance(value, float) and not math.isfinite(value):
            return "its result holds a number that is too large"
    return found


def _read_plain(path: Path, max_bytes: int) -> bytes | None:
    """Return the beginning of a plain file, None of anything else; raises OSError."""
    descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        return None
    with os.fdopen(descriptor, "rb") as file:
        return file.read(max_bytes)


def remove_tree(folder: Path) -> None:
    """Remove a folder, also where a job took its rights away."""
    if not folder.is_symlink() and not folder.exists():
        return
    shutil.rmtree(folder, ignore_errors=True)
    if folder.is_dir():
        for _ in _walk(folder, open_up=True):
            pass
        shutil.rmtree(folder, ignore_errors=True)


def _walk(folder: Path, *, open_up: bool = False) -> Iterator[os.DirEntry[str]]:
    """Yield everything below a folder; follows no links, skips what cannot be read."""
    waiting = [str(folder)]
    while waiting:
        place = waiting.pop()
        if open_up:
            with contextlib.suppress(OSError):
                Path(place).chmod(0o700)
        try:
            with os.scandir(place) as entries:
                for entry in entries:
                    yield entry
                    if entry.is_dir(follow_symlinks=False):
                        waiting.append(entry.path)
        except OSError:
            continue  # it went away, or was never ours to read


def _is_text(name: str) -> bool:
    try:
        name.encode()
    except UnicodeEncodeError:
        return False
    return True
