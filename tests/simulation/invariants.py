"""What holds in a simulated plane after every step, and what once nothing is left to do."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from pathlib import Path

from modelplane.client.evidence import verify_evidence
from modelplane.decisions.traffic import rule_name
from modelplane.errors import TransientError
from modelplane.ports.evidence import build_bundle
from modelplane.resources.model import AliasMove, Model
from modelplane.resources.promotion import FINISHED_PROMOTION, Promotion
from modelplane.resources.replica import Replica
from modelplane.resources.rollout import Rollout
from modelplane.resources.traffic_policy import TrafficPolicy
from modelplane.resources.traffic_split import SplitRule, TrafficSplit
from modelplane.settings import Paths
from modelplane.wiring.auditing import AuditProof
from tests.controllers.plane import Plane

TOTAL = 10_000
UNAPPROVED = {"Requested", "Validating", "AwaitingApproval", "Refused", "Rejected", "Expired"}


class Invariants:
    """Looks at the store after each step; remembers what may not be rewritten."""

    def __init__(self) -> None:
        self.steps: dict[str, list[tuple[int, float]]] = {}
        self.split: TrafficSplit | None = None

    async def check(self, plane: Plane, served: set[str]) -> None:
        """What always holds, whatever has or has not been done yet."""
        store = plane.store
        stopped = {r.metadata.name for r in (await store.list(Replica))[0] if r.spec.stopped}
        assert not stopped & served, "a replica was stopped that the gateway uses"
        rollouts = (await store.list(Rollout))[0]
        for rollout in rollouts:
            promotion = await store.get(Promotion, rollout.spec.promotion, "production")
            assert promotion.status.phase not in UNAPPROVED
            self._check_steps(rollout)
        await self._check_running(plane, [r for r in rollouts if not r.finished])
        for split in (await store.list(TrafficSplit))[0]:
            self._check_split(split, rollouts)
            self.split = split

    def _check_steps(self, rollout: Rollout) -> None:
        status = rollout.status
        if rollout.finished and status.phase != "Promoted":
            assert (status.weight_pct, status.mirror_pct) == (0, 0)
        if status.reason in {"Harm", "AnswersDiffer"}:
            assert status.phase == "RolledBack"
        steps = [(step.id, step.weight_pct) for step in status.steps]
        assert [step for step, _ in steps] == list(range(1, len(steps) + 1))
        known = self.steps.get(rollout.metadata.name, [])
        assert steps[: len(known)] == known, "a step was rewritten"
        self.steps[rollout.metadata.name] = steps

    async def _check_running(self, plane: Plane, running: Sequence[Rollout]) -> None:
        lanes = [rollout.spec.lane for rollout in running]
        assert len(set(lanes)) == len(lanes), f"two rollouts run in one lane: {lanes}"
        status = (await plane.deployment()).status
        known = {status.rollout, *(lane.rollout for lane in status.lanes.values())}
        orphans = {rollout.metadata.name for rollout in running} - known
        assert not orphans, f"nothing reconciles {orphans}"

    def _check_split(self, split: TrafficSplit, rollouts: Sequence[Rollout]) -> None:
        there = {v.revision for v in split.spec.variants if v.endpoints}
        names = [rule.name for rule in split.spec.rules]
        assert names[-1] == "default"
        assert len(set(names)) == len(names)
        before = {rule.name: rule for rule in self.split.spec.rules} if self.split else {}
        for rule in split.spec.rules:
            assert sum(segment.width for segment in rule.segments) == TOTAL
            named = {s.revision for s in rule.segments} | {m.revision for m in rule.mirrors}
            assert named <= there, "a rule names a revision without an endpoint"
            if rule.name in before:
                stable = split.spec.variants[0].revision
                _check_users_stay(before[rule.name], rule, stable, rollouts)

    async def check_quiet(self, plane: Plane) -> None:
        """What holds once nothing is left to do, and all that was kept warm has gone cold."""
        store = plane.store
        assert [r.metadata.name for r in (await store.list(Rollout))[0] if not r.finished] == []
        promotions = (await store.list(Promotion))[0]
        assert [p.key for p in promotions if p.status.phase not in FINISHED_PROMOTION] == []
        deployment = await plane.deployment()
        stable, wanted = deployment.status.stable, deployment.spec.replicas
        assert stable is not None
        replicas = (await store.list(Replica))[0]
        assert {r.spec.revision.digest for r in replicas} == {stable.digest}
        assert [r.status.phase for r in replicas] == ["Ready"] * wanted
        assert await plane.shares() == {stable.version: 100}
        (split,) = (await store.list(TrafficSplit))[0]
        assert [rule.name for rule in split.spec.rules] == ["default"]
        for policy in (await store.list(TrafficPolicy))[0]:
            assert policy.status.phase in {"Ended", "Refused"}, policy.status
        lanes = {f"{p.metadata.name}/{a.version}" for p in (await store.list(TrafficPolicy))[0]
                 for a in p.status.arms}  # fmt: skip
        assert deployment.status.lanes.keys() <= lanes
        await self._check_records(plane)

    async def _check_records(self, plane: Plane) -> None:
        """Who is champion and what is in the audit log tell of all this truly."""
        store, stable = plane.store, (await plane.deployment()).status.stable
        assert stable is not None
        model = await store.get(Model, "delay")
        assert [(e.champion, e.challenger) for e in model.status.serving] == [
            (stable.version, None)
        ]
        moves, _ = await store.list(AliasMove, prefix="delay@")
        champions = [m.spec for m in moves if m.spec.alias == "champion" and m.spec.environment]
        promoted = [r for r in (await store.list(Rollout))[0] if r.status.phase == "Promoted"]
        promoted.sort(key=lambda rollout: rollout.spec.ordinal)
        assert [m.after for m in champions] == [r.spec.candidate.version for r in promoted]
        assert (await store.verify_audit()).faults == ()
        for kind in (Promotion, Rollout, TrafficPolicy, TrafficSplit):
            for resource in (await store.list(kind))[0]:
                key = resource.key
                (last,) = await store.audit(
                    last=1, kind=key.kind, name=key.name, environment=key.environment
                )
                assert last.resource_version == resource.metadata.resource_version, key


async def check_evidence(plane: Plane, state: Path) -> None:
    """The evidence of each promotion, those of traffic policies included, verifies."""
    proof = AuditProof(plane.store, Paths(state))
    for promotion in (await plane.store.list(Promotion))[0]:
        for _ in range(100):
            try:
                bundle = await build_bundle(
                    plane.store, promotion, proof.signed_head, proof.sign, now=plane.clock.now()
                )
                break
            except TransientError:  # the newest records are signed in a moment
                await asyncio.sleep(0.05)
        else:
            raise AssertionError("the log's head is never signed")
        report = verify_evidence(bundle.to_dict())
        faults = [check for check in report.checks if not check.passed]
        assert not faults, f"{promotion.key} {promotion.status.phase}: {faults}"


def _check_users_stay(
    before: SplitRule, after: SplitRule, stable: str, rollouts: Sequence[Rollout]
) -> None:
    """Whoever was on a candidate that keeps or raises its weight is on it still."""
    weights = {
        r.spec.candidate.digest: round(r.status.weight_pct * TOTAL / 100)
        for r in rollouts
        if not r.finished and rule_name(_predicate(r)) in {after.name, "default"}
    }
    had, has = _users(before), _users(after)
    for revision, users in had.items():
        if revision == stable or revision not in has:
            continue
        assert before.salt == after.salt, "the users were shuffled"
        if weights.get(revision, 0) >= len(users):
            assert users <= has[revision], "a user left a candidate that grew"


def _users(rule: SplitRule) -> dict[str, set[int]]:
    users: dict[str, set[int]] = {}
    start = 0
    for segment in rule.segments:
        users.setdefault(segment.revision, set()).update(range(start, start + segment.width))
        start += segment.width
    return users


def _predicate(rollout: Rollout) -> str:
    strategy = rollout.status.strategy
    return strategy.predicate if strategy is not None else ""
