"""Replay: what other policies would have decided, on the facts of then."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from modelplane.decisions.approval_answers import Answer, Representation, answer_approval
from modelplane.decisions.policy_replay import Past, PolicyReplay, pipeline_of, replay_policies
from modelplane.decisions.promotion import decide_promotion
from modelplane.resources.approval import Approval
from modelplane.resources.meta import Subject
from modelplane.resources.promotion import Promotion
from modelplane.resources.promotion_policy import PromotionPolicy
from tests.decisions.gates import approval_policy, gate, guards, pipeline, policy, version
from tests.decisions.worlds import NOW, deployment, promotion

CHECKS = pipeline()
PASSED = {"checks": gate(CHECKS)}
WORLD = deployment(promotions=2, promotion="delay-2")


def ended(phase: str, **status: Any) -> Promotion:
    begun = {"rollout": "delay-2"} if phase in {"Done", "RolledBack"} else {}
    return promotion(phase).with_status(**{**begun, **status})


def replay(past: Promotion, *policies: Any, groups: Any = None, **changes: Any) -> PolicyReplay:
    by = guards(*policies, **{"gates": PASSED, "pipelines": [CHECKS], **changes})
    return replay_policies([Past(past, by)], groups or {"lena": ("leads",), "vera": ("leads",)})


def outcome(past: Promotion, *policies: Any, **changes: Any) -> tuple[str, str, bool]:
    (item,) = replay(past, *policies, **changes).items
    return item.was, item.would, item.flips


STRICT = policy(pipelines=["checks"], conditions=["metrics.accuracy >= 0.99"])
MILD = policy(pipelines=["checks"], conditions=["metrics.accuracy >= 0.9"])
FROZEN = policy(freezes=[{"from": NOW - timedelta(1), "to": NOW + timedelta(1)}])


@pytest.mark.parametrize(
    ("phase", "proposed", "expected"),
    [
        ("Done", [MILD], ("allowed", "allowed", False)),
        ("Done", [STRICT], ("allowed", "refused", True)),
        ("RolledBack", [STRICT], ("allowed", "refused", True)),
        ("Refused", [STRICT], ("refused", "refused", False)),
        ("Refused", [MILD], ("refused", "allowed", True)),
        ("Rejected", [], ("refused", "allowed", True)),
        ("Done", [FROZEN], ("allowed", "held", True)),
        ("Refused", [FROZEN], ("refused", "held", False)),
        ("Done", [policy(pipelines=["other"])], ("allowed", "refused", True)),
        ("Done", [approval_policy()], ("allowed", "held", True)),
        ("Done", [policy(environments=["staging"], conditions=["false"])],
         ("allowed", "allowed", False)),
    ],
)  # fmt: skip
def test_which_decisions_flip(phase: str, proposed: Any, expected: tuple[str, str, bool]) -> None:
    assert outcome(ended(phase), *proposed) == expected


def test_a_gate_that_never_ran_for_the_revision_holds() -> None:
    assert outcome(ended("Done"), MILD, gates={}) == ("allowed", "held", True)


def test_it_says_why() -> None:
    (item,) = replay(ended("Done"), STRICT).items
    assert "metrics.accuracy is 0.95" in item.would_because
    (item,) = replay(ended("Refused", message="guard: no"), MILD).items
    assert item.was_because == "guard: no"


def test_what_was_never_decided_or_went_back_is_left_out_and_counted() -> None:
    by = guards(STRICT, gates=PASSED, pipelines=[CHECKS])
    past = [
        Past(ended("Superseded"), by),
        Past(ended("AwaitingApproval"), by),
        Past(ended("Done").with_spec(restores="delay-1"), by),
        Past(ended("Done"), by),
    ]
    found = replay_policies(past)
    assert (found.promotions, found.undecided, found.exempt, found.flips) == (4, 2, 1, 1)
    assert found.counts == {"allowed-refused": 1}


def asked_and(*answers: tuple[str, str]) -> tuple[Promotion, list[Approval]]:
    """A promotion whose approval was answered by these people."""
    by = guards(approval_policy(quorum=3), gates=PASSED, pipelines=[CHECKS])
    decision = decide_promotion(promotion(), WORLD, None, (), guards=by, now=NOW)
    (approval,) = decision.create_approvals
    for who, said in answers:
        subject = Subject(name=who, groups=("leads",))
        answer = Answer(subject, said, "so", NOW)  # type: ignore[arg-type]
        approval = answer_approval(approval, answer, Representation())
    past = promotion("Done").with_status(approvals=decision.status.approvals, rollout="delay-2")
    return past, [approval]


@pytest.mark.parametrize(
    ("answers", "proposed", "would"),
    [
        ([("lena", "approve")], approval_policy(), "allowed"),
        ([("lena", "approve")], approval_policy(quorum=2), "held"),
        ([("lena", "approve"), ("olaf", "approve")], approval_policy(quorum=2), "allowed"),
        ([("lena", "approve")], approval_policy(approvers={"groups": ["compliance"]}), "held"),
        ([("lena", "approve")], approval_policy(approvers={"subjects": ["lena"]}), "allowed"),
        ([("lena", "reject")], approval_policy(), "refused"),
        ([("lena", "approve")], approval_policy(threshold={"accuracy": 0.96}), "refused"),
        ([("lena", "approve")], approval_policy("another"), "allowed"),
    ],
)  # fmt: skip
def test_approvals_count_as_far_as_the_policy_accepts_them(
    answers: list[tuple[str, str]], proposed: Any, would: str
) -> None:
    past, approvals = asked_and(*answers)
    groups = {"lena": ("leads",), "olaf": ("leads",)}
    found = outcome(
        past, proposed, policy(pipelines=["checks"]), approvals=approvals, groups=groups
    )
    assert found[1] == would


def test_the_author_s_own_word_does_not_count() -> None:
    past, approvals = asked_and(("lena", "approve"))
    by_lena = version(author="lena")
    assert outcome(past, approval_policy(), approvals=approvals, version=by_lena)[1] == "held"


def test_a_pipeline_is_taken_as_it_was_in_the_run() -> None:
    run = PASSED["checks"].run
    assert run is not None
    assert pipeline_of(run).spec.stages == CHECKS.spec.stages


@given(st.sets(st.sampled_from(["strict", "mild", "frozen", "tag"])))
def test_what_would_be_allowed_is_what_deciding_anew_would_allow(names: set[str]) -> None:
    known: dict[str, PromotionPolicy] = {
        "strict": STRICT, "mild": MILD, "frozen": FROZEN,
        "tag": policy(conditions=["version.tags['risk'] == 'low'"]),
    }  # fmt: skip
    proposed = [
        known[name].with_(metadata=known[name].metadata.with_(name=name)) for name in sorted(names)
    ]
    by = guards(*proposed, gates=PASSED, pipelines=[CHECKS])
    decision = decide_promotion(promotion(), WORLD, None, (), guards=by, now=NOW)
    allowed = decision.status.phase == "Approved"
    assert (outcome(ended("Done"), *proposed)[1] == "allowed") == allowed
