"""The recorded code, checked out into a folder of its own.

Called by ``modelplane reproduce``. Runs git and nothing of the repository's: no hooks, no
submodules. The user's working tree is not touched.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path, PurePath
from typing import NamedTuple

from modelplane.decisions.reproduction import UNKNOWN, Finding
from modelplane.resources.model import Training

_COMMIT = re.compile(r"[0-9a-f]{7,64}")
_TIMEOUT_S = 60.0
_CLONE_TIMEOUT_S = 600.0
_SAFE = (
    "-c", "core.hooksPath=/dev/null", "-c", "protocol.ext.allow=never",
    "-c", "advice.detachedHead=false",
)  # fmt: skip
_OF_ANOTHER_REPOSITORY = frozenset(
    {"GIT_DIR", "GIT_WORK_TREE", "GIT_INDEX_FILE", "GIT_OBJECT_DIRECTORY", "GIT_COMMON_DIR"}
)
_LEFT_OUT = (".git", ".venv", "venv", ".modelplane", "__pycache__", "node_modules")


@dataclass(frozen=True, slots=True)
class CheckedOut:
    """Code in a folder.

    Attributes
    ----------
    finding
        Whether it is the recorded code.
    top
        The top of the working tree; None when there is no code to run.
    repository
        The user's repository that `top` is a worktree of; None otherwise.
    """

    finding: Finding
    top: Path | None = None
    repository: Path | None = None

    def remove(self) -> None:
        """Remove the worktree and what the repository knows of it."""
        if self.repository is not None and self.top is not None:
            _git(self.repository, "worktree", "remove", "--force", str(self.top))


def check_out(training: Training, source: Path, top: Path, *, copy: bool) -> CheckedOut:
    """Give the recorded commit as the new folder `top`.

    Parameters
    ----------
    training
        Names the commit and the repository it can be fetched from.
    source
        A folder within the user's copy of the repository; asked first.
    top
        A folder that does not exist yet.
    copy
        Whether to take a copy of `source` as it is when no commit was recorded.
    """
    commit = training.git_commit
    if commit == UNKNOWN:
        return _copy(source, top) if copy else _nothing("no commit was recorded", hint=True)
    if not _COMMIT.fullmatch(commit):
        return _nothing(f"what was recorded is no commit: {commit[:80]!r}")
    repository = find_repository(source)
    wanted = f"{commit}^{{commit}}"
    if repository is not None and _git(repository, "cat-file", "-e", wanted).succeeded:
        return _add_worktree(training, repository, top)
    where = f"{repository}" if repository else f"{source} (no git repository)"
    if training.git_remote == UNKNOWN:
        return _nothing(
            f"commit {commit[:12]} is not in {where}, and no remote was recorded", hint=True
        )
    return _clone(training, top, where)


def find_repository(folder: Path) -> Path | None:
    """Return the top of the git working tree that `folder` is in; None when it is in none."""
    told = _git(folder, "rev-parse", "--show-toplevel")
    return Path(told.text.strip()) if told.succeeded and told.text.strip() else None


def _add_worktree(training: Training, repository: Path, top: Path) -> CheckedOut:
    commit = training.git_commit
    added = _git(repository, "worktree", "add", "--detach", str(top), commit)
    if not added.succeeded:
        return _nothing(f"commit {commit[:12]} cannot be checked out: {added.text}")
    return CheckedOut(_describe(training, f"of {repository}", top), top, repository)


def _clone(training: Training, top: Path, where: str) -> CheckedOut:
    commit, remote = training.git_commit, training.git_remote
    arguments = ("clone", "--no-checkout", "--quiet", "--", remote, str(top))
    cloned = _git(top.parent, *arguments, timeout_s=_CLONE_TIMEOUT_S)
    if not cloned.succeeded:
        return _nothing(
            f"commit {commit[:12]} is not in {where}, and {remote} cannot be cloned: {cloned.text}"
        )
    if not _git(top, "checkout", "--quiet", "--detach", commit).succeeded:
        shutil.rmtree(top, ignore_errors=True)
        return _nothing(f"commit {commit[:12]} is neither in {where} nor in {remote}")
    return CheckedOut(_describe(training, f"of {remote}", top), top)


def _copy(source: Path, top: Path) -> CheckedOut:
    left_out = shutil.ignore_patterns(*_LEFT_OUT)
    shutil.copytree(source, top, symlinks=True, ignore=left_out)
    message = f"no commit was recorded: the present files of {source} are used"
    return CheckedOut(Finding("code", "not reproducible", message), top)


def _describe(training: Training, origin: str, top: Path) -> Finding:
    commit = training.git_commit
    told = f"commit {commit[:12]} {origin}"
    details = {"commit": commit, "dirty": training.git_dirty}
    if training.git_dirty:
        message = f"{told}; files had been changed since, and those changes were not recorded"
        return Finding("code", "differs", message, details)
    if (top / ".gitmodules").is_file():
        return Finding("code", "differs", f"{told}, without its submodules", details)
    if training.git_dirty is None:
        told += " (whether files had been changed since is not known)"
    return Finding("code", "match", told, details)


def _nothing(message: str, *, hint: bool = False) -> CheckedOut:
    advice = ": name the folder of the code with --source" if hint else ""
    return CheckedOut(Finding("code", "not reproducible", message + advice))


class _Told(NamedTuple):
    """What git printed, or in `text` why it failed."""

    succeeded: bool
    text: str


def _git(folder: Path, *arguments: str, timeout_s: float = _TIMEOUT_S) -> _Told:
    # Set where a hook runs us, and of another repository.
    variables = {k: v for k, v in os.environ.items() if k not in _OF_ANOTHER_REPOSITORY}
    try:
        done = subprocess.run(
            ["git", *_SAFE, *arguments],
            cwd=folder,
            capture_output=True,
            text=True,
            errors="replace",
            timeout=timeout_s,
            check=False,
            stdin=subprocess.DEVNULL,
            env={**variables, "GIT_TERMINAL_PROMPT": "0"},
        )
    except subprocess.TimeoutExpired:
        return _Told(False, f"git took longer than {timeout_s:g} s")
    except OSError as error:
        return _Told(False, f"git cannot be run: {error.strerror}")
    if done.returncode == 0:
        return _Told(True, done.stdout)
    lines = [line for line in done.stderr.splitlines() if line.strip()]
    return _Told(False, lines[-1][:300] if lines else f"git ended with {done.returncode}")


def find_below(path: PurePath, top: Path) -> Path | None:
    """Return where a path of another machine lies below `top`: its longest end that is there."""
    parts: Sequence[str] = [part for part in path.parts if part not in {path.anchor, "..", "."}]
    for first in range(len(parts)):
        candidate = top.joinpath(*parts[first:])
        if candidate.exists():
            return candidate
    return None


def locate_script(script: str, top: Path, programs: Path | None) -> str | None:
    """Return where a script named by an absolute path lies here; None when it is not here.

    Parameters
    ----------
    script
        The path as it was where the command was recorded.
    top
        The top of the code.
    programs
        The folder of the environment's programs, where console scripts are.
    """
    path = PurePath(script)
    if path.parent.name == "bin" and programs is not None and (programs / path.name).is_file():
        return str(programs / path.name)
    below = find_below(path, top)
    return str(below) if below is not None and below.is_file() else None
