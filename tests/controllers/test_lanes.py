"""Rollouts beside each other: traffic policies' lanes and the deployment's own."""

from __future__ import annotations

from pathlib import Path

import pytest

from modelplane.controllers.promotion import PromotionController
from modelplane.controllers.rollout import RolloutController
from modelplane.ports.store import Transaction
from modelplane.resources.meta import Metadata
from modelplane.resources.model import Model
from modelplane.resources.model_deployment import Lane, ModelDeployment
from modelplane.resources.promotion import Promotion, PromotionSpec
from modelplane.resources.revision import Revision
from modelplane.resources.rollout import Judgement, Rollout
from modelplane.resources.strategy import Strategy
from modelplane.resources.traffic_policy import TrafficPolicy, TrafficPolicySpec
from tests.controllers.plane import ANA, Plane, open_plane, revision
from tests.decisions.worlds import V1, V2, V3

CANARY = Strategy.model_validate({"canary": {"steps": [10], "minBake": 0}})


async def promote_in_lane(plane: Plane, of: Revision, policy: str) -> None:
    """Do what applying a traffic policy does, whole."""
    deployment = await plane.deployment()
    ordinal = deployment.status.promotions + 1
    name, lane = f"delay-{ordinal}", f"{policy}/{of.version}"
    transaction = Transaction(ANA)
    if await plane.store.find(TrafficPolicy, policy, "production") is None:
        transaction.create(
            TrafficPolicy(
                metadata=Metadata(name=policy, environment="production"),
                spec=TrafficPolicySpec(deployment="delay", version=of.version, traffic_rule=CANARY),
            )
        )
    transaction.create(
        Promotion(
            metadata=Metadata(name=name, environment="production"),
            spec=PromotionSpec(
                deployment="delay", revision=of, ordinal=ordinal, subject=ANA, lane=lane
            ),
        )
    )
    lanes = {**deployment.status.lanes, lane: Lane(promotion=name)}
    transaction.update(deployment.with_status(promotions=ordinal, lanes=lanes))
    await plane.store.commit(transaction)


async def phases(plane: Plane) -> dict[str, str]:
    """Return the phase of the latest rollout of each version."""
    rollouts, _ = await plane.store.list(Rollout)
    ordered = sorted(rollouts, key=lambda rollout: rollout.spec.ordinal)
    return {r.spec.candidate.version: r.status.phase for r in ordered}


async def judge(plane: Plane, version: str, **judgement: object) -> None:
    rollouts, _ = await plane.store.list(Rollout)
    (rollout,) = [r for r in rollouts if r.spec.candidate.version == version and not r.finished]
    fields = {"step_id": rollout.status.step_id, "at": plane.clock.now(), "warm": True}
    transaction = Transaction(ANA)
    made = Judgement.model_validate({**fields, "stable_rps": 100, **judgement})
    transaction.put_evidence(rollout.metadata.uid, {"judgement": made.to_dict()})
    await plane.store.commit(transaction)


async def with_two_lanes(plane: Plane) -> None:
    await plane.declare(CANARY)
    await plane.promote(V1)
    await plane.settle()
    await promote_in_lane(plane, V2, "west")
    await promote_in_lane(plane, V3, "east")
    await plane.settle()
    for version in ("2.0.0", "3.0.0"):
        await judge(plane, version)
    await plane.settle()


async def test_two_policies_roll_out_beside_each_other(tmp_path: Path) -> None:
    async with open_plane(tmp_path) as plane:
        await with_two_lanes(plane)
        assert await phases(plane) == {"1.0.0": "Promoted", "2.0.0": "Ramping", "3.0.0": "Ramping"}
        assert await plane.shares() == {"1.0.0": 80.0, "2.0.0": 10.0, "3.0.0": 10.0}


async def test_harm_ends_one_and_leaves_the_other(tmp_path: Path) -> None:
    async with open_plane(tmp_path) as plane:
        await with_two_lanes(plane)
        await judge(plane, "2.0.0", harm=True)
        await plane.settle()
        assert await phases(plane) == {
            "1.0.0": "Promoted", "2.0.0": "RolledBack", "3.0.0": "Ramping",
        }  # fmt: skip
        assert await plane.shares() == {"1.0.0": 90.0, "3.0.0": 10.0}


async def test_a_promoted_one_ends_what_was_compared_with_stable_before(tmp_path: Path) -> None:
    async with open_plane(tmp_path) as plane:
        await with_two_lanes(plane)
        plane.clock.step(60)
        await judge(plane, "2.0.0", passes=True)
        await plane.settle()
        deployment = await plane.deployment()
        assert await phases(plane) == {
            "1.0.0": "Promoted", "2.0.0": "Promoted", "3.0.0": "Superseded",
        }  # fmt: skip
        assert await plane.shares() == {"2.0.0": 100.0}
        assert deployment.status.stable == V2
        assert deployment.spec.version == "2.0.0"
        assert (await plane.rollout()).spec.candidate == V2


async def test_the_deployment_s_own_takes_the_place_of_all(tmp_path: Path) -> None:
    async with open_plane(tmp_path) as plane:
        await with_two_lanes(plane)
        await plane.promote(V3)
        await plane.settle()
        found = await phases(plane)
        assert found["2.0.0"] == "Superseded"
        assert (await plane.rollout()).spec.lane == ""
        promotions, _ = await plane.store.list(Promotion)
        assert {p.status.phase for p in promotions if p.spec.lane} == {"Superseded"}


