"""Surroundings that do not fit: a port in use, a state of a newer version, a full disk."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import socket
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from modelplane.resources.model import ModelVersion
from tests.e2e.conftest import Modelplane, wait_for

pytestmark = [pytest.mark.e2e, pytest.mark.beside, pytest.mark.timeout(240)]

REQUEST = {"inputs": [{"name": "x", "datatype": "FP64", "shape": [1], "data": [1.0]}]}


@pytest.fixture
def folder() -> Iterator[Path]:
    """A folder whose path is short enough for a state directory."""
    folder = Path(tempfile.mkdtemp(prefix="mp-bad-"))
    yield folder
    shutil.rmtree(folder, ignore_errors=True)


@pytest.mark.parametrize("name", ["api", "staging", "production"])
def test_a_port_in_use_names_the_option_that_sets_another(folder: Path, name: str) -> None:
    plane = Modelplane(folder / "state")
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen(1)
        plane.ports[name] = other.getsockname()[1]
        done = plane.up(check=False)
    assert done.returncode != 0
    assert f"cannot listen on 127.0.0.1:{plane.ports[name]}" in done.stderr
    assert f"choose another with --{name}-port" in done.stderr
    wait_for("end of all processes", lambda: not plane.processes(), 20)
    assert "nothing was running" in plane.cli("down").stdout


def test_a_state_directory_of_a_newer_version_is_left_alone(folder: Path) -> None:
    plane = Modelplane(folder / "state")
    plane.state.mkdir()
    (plane.state / "version").write_text("2\n")
    done = plane.up(check=False)
    assert done.returncode != 0
    assert "has state format 2, this modelplane reads 1" in done.stderr
    assert "use the newer modelplane" in done.stderr
    assert [path.name for path in plane.state.iterdir()] == ["version"]
    assert "nothing was running" in plane.cli("down").stdout


_ON_A_SMALL_DISK = 'mount -t tmpfs -o size=24m tmpfs "$1" && exec "$2" -m "$3" "$1"'


def test_a_full_disk_is_said_and_survived(folder: Path) -> None:
    if os.getuid() != 0 or shutil.which("unshare") is None:
        if os.environ.get("CI") == "true":
            pytest.fail("a private mount needs root and unshare, and CI must have both")
        pytest.skip("a private mount needs root and unshare")
    command = ["unshare", "-m", "sh", "-c", _ON_A_SMALL_DISK, "sh", str(folder), sys.executable]
    done = subprocess.run(
        [*command, "tests.e2e.test_bad_surroundings"],
        cwd=Path(__file__).resolve().parents[2],
        capture_output=True,
        text=True,
        timeout=200,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.splitlines()[-1] == "survived"


def fill_and_recover(disk: Path) -> None:
    """Run on the small disk, in a child: be refused, free space, go on."""
    plane = Modelplane(disk / "state")
    try:
        fill(disk)
        refused = plane.up(check=False)
        assert refused.returncode != 0, refused.stdout
        assert "full" in refused.stderr or "No space left" in refused.stderr, refused.stderr
        assert "free some space" in refused.stderr, refused.stderr
        assert not plane.processes()
        (disk / "rest").unlink()
        plane.up()
        plane.serve()
        artifact = Path("/dev/shm") / f"{disk.name}.skops"
        artifact.write_bytes(os.urandom(8 << 20))
        push = ("push", "large", "--version", "1.0.0", "--artifact", str(artifact))
        try:
            refuse_on_full_disk(plane, disk, push)
            (disk / "rest").unlink()
            plane.cli(*push)
        finally:
            artifact.unlink()
        assert plane.client.get(ModelVersion, "large@1.0.0").spec.number == 1
        verified = json.loads(plane.cli("audit", "verify", "-o", "json").stdout)
        assert verified["verified"] is True
    finally:
        plane.cli("down", check=False)
        wait_for("end of all processes", lambda: not plane.processes(), 20)
    print("survived")


def refuse_on_full_disk(plane: Modelplane, disk: Path, push: tuple[str, ...]) -> None:
    """Check that a push is refused whole while what serves goes on serving."""
    fill(disk)
    artifacts = sorted(path.name for path in (plane.state / "artifacts").iterdir())
    versions = [version.key for version in plane.client.list(ModelVersion).items]
    done = plane.cli(*push, check=False)
    assert done.returncode == 6, done.stdout + done.stderr
    assert "full" in done.stderr, done.stderr
    assert "free some space" in done.stderr, done.stderr
    assert sorted(path.name for path in (plane.state / "artifacts").iterdir()) == artifacts
    assert [version.key for version in plane.client.list(ModelVersion).items] == versions
    assert plane.client.predict("test", REQUEST).version == "1.0.0"


def fill(disk: Path) -> None:
    """Leave no byte free on the disk."""
    with (disk / "rest").open("wb", buffering=0) as rest, contextlib.suppress(OSError):
        while rest.write(b"x" * 4096):
            pass


if __name__ == "__main__":
    fill_and_recover(Path(sys.argv[1]))
