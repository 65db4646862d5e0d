"""Every strategy through the controllers, on the real store; and several rollouts at once."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from modelplane.decisions.admission import Asked
from modelplane.decisions.agent_routing import plan_route
from modelplane.decisions.assignment import VERSION_HEADER, assign
from modelplane.decisions.promotion_sources import admit_undo
from modelplane.decisions.routing import OVERRIDE_RULE
from modelplane.expressions.predicates import RequestFacts
from modelplane.ports.promotion_guards import Policies, load_guards
from modelplane.ports.situations import write_admission
from modelplane.ports.store import Transaction
from modelplane.resources.meta import Metadata
from modelplane.resources.model_deployment import Lane
from modelplane.resources.promotion import Promotion, PromotionSpec
from modelplane.resources.replica import Replica
from modelplane.resources.revision import Revision
from modelplane.resources.rollout import Judgement, Rollout
from modelplane.resources.strategy import (
    AbStrategy,
    Arm,
    BlueGreenStrategy,
    CanaryStrategy,
    Holdback,
    RollingStrategy,
    ShadowStrategy,
    Strategy,
)
from modelplane.resources.traffic_policy import TrafficPolicy, TrafficPolicySpec
from modelplane.resources.traffic_split import TrafficSplit
from tests.controllers.guarded import open_guarded
from tests.controllers.plane import ANA, Plane, open_plane, revision
from tests.decisions.gates import policy

pytestmark = pytest.mark.slow

V1, V2, V3 = revision("1.0.0"), revision("2.0.0"), revision("3.0.0")
BLUE_GREEN = Strategy(blue_green=BlueGreenStrategy(keep_warm_s=600))


async def serve(plane: Plane, strategy: Strategy, replicas: int = 1) -> None:
    await plane.declare(strategy, replicas)
    await plane.promote(V1)
    await plane.settle()


async def rollouts(plane: Plane) -> dict[str, Rollout]:
    """Return all rollouts by the version of the candidate."""
    found, _ = await plane.store.list(Rollout)
    return {rollout.spec.candidate.version: rollout for rollout in found}


async def undo(plane: Plane) -> None:
    found, _ = await plane.store.list(Rollout)
    asked = Asked(ANA, plane.clock.now())
    admission = admit_undo(await plane.deployment(), found, None, asked)
    await plane.store.commit(write_admission(admission, asked, "undo"))


async def start_policy(plane: Plane, name: str, of: Revision, rule: Strategy) -> None:
    """Write a traffic policy with its promotion, as admission does."""
    deployment = await plane.deployment()
    ordinal, lane = deployment.status.promotions + 1, f"{name}/{of.version}"
    promotion = Promotion(
        metadata=Metadata(name=f"delay-{ordinal}", environment="production"),
        spec=PromotionSpec(
            deployment="delay", revision=of, ordinal=ordinal, subject=ANA, lane=lane
        ),
    )
    version = None if rule.ab is not None else of.version
    policy = TrafficPolicy(
        metadata=Metadata(name=name, environment="production"),
        spec=TrafficPolicySpec(deployment="delay", version=version, traffic_rule=rule),
    )
    transaction = Transaction(ANA)
    transaction.create(policy)
    transaction.create(promotion)
    lanes = {**deployment.status.lanes, lane: Lane(promotion=promotion.metadata.name)}
    transaction.update(deployment.with_status(promotions=ordinal, lanes=lanes))
    await plane.store.commit(transaction)


async def judge(plane: Plane, version: str, **judgement: Any) -> None:
    """Store a judgement of the rollout of one version."""
    rollout = (await rollouts(plane))[version]
    fields = {"stepId": rollout.status.step_id, "at": plane.clock.now(), "warm": True}
    made = Judgement.model_validate({**fields, "stableRps": 100, **judgement})
    transaction = Transaction(ANA)
    transaction.put_evidence(rollout.metadata.uid, {"judgement": made.to_dict()})
    await plane.store.commit(transaction)


async def serving(plane: Plane) -> dict[str, int]:
    """Return how many replicas of each version the stored split names."""
    split = await plane.store.get(TrafficSplit, "delay", "production")
    return {v.version: len(v.endpoints) for v in split.spec.variants}


async def test_rolling_replaces_replicas_one_by_one_and_never_has_too_few(tmp_path: Path) -> None:
    async with open_plane(tmp_path) as plane:
        await serve(plane, Strategy(rolling=RollingStrategy(interval_s=5)), replicas=3)
        await plane.promote(V2)
        await plane.settle()
        seen = [await serving(plane)]
        for _ in range(6):
            plane.clock.step(6)
            await plane.take_lease()
            await plane.settle()
            seen.append(await serving(plane))
        assert seen[:4] == [
            {"1.0.0": 2, "2.0.0": 1},
            {"1.0.0": 1, "2.0.0": 2},
            {"2.0.0": 3},
            {"2.0.0": 3},
        ]
        assert all(sum(counts.values()) >= 3 for counts in seen)
        assert set(await plane.replicas()) == {"2.0.0/0", "2.0.0/1", "2.0.0/2"}
        assert (await plane.rollout()).status.reason == "AllReplaced"


async def test_a_harmful_version_that_rolls_gives_its_places_back(tmp_path: Path) -> None:
    async with open_plane(tmp_path) as plane:
        await serve(plane, Strategy(rolling=RollingStrategy(interval_s=5)), replicas=3)
        await plane.promote(V2)
        await plane.settle()
        await plane.judge(harm=True, sentence="errors 20 % against 1 %")
        await plane.settle()
        assert await plane.shares() == {"1.0.0": 100}
        assert await serving(plane) == {"1.0.0": 3}
        assert (await plane.rollout()).status.reason == "Harm"


async def test_blue_green_switches_whole_and_undo_switches_back_at_once(tmp_path: Path) -> None:
    async with open_plane(tmp_path) as plane:
        await serve(plane, BLUE_GREEN, replicas=2)
        await plane.promote(V2)
        await plane.settle()
        assert await plane.shares() == {"2.0.0": 100}
        assert len(await plane.replicas()) == 4, "the old set stays warm"
        before, _ = await plane.store.list(Replica)
        await undo(plane)
        await plane.settle()
        after, _ = await plane.store.list(Replica)
        assert await plane.shares() == {"1.0.0": 100}
        assert (await plane.rollout()).status.reason == "StillWarm"
        assert {r.metadata.uid for r in after} == {r.metadata.uid for r in before}, "none is new"
        warm = (await plane.deployment()).status.warm
        assert warm is not None
        assert warm.revision.version == "2.0.0"


async def test_testers_meet_the_new_set_by_header_before_the_switch_and_nobody_else(
    tmp_path: Path,
) -> None:
    preview = BlueGreenStrategy(keep_warm_s=600, preview_s=60)
    async with open_plane(tmp_path) as plane:
        await serve(plane, Strategy(blue_green=preview), replicas=2)
        transaction = Transaction(ANA)
        transaction.update((await plane.deployment()).with_spec(allow_override=True))
        await plane.store.commit(transaction)
        await plane.promote(V2)
        await plane.settle()
        assert (await plane.rollout()).status.reason == "Preview"
        assert await plane.shares() == {"1.0.0": 100, "2.0.0": 0}
        assert await serving(plane) == {"1.0.0": 2, "2.0.0": 2}
        plan = plan_route(await plane.store.get(TrafficSplit, "delay", "production"))
        for user in (f"user-{number}" for number in range(100)):
            headers = {"x-user-id": user}
            assert assign(plan, RequestFacts(headers=headers)).version == "1.0.0"
            asked = assign(plan, RequestFacts(headers=headers | {VERSION_HEADER: "2.0.0"}))
            assert (asked.version, asked.rule) == ("2.0.0", OVERRIDE_RULE)
        plane.clock.step(60)
        await plane.take_lease()
        await plane.settle()
        assert await plane.shares() == {"2.0.0": 100}


async def test_what_was_warm_goes_when_its_time_is_over(tmp_path: Path) -> None:
    async with open_plane(tmp_path) as plane:
        await serve(plane, BLUE_GREEN)
        await plane.promote(V2)
        await plane.settle()
        plane.clock.step(601)
        await plane.take_lease()
        await plane.settle()
        assert await plane.replicas() == {"2.0.0/0": "Ready"}
        await undo(plane)
        await plane.settle()
        assert (await plane.rollout()).status.reason == "Switched", "by the usual road"


async def test_a_shadow_is_promoted_after_its_comparison(tmp_path: Path) -> None:
    async with open_plane(tmp_path) as plane:
        await serve(plane, Strategy(shadow=ShadowStrategy(percentage=30, duration_s=60)))
        await plane.promote(V2)
        await plane.settle()
        split = await plane.store.get(TrafficSplit, "delay", "production")
        assert await plane.shares() == {"1.0.0": 100, "2.0.0": 0}
        assert [m.percentage for m in split.spec.rules[-1].mirrors] == [30]
        plane.clock.step(61)
        await plane.take_lease()
        await plane.judge(passes=True, compared=500, different=0, sentence="alike")
        await plane.settle()
        assert await plane.shares() == {"2.0.0": 100}
        done = (await plane.rollout()).status
        assert (done.phase, done.compared, done.mirror_pct) == ("Promoted", 500, 0)


async def test_a_holdback_keeps_a_few_on_stable_and_harm_claws_all_back(tmp_path: Path) -> None:
    held = CanaryStrategy(steps=(50.0,), min_bake_s=0, holdback=Holdback(percentage=10, for_s=3600))
    async with open_plane(tmp_path) as plane:
        await serve(plane, Strategy(canary=held))
        await plane.promote(V2)
        await plane.settle()
        plane.clock.step(6)
        await plane.judge(passes=True)
        await plane.settle()
        assert await plane.shares() == {"1.0.0": 10, "2.0.0": 90}
        assert (await plane.deployment()).status.stable == V1
        await plane.judge(harm=True)
        await plane.settle()
        assert await plane.shares() == {"1.0.0": 100}


async def test_a_newer_promotion_ends_a_holdback_with_its_promotion(tmp_path: Path) -> None:
    held = CanaryStrategy(steps=(50.0,), min_bake_s=0, holdback=Holdback(percentage=10, for_s=3600))
    async with open_plane(tmp_path) as plane:
        await serve(plane, Strategy(canary=held))
        await plane.promote(V2)
        await plane.settle()
        plane.clock.step(6)
        await plane.judge(passes=True)
        await plane.settle()
        await plane.promote(V3)
        await plane.settle()
        found = await rollouts(plane)
        assert found["2.0.0"].status.phase == "Promoted"
        assert found["3.0.0"].spec.stable == V2
        assert await plane.shares() == {"2.0.0": 50, "3.0.0": 50}


async def test_of_several_rollouts_the_one_that_is_promoted_ends_all_others(tmp_path: Path) -> None:
    async with open_plane(tmp_path) as plane:
        await serve(plane, Strategy(canary=CanaryStrategy()))
        canary = Strategy(canary=CanaryStrategy(steps=(10.0,), min_bake_s=0))
        await start_policy(plane, "west", V2, canary)
        await start_policy(plane, "test", V3, Strategy(
            ab=AbStrategy(arms=(Arm(version="3.0.0", percentage=20),), duration_s=600)
        ))  # fmt: skip
        await plane.settle()
        assert await plane.shares() == {"1.0.0": 70, "2.0.0": 10, "3.0.0": 20}
        plane.clock.step(6)
        await judge(plane, "2.0.0", passes=True)
        await plane.settle()
        found = await rollouts(plane)
        assert found["2.0.0"].status.phase == "Promoted"
        assert found["3.0.0"].status.phase == "Superseded"
        deployment = await plane.deployment()
        assert deployment.status.stable == V2
        assert deployment.spec.version == "2.0.0", "what a policy promoted is declared"
        assert await plane.shares() == {"2.0.0": 100}


async def test_two_that_could_be_promoted_at_once_are_not_both(tmp_path: Path) -> None:
    async with open_plane(tmp_path) as plane:
        await serve(plane, Strategy(canary=CanaryStrategy()))
        for name, of in (("west", V2), ("east", V3)):
            canary = CanaryStrategy(steps=(10.0,), min_bake_s=0)
            await start_policy(plane, name, of, Strategy(canary=canary))
        await plane.settle()
        plane.clock.step(6)
        await judge(plane, "2.0.0", passes=True)
        await judge(plane, "3.0.0", passes=True)
        await plane.settle()
        phases = {v: r.status.phase for v, r in (await rollouts(plane)).items()}
        assert phases == {"1.0.0": "Promoted", "2.0.0": "Promoted", "3.0.0": "Superseded"}
        assert (await plane.deployment()).status.stable == V2


async def test_harm_to_one_of_several_leaves_the_others_alone(tmp_path: Path) -> None:
    async with open_plane(tmp_path) as plane:
        await serve(plane, Strategy(canary=CanaryStrategy()))
        arms = (Arm(version="2.0.0", percentage=20), Arm(version="3.0.0", percentage=30))
        test = Strategy(ab=AbStrategy(arms=arms, duration_s=600))
        await start_policy(plane, "one", V2, test)
        await start_policy(plane, "two", V3, test)
        await plane.settle()
        await judge(plane, "2.0.0", harm=True)
        await plane.settle()
        assert await plane.shares() == {"1.0.0": 70, "3.0.0": 30}
        found = await rollouts(plane)
        assert (found["2.0.0"].status.phase, found["2.0.0"].status.verdict) == (
            "RolledBack", "harm",
        )  # fmt: skip
        plane.clock.step(601)
        await plane.take_lease()
        await judge(plane, "3.0.0", passes=True)
        await plane.settle()
        ended = (await rollouts(plane))["3.0.0"].status
        assert (ended.phase, ended.verdict) == ("Concluded", "pass")
        assert await plane.shares() == {"1.0.0": 100}
        assert await plane.replicas() == {"1.0.0/0": "Ready"}


async def test_without_its_policy_a_rollout_is_taken_back(tmp_path: Path) -> None:
    async with open_plane(tmp_path) as plane:
        await serve(plane, BLUE_GREEN)
        await start_policy(plane, "west", V2, Strategy(canary=CanaryStrategy()))
        await plane.settle()
        assert await plane.shares() == {"1.0.0": 99, "2.0.0": 1}
        policy = await plane.store.get(TrafficPolicy, "west", "production")
        transaction = Transaction(ANA)
        transaction.delete(policy)
        await plane.store.commit(transaction)
        await plane.settle()
        assert (await rollouts(plane))["2.0.0"].status.reason == "PolicyGone"
        assert await plane.shares() == {"1.0.0": 100}


async def test_only_what_passed_its_ab_test_is_promoted_but_the_test_itself_may_begin(
    tmp_path: Path,
) -> None:
    only_tested = policy(conditions=["ab.passed || promotion.traffic_policy != ''"])
    async with open_guarded(tmp_path) as plane:
        await plane.begin()
        await plane.push("1.0.0")
        await plane.apply("1.0.0")
        await plane.settle()
        await plane.write(only_tested)
        await plane.push("2.0.0")
        await plane.apply("2.0.0")
        await plane.settle()
        assert await plane.phase() == "Refused"

        (first,) = (await plane.store.list(Rollout))[0]
        candidate = first.spec.candidate.with_(version="2.0.0")
        ended = first.with_spec(candidate=candidate).with_status(
            phase="Concluded", verdict="pass", finished_at=plane.clock.now()
        )
        test = Rollout(
            metadata=Metadata(name="delay-9", environment="staging"),
            spec=ended.spec,
            status=ended.status,
        )
        transaction = Transaction(ANA)
        transaction.create(test)
        await plane.store.commit(transaction)
        await plane.ask("2.0.0")
        await plane.settle()
        assert await plane.phase() == "Done"
        waiting = (await plane.promotions())[0]
        asks = waiting.with_spec(lane="test/2.0.0", revision=candidate)
        applied = Policies((only_tested,), ())
        guards = await load_guards(plane.store, asks, applied)
        assert guards.ab_verdict == "pass"
        other = asks.with_spec(revision=candidate.with_(version="3.0.0"))
        assert (await load_guards(plane.store, other, applied)).ab_verdict == ""
