"""``lineage`` on the command line: trees for people, JSON and OpenLineage for programs."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Awaitable, Callable

import pytest
from typer.testing import CliRunner, Result

from modelplane.cli.lineage import format_lineage
from modelplane.cli.main import app
from modelplane.cli.session import Session
from modelplane.client import Client
from modelplane.decisions.lineage import Lineage
from tests.api.world import ADMIN, World, make_world, serve

Run = Callable[..., Awaitable[Result]]


@pytest.fixture
async def world() -> AsyncIterator[World]:
    async with make_world() as made:
        yield made


@pytest.fixture
async def run(world: World) -> AsyncIterator[Run]:
    """Return a function that runs a command line against the real API."""
    async with serve(world) as url:

        def connect(*_: object) -> Client:
            return Client(url, ADMIN)

        async def run_command(*words: str) -> Result:
            session = Session(connector=connect)
            return await asyncio.to_thread(CliRunner().invoke, app, list(words), obj=session)

        yield run_command


TREE = """\
version fraud@1.0.0 (number 1, champion)
  came from
  └─ run 9f86d081884c (commit cccccccccccc with changes, python train.py)
     ├─ dataset images@md5:{digest} (evaluation, not registered)
     └─ dataset tx@1 (1,204,331 rows, delta)
  used by
  └─ deployment staging/fraud (declared)
"""


async def seed(world: World) -> None:
    training = {
        "runId": "9f86d081884c7d659a2feaa0c55ad015",
        "gitCommit": "c" * 40,
        "gitDirty": True,
        "command": "python train.py",
    }
    tx = {"name": "tx", "digest": "delta:1", "rows": 1204331, "format": "delta"}
    images = {"name": "images", "context": "evaluation"}
    await world.push("fraud", "1.0.0", datasets=[tx, images], training=training)
    await world.ok("POST", "/model-versions/fraud@1.0.0:alias", {"alias": "champion"})
    await world.deploy("fraud", "staging")


async def test_a_version_stands_between_what_made_it_and_who_serves_it(
    world: World, run: Run
) -> None:
    await seed(world)
    result = await run("lineage", "fraud@champion")
    assert result.exit_code == 0, result.output
    assert result.stdout == TREE.replace("md5:{digest}", "unknown")


async def test_down_from_data_one_command_names_the_deployments(world: World, run: Run) -> None:
    await seed(world)
    result = await run("lineage", "dataset/tx@1", "--down")
    assert result.stdout.splitlines()[-1].strip() == "└─ deployment staging/fraud (declared)"
    assert "came from" not in result.stdout
    shallow = await run("lineage", "tx@1", "--down", "--depth", "1")
    assert "deployment" not in shallow.stdout
    above = await run("lineage", "tx@1", "--up")
    assert above.stdout.splitlines()[-1] == "  came from: nothing known"


async def test_programs_get_the_graph_and_the_events(world: World, run: Run) -> None:
    await seed(world)
    graph = json.loads((await run("lineage", "fraud", "-o", "json")).stdout)
    assert Lineage.model_validate(graph).roots == ("version/fraud@1.0.0",)
    (line,) = (await run("lineage", "tx@1", "-o", "openlineage")).stdout.splitlines()
    event = json.loads(line)
    assert event["eventType"] == "COMPLETE"
    assert event["run"]["runId"] == "9f86d081-884c-7d65-9a2f-eaa0c55ad015"


async def test_what_is_not_there_is_told_with_what_is_near(world: World, run: Run) -> None:
    await seed(world)
    result = await run("lineage", "fruad")
    assert result.exit_code == 4
    assert "did you mean fraud?" in result.stderr
    assert (await run("lineage", "fraud", "--up", "--down")).exit_code == 2


def test_data_known_by_its_digest_alone_is_shortened() -> None:
    graph = Lineage.model_validate(
        {
            "roots": ["dataset/images@md5:" + "a" * 32],
            "nodes": [
                {
                    "id": "dataset/images@md5:" + "a" * 32,
                    "kind": "DatasetVersion",
                    "name": "images@md5:" + "a" * 32,
                    "registered": False,
                }
            ],
            "edges": [],
            "truncated": True,
        }
    )
    lines = list(format_lineage(graph, "down"))
    assert lines[0] == f"dataset images@md5:{'a' * 12} (not registered)"
    assert lines[1] == "  used by: nothing known"
    assert "more than can be shown" in lines[2]
