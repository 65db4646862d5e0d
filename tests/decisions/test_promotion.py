"""Promotions: the only road; everything that guards an environment must agree, the latest one
wins, and each ends with what became of it."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from modelplane.decisions.approval_answers import Answer, Representation, answer_approval
from modelplane.decisions.gate_runs import digest_pipeline
from modelplane.decisions.promotion import PromotionDecision, decide_promotion, needs_guards
from modelplane.decisions.promotion_guards import Gate, Guards
from modelplane.resources.approval import Approval
from modelplane.resources.meta import Subject
from modelplane.resources.promotion import FINISHED_PROMOTION, Promotion
from tests.decisions.gates import (
    approval_policy,
    gate,
    guards,
    pipeline,
    policy,
    result_of,
    version,
)
from tests.decisions.worlds import NOW, V1, V2, deployment, promotion, rollout

LATEST = deployment(promotions=2, promotion="delay-2")
CHECKS = pipeline()
OPEN = guards()


def decide(
    of: Promotion, by: Guards | None = OPEN, world: Any = LATEST, **more: Any
) -> PromotionDecision:
    own, running = more.get("own"), more.get("running")
    rollouts = () if running is None else (running,)
    return decide_promotion(of, world, own, rollouts, guards=by, now=more.get("now", NOW))


def phases(by: Guards, start: Promotion | None = None, steps: int = 6) -> list[str]:
    """Decide again and again while nothing else changes; return the phases, each once."""
    current, seen = start or promotion(), list[str]()
    for _ in range(steps):
        decision = decide(current, by)
        current = current.with_(status=decision.status)
        if current.status.phase not in seen[-1:]:
            seen.append(current.status.phase)
        if decision.start_rollout:
            break
    return seen


def test_without_a_policy_it_is_approved_and_then_starts_its_rollout() -> None:
    first = decide(promotion())
    assert (first.status.phase, first.status.reason) == ("Approved", "NoPolicy")
    assert first.status.approved_at == NOW
    assert not first.start_rollout
    second = decide(promotion().with_(status=first.status))
    assert (second.status.phase, second.start_rollout) == ("RollingOut", True)


def test_it_waits_for_an_older_rollout_to_end_and_asks_it_to() -> None:
    running = rollout(promotion="delay-1")
    decision = decide(promotion("Approved"), running=running)
    assert decision.supersede == (running,)
    assert not decision.start_rollout


def test_one_that_waits_for_its_gates_leaves_what_rolls_out_alone() -> None:
    by = guards(policy(pipelines=["checks"]), pipelines=[CHECKS])
    assert decide(promotion(), by, running=rollout(promotion="delay-1")).supersede == ()


def test_an_older_one_gives_way_to_a_newer() -> None:
    newer = deployment(promotions=3, promotion="delay-3")
    assert decide(promotion(), None, newer).status.phase == "Superseded"


def test_a_revision_that_already_serves_is_done_whatever_guards_the_environment() -> None:
    serving = deployment(V2, promotions=2, promotion="delay-2")
    first = decide(promotion(of=V2), None, serving)
    assert (first.status.phase, first.status.reason) == ("Approved", "AlreadyServing")
    second = decide(promotion(of=V2).with_(status=first.status), None, serving)
    assert (second.status.phase, second.status.reason) == ("Done", "AlreadyServing")


@pytest.mark.parametrize(
    ("ended", "phase"),
    [
        ("Promoted", "Done"), ("RolledBack", "RolledBack"), ("Failed", "Failed"),
        ("Superseded", "Superseded"),
    ],
)  # fmt: skip
def test_it_ends_as_its_rollout_ended(ended: str, phase: str) -> None:
    decision = decide(promotion("RollingOut"), None, own=rollout(ended))
    assert decision.status.phase == phase
    assert decision.status.finished_at == NOW


def test_a_deleted_deployment_ends_it() -> None:
    decision = decide(promotion(), None, None)
    assert (decision.status.phase, decision.status.reason) == ("Failed", "Deleted")


def test_gates_are_started_once_and_waited_for() -> None:
    by = guards(policy(pipelines=["checks"]), pipelines=[CHECKS])
    decision = decide(promotion(), by)
    assert (decision.status.phase, decision.start_runs) == ("Validating", ("checks",))
    running = guards(
        policy(pipelines=["checks"]),
        pipelines=[CHECKS],
        gates={"checks": gate(CHECKS, phase="Running")},
    )
    waiting = decide(promotion().with_(status=decision.status), running)
    assert (waiting.status.phase, waiting.start_runs) == ("Validating", ())
    assert waiting.status.gates[0].run == "checks-1"


def test_a_gate_that_passed_is_written_down_with_its_results() -> None:
    passed = gate(CHECKS)
    by = guards(policy(pipelines=["checks"]), pipelines=[CHECKS], gates={"checks": passed})
    status = decide(promotion(), by).status
    assert (status.phase, status.reason) == ("Approved", "PoliciesAllow")
    assert status.gates[0].results == tuple(r.metadata.name for r in passed.results.values())
    assert len(status.evidence_digest) == 64
    assert [(p.name, p.outcome) for p in status.policies] == [("guard", "allowed")]


def test_the_evidence_digest_follows_the_results_and_nothing_else() -> None:
    def digest(metrics: dict[str, float], name: str = "guard") -> str:
        by = guards(
            policy(name, pipelines=["checks"]), pipelines=[CHECKS],
            gates={"checks": gate(CHECKS, metrics=metrics)},
        )  # fmt: skip
        return decide(promotion(), by).status.evidence_digest

    assert digest({"accuracy": 0.95}) == digest({"accuracy": 0.95}, "other")
    assert digest({"accuracy": 0.95}) != digest({"accuracy": 0.96})


@pytest.mark.parametrize("phase", ["Failed", "Errored"])
def test_a_gate_that_did_not_pass_refuses(phase: str) -> None:
    by = guards(
        policy(pipelines=["checks"]),
        pipelines=[CHECKS],
        gates={"checks": gate(CHECKS, phase=phase)},
    )
    status = decide(promotion(), by).status
    assert (status.phase, status.reason, status.finished_at) == ("Refused", "GateFailed", NOW)
    assert "accuracy is 0.5" in status.message
    assert status.policies[0].outcome == "refused"


def test_what_could_not_be_checked_before_is_tried_again_but_a_failed_check_is_not() -> None:
    before = NOW - timedelta(hours=1)
    for phase, decided in (("Errored", "Validating"), ("Failed", "Refused")):
        by = guards(
            policy(pipelines=["checks"]), pipelines=[CHECKS],
            gates={"checks": gate(CHECKS, phase=phase, ended_at=before)},
        )  # fmt: skip
        assert decide(promotion(), by).status.phase == decided


def test_a_run_that_was_cancelled_refuses_unless_the_pipeline_has_changed_since() -> None:
    run = gate(CHECKS, phase="Cancelled").run
    assert run is not None
    wanted = policy(pipelines=["checks"])
    by = guards(wanted, pipelines=[CHECKS], gates={"checks": Gate(None, run)})
    assert decide(promotion(), by).status.phase == "Refused"
    changed = pipeline(quality={"accuracy": {"threshold": 0.9}})
    assert digest_pipeline(changed.spec) != digest_pipeline(CHECKS.spec)
    by = guards(wanted, pipelines=[changed], gates={"checks": Gate(None, run)})
    assert decide(promotion(), by).start_runs == ("checks",)


def test_a_pipeline_that_is_gone_or_a_result_that_is_gone_refuses() -> None:
    wanted = policy(pipelines=["checks"])
    assert decide(promotion(), guards(wanted)).status.phase == "Refused"
    emptied = Gate(gate(CHECKS).run, None, {})
    by = guards(wanted, pipelines=[CHECKS], gates={"checks": emptied})
    assert decide(promotion(), by).status.phase == "Refused"


def test_a_version_without_a_record_is_refused_wherever_anything_guards() -> None:
    assert decide(promotion(), guards(policy(), version=None)).status.reason == "NoVersion"
    assert decide(promotion(), guards(approval_policy(), version=None)).status.phase == "Refused"
    elsewhere = approval_policy(environments=["staging"])
    assert decide(promotion(), guards(elsewhere, version=None)).status.phase == "Approved"


def test_every_matching_policy_must_agree_and_the_refusal_says_which_and_why() -> None:
    by = guards(
        policy("strict", pipelines=["checks"], conditions=["metrics.accuracy >= 0.99"]),
        policy("mild", pipelines=["checks"], conditions=["metrics.accuracy >= 0.9"]),
        policy("elsewhere", environments=["staging"], conditions=["false"]),
        policy("others", models={"names": ["fraud"]}, conditions=["false"]),
        pipelines=[CHECKS],
        gates={"checks": gate(CHECKS)},
    )
    status = decide(promotion(), by).status
    assert (status.phase, status.reason) == ("Refused", "PolicyRefused")
    assert (
        "strict: metrics.accuracy >= 0.99 is not true (metrics.accuracy is 0.95)" in status.message
    )
    assert {p.name: p.outcome for p in status.policies} == {"mild": "allowed", "strict": "refused"}


def test_a_freeze_holds_it_where_it_is_until_it_is_over_and_never_refuses() -> None:
    until = NOW + timedelta(minutes=20)
    window = {"from": NOW - timedelta(hours=1), "to": until, "reason": "holidays"}
    by = guards(policy(freezes=[window]))
    for phase in ("Requested", "Approved"):
        held = decide(promotion(phase), by)
        assert (held.status.phase, held.status.reason) == (phase, "Frozen")
        assert "holidays" in held.status.message
        assert held.requeue_after_s == 20 * 60
        assert not held.start_rollout
    assert decide(promotion("Approved"), by, now=until).start_rollout


def test_what_was_approved_is_judged_anew_until_it_begins() -> None:
    approved = decide(promotion(), guards(policy())).status
    by = guards(policy(conditions=["version.tags['risk'] == 'low'"]))
    again = decide(promotion().with_(status=approved), by)
    assert again.status.phase == "Refused"
    assert not again.start_rollout


def test_people_are_asked_last_and_their_answer_decides() -> None:
    by = guards(
        policy(pipelines=["checks"]), approval_policy(),
        pipelines=[CHECKS], gates={"checks": gate(CHECKS)},
    )  # fmt: skip
    asking = decide(promotion(), by)
    (asked,) = asking.create_approvals
    assert (asking.status.phase, asking.start_rollout) == ("AwaitingApproval", False)
    assert asked.spec.evidence_digest == asking.status.evidence_digest
    waiting = promotion().with_(status=asking.status)
    assert decide(waiting, _with(by, asked)).create_approvals == ()
    for answer, phase in (("approve", "Approved"), ("reject", "Rejected")):
        said = decide(waiting, _with(by, _answer(asked, answer)))
        assert said.status.phase == phase
        assert said.status.approvals == (f"production/{asked.metadata.name}",)


def test_nobody_is_asked_about_what_the_gates_or_policies_refuse() -> None:
    for metrics, conditions in (({"accuracy": 0.5}, ["metrics.accuracy > 0.9"]), (None, ["false"])):
        by = guards(
            policy(pipelines=["checks"], conditions=conditions), approval_policy(),
            pipelines=[CHECKS], gates={"checks": gate(CHECKS, metrics=metrics)},
        )  # fmt: skip
        decision = decide(promotion(), by)
        assert (decision.status.phase, decision.create_approvals) == ("Refused", ())


def test_a_threshold_that_is_not_reached_refuses() -> None:
    by = guards(
        policy(pipelines=["checks"]), approval_policy(threshold={"accuracy": "96%"}),
        pipelines=[CHECKS], gates={"checks": gate(CHECKS)},
    )  # fmt: skip
    decision = decide(promotion(), by)
    assert (decision.status.phase, decision.status.reason) == ("Refused", "ApprovalRefused")
    assert "0.95" in decision.status.message


def test_going_back_to_what_was_here_before_is_never_held_up() -> None:
    back = promotion().with_spec(restores="delay-1")
    assert not needs_guards(back, LATEST, None)
    first = decide(back, None)
    assert (first.status.phase, first.status.reason) == ("Approved", "Restores")
    assert decide(back.with_(status=first.status), None).start_rollout


_POLICIES = st.lists(
    st.sampled_from(
        [
            policy("gate", pipelines=["checks"]),
            policy("metric", pipelines=["checks"], conditions=["metrics.accuracy >= 0.9"]),
            policy("tag", conditions=["version.tags['risk'] == 'low'"]),
            policy("frozen", freezes=[{"from": NOW, "to": NOW + timedelta(hours=1)}]),
            policy("elsewhere", environments=["staging"], conditions=["false"]),
            approval_policy("people"),
        ]
    ),
    unique_by=lambda p: str(p.metadata.name),  # type: ignore[attr-defined]
)
_GATES = st.sampled_from(
    [
        {},
        {"checks": gate(CHECKS, phase="Running")},
        {"checks": gate(CHECKS, phase="Failed")},
        {"checks": gate(CHECKS, phase="Errored")},
        {"checks": gate(CHECKS, metrics={"accuracy": 0.8})},
        {"checks": gate(CHECKS)},
        {"checks": gate(CHECKS, metrics={"other": 1.0})},
    ]
)


@given(_POLICIES, _GATES, st.booleans(), st.sampled_from([None, "approve", "reject"]))
def test_no_rollout_begins_unless_every_matching_policy_allowed_it(
    policies: list[Any], gates: dict[str, Gate], tagged: bool, answer: str | None
) -> None:
    tags = {"risk": "low"} if tagged else {}
    by = guards(*policies, gates=gates, pipelines=[CHECKS], version=version(status={"tags": tags}))
    current, approvals = promotion(), tuple[Approval, ...]()
    refused = False
    for _ in range(6):
        decision = decide(current, _with(by, *approvals))
        assert current.status.phase not in FINISHED_PROMOTION or decision.status == current.status
        refused = refused or decision.status.phase in {"Refused", "Rejected", "Expired"}
        if decision.start_rollout:
            names = {p.metadata.name for p in policies} - {"elsewhere"}
            passed = gates.get("checks", Gate()).run
            assert not refused
            assert "frozen" not in names
            if names & {"gate", "metric"}:
                assert passed is not None
                assert passed.status.phase == "Passed"
            if "metric" in names:
                assert gates["checks"].results["quality"].spec.outcome.measurements[0].value >= 0.9
            assert tagged or "tag" not in names
            assert answer == "approve" or "people" not in names
            assert all(outcome.outcome == "allowed" for outcome in decision.status.policies)
            return
        approvals = approvals or decision.create_approvals
        if answer is not None:
            approvals = tuple(_answer(a, answer) for a in approvals)
        current = current.with_(status=decision.status)


@given(
    st.sampled_from(["Requested", "Approved", "RollingOut", *sorted(FINISHED_PROMOTION)]),
    st.sampled_from([None, V1, V2]),
    st.integers(1, 4),
    st.booleans(),
)
def test_a_rollout_starts_only_when_approved_latest_and_alone(
    phase: str, stable: object, latest: int, busy: bool
) -> None:
    world = deployment(stable, promotions=latest, promotion=f"delay-{latest}")  # type: ignore[arg-type]
    running = rollout(promotion="delay-1") if busy else None
    decision = decide(promotion(phase), world=world, running=running)
    if decision.start_rollout:
        assert phase in {"Approved", "RollingOut"}
        assert latest <= 2
        assert running is None
    if phase in FINISHED_PROMOTION:
        assert decision.status == promotion(phase).status


@given(_POLICIES, _GATES)
def test_the_whole_way_ends_or_waits_and_deciding_twice_changes_nothing(
    policies: list[Any], gates: dict[str, Gate]
) -> None:
    by = guards(*policies, gates=gates, pipelines=[CHECKS])
    first = decide(promotion(), by)
    again = decide(promotion().with_(status=first.status), _with(by, *first.create_approvals))
    if first.status.phase not in {"Approved"}:
        assert again.status.with_(message="") == first.status.with_(message="")
    assert phases(by)[-1] in {
        "Requested", "Validating", "AwaitingApproval", "RollingOut", "Refused", "Approved",
    }  # fmt: skip


def test_two_stages_that_measure_the_same_make_neither_count() -> None:
    both = pipeline(day={"accuracy": {}}, night={"accuracy": {}})
    passed = gate(both)
    assert passed.run is not None
    results = {
        "day": result_of(passed.run, "day", {"accuracy": 0.99}),
        "night": result_of(passed.run, "night", {"accuracy": 0.5}),
    }
    gates = {"checks": Gate(passed.run, None, results)}
    for expression, phase in (
        ("metrics.accuracy > 0.9", "Refused"),
        ("stages.day.accuracy > 0.9", "Approved"),
        ("stages.night.accuracy > 0.9", "Refused"),
    ):
        wanted = policy(pipelines=["checks"], conditions=[expression])
        by = guards(wanted, pipelines=[both], gates=gates)
        assert decide(promotion(), by).status.phase == phase


def _with(by: Guards, *approvals: Approval) -> Guards:
    return Guards(
        by.environment, by.model, by.version, by.policies, by.approval_policies, approvals,
        gates=by.gates, around=by.around,
    )  # fmt: skip


def _answer(approval: Approval, decision: Any) -> Approval:
    if approval.status.phase != "Pending":
        return approval
    lead = Subject(name="lena", groups=("leads",))
    return answer_approval(approval, Answer(lead, decision, "because", NOW), Representation())
