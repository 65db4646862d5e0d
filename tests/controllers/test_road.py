"""The road of a revision through the controllers, on the real store."""

from __future__ import annotations

from pathlib import Path

import pytest

from modelplane.errors import Conflict
from modelplane.ports.store import Transaction
from modelplane.resources.meta import ResourceKey
from modelplane.resources.monitoring import PredictionLog
from modelplane.resources.promotion import Promotion
from modelplane.resources.replica import Replica
from modelplane.resources.rollout import RolloutRequest
from modelplane.resources.strategy import CanaryStrategy, Strategy
from tests.controllers.plane import ANA, Plane, open_plane, revision

pytestmark = pytest.mark.slow

V1, V2, V3 = revision("1.0.0"), revision("2.0.0"), revision("3.0.0")
QUICK = Strategy(canary=CanaryStrategy(min_bake_s=20))


async def first_version(plane: Plane, strategy: Strategy = QUICK, replicas: int = 1) -> None:
    await plane.declare(strategy, replicas)
    await plane.promote(V1)
    await plane.settle()


async def phase_of_promotion(plane: Plane, ordinal: int) -> str:
    promotion = await plane.store.get(Promotion, f"delay-{ordinal}", "production")
    return promotion.status.phase


async def test_a_first_version_serves_all_once_it_is_ready(tmp_path: Path) -> None:
    async with open_plane(tmp_path) as plane:
        await first_version(plane, replicas=2)
        assert await plane.shares() == {"1.0.0": 100}
        assert await plane.replicas() == {"1.0.0/0": "Ready", "1.0.0/1": "Ready"}
        assert (await plane.rollout()).status.reason == "FirstDeployment"
        assert await phase_of_promotion(plane, 1) == "Done"
        assert (await plane.deployment()).status.ready_replicas == 2


async def test_a_good_candidate_ramps_and_takes_over_and_the_old_one_stops(tmp_path: Path) -> None:
    async with open_plane(tmp_path) as plane:
        await first_version(plane)
        await plane.promote(V2)
        await plane.settle()
        seen = [await plane.shares()]
        for _ in range(20):
            plane.clock.step(6)
            await plane.take_lease()
            await plane.judge(allowedWeightPct=30, passes=len(seen) > 1)
            await plane.settle()
            if await plane.shares() != seen[-1]:
                seen.append(await plane.shares())
        assert seen == [
            {"1.0.0": 99, "2.0.0": 1},
            {"1.0.0": 75, "2.0.0": 25},
            {"1.0.0": 50, "2.0.0": 50},
            {"2.0.0": 100},
        ]
        assert await plane.replicas() == {"2.0.0/0": "Ready"}
        assert await phase_of_promotion(plane, 2) == "Done"
        stable = (await plane.deployment()).status.stable
        assert stable is not None
        assert stable.version == "2.0.0"


async def test_a_harmful_candidate_is_taken_back_whole(tmp_path: Path) -> None:
    async with open_plane(tmp_path) as plane:
        await first_version(plane)
        await plane.promote(V2)
        await plane.settle()
        await plane.judge(harm=True, sentence="errors 20 % against 1 %", failedRequests=4)
        await plane.settle()
        rollout = await plane.rollout()
        assert (rollout.status.phase, rollout.status.weight_pct) == ("RolledBack", 0)
        assert rollout.status.failed_requests == 4
        assert await plane.shares() == {"1.0.0": 100}
        assert await plane.replicas() == {"1.0.0/0": "Ready"}
        assert await phase_of_promotion(plane, 2) == "RolledBack"


async def test_a_candidate_that_cannot_start_fails_and_stable_is_not_touched(
    tmp_path: Path,
) -> None:
    async with open_plane(tmp_path) as plane:
        await first_version(plane)
        plane.broken.add("2.0.0")
        await plane.promote(V2)
        await plane.settle()
        rollout = await plane.rollout()
        assert rollout.status.phase == "Failed"
        assert "no such" in rollout.status.message
        assert await plane.shares() == {"1.0.0": 100}
        assert await plane.replicas() == {"1.0.0/0": "Ready"}
        assert await phase_of_promotion(plane, 2) == "Failed"


