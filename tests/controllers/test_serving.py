"""Champions and challengers: each move of them is recorded once, whatever happens meanwhile."""

from __future__ import annotations

from pathlib import Path

import pytest

from modelplane.controllers.serving import ServingController
from modelplane.decisions.aliases import Mover, move_alias
from modelplane.decisions.history import read_history
from modelplane.errors import Conflict
from modelplane.ports.store import Transaction
from modelplane.resources.environment import Environment
from modelplane.resources.meta import Metadata, ResourceKey
from modelplane.resources.model import AliasMove, Model, Serving
from modelplane.resources.model_deployment import ModelDeployment, ModelDeploymentSpec
from modelplane.resources.promotion import Promotion, PromotionSpec
from modelplane.resources.revision import Artifact, Revision, RuntimeSpec, make_revision
from modelplane.resources.rollout import RolloutRequest
from modelplane.resources.strategy import CanaryStrategy, Strategy
from tests.controllers.plane import ANA, Plane, open_plane, revision

pytestmark = pytest.mark.slow

V1, V2, V3 = revision("1.0.0"), revision("2.0.0"), revision("3.0.0")
CANARY = Strategy(canary=CanaryStrategy(min_bake_s=0))
KEY = ResourceKey("ModelDeployment", "production", "delay")

MoveRow = tuple[str, str | None, str | None]


def take_recorder(plane: Plane) -> ServingController:
    """Take the controller that records moves out of the plane."""
    recorder = next(r for r in plane.reconcilers if isinstance(r, ServingController))
    plane.reconcilers.remove(recorder)
    return recorder


async def moves_of(plane: Plane, model: str = "delay") -> list[AliasMove]:
    return list((await plane.store.list(AliasMove, prefix=f"{model}@"))[0])


async def serving_moves(plane: Plane, model: str = "delay") -> list[MoveRow]:
    """Return the moves in environments: role, from, to."""
    moves = [move.spec for move in await moves_of(plane, model)]
    return [(m.alias, m.before, m.after) for m in moves if m.environment]


async def alias_moves(plane: Plane, model: str = "delay") -> list[MoveRow]:
    moves = [move.spec for move in await moves_of(plane, model)]
    return [(m.alias, m.before, m.after) for m in moves if not m.environment]


async def serving(plane: Plane, model: str = "delay") -> list[tuple[str | None, str | None]]:
    found = await plane.store.find(Model, model)
    return [(s.champion, s.challenger) for s in found.status.serving] if found else []


async def step(plane: Plane, seconds: float = 10.0) -> None:
    plane.clock.step(seconds)
    await plane.take_lease()


async def start(plane: Plane) -> None:
    """Have 1.0.0 in production."""
    await plane.declare(CANARY)
    await step(plane)
    await plane.promote(V1)
    await plane.settle()
    await step(plane)


async def ramp(plane: Plane, of: Revision = V2) -> None:
    """Let a candidate have its first traffic."""
    await plane.promote(of)
    await plane.settle()
    await step(plane)


async def ask(plane: Plane, action: str, reason: str = "") -> None:
    """A person ends the running rollout."""
    request = {"action": action, "subject": "ben", "reason": reason, "at": plane.clock.now()}
    rollout = (await plane.rollout()).with_spec(request=RolloutRequest.model_validate(request))
    transaction = Transaction(ANA)
    transaction.update(rollout)
    await plane.store.commit(transaction)
    await plane.settle()
    await step(plane)


async def delete(plane: Plane, reason: str = "") -> None:
    transaction = Transaction(ANA, reason)
    transaction.delete(await plane.deployment())
    await plane.store.commit(transaction)
    await plane.settle()
    await step(plane)


async def check_history(plane: Plane, model: str = "delay") -> None:
    """The moves up to now give what the model says."""
    found = await plane.store.get(Model, model)
    said = {("", "", alias): version for alias, version in found.status.aliases.items()}
    for entry in found.status.serving:
        for role in ("champion", "challenger"):
            if getattr(entry, role):
                said[entry.environment, entry.deployment, role] = getattr(entry, role)
    named = read_history(await moves_of(plane, model), plane.clock.now())
    assert {(n.environment or "", n.deployment or "", n.alias): n.version for n in named} == said


