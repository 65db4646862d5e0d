"""The recorded environment, built anew with uv: Python and packages as they were.

Called by ``modelplane reproduce``. What cannot be had is named and left out; whether the command
runs without it, the run will show.
"""

from __future__ import annotations

import importlib.metadata
import json
import os
import platform
import re
import shutil
import subprocess
import sys
import time
import tomllib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import uv

import modelplane
import modelplane_runtime
from modelplane.adapters.runtime.environments import installer_environment
from modelplane.client.capture import capture_packages
from modelplane.decisions.reproduction import (
    UNKNOWN,
    Finding,
    compare_environments,
    normalize,
    shorten,
)
from modelplane.resources.model import Training

_GIVE_UP_AFTER = 12
_STEP_TIMEOUT_S = 600.0
_CREDENTIALS = re.compile(r"(?<=://)[^/@\s]+@")


@dataclass(frozen=True, slots=True)
class RunEnvironment:
    """What the command runs in.

    Attributes
    ----------
    finding
        How it compares with what was recorded.
    python
        The interpreter; None when there is none.
    programs
        The folder of its programs; None for the user's own environment.
    """

    finding: Finding
    python: Path | None = None
    programs: Path | None = None


def present_environment(training: Training, source: Path) -> RunEnvironment:
    """Take the environment that this command runs in, as it is."""
    python = Path(sys.executable)
    finding = compare_environments(training, platform.python_version(), capture_packages())
    editable = ", ".join(_editable_below(source))
    if editable:
        message = f"{editable} is installed from {source} as it is now, not as it was"
        texts = [message] if finding.outcome == "match" else [message, finding.message]
        finding = Finding("environment", "differs", shorten(texts), finding.details)
    return RunEnvironment(finding, python, python.parent)


def _editable_below(source: Path) -> Iterator[str]:
    """Yield the distributions whose code is read from a working tree at each import."""
    for distribution in importlib.metadata.distributions():
        origin = json.loads(distribution.read_text("direct_url.json") or "{}")
        place = Path(str(origin.get("url", "")).removeprefix("file://"))
        if origin.get("dir_info", {}).get("editable") and place.is_relative_to(source):
            yield distribution.metadata["Name"]


@dataclass(slots=True)
class _Installation:
    """What is being installed where, and what could not be."""

    venv: Path
    deadline_s: float
    installed: dict[str, str] = field(default_factory=dict)
    failed: list[str] = field(default_factory=list)
    last_words: str = ""

    @property
    def python(self) -> Path:
        return self.venv / "bin" / "python"

    def run(self, *arguments: str) -> bool:
        """Run uv; keep its last words when it fails."""
        left_s = min(_STEP_TIMEOUT_S, self.deadline_s - time.monotonic())
        if left_s <= 0:
            self.last_words = "the time was up"
            return False
        try:
            done = subprocess.run(
                [uv.find_uv_bin(), *arguments],
                cwd=self.venv.parent,
                env=installer_environment(os.environ),
                stdin=subprocess.DEVNULL,
                capture_output=True,
                text=True,
                errors="replace",
                timeout=left_s,
                check=False,
            )
        except subprocess.TimeoutExpired:
            self.last_words = f"uv took longer than {left_s:.0f} s"
            return False
        if done.returncode:
            lines = [line.strip() for line in done.stderr.splitlines() if line.strip()]
            self.last_words = _CREDENTIALS.sub("***@", " ".join(lines[-3:]))[:500]
        return done.returncode == 0

    def install(self, packages: Sequence[tuple[str, str]]) -> None:
        """Install what can be installed of `packages`, halving until the others are named.

        Each is pinned and taken without its dependencies: those are recorded themselves, and
        they were together once.
        """
        if not packages:
            return
        if not self.installed and len(self.failed) >= _GIVE_UP_AFTER:
            self.failed += [name for name, _ in packages]
            return
        pins = [f"{name}=={version}" for name, version in packages]
        if self.run("pip", "install", "--quiet", "--no-deps", "--python", str(self.python), *pins):
            self.installed |= dict(packages)
        elif len(packages) == 1:
            self.failed.append(packages[0][0])
        else:
            middle = len(packages) // 2
            self.install(packages[:middle])
            self.install(packages[middle:])


