"""The analysis of rollouts for some users only, by parts of the users, and of other strategies."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from modelplane.adapters.metrics.ring import MetricsRing
from modelplane.controllers.analysis import AnalysisController
from modelplane.decisions.judgements import read_judgement
from modelplane.decisions.traffic import rule_name
from modelplane.ports.store import Transaction
from modelplane.resources.rollout import Judgement, Rollout
from modelplane.resources.strategy import (
    Analysis,
    CanaryStrategy,
    MetricRule,
    RollingStrategy,
    ShadowStrategy,
    Slice,
    Strategy,
)
from modelplane.resources.telemetry import SliceSample, TelemetryBatch, VariantSample
from tests.controllers.plane import ANA, Plane, open_plane, revision

pytestmark = pytest.mark.slow

V1, V2 = revision("1.0.0"), revision("2.0.0")
ERRORS = (MetricRule(name="errors"),)
WEST, EAST = "user.region == 'west'", "user.region == 'east'"
STABLE, CANDIDATE = V1.short, V2.short


class Bench:
    """A plane with a rollout of V2 over V1, and a gateway that reports what it is told."""

    def __init__(self, plane: Plane) -> None:
        self.plane = plane
        self.metrics = MetricsRing()
        self.sequence = 0
        self.beside: dict[str, Rollout] = {}
        self.controller = AnalysisController(
            plane.store, self.metrics, plane.fence, plane.clock, wake=lambda key: None
        )

    async def start(self, strategy: Strategy, replicas: int = 1, failed: int = 0) -> None:
        await self.plane.declare(strategy, replicas)
        await self.plane.promote(V1)
        await self.plane.settle()
        for _ in range(20):
            await self.second(sample(STABLE, 100, failed))
        await self.plane.promote(V2)
        await self.plane.settle()
        rollout = await self.plane.rollout()
        self.controller._running = {rollout.metadata.uid: rollout}

    async def second(self, *samples: VariantSample, judged: bool = False) -> None:
        self.plane.clock.step(1)
        self.sequence += 1
        deployment = await self.plane.deployment()
        steps = {}
        if deployment.status.rollouts > 1:
            rollout = await self.plane.rollout()
            steps["delay"] = {rollout.metadata.uid: rollout.status.step_id}
            # The controller learns of the strategy from the stored rollout.
            self.controller._running = {rollout.metadata.uid: rollout, **self.beside}
        self.metrics.record(
            TelemetryBatch(
                environment="production",
                proxy="production/local",
                boot_id="boot",
                sequence=self.sequence,
                at=self.plane.clock.now(),
                seconds=1.0,
                samples=samples,
                steps=steps,
            )
        )
        if judged:
            await self.controller.tick()
            await self.plane.settle()

    async def judgement(self) -> Judgement:
        uid = (await self.plane.rollout()).metadata.uid
        judgement = read_judgement((await self.plane.store.evidence([uid])).get(uid))
        assert judgement is not None
        return judgement


def sample(revision_: str, requests: int, failures: int = 0, **others: Any) -> VariantSample:
    return VariantSample(
        deployment="delay", revision=revision_, requests=requests, failures=failures, **others
    )


async def test_a_candidate_under_a_predicate_is_judged_by_its_own_users(tmp_path: Path) -> None:
    """Everybody else's requests, however many fail, say nothing of it."""
    strategy = Strategy(
        canary=CanaryStrategy(predicate=WEST, analysis=Analysis(metrics=ERRORS), min_bake_s=0)
    )
    rule = rule_name(WEST)
    async with open_plane(tmp_path) as plane:
        bench = Bench(plane)
        await bench.start(strategy)
        for _ in range(40):
            await bench.second(
                sample(STABLE, 900, 90),
                sample(STABLE, 40, 0, rule=rule),
                sample(CANDIDATE, 4, 1, rule=rule),
                sample(CANDIDATE, 50, 50, rule="override"),
                judged=True,
            )
            if (await plane.rollout()).finished:
                break
        rollout = await plane.rollout()
        assert (rollout.status.phase, rollout.status.reason) == ("RolledBack", "Harm")
        judgement = await bench.judgement()
        assert judgement.stable_rps < 60
        assert judgement.candidate_requests == 4 * judgement.failed_requests
        errors = judgement.metrics[0]
        assert errors.stable == 0
        assert errors.candidate == pytest.approx(0.25)