async def test_a_newer_promotion_in_mid_ramp_supersedes_the_rollout(tmp_path: Path) -> None:
    async with open_plane(tmp_path) as plane:
        await first_version(plane)
        await plane.promote(V2)
        await plane.settle()
        assert await plane.shares() == {"1.0.0": 99, "2.0.0": 1}
        await plane.promote(V3)
        await plane.settle()
        assert await phase_of_promotion(plane, 2) == "Superseded"
        assert await plane.shares() == {"1.0.0": 99, "3.0.0": 1}
        assert await plane.replicas() == {"1.0.0/0": "Ready", "3.0.0/0": "Ready"}


async def test_a_strategy_edited_in_mid_ramp_takes_effect(tmp_path: Path) -> None:
    async with open_plane(tmp_path) as plane:
        await first_version(plane)
        await plane.promote(V2)
        await plane.settle()
        deployment = await plane.deployment()
        transaction = Transaction(ANA)
        steps = Strategy(canary=CanaryStrategy(steps=(10.0,), min_bake_s=0))
        transaction.update(deployment.with_spec(strategy=steps))
        await plane.store.commit(transaction)
        plane.clock.step(6)
        await plane.judge(allowedWeightPct=30)
        await plane.settle()
        assert await plane.shares() == {"1.0.0": 90, "2.0.0": 10}


async def test_a_person_may_roll_back_and_the_reason_is_kept(tmp_path: Path) -> None:
    async with open_plane(tmp_path) as plane:
        await first_version(plane)
        await plane.promote(V2)
        await plane.settle()
        rollout = await plane.rollout()
        request = RolloutRequest(
            action="rollback", subject="ana", reason="wrong prices", at=plane.clock.now()
        )
        transaction = Transaction(ANA)
        transaction.update(rollout.with_spec(request=request))
        await plane.store.commit(transaction)
        await plane.settle()
        assert (await plane.rollout()).status.message == "asked for by ana: wrong prices"
        assert await plane.shares() == {"1.0.0": 100}


async def test_more_replicas_start_in_place_and_fewer_stop(tmp_path: Path) -> None:
    async with open_plane(tmp_path) as plane:
        await first_version(plane)
        for count in (3, 1):
            deployment = await plane.deployment()
            transaction = Transaction(ANA)
            transaction.update(deployment.with_spec(replicas=count))
            await plane.store.commit(transaction)
            await plane.settle()
            assert len(await plane.replicas()) == count
        assert (await plane.deployment()).status.rollouts == 1


async def test_what_is_logged_reaches_the_running_replicas_and_goes_again(tmp_path: Path) -> None:
    async with open_plane(tmp_path) as plane:
        await first_version(plane, replicas=2)
        for wanted in (PredictionLog(redact=("ssn",)), PredictionLog(sampling=5), None):
            deployment = (await plane.deployment()).with_spec(predictions=wanted)
            transaction = Transaction(ANA)
            transaction.update(deployment, "deployment.apply")
            await plane.store.commit(transaction)
            await plane.settle()
            replicas, _ = await plane.store.list(Replica, "production")
            assert [replica.spec.predictions for replica in replicas] == [wanted, wanted]
            conditions = (await plane.deployment()).status.conditions
            assert ("PredictionsLogged" in {c.type for c in conditions}) == (wanted is not None)
        assert await plane.replicas() == {"1.0.0/0": "Ready", "1.0.0/1": "Ready"}


async def test_a_control_plane_that_lost_its_lease_changes_nothing(tmp_path: Path) -> None:
    async with open_plane(tmp_path) as plane:
        await first_version(plane)
        plane.clock.step(7200)
        other = Plane(plane.store, plane.clock)
        await other.take_lease("two")
        await plane.promote(V2)
        key = ResourceKey("Promotion", "production", "delay-2")
        with pytest.raises(Conflict):
            await plane.reconcilers[0].reconcile(key)
        assert await phase_of_promotion(plane, 2) == "Requested"
        await other.settle()
        assert await other.shares() == {"1.0.0": 99, "2.0.0": 1}


async def test_every_change_on_the_road_is_in_the_audit_log(tmp_path: Path) -> None:
    async with open_plane(tmp_path) as plane:
        await first_version(plane)
        records = await plane.store.audit()
        actions = {record.action for record in records}
        assert {"promotion.Approved", "rollout.start", "replica.create", "traffic.split"} <= actions
        assert {"rollout.promote", "deployment.promote", "promotion.Done"} <= actions
        assert all(record.subject for record in records)
        assert (await plane.store.verify_audit()).faults == ()
