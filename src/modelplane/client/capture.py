"""What made a model version: packages, Python, hardware, code, command, and how features are made.

Called by `Client.push` in the training process. What cannot be known is "unknown"; nothing here
raises for lack of it, except for a feature configuration that is named and cannot be read. Data
is described by `datasets`.
"""

from __future__ import annotations

import importlib.metadata
import os
import platform
import re
import shlex
import subprocess
import sys
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from modelplane.decisions.datasets import UNKNOWN, clean_uri
from modelplane.errors import InvalidResource
from modelplane.resources.documents import check_plain, parse_documents
from modelplane.resources.model import Training
from modelplane.resources.revision import ArtifactFormat

_GIT_TIMEOUT_S = 5.0
_SECRET_OPTION = re.compile(r"(?i)(token|password|passwd|secret|api[-_]?key|credential)")
_NAME_AND_VERSION = re.compile(r"^(Name|Version): *(\S+)", re.MULTILINE)
_FLAVOURS: dict[ArtifactFormat, str] = {"onnx": "onnx", "skops": "sklearn"}
_MAX_MLMODEL_BYTES = 2**20

FeatureConfiguration = Mapping[str, Any] | str | Path


@dataclass(frozen=True, slots=True)
class Code:
    """The code in a working tree.

    Attributes
    ----------
    commit
        What is checked out.
    is_dirty
        Whether files were changed since, or are not under version control.
    remote
        Where the code can be fetched from, without credentials.
    directory
        Where we are, from the top of the working tree; ``.`` at the top.
    """

    commit: str = UNKNOWN
    is_dirty: bool | None = None
    remote: str = UNKNOWN
    directory: str = UNKNOWN


def capture_training() -> Training:
    """Return what is known of the process that calls this."""
    code = capture_code(Path.cwd())
    return Training(
        python=platform.python_version(),
        packages=capture_packages(),
        hardware=capture_hardware(),
        git_commit=code.commit,
        git_dirty=code.is_dirty,
        git_remote=code.remote,
        directory=code.directory,
        command=capture_command(getattr(sys, "orig_argv", sys.argv)),
        run_id=os.environ.get("MLFLOW_RUN_ID") or UNKNOWN,
    )


def capture_packages() -> dict[str, str]:
    """Return the installed distributions and their versions, by name."""
    found = {}
    for distribution in importlib.metadata.distributions():
        # Its `metadata` would parse all of the file, description and all: ten times as long.
        text = distribution.read_text("METADATA") or distribution.read_text("PKG-INFO") or ""
        fields = dict(_NAME_AND_VERSION.findall(text.partition("\n\n")[0]))
        if fields.get("Name"):
            found[fields["Name"]] = fields.get("Version", UNKNOWN)
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


def capture_code(directory: Path) -> Code:
    """Return what git knows of the working tree around `directory`."""
    place = _git(directory, "rev-parse", "HEAD", "--show-prefix")
    if place is None:
        return Code()
    commit, _, prefix = place.partition("\n")
    changes = _git(directory, "status", "--porcelain")
    return Code(
        commit=commit.strip() or UNKNOWN,
        is_dirty=None if changes is None else bool(changes.strip()),
        remote=_capture_remote(directory),
        directory=prefix.strip("\n").rstrip("/") or ".",
    )


def _capture_remote(directory: Path) -> str:
    """Return the address of `origin`, or of the only other remote there is."""
    # Asked of the configuration: `git remote get-url` would put in what `insteadOf` hides.
    lines = _git(directory, "config", "--get-regexp", r"^remote\..*\.url$") or ""
    remotes = dict(line.split(" ", 1) for line in lines.splitlines() if " " in line)
    urls = list(remotes.values())
    url = remotes.get("remote.origin.url") or (urls[0] if len(urls) == 1 else "")
    return clean_uri(url.strip()) or UNKNOWN


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


def capture_flavour(path: Path, artifact_format: ArtifactFormat) -> str:
    """Return the library that a model was made with, as far as its files tell; else empty.

    Parameters
    ----------
    path
        The artifact.
    artifact_format
        How it is read.
    """
    if artifact_format != "mlflow":
        return _FLAVOURS.get(artifact_format, "")
    file = path / "MLmodel"
    try:
        if file.stat().st_size > _MAX_MLMODEL_BYTES:
            return ""
        documents = parse_documents(file.read_text(encoding="utf-8"), str(file))
    except (OSError, UnicodeError, InvalidResource):
        return ""
    data = documents[0].data if documents else None
    flavours = data.get("flavors") if isinstance(data, dict) else None
    names = [str(name) for name in flavours] if isinstance(flavours, dict) else []
    # Every MLflow model can be called as a Python function; what else it is says more.
    return next((name for name in names if name != "python_function"), next(iter(names), ""))


def read_feature_configuration(given: FeatureConfiguration) -> dict[str, Any]:
    """Return how features are made, from a map or from a file that holds one.

    Parameters
    ----------
    given
        A map of plain data, or the path of a JSON or YAML file.

    Raises
    ------
    InvalidResource
        The file cannot be read or holds no map, or something in it is not plain data.
    """
    if isinstance(given, Mapping):
        data: Any = dict(given)
        source = "the feature configuration"
    else:
        source = f"the feature configuration {given}"
        try:
            text = Path(given).read_text(encoding="utf-8")
        except (OSError, UnicodeError) as error:
            raise InvalidResource(f"{source} cannot be read: {error}") from None
        documents = parse_documents(text, str(given))
        data = documents[0].data if len(documents) == 1 else None
    if not isinstance(data, dict):
        raise InvalidResource(f"{source} must hold one map of names to values")
    try:
        check_plain(data)
    except InvalidResource as error:
        raise InvalidResource(
            f"{source} is not plain data", error.fields, hint="use text, numbers, lists and maps"
        ) from None
    return data
