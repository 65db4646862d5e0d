"""The guarded road on the real store: gates, conditions, approvals, freezes, and no way past."""

from __future__ import annotations

from datetime import timedelta
from pathlib import Path

import pytest

from modelplane.controllers.alias_guards import AliasGuardController
from modelplane.decisions.admission import Asked
from modelplane.decisions.promotion_sources import admit_undo
from modelplane.ports.situations import load_active, write_admission
from modelplane.ports.store import Transaction
from modelplane.resources.approval import Approval
from modelplane.resources.environment import Environment
from modelplane.resources.gate_run import GateRun
from modelplane.resources.model import AliasMove, Model, ModelVersion
from modelplane.resources.model_deployment import ModelDeployment
from modelplane.resources.notification import Notification, NotificationChannel
from modelplane.resources.promotion import Promotion
from modelplane.resources.rollout import Rollout
from tests.controllers.guarded import GuardedPlane, open_guarded
from tests.controllers.plane import ANA
from tests.decisions.gates import approval_policy, pipeline, policy

pytestmark = pytest.mark.slow

GATED = policy(pipelines=["checks"], conditions=["metrics.accuracy >= 0.9"])


async def test_gates_run_then_people_are_asked_then_it_rolls_out(tmp_path: Path) -> None:
    async with open_guarded(tmp_path) as plane:
        await plane.begin(GATED, approval_policy())
        await plane.push("1.0.0")
        await plane.apply("1.0.0")
        await plane.settle()
        assert await plane.phase() == "Validating"
        (run,) = (await plane.store.list(GateRun))[0]
        assert (run.spec.trigger, run.spec.candidate.revision.version) == ("promotion", "1.0.0")
        assert await plane.end_runs() == 1
        await plane.settle()
        assert await plane.phase() == "AwaitingApproval"
        assert await plane.serving() is None
        assert await plane.answer() == 1
        await plane.settle()
        assert (await plane.phase(), await plane.serving()) == ("Done", "1.0.0")
        (promotion,) = await plane.promotions()
        assert promotion.status.gates[0].run == run.metadata.name
        assert promotion.status.approvals == ("production/delay-1.risk",)
        assert {p.outcome for p in promotion.status.policies} == {"allowed"}
        assert promotion.status.approved_at is not None


@pytest.mark.parametrize(
    ("phase", "accuracy"), [("Failed", 0.95), ("Errored", 0.95), ("Passed", 0.8)]
)
async def test_what_does_not_pass_goes_nowhere_and_people_are_told(
    tmp_path: Path, phase: str, accuracy: float
) -> None:
    async with open_guarded(tmp_path) as plane:
        channel = NotificationChannel.model_validate(
            {"metadata": {"name": "hook"}, "spec": {"webhook": {"url": "http://127.0.0.1:9"}}}
        )
        await plane.begin(GATED, approval_policy(), channel)
        await plane.push("1.0.0")
        await plane.apply("1.0.0")
        await plane.settle()
        await plane.end_runs(phase, accuracy=accuracy)
        await plane.settle()
        assert await plane.phase() == "Refused"
        assert (await plane.store.list(Rollout))[0] == []
        assert (await plane.store.list(Approval))[0] == []
        told = [n.spec.event.type for n in (await plane.store.list(Notification))[0]]
        assert sorted(told) == ["promotion.refused", "promotion.requested"]


async def test_asked_again_a_failed_gate_still_counts_until_it_has_run_anew(tmp_path: Path) -> None:
    async with open_guarded(tmp_path) as plane:
        await plane.begin(GATED)
        await plane.push("1.0.0")
        await plane.apply("1.0.0")
        await plane.settle()
        await plane.end_runs("Errored")
        await plane.settle()
        plane.clock.step(5)
        await plane.ask("1.0.0")
        await plane.settle()
        assert await plane.phase() == "Validating", "what could not be checked is tried again"
        await plane.end_runs("Failed")
        await plane.settle()
        plane.clock.step(5)
        await plane.ask("1.0.0")
        await plane.settle()
        assert await plane.phase() == "Refused"
        assert len((await plane.store.list(GateRun))[0]) == 2


