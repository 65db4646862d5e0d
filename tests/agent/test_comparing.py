"""A shadow's answers are compared with stable's, told with the counts, and disturb nothing."""

from __future__ import annotations

from pathlib import Path

import pytest

from modelplane.agent.comparing import add_comparisons
from modelplane.decisions.comparison import Comparison, KeptAnswer
from modelplane.resources.replica import Replica
from modelplane.resources.revision import Artifact, Revision, RuntimeSpec, make_revision
from modelplane.resources.telemetry import VariantSample
from modelplane.resources.traffic_split import (
    SplitEndpoint,
    SplitMirror,
    SplitRule,
    SplitSegment,
    SplitVariant,
)
from tests.agent.test_replicas import make_ready
from tests.agent.world import World

pytestmark = pytest.mark.slow


def answered(name: str, value: float) -> KeptAnswer:
    output = {"name": "y", "datatype": "FP64", "shape": [1], "data": [value]}
    return KeptAnswer(name, 200, {"outputs": [output]})


def samples(world: World) -> list[VariantSample]:
    return [s for batch in world.control_plane.batches for s in batch.samples if s.compared]


def socket(world: World, replica: Replica) -> Path:
    return Path(world.control_plane.read(replica).status.address.removeprefix("unix:"))


def put_split(world: World, *, tolerance: float = 1e-6, mirrored: bool = True) -> None:
    stable, shadow = world.revision("1.0.0"), world.revision("2.0.0")
    mirrors = (SplitMirror(revision=shadow.digest, percentage=100, tolerance=tolerance),)
    rule = SplitRule(
        name="default",
        segments=(SplitSegment(revision=stable.digest, width=10_000),),
        mirrors=mirrors if mirrored else (),
    )
    variants = tuple(
        SplitVariant(
            revision=revision.digest,
            version=revision.version,
            role="shadow" if index else "stable",
            weight_pct=0 if index else 100,
            endpoints=(SplitEndpoint(replica=f"r{index}", address=f"unix:/run/r{index}.sock"),),
        )
        for index, revision in enumerate((stable, shadow))
    )
    world.put_split((stable, 100), variants=variants, rules=(rule,))


async def serve(world: World, shadow: Revision | None = None) -> tuple[Path, Path]:
    """Stable and a shadow that gets copies; returns their sockets."""
    world.put_environment()
    world.start_agent()
    ours = await make_ready(world, name="r0", revision=world.revision("1.0.0"))
    theirs = await make_ready(world, name="r1", revision=shadow or world.revision("2.0.0"))
    put_split(world)
    paths = socket(world, ours), socket(world, theirs)
    await world.settle(2)
    return paths


async def test_what_was_compared_arrives_once_with_the_shadows_counts(world: World) -> None:
    ours, theirs = await serve(world)
    world.servers.page_size = 3
    names = [f"default/{n}" for n in range(10)]
    world.servers.kept[ours] = [answered(name, 1.0) for name in names]
    world.servers.kept[theirs] = [
        answered(name, 2.0 if position < 3 else 1.0) for position, name in enumerate(names[:8])
    ]
    await world.settle(5)
    found = samples(world)
    assert sum(sample.compared for sample in found) == 8
    assert sum(sample.different for sample in found) == 3
    shadow = world.revision("2.0.0")
    assert {(s.deployment, s.revision, s.rule) for s in found} == {("fraud", shadow.short, "")}
    assert "y[0]: 1.0 by stable, 2.0 by the shadow" in found[0].examples


async def test_an_answer_that_comes_late_finds_its_partner(world: World) -> None:
    ours, theirs = await serve(world)
    world.servers.kept[ours] = [answered("rule-1f/1", 1.0)]
    await world.settle(8)
    assert samples(world) == []
    world.servers.kept[theirs] = [answered("rule-1f/1", 1.0)]
    await world.settle(3)
    assert [(s.compared, s.different, s.rule) for s in samples(world)] == [(1, 0, "rule-1f")]


async def test_the_tolerance_of_the_strategy_counts(world: World) -> None:
    ours, theirs = await serve(world)
    put_split(world, tolerance=0.5)
    await world.settle(2)
    world.servers.kept[ours] = [answered("default/1", 1.0)]
    world.servers.kept[theirs] = [answered("default/1", 1.2)]
    await world.settle(3)
    assert [(s.compared, s.different) for s in samples(world)] == [(1, 0)]


async def test_without_copies_nobody_is_asked(world: World) -> None:
    await serve(world)
    assert world.servers.asked
    put_split(world, mirrored=False)
    await world.settle(2)
    world.servers.asked.clear()
    await world.settle(5)
    assert world.servers.asked == []


@pytest.mark.parametrize("trouble", [None, RuntimeError("a surprise")])
async def test_a_server_that_keeps_no_answers_disturbs_nothing(
    world: World, trouble: Exception | None
) -> None:
    ours, theirs = await serve(world)
    world.servers.kept[ours] = [answered("default/1", 1.0)]
    world.servers.kept[theirs] = trouble
    before = len(world.control_plane.batches)
    await world.settle(5)
    assert samples(world) == []
    assert len(world.control_plane.batches) >= before + 4, "the counts go on"
    world.servers.kept[theirs] = [answered("default/1", 1.0)]
    await world.settle(3)
    assert sum(sample.compared for sample in samples(world)) == 1


async def test_a_server_of_another_make_is_not_asked(world: World) -> None:
    artifact = world.artifact()
    foreign = make_revision(
        "fraud",
        "2.0.0",
        Artifact(format="command", digest=artifact.digest, command=("serve", "{socket}")),
        RuntimeSpec(),
    )
    _, theirs = await serve(world, foreign)
    await world.settle(3)
    assert theirs not in {path for path, _ in world.servers.asked}


def test_comparisons_join_the_counts_of_their_rule() -> None:
    counted = VariantSample(deployment="fraud", revision="01", requests=5, failures=1)
    under_rule = counted.with_(rule="rule-1f")
    joined = add_comparisons(
        [counted, under_rule],
        {
            "fraud.01|rule-1f": Comparison(4, 1, ("y",)),
            "fraud.02": Comparison(2),
        },
    )
    assert [(s.revision, s.rule, s.requests, s.compared, s.different) for s in joined] == [
        ("01", "", 5, 0, 0),
        ("01", "rule-1f", 5, 4, 1),
        ("02", "", 0, 2, 0),
    ]
    assert joined[1].examples == ("y",)