async def test_a_promoted_candidate_is_challenger_first_and_then_champion(tmp_path: Path) -> None:
    async with open_plane(tmp_path) as plane:
        await start(plane)
        assert await serving(plane) == [("1.0.0", None)]
        await ramp(plane)
        assert await serving(plane) == [("1.0.0", "2.0.0")]
        rollout = await plane.rollout()
        await plane.judge(passes=True, allowedWeightPct=50)
        for _ in range(4):
            await step(plane, 6)
            await plane.judge(passes=True, allowedWeightPct=50)
            await plane.settle()
        rollout = await plane.rollout()
        assert rollout.status.phase == "Promoted"
        assert await serving(plane) == [("2.0.0", None)]
        expected = [
            ("champion", None, "1.0.0"),
            ("challenger", None, "2.0.0"),
            ("champion", "1.0.0", "2.0.0"),
            ("challenger", "2.0.0", None),
        ]
        assert await serving_moves(plane) == expected
        assert await alias_moves(plane) == expected, "in production the aliases follow"
        moves = [m.spec for m in await moves_of(plane) if m.spec.environment]
        status = rollout.status
        assert [m.at for m in moves[1:]] == [
            status.ramp_started_at, status.finished_at, status.finished_at,
        ]  # fmt: skip
        assert {m.origin for m in moves} == {"rollout"}
        assert [m.promotion for m in moves] == ["delay-1", "delay-2", "delay-2", "delay-2"]
        assert {m.subject for m in moves} == {"ana"}
        await check_history(plane)


async def test_who_moved_it_and_why_is_the_promotion_s_or_what_ended_it(tmp_path: Path) -> None:
    async with open_plane(tmp_path) as plane:
        await start(plane)
        await promote_because(plane, V2, "better recall")
        await ask(plane, "rollback", "wrong prices")
        await promote_because(plane, V2, "again")
        await plane.judge(harm=True, sentence="errors 20 % against 1 %")
        await plane.settle()
        await step(plane)
        await promote_because(plane, V3, "fixed")
        await ask(plane, "promote", "tested elsewhere")
        moves = [m.spec for m in await moves_of(plane) if m.spec.environment][1:]
        assert [(m.alias, m.after, m.subject, m.reason) for m in moves] == [
            ("challenger", "2.0.0", "ana", "better recall"),
            ("challenger", None, "ben", "wrong prices"),
            ("challenger", "2.0.0", "ana", "again"),
            ("challenger", None, "system:rollout", "errors 20 % against 1 %"),
            ("challenger", "3.0.0", "ana", "fixed"),
            ("champion", "3.0.0", "ben", "tested elsewhere"),
            ("challenger", None, "ben", "tested elsewhere"),
        ]
        await check_history(plane)


async def promote_because(plane: Plane, of: Revision, reason: str) -> None:
    deployment = await plane.deployment()
    ordinal = deployment.status.promotions + 1
    spec = {"deployment": "delay", "revision": of, "ordinal": ordinal, "subject": ANA}
    promotion = Promotion(
        metadata=Metadata(name=f"delay-{ordinal}", environment="production"),
        spec=PromotionSpec.model_validate({**spec, "reason": reason}),
    )
    transaction = Transaction(ANA)
    transaction.create(promotion)
    changed = deployment.with_status(promotion=promotion.metadata.name, promotions=ordinal)
    transaction.update(changed)
    await plane.store.commit(transaction)
    await plane.settle()
    await step(plane)


async def test_reconciling_again_records_nothing_again(tmp_path: Path) -> None:
    async with open_plane(tmp_path) as plane:
        await start(plane)
        await ramp(plane)
        before = await plane.store.audit()
        controller = ServingController(plane.store, plane.fence, plane.clock)
        for _ in range(3):
            assert await controller.reconcile(KEY) is None
        assert await plane.store.audit() == before