async def test_a_policy_that_comes_while_it_waits_counts(tmp_path: Path) -> None:
    async with open_guarded(tmp_path) as plane:
        await plane.begin(GATED)
        await plane.push("1.0.0")
        await plane.apply("1.0.0")
        await plane.settle()
        await plane.write(policy("late", conditions=["version.author == 'somebody else'"]))
        await plane.end_runs()
        await plane.settle()
        assert await plane.phase() == "Refused"


async def test_evidence_that_changes_while_people_are_asked_voids_the_question(
    tmp_path: Path,
) -> None:
    async with open_guarded(tmp_path) as plane:
        await plane.begin(GATED, approval_policy())
        await plane.push("1.0.0")
        await plane.apply("1.0.0")
        await plane.settle()
        await plane.end_runs()
        await plane.settle()
        await plane.write(pipeline(quality={"accuracy": {"threshold": 0.9}}))
        await plane.settle()
        assert await plane.phase() == "Validating", "the pipeline is another one now"
        await plane.end_runs(accuracy=0.97)
        await plane.settle()
        approvals = {a.metadata.name: a for a in (await plane.store.list(Approval))[0]}
        assert [a.status.phase for a in approvals.values()] == ["Void", "Pending"]
        assert await plane.phase() == "AwaitingApproval"


async def test_nobody_answers_in_time_or_somebody_says_no(tmp_path: Path) -> None:
    async with open_guarded(tmp_path) as plane:
        await plane.begin(GATED, approval_policy(expiresAfter="1h"))
        await plane.push("1.0.0")
        await plane.apply("1.0.0")
        await plane.settle()
        await plane.end_runs()
        await plane.settle()
        plane.clock.step(3601)
        await plane.take_lease("two")
        await plane.settle()
        assert await plane.phase() == "Expired"
        await plane.ask("1.0.0")
        await plane.settle()
        assert await plane.phase() == "AwaitingApproval", "the gate is not run again"
        await plane.answer("reject")
        await plane.settle()
        assert await plane.phase() == "Rejected"
        assert (await plane.store.list(Rollout))[0] == []


async def test_a_freeze_holds_and_lets_go_and_undo_goes_through_it(tmp_path: Path) -> None:
    async with open_guarded(tmp_path) as plane:
        await plane.begin()
        for version in ("1.0.0", "2.0.0"):
            await plane.push(version)
            await plane.apply(version)
            await plane.settle()
        until = plane.clock.now() + timedelta(hours=2)
        frozen = policy(freezes=[{"from": plane.clock.now(), "to": until}], conditions=["false"])
        await plane.write(frozen)
        await plane.push("3.0.0")
        await plane.apply("3.0.0")
        await plane.settle()
        waiting = (await plane.promotions())[-1]
        assert (waiting.status.phase, waiting.status.reason) == ("Requested", "Frozen")

        await _undo(plane)
        await plane.settle()
        assert await plane.serving() == "1.0.0"
        phases = [p.status.phase for p in await plane.promotions()]
        assert phases == ["Done", "Done", "Superseded", "Done"]
        assert (await plane.promotions())[-1].spec.restores == "delay-1"

        await plane.ask("3.0.0")
        await plane.write(policy(freezes=[{"from": plane.clock.now(), "to": until}]))
        await plane.settle()
        plane.clock.step(7201)
        await plane.take_lease("two")
        await plane.settle()
        assert await plane.serving() == "3.0.0"


async def test_a_newer_promotion_ends_the_run_that_only_the_older_waited_for(
    tmp_path: Path,
) -> None:
    async with open_guarded(tmp_path) as plane:
        await plane.begin(GATED)
        for version in ("1.0.0", "2.0.0"):
            await plane.push(version)
            await plane.apply(version)
            await plane.settle()
        runs = {r.spec.candidate.revision.version: r for r in (await plane.store.list(GateRun))[0]}
        assert (runs["1.0.0"].spec.cancelled, runs["2.0.0"].spec.cancelled) == (True, False)
        assert [p.status.phase for p in await plane.promotions()] == ["Superseded", "Validating"]