async def test_a_newer_promotion_of_one_lane_leaves_the_others(tmp_path: Path) -> None:
    async with open_plane(tmp_path) as plane:
        await with_two_lanes(plane)
        await promote_in_lane(plane, V2, "west")
        await plane.settle()
        found = await phases(plane)
        assert found["3.0.0"] == "Ramping"
        assert found["2.0.0"] in {"Deploying", "Ramping"}


async def test_the_own_rollout_ends_too_when_a_policy_s_is_promoted(tmp_path: Path) -> None:
    async with open_plane(tmp_path) as plane:
        await plane.declare(CANARY)
        await plane.promote(V1)
        await plane.settle()
        await plane.promote(V3)
        await plane.settle()
        await promote_in_lane(plane, V2, "west")
        await plane.settle()
        for version in ("2.0.0", "3.0.0"):
            await judge(plane, version)
        await plane.settle()
        plane.clock.step(60)
        await judge(plane, "2.0.0", passes=True)
        await plane.settle()
        assert await phases(plane) == {
            "1.0.0": "Promoted", "2.0.0": "Promoted", "3.0.0": "Superseded",
        }  # fmt: skip
        assert await plane.shares() == {"2.0.0": 100.0}


async def test_a_policy_s_champion_is_recorded_though_the_own_rollout_never_had_traffic(
    tmp_path: Path,
) -> None:
    async with open_plane(tmp_path) as plane:
        await plane.declare(CANARY)
        await plane.promote(V1)
        await plane.settle()
        await plane.promote(V3)
        await _begin_paused(plane)
        await plane.settle()
        await promote_in_lane(plane, V2, "west")
        await plane.settle()
        await judge(plane, "2.0.0")
        await plane.settle()
        plane.clock.step(60)
        await judge(plane, "2.0.0", passes=True)
        await plane.settle()
        assert (await phases(plane))["3.0.0"] == "Superseded"
        assert (await plane.deployment()).status.stable == V2
        model = await plane.store.get(Model, "delay")
        assert [(s.champion, s.challenger) for s in model.status.serving] == [("2.0.0", None)]


async def test_what_is_declared_stays_while_the_own_promotion_waits(tmp_path: Path) -> None:
    async with open_plane(tmp_path) as plane:
        await with_two_lanes(plane)
        await _wait_for_approval(plane, "9.0.0")
        plane.clock.step(60)
        await judge(plane, "2.0.0", passes=True)
        rollouts = next(r for r in plane.reconcilers if isinstance(r, RolloutController))
        for _ in range(3):
            await rollouts.reconcile((await plane.deployment()).key)
        deployment = await plane.deployment()
        assert deployment.status.stable == V2
        assert deployment.spec.version == "9.0.0"


@pytest.mark.parametrize("anew", [False, True], ids=["deleted", "made anew"])
async def test_nothing_of_a_deleted_deployment_runs_on(tmp_path: Path, anew: bool) -> None:
    async with open_plane(tmp_path) as plane:
        await with_two_lanes(plane)
        before = await plane.deployment()
        transaction = Transaction(ANA)
        transaction.delete(before)
        await plane.store.commit(transaction)
        if anew:
            transaction = Transaction(ANA)
            made = ModelDeployment(
                metadata=Metadata(name="delay", environment="production"), spec=before.spec
            )
            transaction.create(made.with_status(promotions=9, rollouts=9))
            await plane.store.commit(transaction)
        await plane.settle()
        rollouts, _ = await plane.store.list(Rollout)
        assert [r.metadata.name for r in rollouts if not r.finished] == []
        assert {r.status.weight_pct for r in rollouts if r.status.reason == "Deleted"} == {0}
        assert anew or await plane.replicas() == {}, "what serves stays until something else can"


async def test_a_first_rollout_that_begins_meanwhile_is_not_taken_for_one_of_before(
    tmp_path: Path,
) -> None:
    async with open_plane(tmp_path) as plane:
        await plane.declare(CANARY)
        read_before = await plane.deployment()
        await plane.promote(V1)
        await _begin_paused(plane)
        rollouts = next(r for r in plane.reconcilers if isinstance(r, RolloutController))
        await rollouts._end_orphans(read_before.key, read_before)
        assert not (await plane.rollout()).finished


async def _begin_paused(plane: Plane) -> None:
    """Begin the rollout of the latest promotion, and pause it before its replicas start."""
    promotions = next(r for r in plane.reconcilers if isinstance(r, PromotionController))
    name = (await plane.deployment()).status.promotion or ""
    for _ in range(3):
        await promotions.reconcile((await plane.store.get(Promotion, name, "production")).key)
    transaction = Transaction(ANA)
    transaction.update((await plane.rollout()).with_spec(paused=True))
    await plane.store.commit(transaction)


async def _wait_for_approval(plane: Plane, version: str) -> None:
    """Declare another version, whose promotion nobody has approved yet."""
    await plane.promote(revision(version))
    deployment = await plane.deployment()
    name = deployment.status.promotion or ""
    promotion = await plane.store.get(Promotion, name, "production")
    transaction = Transaction(ANA)
    transaction.update(promotion.with_status(phase="AwaitingApproval"))
    transaction.update(deployment.with_spec(version=version))
    await plane.store.commit(transaction)
