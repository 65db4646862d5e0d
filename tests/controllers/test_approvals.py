"""Approvals on the road: a promotion waits for people, and ends when nobody answers."""

from __future__ import annotations

from pathlib import Path

import pytest

from modelplane.controllers.loop import Reconciler
from modelplane.decisions.approval_answers import Answer, Representation, Verdict, answer_approval
from modelplane.errors import Conflict
from modelplane.ports.store import Transaction
from modelplane.resources.approval import Approval, ApprovalPolicy, ApprovalPolicySpec
from modelplane.resources.meta import Metadata, ResourceKey, Subject
from modelplane.resources.model import ModelVersion, ModelVersionSpec
from modelplane.resources.notification import (
    Notification,
    NotificationChannel,
    NotificationChannelSpec,
)
from modelplane.resources.promotion import Promotion
from tests.controllers.plane import ANA, Plane, open_plane, revision

V1, V2 = revision("1.0.0"), revision("2.0.0")
BEN = Subject(name="ben", groups=("leads",))
WEEK_S = 7 * 86400.0


async def guard(plane: Plane, **spec: object) -> None:
    """Declare a deployment whose promotions the leads must approve, and a channel for events."""
    await plane.declare()
    given = {"approvers": {"groups": ["leads"]}, **spec}
    policy = ApprovalPolicy(
        metadata=Metadata(name="risk"), spec=ApprovalPolicySpec.model_validate(given)
    )
    hook = {"webhook": {"url": "http://127.0.0.1:9/in"}, "environments": ["production"]}
    channel = NotificationChannel(
        metadata=Metadata(name="team"), spec=NotificationChannelSpec.model_validate(hook)
    )
    transaction = Transaction(ANA)
    transaction.create(policy)
    transaction.create(channel)
    for version in ("1.0.0", "2.0.0"):
        spec_ = ModelVersionSpec(model="delay", version=version, author="author")
        transaction.create(ModelVersion(metadata=Metadata(name=f"delay@{version}"), spec=spec_))
    await plane.store.commit(transaction)


def ender(plane: Plane) -> Reconciler:
    return next(reconciler for reconciler in plane.reconcilers if reconciler.name == "approvals")


async def approvals(plane: Plane) -> dict[str, str]:
    found, _ = await plane.store.list(Approval)
    return {a.metadata.name: a.status.phase for a in found}


async def phase(plane: Plane, ordinal: int = 1) -> str:
    return (await plane.store.get(Promotion, f"delay-{ordinal}", "production")).status.phase


async def events(plane: Plane) -> list[str]:
    found, _ = await plane.store.list(Notification)
    told = [n.spec.event for n in found if n.spec.event.type.startswith("approval.")]
    return [event.type for event in sorted(told, key=lambda event: event.at)]


async def say(plane: Plane, decision: Verdict, name: str = "delay-1.risk") -> None:
    approval = await plane.store.get(Approval, name, "production")
    answer = Answer(BEN, decision, "because", plane.clock.now())
    transaction = Transaction(BEN)
    transaction.update(answer_approval(approval, answer, Representation()))
    await plane.store.commit(transaction)


async def test_nothing_serves_before_somebody_agreed(tmp_path: Path) -> None:
    async with open_plane(tmp_path) as plane:
        await guard(plane)
        await plane.promote(V1)
        await plane.settle()
        assert await phase(plane) == "AwaitingApproval"
        assert await approvals(plane) == {"delay-1.risk": "Pending"}
        assert await plane.replicas() == {}
        assert await events(plane) == ["approval.requested"]
        await say(plane, "approve")
        await plane.settle()
        assert await phase(plane) == "Done"
        assert await plane.shares() == {"1.0.0": 100}
        promotion = await plane.store.get(Promotion, "delay-1", "production")
        assert promotion.status.approvals == ("production/delay-1.risk",)


async def test_a_rejection_ends_the_promotion(tmp_path: Path) -> None:
    async with open_plane(tmp_path) as plane:
        await guard(plane)
        await plane.promote(V1)
        await plane.settle()
        await say(plane, "reject")
        await plane.settle()
        assert await phase(plane) == "Rejected"
        assert await plane.replicas() == {}


async def test_what_nobody_answers_expires_and_the_channels_hear_of_it(tmp_path: Path) -> None:
    async with open_plane(tmp_path) as plane:
        await guard(plane)
        await plane.promote(V1)
        await plane.settle()
        controller = ender(plane)
        key = ResourceKey("Promotion", "production", "delay-1")
        assert await controller.reconcile(key) == pytest.approx(WEEK_S)
        plane.clock.step(WEEK_S - 1)
        await plane.take_lease()
        await plane.settle()
        assert await approvals(plane) == {"delay-1.risk": "Pending"}
        plane.clock.step(1)
        await plane.settle()
        assert await approvals(plane) == {"delay-1.risk": "Expired"}
        assert await phase(plane) == "Expired"
        assert await events(plane) == ["approval.requested", "approval.expired"]
        assert await controller.reconcile(key) is None
        assert await events(plane) == ["approval.requested", "approval.expired"]


async def test_a_newer_promotion_voids_the_question_about_the_older(tmp_path: Path) -> None:
    async with open_plane(tmp_path) as plane:
        await guard(plane)
        await plane.promote(V1)
        await plane.settle()
        plane.clock.step(1)
        await plane.promote(V2)
        await plane.settle()
        assert await approvals(plane) == {"delay-1.risk": "Void", "delay-2.risk": "Pending"}
        first = await plane.store.get(Approval, "delay-1.risk", "production")
        assert first.status.message == "the promotion is Superseded"
        assert sorted(await events(plane)) == [
            "approval.requested", "approval.requested", "approval.void",
        ]  # fmt: skip
        with pytest.raises(Conflict):
            await say(plane, "approve")


async def test_a_changed_policy_asks_anew(tmp_path: Path) -> None:
    async with open_plane(tmp_path) as plane:
        await guard(plane)
        await plane.promote(V1)
        await plane.settle()
        policy = await plane.store.get(ApprovalPolicy, "risk")
        transaction = Transaction(ANA)
        transaction.update(policy.with_spec(expires_after_s=60.0))
        await plane.store.commit(transaction)
        await plane.settle()
        assert await approvals(plane) == {"delay-1.risk": "Void", "delay-1.risk.2": "Pending"}
        await say(plane, "approve", "delay-1.risk.2")
        await plane.settle()
        assert await phase(plane) == "Done"


async def test_without_the_lease_nothing_is_ended(tmp_path: Path) -> None:
    async with open_plane(tmp_path) as plane:
        await guard(plane)
        await plane.promote(V1)
        await plane.settle()
        plane.clock.step(WEEK_S)
        plane.fence.set(None)
        with pytest.raises(Conflict):
            await plane.reconcilers[-1].reconcile(ResourceKey("Promotion", "production", "delay-1"))
        assert await approvals(plane) == {"delay-1.risk": "Pending"}