async def test_a_candidate_that_never_had_traffic_was_no_challenger(tmp_path: Path) -> None:
    async with open_plane(tmp_path) as plane:
        await start(plane)
        plane.broken.add("2.0.0")
        await ramp(plane)
        assert (await plane.rollout()).status.phase == "Failed"
        assert await serving_moves(plane) == [("champion", None, "1.0.0")]


async def test_what_happened_while_it_was_away_is_recorded_step_by_step(tmp_path: Path) -> None:
    async with open_plane(tmp_path) as plane:
        recorder = take_recorder(plane)
        await start(plane)
        times = []
        for of in (V2, V3):
            await ramp(plane, of)
            await ask(plane, "promote")
            times.append((await plane.rollout()).status.finished_at)
        assert await moves_of(plane) == []
        await recorder.reconcile(KEY)
        assert await serving_moves(plane) == [
            ("champion", None, "1.0.0"),
            ("challenger", None, "2.0.0"),
            ("champion", "1.0.0", "2.0.0"),
            ("challenger", "2.0.0", None),
            ("challenger", None, "3.0.0"),
            ("champion", "2.0.0", "3.0.0"),
            ("challenger", "3.0.0", None),
        ]
        champions = [m.spec.at for m in await moves_of(plane) if m.spec.alias == "champion"]
        assert champions[1:3] == times
        assert await alias_moves(plane) == [("champion", None, "3.0.0")], "aliases move now, once"
        await check_history(plane)


async def test_a_worker_with_a_lost_lease_records_nothing(tmp_path: Path) -> None:
    async with open_plane(tmp_path) as plane:
        recorder = take_recorder(plane)
        await start(plane)
        lease = plane.fence.lease
        plane.fence.set(type(lease)(lease.name, "stale", lease.epoch - 1, lease.expires_at))
        with pytest.raises(Conflict):
            await recorder.reconcile(KEY)
        assert await moves_of(plane) == []


async def test_deleting_the_deployment_takes_its_champion_away_by_who_deleted_it(
    tmp_path: Path,
) -> None:
    async with open_plane(tmp_path) as plane:
        await start(plane)
        await ramp(plane)
        await delete(plane, "no longer needed")
        assert await serving(plane) == []
        last = [m.spec for m in await moves_of(plane) if m.spec.environment][-2:]
        assert [(m.alias, m.before, m.after) for m in last] == [
            ("champion", "1.0.0", None), ("challenger", "2.0.0", None),
        ]  # fmt: skip
        assert {(m.subject, m.reason) for m in last} == {("ana", "no longer needed")}
        assert (await plane.store.get(Model, "delay")).status.aliases == {}
        await check_history(plane)


@pytest.mark.parametrize("noticed", [True, False])
async def test_a_deployment_made_again_begins_anew(tmp_path: Path, noticed: bool) -> None:
    async with open_plane(tmp_path) as plane:
        await start(plane)
        recorder = plane.reconcilers[-1]
        if not noticed:
            plane.reconcilers.remove(recorder)
        old = await plane.deployment()
        await delete(plane, "wrong name")
        transaction = Transaction(ANA)
        again = ModelDeployment(
            metadata=Metadata(name="delay", environment="production"),
            spec=ModelDeploymentSpec(model="delay", strategy=CANARY),
        )
        transaction.create(again.with_status(promotions=1, rollouts=old.status.rollouts))
        await plane.store.commit(transaction)
        await plane.promote(V2)
        await plane.settle()
        await recorder.reconcile(KEY)
        assert await serving_moves(plane) == [
            ("champion", None, "1.0.0"),
            ("champion", "1.0.0", None),
            ("champion", None, "2.0.0"),
        ]
        assert (await plane.store.get(Model, "delay")).status.aliases == {"champion": "2.0.0"}
        await check_history(plane)