async def test_a_run_that_another_promotion_waits_for_goes_on(tmp_path: Path) -> None:
    async with open_guarded(tmp_path) as plane:
        both = GATED.with_spec(environments=("staging", "production"))
        await plane.begin(both)
        for version in ("1.0.0", "2.0.0"):
            await plane.push(version)
        await plane.apply("1.0.0")
        await plane.apply("1.0.0", "staging")
        await plane.settle()
        (run,) = (await plane.store.list(GateRun))[0]
        await plane.apply("2.0.0")
        await plane.settle()
        assert not (await plane.store.get(GateRun, run.metadata.name)).spec.cancelled


async def test_versions_go_all_the_way_by_themselves_with_one_approval(tmp_path: Path) -> None:
    async with open_guarded(tmp_path) as plane:
        way = GATED.with_spec(environments=("staging", "production"), automatic=True)
        await plane.begin(way, approval_policy())
        await plane.push("1.0.0")
        await plane.apply("1.0.0", "staging")
        for _ in range(4):
            await plane.settle()
            await plane.end_runs()
            await plane.answer()
        await plane.settle()
        assert (await plane.serving("staging"), await plane.serving()) == ("1.0.0", "1.0.0")

        await plane.push("2.0.0")
        await plane.settle()
        await plane.end_runs()
        await plane.settle()
        assert await plane.answer() == 1
        await plane.settle()
        assert (await plane.serving("staging"), await plane.serving()) == ("2.0.0", "2.0.0")
        last = (await plane.promotions())[-1]
        assert (last.spec.automatic, last.spec.subject.name) == (True, "system:policy")
        assert last.status.approvals[0].startswith("staging/"), "carried along"
        assert len((await plane.store.list(GateRun))[0]) == 2, "one run for each revision"


async def test_what_was_refused_or_undone_does_not_come_again_by_itself(tmp_path: Path) -> None:
    async with open_guarded(tmp_path) as plane:
        way = GATED.with_spec(environments=("staging", "production"), automatic=True)
        await plane.begin(way)
        await plane.push("1.0.0")
        await plane.apply("1.0.0", "staging")
        await plane.settle()
        await plane.end_runs()
        await plane.settle()
        await plane.push("2.0.0")
        await plane.settle()
        await plane.end_runs("Failed")
        await plane.settle()
        assert await plane.phase("staging") == "Refused"
        assert len(await plane.promotions("staging")) == 2
        assert await plane.serving() == "1.0.0"
        await plane.push("0.9.0")
        await plane.settle()
        assert len(await plane.promotions("staging")) == 2, "older than what serves"


async def test_a_guarded_alias_goes_back_to_the_last_version_that_was_promoted(
    tmp_path: Path,
) -> None:
    async with open_guarded(tmp_path) as plane:
        await plane.begin()
        await plane.push("1.0.0")
        await plane.push("2.0.0")
        await plane.apply("1.0.0")
        await plane.settle()
        await plane.move("live", "1.0.0")
        await plane.write(policy(aliases=["live", "best"]))
        await plane.settle()
        await plane.move("live", "2.0.0")
        await plane.move("best", "2.0.0")
        await plane.move("free", "2.0.0")
        await plane.settle()
        model = await plane.store.get(Model, "delay")
        wanted = {"champion": "1.0.0", "free": "2.0.0", "live": "1.0.0"}
        assert model.status.aliases == wanted
        moves = [m.spec for m in (await plane.store.list(AliasMove))[0] if m.spec.alias == "live"]
        assert (moves[-1].subject, moves[-1].before) == ("system:policy", "2.0.0")
        assert "policy guard" in moves[-1].reason
        await plane.apply("2.0.0")
        await plane.settle()
        await plane.move("live", "2.0.0")
        await plane.settle()
        assert (await plane.store.get(Model, "delay")).status.aliases["live"] == "2.0.0"


async def _roll_out_a_second_version(plane: GuardedPlane) -> Rollout:
    await plane.begin()
    for version in ("1.0.0", "2.0.0"):
        await plane.push(version)
        await plane.apply(version)
        await plane.settle()
    return (await plane.store.list(Rollout))[0][-1]


