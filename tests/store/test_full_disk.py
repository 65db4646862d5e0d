"""A full disk: each write says so, nothing is half written, and all goes on when there is space.

On a small disk in memory, mounted where no other process sees it.
"""

from __future__ import annotations

import asyncio
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

from modelplane.errors import NoSpace
from modelplane.resources.model import Model
from tests.store.stores import creation, model, open_store

_MOUNT = 'mount -t tmpfs -o size=2m tmpfs "$1" && exec "$2" -m tests.store.test_full_disk "$1"'


def run_on_small_disk() -> subprocess.CompletedProcess[str]:
    root = Path(__file__).resolve().parents[2]
    with tempfile.TemporaryDirectory(prefix="mp-disk-", dir="/tmp") as folder:
        command = ["unshare", "-m", "sh", "-c", _MOUNT, "sh", folder, sys.executable]
        return subprocess.run(
            command, cwd=root, capture_output=True, text=True, timeout=100, check=False
        )


@pytest.mark.slow
def test_the_store_survives_a_full_disk() -> None:
    if os.getuid() != 0 or shutil.which("unshare") is None:
        if os.environ.get("CI") == "true":
            pytest.fail("a private mount needs root and unshare, and CI must have both")
        pytest.skip("a private mount needs root and unshare")
    result = run_on_small_disk()
    assert result.returncode == 0, result.stdout + result.stderr
    assert result.stdout.splitlines()[-1] == "survived"


async def fill_and_recover(disk: Path) -> None:
    """Run on the small disk, in a child: fill it, be refused, free space, go on."""
    ballast = disk / "ballast"
    ballast.write_bytes(b"x" * 400_000)
    async with open_store(disk / "state") as store:
        written: list[str] = []
        for count in range(1_000):
            name = f"m{count}"
            try:
                await store.commit(creation(model(name, "x" * 8_000)))
            except NoSpace:
                break
            written.append(name)
        assert 10 < len(written) < 900
        await refuses_and_keeps(disk, written)
        ballast.unlink()
        await store.commit(creation(model("later")))
        written.append("later")
        assert {one.metadata.name for one in (await store.list(Model))[0]} == set(written)
        assert len(await store.audit(limit=10_000)) == len(written)
        assert (await store.verify_audit()).ok
    async with open_store(disk / "state") as store:
        assert len((await store.list(Model))[0]) == len(written)
        assert (await store.verify_audit()).ok
    print("survived")


async def refuses_and_keeps(disk: Path, written: list[str]) -> None:
    """While the disk is full, a second store reads all, writes nothing and says why."""
    (disk / "rest").write_bytes(b"")
    with (disk / "rest").open("r+b", buffering=0) as rest:
        try:
            while rest.write(b"x" * 4096):
                pass
        except OSError:
            pass
    async with open_store(disk / "state") as other:
        for _ in range(3):
            with pytest.raises(NoSpace, match="is full; nothing was written"):
                await other.commit(creation(model("refused", "x" * 8_000)))
        assert {one.metadata.name for one in (await other.list(Model))[0]} == set(written)
        assert len(await other.audit(limit=10_000)) == len(written)
        with pytest.raises(NoSpace):
            await other.backup(disk / "backup")
        assert not [file for file in disk.iterdir() if "backup" in file.name]
    with pytest.raises(NoSpace):
        async with open_store(disk / "another"):
            pass
    (disk / "rest").unlink()
    shutil.rmtree(disk / "another", ignore_errors=True)


if __name__ == "__main__":
    asyncio.run(fill_and_recover(Path(sys.argv[1])))