async def test_a_deployment_that_moves_to_another_model_leaves_the_first_one(
    tmp_path: Path,
) -> None:
    async with open_plane(tmp_path) as plane:
        await start(plane)
        artifact = Artifact(format="skops", digest="sha256:other")
        other = make_revision("arrival", "7.0.0", artifact, RuntimeSpec())
        transaction = Transaction(ANA)
        transaction.update((await plane.deployment()).with_spec(model="arrival"))
        await plane.store.commit(transaction)
        await ramp(plane, other)
        assert await serving(plane) == [("1.0.0", None)]
        assert await serving(plane, "arrival") == [(None, "7.0.0")]
        await ask(plane, "promote")
        assert await serving(plane) == []
        assert await serving(plane, "arrival") == [("7.0.0", None)]
        assert (await serving_moves(plane))[-1] == ("champion", "1.0.0", None)
        await check_history(plane)
        await check_history(plane, "arrival")


async def test_aliases_belong_to_people_until_what_serves_changes(tmp_path: Path) -> None:
    async with open_plane(tmp_path) as plane:
        await start(plane)
        await ramp(plane)
        await move(plane, "champion", "0.9.0")
        await move(plane, "challenger", "0.8.0")
        await plane.settle()
        assert await aliases(plane) == {"champion": "0.9.0", "challenger": "0.8.0"}
        await ask(plane, "rollback")
        assert await aliases(plane) == {"champion": "0.9.0", "challenger": "0.8.0"}
        await ramp(plane, V3)
        assert await aliases(plane) == {"champion": "0.9.0", "challenger": "3.0.0"}
        await ask(plane, "promote")
        assert await aliases(plane) == {"champion": "3.0.0"}
        await check_history(plane)


async def aliases(plane: Plane) -> dict[str, str]:
    return (await plane.store.get(Model, "delay")).status.aliases


async def move(plane: Plane, alias: str, version: str) -> None:
    model = await plane.store.get(Model, "delay")
    transaction = Transaction(ANA)
    for written in move_alias(model, alias, version, Mover("ana", plane.clock.now())).written:
        transaction.put(written, "alias")
    await plane.store.commit(transaction)


async def test_two_deployments_of_one_model_are_told_apart(tmp_path: Path) -> None:
    async with open_plane(tmp_path) as plane:
        await start(plane)
        other = Serving(environment="production", deployment="delay-eu", champion="1.0.0")
        model = await plane.store.get(Model, "delay")
        transaction = Transaction(ANA)
        transaction.update(model.with_status(serving=(*model.status.serving, other)))
        await plane.store.commit(transaction)
        # Only this deployment goes; the other one's champion keeps the alias.
        await delete(plane)
        controller = ServingController(plane.store, plane.fence, plane.clock)
        await controller.reconcile(KEY)
        found = await plane.store.get(Model, "delay")
        assert found.status.serving == (other,)
        assert found.status.aliases == {"champion": "1.0.0"}


async def test_outside_production_the_model_s_aliases_are_left_alone(tmp_path: Path) -> None:
    async with open_plane(tmp_path) as plane:
        await plane.declare(CANARY)
        await set_stage(plane, "staging")
        await plane.promote(V1)
        await plane.settle()
        assert await serving(plane) == [("1.0.0", None)]
        assert await alias_moves(plane) == []


async def set_stage(plane: Plane, stage: str) -> None:
    environment = await plane.store.get(Environment, "production")
    transaction = Transaction(ANA)
    transaction.update(environment.with_spec(stage=stage))
    await plane.store.commit(transaction)


async def test_a_model_s_record_that_was_lost_counts_its_moves_on(tmp_path: Path) -> None:
    async with open_plane(tmp_path) as plane:
        await start(plane)
        transaction = Transaction(ANA)
        transaction.delete(await plane.store.get(Model, "delay"))
        await plane.store.commit(transaction)
        await plane.settle()
        names = [m.metadata.name for m in await moves_of(plane)]
        assert names == [f"delay@{number:08d}" for number in (1, 2, 3, 4)]
        assert await serving(plane) == [("1.0.0", None)]
