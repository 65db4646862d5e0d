"""registry check, on a real state that is damaged in each way there is."""

from __future__ import annotations

import asyncio
import json
import os
import shutil
import threading
from collections.abc import Callable, Coroutine, Iterator
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner, Result

from modelplane.cli.main import app
from modelplane.cli.session import Session
from modelplane.client import Client
from tests.api.world import ADMIN, World, make_world, serve

pytestmark = pytest.mark.slow

Check = Callable[..., Result]
DAY_S = 86_400


class Plane:
    """A control plane that serves in a thread; the test stands outside, as a user does."""

    def __init__(self) -> None:
        self._loop = asyncio.new_event_loop()
        self._stop = asyncio.Event()
        self._up = threading.Event()
        self._thread = threading.Thread(target=self._loop.run_until_complete, args=[self._serve()])
        self.world: World
        self.url = ""

    def start(self) -> None:
        self._thread.start()
        assert self._up.wait(30)

    async def _serve(self) -> None:
        async with make_world() as world, serve(world) as url:
            self.world, self.url = world, url
            self._up.set()
            await self._stop.wait()

    def stop(self) -> None:
        self._loop.call_soon_threadsafe(self._stop.set)
        self._thread.join(30)
        self._loop.close()

    def run(self, what: Coroutine[Any, Any, Any]) -> Any:
        return asyncio.run_coroutine_threadsafe(what, self._loop).result(30)

    def push(self, version: str) -> tuple[Path, Path]:
        """Push a version; return the folder of its files and its record."""
        spec = self.run(self.world.push("fraud", version))["resource"]["spec"]
        tree = self.artifacts / spec["artifact"]["digest"].removeprefix("sha256:")
        return tree, self.artifacts / ".versions" / f"{spec['id']}.json"

    @property
    def artifacts(self) -> Path:
        return self.world.directory / "artifacts"

    def add_orphan(self) -> Path:
        tree = self.artifacts / ("ab" * 32)
        tree.mkdir()
        (tree / "model").write_text("lost")
        os.utime(tree, (0, 0))
        return tree


@pytest.fixture
def plane() -> Iterator[Plane]:
    plane = Plane()
    plane.start()
    try:
        yield plane
    finally:
        plane.stop()


@pytest.fixture
def check(plane: Plane) -> Check:
    session = Session(connector=lambda url, state: Client(plane.url, ADMIN))

    def run(*words: str, input: str | None = None) -> Result:
        return CliRunner().invoke(app, ["registry", "check", *words], obj=session, input=input)

    return run


def faults(result: Result) -> list[tuple[str, list[str], bool]]:
    found = json.loads(result.stdout)["faults"]
    return [(fault["kind"], fault["versions"], fault["repaired"]) for fault in found]


def test_all_well(plane: Plane, check: Check) -> None:
    plane.push("1.0.0")
    plane.push("1.0.1")
    result = check()
    assert result.exit_code == 0
    assert result.stdout == "all well: 2 versions and 2 stored artifacts (22 B read)\n"
    assert json.loads(check("-o", "json").stdout) == {
        "versions": 2,
        "artifacts": 2,
        "readBytes": 22,
        "faults": [],
        "unused": {"artifacts": 0, "sizeBytes": 0},
    }
    assert check("--quick").stdout.endswith("(not read)\n")


def test_missing_files_are_named_and_come_back_with_the_same_push(
    plane: Plane, check: Check
) -> None:
    tree, _ = plane.push("1.0.0")
    shutil.rmtree(tree)
    result = check()
    assert result.exit_code == 8
    assert f"missing  fraud@1.0.0  {tree.name[:12]}  -     no files are stored" in result.stdout
    assert "1 missing in 1 versions and 0 stored artifacts" in result.stdout
    assert "push the same bytes under the same version again" in result.stderr
    assert check("--repair", "--yes").exit_code == 8, "nothing can bring them back"
    plane.push("1.0.0")
    assert check().exit_code == 0


