"""Traffic policies through the controllers: side by side, taken over, deleted, after crashes."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest

from modelplane.decisions.admission import Asked
from modelplane.decisions.traffic_policies import (
    PolicySituation,
    admit_policy,
    choose_policy_deployment,
    end_lanes,
    lanes_of,
    versions_of,
)
from modelplane.ports.store import AnyResource, Transaction
from modelplane.resources.environment import Environment
from modelplane.resources.manifest import read_document
from modelplane.resources.meta import Metadata
from modelplane.resources.model import ModelVersion, ModelVersionSpec
from modelplane.resources.model_deployment import ModelDeployment
from modelplane.resources.promotion import Promotion
from modelplane.resources.rollout import Judgement, Rollout
from modelplane.resources.traffic_policy import TrafficPolicy
from modelplane.resources.traffic_split import TrafficSplit
from tests.controllers.plane import ANA, Plane, open_plane, revision

pytestmark = pytest.mark.slow

WEST, EAST = "user.region == 'west'", "user.region == 'east'"


def canary(percentage: float, predicate: str = "") -> dict[str, Any]:
    return {"canary": {"percentage": percentage, "predicate": predicate, "minBake": 0}}


def record(version: str) -> ModelVersion:
    artifact = revision(version).artifact
    spec = ModelVersionSpec(model="delay", version=version, artifact=artifact)
    return ModelVersion(metadata=Metadata(name=f"delay@{version}"), spec=spec)


async def apply(plane: Plane, name: str, version: str, rule: dict[str, Any]) -> TrafficPolicy:
    """Do what the API does with a policy that is posted."""
    body = {"name": name, "model_name": "delay", "version": version, "traffic_rule": rule}
    declared = read_document({**body, "monitoring_hooks": ["latency_alert>95th"]})
    assert isinstance(declared, TrafficPolicy)
    deployments, _ = await plane.store.list(ModelDeployment)
    deployment = choose_policy_deployment(declared, deployments)
    found, _ = await plane.store.list(Promotion)
    by_name = {promotion.metadata.name: promotion for promotion in found}
    policies, _ = await plane.store.list(TrafficPolicy)
    existing = next((p for p in policies if p.metadata.name == name), None)
    lanes = deployment.status.lanes.items()
    situation = PolicySituation(
        await plane.store.get(Environment, "production"),
        deployment,
        {written: record(written) for written in versions_of(declared)},
        existing=existing,
        others=[policy for policy in policies if policy.metadata.name != name],
        latest={lane: by_name[e.promotion] for lane, e in lanes if e.promotion in by_name},
        running=await unfinished(plane),
    )
    admission = admit_policy(declared, situation, Asked(ANA, plane.clock.now()))
    transaction = Transaction(ANA)
    if existing is None:
        transaction.create(admission.policy)
    else:
        transaction.update(admission.policy)
    transaction.update(admission.deployment)
    for promotion in admission.promotions:
        transaction.create(promotion)
    for rollout in admission.ended:
        transaction.update(rollout)
    await plane.store.commit(transaction)
    return admission.policy


async def delete(plane: Plane, name: str, *, whole: bool = True) -> None:
    """Do what the API does; not `whole`: the policy goes and nothing else is written."""
    policy = await plane.store.get(TrafficPolicy, name, "production")
    deployment = await plane.deployment()
    transaction = Transaction(ANA)
    transaction.delete(policy)
    if whole:
        left, ended = end_lanes(
            deployment,
            lanes_of(policy),
            await unfinished(plane),
            why=f"traffic policy {name} was deleted by ana",
            now=plane.clock.now(),
        )
        transaction.update(left)
        for rollout in ended:
            transaction.update(rollout)
    await plane.store.commit(transaction)


async def unfinished(plane: Plane) -> list[Rollout]:
    rollouts, _ = await plane.store.list(Rollout)
    return [rollout for rollout in rollouts if not rollout.finished]


async def judge(plane: Plane, version: str, **judgement: Any) -> None:
    """Say something of the running rollout of one version."""
    (rollout,) = [r for r in await unfinished(plane) if r.spec.candidate.version == version]
    fields = {"stepId": rollout.status.step_id, "at": plane.clock.now(), "warm": True}
    made = Judgement.model_validate({**fields, "stableRps": 100, **judgement})
    transaction = Transaction(ANA)
    transaction.put_evidence(rollout.metadata.uid, {"judgement": made.to_dict()})
    await plane.store.commit(transaction)


async def policy_of(plane: Plane, name: str) -> TrafficPolicy:
    return await plane.store.get(TrafficPolicy, name, "production")


async def phases(plane: Plane) -> dict[str, str]:
    """Return the phase of each rollout by version."""
    rollouts, _ = await plane.store.list(Rollout)
    return {rollout.spec.candidate.version: rollout.status.phase for rollout in rollouts}


async def segments(plane: Plane) -> dict[str, dict[str, int]]:
    """Return the widths of each version by predicate."""
    split = await plane.store.get(TrafficSplit, "delay", "production")
    versions = {variant.revision: variant.version for variant in split.spec.variants}
    found: dict[str, dict[str, int]] = {}
    for rule in split.spec.rules:
        widths: dict[str, int] = {}
        for segment in rule.segments:
            version = versions[segment.revision]
            widths[version] = widths.get(version, 0) + segment.width
        found[rule.predicate] = widths
    return found


async def serve(plane: Plane) -> None:
    await plane.declare()
    transaction = Transaction(ANA)
    for version in ("1.0.0", "2.0.0", "3.0.0"):
        transaction.create(record(version))
    await plane.store.commit(transaction)
    await plane.promote(revision("1.0.0"))
    await plane.settle()


async def serve_two(plane: Plane) -> None:
    await serve(plane)
    await apply(plane, "west", "2.0.0", canary(10, WEST))
    await apply(plane, "east", "3.0.0", canary(40, EAST))
    await plane.settle()


async def test_two_policies_live_beside_each_other_under_their_predicates(tmp_path: Path) -> None:
    async with open_plane(tmp_path) as plane:
        await serve_two(plane)
        assert await segments(plane) == {
            WEST: {"2.0.0": 1000, "1.0.0": 9000},
            EAST: {"3.0.0": 4000, "1.0.0": 6000},
            "": {"1.0.0": 10_000},
        }
        west = await policy_of(plane, "west")
        assert (west.status.phase, west.status.message) == ("Active", "at 10 %")
        (arm,) = west.status.arms
        assert (arm.version, arm.promotion, arm.phase) == ("2.0.0", "delay-2", "Ramping")
        (hook,) = west.status.hooks
        assert (hook.hook, hook.state) == ("latency_alert>95th", "active")
        rollout = await plane.store.get(Rollout, arm.rollout, "production")
        assert rollout.status.strategy is not None
        assert rollout.status.strategy.analysis is not None
        watched = {m.name: m.percentile for m in rollout.status.strategy.analysis.metrics}
        assert watched == {"errors": None, "latency": 95}, "its hooks are how it is judged"


async def test_one_that_is_promoted_ends_the_other(tmp_path: Path) -> None:
    async with open_plane(tmp_path) as plane:
        await serve_two(plane)
        plane.clock.step(60)
        await judge(plane, "2.0.0", passes=True)
        await plane.settle()
        assert await phases(plane) == {
            "1.0.0": "Promoted",
            "2.0.0": "Promoted",
            "3.0.0": "Superseded",
        }
        assert await plane.shares() == {"2.0.0": 100}
        west, east = await policy_of(plane, "west"), await policy_of(plane, "east")
        assert (west.status.phase, west.status.message) == ("Ended", "2.0.0 serves everybody")
        assert east.status.phase == "Ended"
        assert "became stable" in east.status.message
        deployment = await plane.deployment()
        assert set(deployment.status.lanes) == {"west/2.0.0", "east/3.0.0"}, "they are declared"


async def test_harm_to_one_leaves_the_other(tmp_path: Path) -> None:
    async with open_plane(tmp_path) as plane:
        await serve_two(plane)
        await judge(plane, "2.0.0", harm=True, sentence="errors 9 % against 1 %")
        await plane.settle()
        assert (await segments(plane)).keys() == {EAST, ""}
        west = await policy_of(plane, "west")
        assert (west.status.phase, west.status.message) == ("Ended", "errors 9 % against 1 %")
        assert (await policy_of(plane, "east")).status.phase == "Active"


@pytest.mark.parametrize("whole", [True, False], ids=["by-the-api", "only-the-policy"])
async def test_a_policy_that_is_deleted_takes_its_traffic_back_and_leaves_nothing(
    tmp_path: Path, whole: bool
) -> None:
    async with open_plane(tmp_path) as plane:
        await serve_two(plane)
        await delete(plane, "west", whole=whole)
        await plane.settle()
        assert await segments(plane) == {
            EAST: {"3.0.0": 4000, "1.0.0": 6000},
            "": {"1.0.0": 10_000},
        }
        assert (await phases(plane))["2.0.0"] == "RolledBack"
        promotion = await plane.store.get(Promotion, "delay-2", "production")
        assert promotion.status.phase == "RolledBack"
        assert set((await plane.deployment()).status.lanes) == {"east/3.0.0"}
        assert set(await plane.replicas()) == {"1.0.0/0", "3.0.0/0"}


async def test_a_policy_that_goes_before_its_rollout_begins_is_superseded(tmp_path: Path) -> None:
    async with open_plane(tmp_path) as plane:
        await serve(plane)
        await apply(plane, "west", "2.0.0", canary(10, WEST))
        await delete(plane, "west")
        await plane.settle()
        promotion = await plane.store.get(Promotion, "delay-2", "production")
        assert promotion.status.phase == "Superseded"
        assert promotion.status.message == "its traffic policy is gone"
        assert await plane.shares() == {"1.0.0": 100}
        assert (await plane.deployment()).status.lanes == {}


async def test_another_version_in_a_policy_ends_the_one_before(tmp_path: Path) -> None:
    async with open_plane(tmp_path) as plane:
        await serve(plane)
        await apply(plane, "west", "2.0.0", canary(10, WEST))
        await plane.settle()
        await apply(plane, "west", "3.0.0", canary(10, WEST))
        await plane.settle()
        assert await segments(plane) == {
            WEST: {"3.0.0": 1000, "1.0.0": 9000},
            "": {"1.0.0": 10_000},
        }
        assert set((await plane.deployment()).status.lanes) == {"west/3.0.0"}


async def test_a_share_that_is_changed_is_followed_without_a_promotion(tmp_path: Path) -> None:
    async with open_plane(tmp_path) as plane:
        await serve(plane)
        await apply(plane, "west", "2.0.0", canary(40, WEST))
        await plane.settle()
        await apply(plane, "west", "2.0.0", canary(5, EAST))
        await plane.settle()
        assert await segments(plane) == {
            EAST: {"2.0.0": 500, "1.0.0": 9500},
            "": {"1.0.0": 10_000},
        }
        assert (await plane.deployment()).status.promotions == 2


async def test_a_refusal_of_the_gateway_is_shown_and_goes_when_it_accepts(tmp_path: Path) -> None:
    async with open_plane(tmp_path) as plane:
        await serve_two(plane)
        split = await plane.store.get(TrafficSplit, "delay", "production")
        refused = {"refused_generation": split.metadata.generation, "message": "no such cluster"}
        transaction = Transaction(ANA)
        transaction.update(split.with_status(**refused))
        await plane.store.commit(transaction)
        await plane.settle()
        west = await policy_of(plane, "west")
        assert west.status.gateway == "no such cluster"
        assert [(c.type, c.status) for c in west.status.conditions] == [("GatewayRefused", "True")]
        await delete(plane, "east")
        await plane.settle()
        west = await policy_of(plane, "west")
        assert west.status.gateway == ""
        assert [(c.type, c.status) for c in west.status.conditions] == [("GatewayRefused", "False")]


async def test_a_deployment_that_is_gone_ends_its_policies(tmp_path: Path) -> None:
    async with open_plane(tmp_path) as plane:
        await serve_two(plane)
        transaction = Transaction(ANA)
        transaction.delete(await plane.deployment())
        await plane.store.commit(transaction)
        for reconciler in plane.reconcilers:
            if reconciler.name == "traffic-policy":
                for policy in (await plane.store.list(TrafficPolicy))[0]:
                    for key in reconciler.keys(policy):
                        await reconciler.reconcile(key)
        west = await policy_of(plane, "west")
        assert (west.status.phase, west.status.message) == ("Ended", "its deployment is gone")


class Crash(Exception):
    """The control plane dies."""


class CrashOnce:
    """A store whose n-th commit of the controllers ends the process, before or after it."""

    def __init__(self, store: Any, nth: int, *, before: bool) -> None:
        self._store = store
        self.left = nth
        self._before = before

    def __getattr__(self, name: str) -> Any:
        return getattr(self._store, name)

    async def commit(self, transaction: Transaction) -> Sequence[AnyResource]:
        who = transaction.subject.name
        if not who.startswith("system:") or who == "system:agent":
            return await self._commit(transaction)
        self.left -= 1
        if self.left == 0 and self._before:
            raise Crash
        written = await self._commit(transaction)
        if self.left == 0:
            raise Crash
        return written

    async def _commit(self, transaction: Transaction) -> Sequence[AnyResource]:
        written: Sequence[AnyResource] = await self._store.commit(transaction)
        return written


async def _live_and_end(plane: Plane, restarted: Callable[[], Plane]) -> Plane:
    """Apply two policies and delete one; whoever dies is started again."""
    await apply(plane, "west", "2.0.0", canary(10, WEST))
    await apply(plane, "east", "3.0.0", canary(40, EAST))
    for step in (None, "west"):
        if step is not None:
            await delete(plane, step, whole=False)
        while True:
            try:
                await plane.settle()
                break
            except Crash:
                plane = restarted()
                await plane.take_lease()
    return plane


@pytest.mark.parametrize("before", [True, False], ids=["before", "after"])
async def test_a_crash_at_any_write_changes_nothing_of_the_end(
    tmp_path: Path, before: bool
) -> None:
    """Each write of the controllers in turn is the last one of a control plane."""
    for nth in range(1, 24, 4):
        async with open_plane(tmp_path / f"{nth}") as first:
            await serve(first)
            store = CrashOnce(first.store, nth, before=before)
            plane = Plane(store, first.clock)  # type: ignore[arg-type]
            await plane.take_lease()
            plane = await _live_and_end(plane, lambda: Plane(first.store, first.clock))
            assert await segments(plane) == {
                EAST: {"3.0.0": 4000, "1.0.0": 6000},
                "": {"1.0.0": 10_000},
            }
            assert set((await plane.deployment()).status.lanes) == {"east/3.0.0"}
            assert (await policy_of(plane, "east")).status.phase == "Active"
            assert store.left <= 0, "it did die"
