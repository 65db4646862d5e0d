"""``pipeline`` on the command line, against the real API."""

from __future__ import annotations

import json
from datetime import timedelta
from pathlib import Path

import pytest
from typer.testing import CliRunner

from modelplane.cli.main import app
from modelplane.cli.session import Session
from modelplane.client.pipelines import split_version
from modelplane.errors import InvalidResource
from tests.api.test_gates import declare, start
from tests.api.world import World
from tests.cli.fakes import NOW, FakeClient
from tests.cli.test_lineage import Run, run, world
from tests.controllers.gating import FAILED
from tests.decisions.gate_worlds import Bench, stage

__all__ = ["run", "world"]


async def ok(run: Run, *words: str) -> str:
    result = await run(*words)
    assert result.exit_code == 0, result.output
    return str(result.stdout)


async def test_run_show_report_and_explain(world: World, run: Run, tmp_path: Path) -> None:
    gates = await declare(world)
    gates.place = world.dependencies.stage_place
    gates.restart()
    await world.push("fraud", "1.0.0")
    assert await ok(run, "pipeline", "run", "quality", "fraud@1.0.0") == "quality-1\n"
    shown = await ok(run, "pipeline", "show", "quality-1")
    assert "Waiting" in shown
    await gates.settle()
    shown = await ok(run, "pipeline", "show", "quality-1", "--watch")
    assert shown.splitlines()[-1] == "quality-1  Passed  2 of 2 stages passed"
    listed = await ok(run, "pipeline", "list")
    assert listed.splitlines()[1].split()[:3] == ["quality", "all", "tests,scan"]
    told = await ok(run, "pipeline", "explain-cache", "quality", "fraud@1.0.0")
    assert told.splitlines()[1].split()[:3] == ["tests", "command", "reused"]
    data = json.loads(await ok(run, "pipeline", "explain-cache", "quality", "fraud", "-o", "json"))
    assert [(s["hit"], s["run"]) for s in data] == [(True, "quality-1")] * 2
    report = json.loads(await ok(run, "pipeline", "report", "quality-1"))
    assert report["phase"] == "Passed"
    file = tmp_path / "report.html"
    await ok(run, "pipeline", "report", "quality-1", "--format", "html", "-f", str(file))
    assert file.read_text().startswith("<!doctype html>")
    assert "<testsuites" in await ok(run, "pipeline", "report", "quality-1", "--format", "junit")


async def test_a_run_that_failed_ends_with_1(world: World, run: Run) -> None:
    gates = await declare(world)
    gates.ending = lambda job: FAILED
    await world.push("fraud", "1.0.0")
    await start(world)
    await gates.settle()
    result = await run("pipeline", "show", "quality-1", "--watch")
    assert result.exit_code == 1
    assert "tests  Failed  worse" in result.stdout
    assert "scan  Skipped  needs tests, which has failed" in result.stdout


async def test_cancel_and_logs_of_what_did_not_run(world: World, run: Run) -> None:
    gates = await declare(world)
    gates.ending = lambda job: None
    await world.push("fraud", "1.0.0")
    await start(world)
    await gates.settle()
    assert "being cancelled" in await ok(run, "pipeline", "cancel", "quality-1")
    await gates.settle()
    for words, says in (
        (("quality-1", "tets"), "did you mean 'tests'"),
        (("quality-1", "scan"), "no log of scan"),
        (("quality-9", "scan"), "does not exist"),
    ):
        result = await run("pipeline", "logs", *words)
        assert result.exit_code == 4
        assert says in result.stderr


def test_a_run_is_followed_line_by_line(client: FakeClient) -> None:
    bench = Bench(stage("one"), stage("two", needs=["one"]))
    states = [bench.run]
    bench.settle()
    states.append(bench.run)
    for name in ("one", "two"):
        bench.end_all(name, passed=name == "one")
        bench.settle()
        states.append(bench.run)
    client.play("GateRun", *states)
    now = [NOW]

    def sleep(seconds: float) -> None:
        now[0] += timedelta(seconds=seconds)

    session = Session(connector=lambda url, state: client, now=lambda: now[0], sleep=sleep)
    words = ["pipeline", "show", "quality-1", "--watch"]
    result = CliRunner().invoke(app, words, obj=session)
    assert result.exit_code == 1
    assert result.stdout.splitlines() == [
        "one  Waiting",
        "two  Waiting",
        "one  Running",
        "one  Passed  said",
        "two  Running",
        "two  Failed  said",
        "quality-1  Failed  1 of 2 stages passed; two failed: said",
    ]


def test_versions_are_named_with_their_model() -> None:
    assert split_version("fraud@1.2.0") == ("fraud", "1.2.0")
    assert split_version("fraud") == ("fraud", "latest")
    with pytest.raises(InvalidResource, match="MODEL@VERSION"):
        split_version("fraud@")