def build_environment(
    training: Training, code: Path, folder: Path, *, timeout_s: float
) -> RunEnvironment:
    """Build a virtual environment with the recorded Python and the recorded packages.

    Parameters
    ----------
    training
        The record.
    code
        The top of the code: when it is one of the recorded packages, it is installed from here.
    folder
        Where the environment is made; must not exist.
    timeout_s
        How long it may take.
    """
    if training.python == UNKNOWN and not training.packages:
        finding = compare_environments(training, platform.python_version(), {})
        return RunEnvironment(finding, Path(sys.executable), Path(sys.executable).parent)
    building = _Installation(folder, time.monotonic() + timeout_s)
    if not _make_venv(building, training.python):
        message = f"no virtual environment can be made: {building.last_words}"
        return RunEnvironment(Finding("environment", "not reproducible", message))
    wanted = dict(training.packages)
    if "modelplane" in wanted:
        building.installed["modelplane"] = _copy_ours(folder, wanted.pop("modelplane"))
    own = _project_name(code)
    local = {name: wanted.pop(name) for name in list(wanted) if normalize(name) == own}
    building.install(sorted(wanted.items()))
    for name, version in local.items():
        arguments = ("--quiet", "--no-deps", "--python", str(building.python), "--editable")
        if building.run("pip", "install", *arguments, str(code)):
            building.installed[name] = version
        else:
            building.failed.append(name)
    finding = compare_environments(training, _version_of(building.python), building.installed)
    if building.failed:
        names = shorten([f"{name}=={training.packages[name]}" for name in building.failed])
        message = f"cannot be installed: {names} ({building.last_words})"
        details = {**finding.details, "notInstalled": building.failed}
        finding = Finding("environment", "not reproducible", message, details)
    return RunEnvironment(finding, building.python, building.python.parent)


def _make_venv(building: _Installation, python: str) -> bool:
    """Make the virtual environment with the nearest Python to the recorded one."""
    if python != platform.python_version() and python != UNKNOWN:
        for wanted in (python, ".".join(python.split(".")[:2])):
            if building.run("venv", "--quiet", "--no-project", "--python", wanted, _str(building)):
                return True
    return building.run(
        "venv", "--quiet", "--no-project", "--python", sys.executable, _str(building)
    )


def _str(building: _Installation) -> str:
    return str(building.venv)


def _version_of(python: Path) -> str:
    done = subprocess.run(
        [str(python), "-c", "import platform; print(platform.python_version())"],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    return done.stdout.strip() or UNKNOWN


def _copy_ours(venv: Path, recorded: str) -> str:
    """Copy this modelplane into the environment, and return its version.

    Only this one is known to record a push instead of sending it.
    """
    version = importlib.metadata.version("modelplane")
    for site_packages in venv.glob("lib/python*/site-packages"):
        for package in (modelplane, modelplane_runtime):
            source = Path(str(package.__file__)).parent
            ignored = shutil.ignore_patterns("__pycache__")
            shutil.copytree(source, site_packages / source.name, ignore=ignored)
        metadata = site_packages / f"modelplane-{version}.dist-info"
        metadata.mkdir()
        text = f"Metadata-Version: 2.1\nName: modelplane\nVersion: {version}\n"
        (metadata / "METADATA").write_text(text)
    return version


def _project_name(code: Path) -> str | None:
    """Return the normalized name of the project whose code this is, when it is a package."""
    try:
        project = tomllib.loads((code / "pyproject.toml").read_text())["project"]["name"]
    except (OSError, ValueError, KeyError, TypeError):
        return None
    return normalize(str(project))