async def test_a_predicate_that_is_edited_begins_anew_among_its_users(tmp_path: Path) -> None:
    """What was learned from the users before lets nothing grow, and promotes nothing."""
    canary = CanaryStrategy(
        predicate=WEST, steps=(5, 20), analysis=Analysis(metrics=ERRORS, interval_s=1), min_bake_s=0
    )
    async with open_plane(tmp_path) as plane:
        bench = Bench(plane)
        await bench.start(Strategy(canary=canary))
        for _ in range(60):
            rule = rule_name(WEST)
            samples = sample(STABLE, 900, rule=rule), sample(CANDIDATE, 100, rule=rule)
            await bench.second(sample(STABLE, 9000), *samples, judged=True)
            if (await plane.rollout()).status.weight_pct == 20:
                break
        before = await plane.rollout()
        assert before.status.weight_pct == 20
        assert (await bench.judgement()).candidate_requests > 0

        edit = Transaction(ANA)
        edited_strategy = Strategy(canary=canary.with_(predicate=EAST))
        edit.update((await plane.deployment()).with_spec(strategy=edited_strategy))
        await plane.store.commit(edit)
        await plane.settle()
        edited = await plane.rollout()
        assert (edited.status.weight_pct, edited.status.reason) == (5, "WaitingForTraffic")
        assert edited.status.step_id == before.status.step_id + 1
        # Requests of before that arrive late, and many of others, say nothing of these users.
        for _ in range(20):
            late = sample(CANDIDATE, 1000, rule=rule_name(WEST))
            few = (
                sample(STABLE, 5, rule=rule_name(EAST)),
                sample(CANDIDATE, 1, rule=rule_name(EAST)),
            )
            await bench.second(sample(STABLE, 9000), late, *few, judged=True)
        judgement = await bench.judgement()
        assert judgement.candidate_requests == 20
        assert not judgement.passes
        assert (await plane.rollout()).status.weight_pct == 5


@pytest.mark.parametrize("fails", [True, False])
async def test_harm_under_the_predicate_of_another_rollout_is_seen_too(
    tmp_path: Path, fails: bool
) -> None:
    """Who is under it meets a candidate without a predicate as well."""
    canary = CanaryStrategy(steps=(10,), analysis=Analysis(metrics=ERRORS), deadline_s=86400)
    async with open_plane(tmp_path) as plane:
        bench = Bench(plane)
        await bench.start(Strategy(canary=canary))
        other = await plane.rollout()
        western = Strategy(canary=canary.with_(predicate=WEST))
        spec = other.spec.with_(candidate=revision("3.0.0"), lane="west/3.0.0")
        other = other.with_(
            metadata=other.metadata.with_(uid="other"),
            spec=spec,
            status=other.status.with_(strategy=western),
        )
        bench.beside = {"other": other}
        for _ in range(60):
            await bench.second(
                sample(STABLE, 90, 0),
                sample(CANDIDATE, 10, 0),
                sample(STABLE, 30, 0, rule=rule_name(WEST)),
                sample(CANDIDATE, 10, 4 if fails else 0, rule=rule_name(WEST)),
                judged=True,
            )
            if (await plane.rollout()).finished:
                break
        assert (await plane.rollout()).status.reason == ("Harm" if fails else "NeedsEvidence")
        (part,) = (await bench.judgement()).slices
        assert (part.name, part.harm) == (f"under {WEST}", fails)
        assert part.candidate == pytest.approx(0.4 if fails else 0.0)


async def test_parts_of_the_users_are_judged_and_shown(tmp_path: Path) -> None:
    analysis = Analysis(metrics=ERRORS, slices=(Slice(by="user.region", values=("west", "east")),))
    strategy = Strategy(canary=CanaryStrategy(steps=(50,), analysis=analysis))

    def parts(west: int, failed: int) -> dict[str, SliceSample]:
        return {
            "user.region=west": SliceSample(requests=west, failures=failed),
            "user.region=east": SliceSample(requests=50 - west, failures=5),
        }

    async with open_plane(tmp_path) as plane:
        bench = Bench(plane)
        await bench.start(strategy, failed=10)
        for _ in range(60):
            await bench.second(
                sample(STABLE, 50, 5, slices=parts(5, 0)),
                sample(CANDIDATE, 50, 7, slices=parts(5, 2)),
                judged=True,
            )
            if (await plane.rollout()).finished:
                break
        rollout = await plane.rollout()
        assert (rollout.status.phase, rollout.status.reason) == ("RolledBack", "Harm")
        west, east = (await bench.judgement()).slices
        assert (west.name, west.harm, east.harm) == ("user.region=west", True, False)
        assert west.stable == 0
        assert west.candidate == pytest.approx(0.4)
        assert east.requests == 9 * west.requests


@pytest.mark.parametrize(
    "strategy",
    [
        Strategy(rolling=RollingStrategy(interval_s=60, analysis=Analysis(metrics=ERRORS))),
        Strategy(shadow=ShadowStrategy(analysis=Analysis(metrics=ERRORS))),
    ],
    ids=["rolling", "shadow"],
)
async def test_other_strategies_are_judged_too(tmp_path: Path, strategy: Strategy) -> None:
    async with open_plane(tmp_path) as plane:
        bench = Bench(plane)
        await bench.start(strategy, replicas=4)
        for _ in range(30):
            await bench.second(
                sample(STABLE, 90), sample(CANDIDATE, 10, 9, compared=8, different=2), judged=True
            )
            if (await plane.rollout()).finished:
                break
        judgement = await bench.judgement()
        assert judgement.harm
        assert (judgement.allowed_weight_pct, judgement.slices) == (100, ())
        assert judgement.compared == 4 * judgement.different
        assert judgement.different_lower is not None
        assert judgement.different_lower < 0.25
        assert (await plane.rollout()).status.phase == "RolledBack"
