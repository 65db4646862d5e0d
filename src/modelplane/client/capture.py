"""What made a model version: packages, Python, hardware, commit, command, data digests.

Called by `Client.push` in the training process. What cannot be known is "unknown"; nothing here
raises for lack of it, except for data that is named and cannot be read.
"""

from __future__ import annotations

import hashlib
import importlib.metadata
import os
import platform
import re
import shlex
import subprocess
import sys
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from modelplane.client.artifacts import digest_tree
from modelplane.errors import InvalidResource
from modelplane.resources.dataset import DatasetReference
from modelplane.resources.model import Training

UNKNOWN = "unknown"
_GIT_TIMEOUT_S = 5.0
_SECRET_OPTION = re.compile(r"(?i)(token|password|passwd|secret|api[-_]?key|credential)")

Dataset = str | Path | DatasetReference
Datasets = Mapping[str, Any] | Iterable[Dataset]


def capture_training() -> Training:
    """Return what is known of the process that calls this."""
    commit, dirty = capture_git(Path.cwd())
    return Training(
        python=platform.python_version(),
        packages=capture_packages(),
        hardware=capture_hardware(),
        git_commit=commit,
        git_dirty=dirty,
        command=capture_command(getattr(sys, "orig_argv", sys.argv)),
        run_id=os.environ.get("MLFLOW_RUN_ID") or UNKNOWN,
    )


def capture_packages() -> dict[str, str]:
    """Return the installed distributions and their versions, by name."""
    found = {}
    for distribution in importlib.metadata.distributions():
        name = distribution.metadata["Name"]
        if name:
            found[name] = distribution.version or UNKNOWN
    return dict(sorted(found.items(), key=lambda item: item[0].lower()))


def capture_hardware() -> str:
    """Return the machine in words: processor, cores, memory."""
    cores = f"{os.cpu_count()} cores" if os.cpu_count() else ""
    try:
        size = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
        memory = f"{size / 2**30:.0f} GiB"
    except (ValueError, OSError):
        memory = ""
    known = [part for part in (platform.machine(), _read_processor(), cores, memory) if part]
    return ", ".join(known) or UNKNOWN


def _read_processor() -> str:
    try:
        text = Path("/proc/cpuinfo").read_text()
    except OSError:
        return ""
    match = re.search(r"^model name\s*:\s*(.+)$", text, re.MULTILINE)
    return match[1].strip() if match else ""


def capture_git(directory: Path) -> tuple[str, bool | None]:
    """Return the commit of the working tree at `directory` and whether it was changed since."""
    commit = _git(directory, "rev-parse", "HEAD")
    if commit is None:
        return UNKNOWN, None
    changes = _git(directory, "status", "--porcelain")
    return commit.strip() or UNKNOWN, None if changes is None else bool(changes.strip())


def _git(directory: Path, *arguments: str) -> str | None:
    try:
        done = subprocess.run(
            ["git", *arguments],
            cwd=directory,
            capture_output=True,
            text=True,
            timeout=_GIT_TIMEOUT_S,
            check=False,
            # Only looking: no lock is taken, and nobody is asked for anything.
            env={**os.environ, "GIT_OPTIONAL_LOCKS": "0", "GIT_TERMINAL_PROMPT": "0"},
        )
    except (OSError, subprocess.SubprocessError, UnicodeError):
        return None
    return done.stdout if done.returncode == 0 else None


def capture_command(arguments: Iterable[str]) -> str:
    """Return a command line with the values of options that look secret left out.

    Examples
    --------
    >>> capture_command(["python", "train.py", "--api-key", "abc", "--db-password=x", "--rows=5"])
    "python train.py --api-key '***' '--db-password=***' --rows=5"
    """
    shown: list[str] = []
    hide_next = False
    for argument in arguments:
        option, equals, _ = argument.partition("=")
        is_secret = option.startswith("-") and _SECRET_OPTION.search(option) is not None
        if hide_next and not argument.startswith("-"):
            shown.append("***")
        elif is_secret and equals:
            shown.append(f"{option}=***")
        else:
            shown.append(argument)
        hide_next = is_secret and not equals
    return shlex.join(shown)[:4000] or UNKNOWN


def describe_datasets(datasets: Datasets) -> tuple[DatasetReference, ...]:
    """Return references to data, with the digests that can be had.

    Parameters
    ----------
    datasets
        Paths and references; or a map from names to paths, references or data frames.

    Raises
    ------
    InvalidResource
        A path that does not exist, or what is none of these.
    """
    if isinstance(datasets, Mapping):
        return tuple(_describe(data, str(name)) for name, data in datasets.items())
    if isinstance(datasets, str | Path):
        datasets = [datasets]
    return tuple(_describe(data, None) for data in datasets)


def _describe(data: Any, name: str | None) -> DatasetReference:
    if isinstance(data, DatasetReference):
        return data.with_(name=name) if name else data
    if isinstance(data, str | Path):
        path = Path(data)
        if not path.exists():
            raise InvalidResource(f"there is no dataset at {path}")
        digest = digest_tree(path).digest
        return DatasetReference(name=name or path.name, digest=digest, uri=str(path))
    pandas = sys.modules.get("pandas")  # a frame can only come from a pandas that is loaded
    if pandas is not None and isinstance(data, pandas.DataFrame):
        rows = len(data)
        return DatasetReference(name=name or "data", digest=_digest_frame(pandas, data), rows=rows)
    raise InvalidResource(
        f"a dataset is a path, a DatasetReference or a data frame, not {type(data).__name__}"
    )


def _digest_frame(pandas: Any, frame: Any) -> str:
    """Return the SHA-256 over a frame's columns, types and rows; the index does not count."""
    try:
        rows = pandas.util.hash_pandas_object(frame, index=False).to_numpy()
    except TypeError:
        return UNKNOWN  # cells that cannot be hashed
    columns = [(str(name), str(dtype)) for name, dtype in frame.dtypes.items()]
    digest = hashlib.sha256(repr(columns).encode())
    digest.update(rows.astype("<u8").tobytes())
    return f"sha256:{digest.hexdigest()}"