async def test_a_test_between_versions_earns_no_guarded_alias(tmp_path: Path) -> None:
    async with open_guarded(tmp_path) as plane:
        tested = await _roll_out_a_second_version(plane)
        deployment = await plane.store.get(ModelDeployment, "delay", "production")
        transaction = Transaction(ANA)
        transaction.update(tested.with_status(phase="Concluded", verdict="pass"))
        transaction.update(deployment.with_status(stable=tested.spec.stable))
        await plane.store.commit(transaction)
        await plane.move("live", "1.0.0")
        await plane.write(policy(aliases=["live"]))
        await plane.settle()
        await plane.move("live", "2.0.0")
        await plane.settle()
        assert (await plane.store.get(Model, "delay")).status.aliases["live"] == "1.0.0"


async def test_deleting_the_version_while_it_waits_refuses_it(tmp_path: Path) -> None:
    async with open_guarded(tmp_path) as plane:
        await plane.begin(GATED)
        await plane.push("1.0.0")
        await plane.apply("1.0.0")
        await plane.settle()
        version = await plane.store.get(ModelVersion, "delay@1.0.0")
        transaction = Transaction(ANA)
        transaction.update(version.with_status(deleted_at=plane.clock.now()))
        await plane.store.commit(transaction)
        await plane.settle()
        assert await plane.phase() == "Refused"


async def test_everything_decided_is_in_the_audit_log(tmp_path: Path) -> None:
    async with open_guarded(tmp_path) as plane:
        await plane.begin(GATED, approval_policy())
        await plane.push("1.0.0")
        await plane.apply("1.0.0")
        for _ in range(3):
            await plane.settle()
            await plane.end_runs()
            await plane.answer()
        records = await plane.store.audit()
        actions = [r.action for r in records if r.kind == Promotion.__name__]
        order = [
            "request", "promotion.Validating", "promotion.AwaitingApproval",
            "promotion.Approved", "promotion.RollingOut", "promotion.Done",
        ]  # fmt: skip
        assert [a for a in dict.fromkeys(actions) if a in order] == order
        assert {"gate.start", "approval.requested"} <= {r.action for r in records}


async def _undo(plane: GuardedPlane) -> None:
    deployment = await plane.store.get(ModelDeployment, "delay", "production")
    rollouts, _ = await plane.store.list(Rollout, "production")
    active = await load_active(plane.store, deployment)
    asked = Asked(ANA, plane.clock.now())
    admission = admit_undo(deployment, rollouts, active, asked)
    await plane.store.commit(write_admission(admission, asked, "undo"))


async def test_what_the_environment_does_not_take_is_not_asked_for_and_stops_nothing(
    tmp_path: Path,
) -> None:
    async with open_guarded(tmp_path) as plane:
        free = {"pipelines": (), "conditions": ()}
        await plane.begin(GATED.with_spec(environments=("staging",), automatic=True, **free))
        await plane.push("1.0.0")
        await plane.apply("1.0.0", "staging")
        await plane.settle()
        assert await plane.serving("staging") == "1.0.0"
        staging = await plane.store.get(Environment, "staging")
        await plane.write(staging.with_spec(require_signature=True))
        await plane.push("2.0.0")
        await plane.settle()
        assert len(await plane.promotions("staging")) == 1, "it is not signed"
        await plane.write(staging.with_spec(require_signature=False))
        await plane.settle()
        assert await plane.serving("staging") == "2.0.0"


async def test_what_a_traffic_policy_has_live_earns_no_guarded_alias(tmp_path: Path) -> None:
    async with open_guarded(tmp_path) as plane:
        last = await _roll_out_a_second_version(plane)
        promotion = await plane.store.get(Promotion, last.spec.promotion, "production")
        deployment = await plane.store.get(ModelDeployment, "delay", "production")
        transaction = Transaction(ANA)
        live = last.with_spec(lane="test/2.0.0").with_status(phase="Ramping", finished_at=None)
        transaction.update(live)
        transaction.update(promotion.with_status(phase="RollingOut"))
        transaction.update(deployment.with_status(stable=last.spec.stable))
        await plane.store.commit(transaction)
        guards = AliasGuardController(plane.store, plane.fence, plane.clock)
        await plane.move("live", "1.0.0")
        await plane.write(policy(aliases=["live"]))
        await plane.move("live", "2.0.0")
        model = await plane.store.get(Model, "delay")
        await guards.reconcile(model.key)
        assert (await plane.store.get(Model, "delay")).status.aliases["live"] == "1.0.0"