def test_altered_files_are_found_unless_it_must_be_quick(plane: Plane, check: Check) -> None:
    tree, _ = plane.push("1.0.0")
    plane.push("1.0.1")
    (tree / "model").write_text("other")
    (tree / "more").write_text("")
    result = check()
    assert result.exit_code == 8
    assert "altered  fraud@1.0.0" in result.stdout
    assert "model has other bytes, more was added" in result.stdout
    assert check("--quick").exit_code == 0
    assert faults(check("-o", "json")) == [("altered", ["fraud@1.0.0"], False)]


def test_a_lacking_record_is_written_again_without_asking(plane: Plane, check: Check) -> None:
    _, record = plane.push("1.0.0")
    before = json.loads(record.read_text())
    for damage in (record.unlink, lambda: record.write_text("{")):
        damage()
        assert check().exit_code == 8
        result = check("--repair")
        assert result.exit_code == 0
        assert "wrote 1 records, removed 0 faults" in result.stdout
        assert json.loads(record.read_text()) == before


@pytest.mark.parametrize(
    ("words", "input", "removed"),
    [
        ((), None, False),
        (("--repair",), "n\n", False),
        (("--repair",), "", False),
        (("--repair",), "y\n", True),
        (("--repair", "--yes"), None, True),
    ],
)
def test_orphans_and_stray_records_are_removed_only_when_that_is_wanted(
    plane: Plane, check: Check, words: tuple[str, ...], input: str | None, removed: bool
) -> None:
    kept, record = plane.push("1.0.0")
    orphan = plane.add_orphan()
    stray = record.with_name("mv-0.json")
    stray.write_text("{}")
    result = check(*words, input=input)
    assert "orphaned  -        abababababab  4 B   no version has these files" in result.stdout
    assert "stray     mv-0     -             -     a record of a version" in result.stdout
    assert ("removed 2 faults" in result.stdout) == removed
    assert (result.exit_code == 0) == removed
    assert (orphan.exists(), stray.exists()) == (not removed, not removed)
    assert kept.exists()
    assert record.exists()
    if input:
        assert "remove 1 orphaned, 1 stray (4 B) for good? [y/N]" in result.stderr


def test_with_json_nothing_is_asked_and_nothing_removed_unasked(plane: Plane, check: Check) -> None:
    orphan = plane.add_orphan()
    result = check("--repair", "-o", "json")
    assert (result.exit_code, result.stderr) == (8, "")
    assert faults(result) == [("orphaned", [], False)]
    assert orphan.exists()
    assert faults(check("--repair", "--yes", "-o", "json")) == [("orphaned", [], True)]
    assert not orphan.exists()


def test_what_is_young_is_no_orphan(plane: Plane, check: Check) -> None:
    orphan = plane.add_orphan()
    young_s = plane.world.clock.now().timestamp() - 3600
    os.utime(orphan, (young_s, young_s))
    assert check().exit_code == 0
    assert check("--grace", "30m").exit_code == 8
    assert check("--grace", "soon").exit_code == 2


def test_files_of_a_deleted_version_are_left_to_gc(plane: Plane, check: Check) -> None:
    tree, _ = plane.push("1.0.0")
    plane.run(plane.world.ok("DELETE", "/model-versions/fraud@1.0.0"))
    result = check("--repair", "--yes", "--grace", "0s")
    assert result.exit_code == 0
    assert "1 artifacts of deleted versions (11 B): modelplane gc" in result.stderr
    assert tree.exists()


def test_everything_at_once(plane: Plane, check: Check) -> None:
    missing, _ = plane.push("1.0.0")
    altered, _ = plane.push("1.0.1")
    _, lacking = plane.push("1.0.2")
    shutil.rmtree(missing)
    (altered / "model").unlink()
    (altered / "other").write_text("x")
    lacking.unlink()
    plane.add_orphan()
    result = check("--repair", "--yes", "-o", "json")
    assert result.exit_code == 8
    assert sorted(faults(result)) == [
        ("altered", ["fraud@1.0.1"], False),
        ("missing", ["fraud@1.0.0"], False),
        ("orphaned", [], True),
        ("unrecorded", ["fraud@1.0.2"], True),
    ]
