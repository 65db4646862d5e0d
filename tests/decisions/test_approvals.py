"""Whom a promotion asks, when an approval counts, and whose answers do."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from modelplane.decisions.approval_answers import (
    MAX_REASON,
    Answer,
    Representation,
    Verdict,
    answer_approval,
    check_delegation,
    expire,
    may_answer,
    void,
)
from modelplane.decisions.approvals import (
    ApprovalState,
    Petition,
    ask_approvals,
    check_approval_policy,
)
from modelplane.errors import Conflict, Forbidden, InvalidResource
from modelplane.resources.approval import Approval, ApprovalPolicySpec
from modelplane.resources.meta import Subject
from tests.decisions.approval_samples import (
    ANA,
    AUTHOR,
    BEN,
    CAT,
    NOW,
    PASSER_BY,
    REQUESTER,
    asked,
    delegation,
    person,
    petition,
    policy,
)

NOBODY_ELSE = Representation()


def say(
    approval: Approval,
    subject: Subject,
    decision: Verdict = "approve",
    reason: str = "because",
    *,
    of: Representation = NOBODY_ELSE,
    link: str | None = None,
) -> Approval:
    return answer_approval(approval, Answer(subject, decision, reason, NOW, link), of)


def ask(
    about: Petition, policies: Any, approvals: Any = (), after: timedelta = timedelta()
) -> ApprovalState:
    return ask_approvals(about, policies, approvals, now=NOW + after)


# -- who is asked, and from which threshold on ------------------------------------------------


def test_without_a_policy_nobody_is_asked() -> None:
    assert ask(petition(), []) == ApprovalState("none")


@pytest.mark.parametrize(
    ("spec", "is_asked"),
    [
        ({}, True),
        ({"environments": ["staging"]}, True),
        ({"environments": ["production"]}, False),
        ({"models": {"names": ["fraud"]}}, True),
        ({"models": {"names": ["churn"]}}, False),
        ({"models": {"labels": {"tier": "high"}}}, True),
        ({"models": {"labels": {"tier": "low"}}}, False),
    ],
)
def test_policies_are_chosen_by_environment_and_model(spec: Any, is_asked: bool) -> None:
    state = ask(petition(labels={"tier": "high"}), [policy(**spec)])
    assert bool(state.create) is is_asked
    assert state.phase == ("waiting" if is_asked else "none")


def test_the_question_is_bound_to_revision_evidence_and_policy() -> None:
    about = petition(labels={"team": "Риск"})
    (approval,) = ask(about, [policy(quorum=2)]).create
    assert approval.metadata.name == "fraud-1.risk"
    assert approval.metadata.environment == "staging"
    assert approval.spec.revision_digest == about.promotion.spec.revision.digest
    assert (approval.spec.evidence_digest, approval.spec.results) == ("e1", ("r1",))
    assert (approval.spec.author, approval.spec.requester) == ("author", "requester")
    assert (approval.spec.quorum, approval.spec.team) == (2, "Риск")
    assert approval.spec.expires_at == NOW + timedelta(days=7)


@pytest.mark.parametrize(
    ("spec", "metrics", "says"),
    [
        ({"threshold": {"accuracy": "92%"}}, {"accuracy": 0.92}, ""),
        ({"threshold": {"accuracy": 0.92}}, {"accuracy": 0.95}, ""),
        ({"threshold": {"accuracy": "96%"}}, {"accuracy": 0.95}, "accuracy is 0.95, below 0.96"),
        ({"threshold": {"auc": 0.9}}, {"accuracy": 0.95}, "auc was not measured"),
        ({"conditions": [{"expression": "metrics.loss <= 0.2"}]}, {"loss": 0.1}, ""),
        ({"conditions": [{"expression": "metrics.loss <= 0.2"}]}, {"loss": 0.3}, "is not true"),
        (
            {"conditions": [{"expression": "metrics.loss <= 0.2", "message": "too lossy"}]},
            {"loss": 0.3},
            "too lossy",
        ),
        ({"conditions": [{"expression": "metrics.nothing > 1"}]}, {"loss": 0.3}, "unknown name"),
    ],
)
def test_a_version_below_the_threshold_reaches_no_person(
    spec: Any, metrics: dict[str, float], says: str
) -> None:
    state = ask(petition(metrics=metrics), [policy(**spec)])
    assert state.phase == ("refused" if says else "waiting")
    assert bool(state.create) is not bool(says)
    assert says in state.message
    assert [outcome.outcome for outcome in state.outcomes] == ["refused" if says else "pending"]


def test_when_one_policy_refuses_the_people_of_the_other_are_not_asked() -> None:
    strict = policy("strict", threshold={"accuracy": "99%"})
    state = ask(petition(), [strict, policy("risk")])
    assert (state.phase, state.create) == ("refused", ())


@pytest.mark.parametrize("value", ["much", "", "nan", "1e999", True, None, [], "92 % of it"])
def test_what_is_no_threshold_is_refused(value: Any) -> None:
    with pytest.raises(ValidationError):
        ApprovalPolicySpec.model_validate(
            {"approvers": {"groups": ["a"]}, "threshold": {"accuracy": value}}
        )


def test_a_quorum_that_cannot_be_met_is_refused() -> None:
    with pytest.raises(ValidationError, match="only 1 may approve"):
        policy(approvers={"subjects": ["ana", "ana"]}, quorum=2)


def test_a_policy_may_refer_only_to_what_stages_measure() -> None:
    names = petition(metrics={"accuracy": 0.9}).facts.names
    check_approval_policy(policy(threshold={"accuracy": "92%"}), names)
    wrong = policy(
        threshold={"acuracy": "92%"}, conditions=[{"expression": "metrics.accuracy + 1.0"}]
    )
    with pytest.raises(InvalidResource) as refused:
        check_approval_policy(wrong, names)
    assert [fault.path for fault in refused.value.fields] == [
        "spec.threshold.acuracy",
        "spec.conditions[0].expression",
    ]
    assert "accuracy" in refused.value.fields[0].message


# -- what an approval is bound to -------------------------------------------------------------


def test_a_given_approval_lets_the_promotion_pass_and_nothing_is_written() -> None:
    given_ = say(asked(), ANA)
    state = ask(petition(), [policy()], [given_])
    assert (state.phase, state.create, state.void) == ("approved", (), ())
    assert state.names == ("staging/fraud-1.risk",)
    assert "approved by ana" in state.message


@pytest.mark.parametrize("is_answered", [False, True])
@pytest.mark.parametrize(
    ("about", "policies", "says"),
    [
        (petition(evidence="e2"), [policy()], "the evidence has changed"),
        (petition(version="3.0.0"), [policy()], "the revision has changed"),
        (petition(), [policy(threshold={"accuracy": "94%"})], "policy risk has changed"),
    ],
)
def test_a_change_voids_an_approval_and_asks_anew(
    is_answered: bool, about: Petition, policies: Any, says: str
) -> None:
    before = say(asked(), ANA) if is_answered else asked()
    state = ask(about, policies, [before], timedelta(hours=1))
    assert state.phase == "waiting"
    assert [(a.status.phase, a.status.message) for a in state.void] == [("Void", says)]
    assert [a.metadata.name for a in state.create] == ["fraud-1.risk.2"]
    assert state.void[0].status.decisions == before.status.decisions
    assert ask(about, policies, [*state.void, *state.create], timedelta(hours=1)) == ApprovalState(
        "waiting", names=state.names, outcomes=state.outcomes, message=state.message
    )


def test_a_policy_that_is_gone_asks_no_more() -> None:
    state = ask(petition(), [], [asked()])
    assert state.phase == "none"
    assert [a.status.message for a in state.void] == ["policy risk asks for it no more"]


def test_one_approval_goes_the_whole_way() -> None:
    given_ = say(asked(petition("staging")), ANA)
    further = petition("production", number=4, evidence="e2", results=("r1", "r2"))
    state = ask(further, [policy()], [given_])
    assert (state.phase, state.create, state.void) == ("approved", (), ())
    assert state.names == ("staging/fraud-1.risk",)


@pytest.mark.parametrize(
    ("further", "spec"),
    [
        (petition("production", results=("r2",), evidence="e2"), {}),
        (petition("production", version="3.0.0"), {}),
        (petition("production"), {"quorum": 2}),
    ],
)
def test_it_goes_no_further_than_what_it_was_given_for(further: Petition, spec: Any) -> None:
    given_ = say(asked(petition("staging")), ANA)
    state = ask(further, [policy(**spec)], [given_])
    assert state.phase == "waiting"
    assert len(state.create) == 1
    assert state.void == ()  # it still counts where it was given


@pytest.mark.parametrize("phase", ["Pending", "Rejected", "Expired", "Void"])
def test_only_what_was_approved_is_carried_along(phase: Any) -> None:
    before = asked(petition("staging")).with_status(phase=phase)
    state = ask(petition("production"), [policy()], [before])
    assert (state.phase, len(state.create)) == ("waiting", 1)


def test_a_rejection_ends_it_and_the_other_questions_too() -> None:
    first = asked(petition(), name="first")
    second = asked(petition(), name="second")
    policies = [policy("first"), policy("second")]
    state = ask(petition(), policies, [say(first, ANA, "reject", "no"), second])
    assert state.phase == "rejected"
    assert state.message == "first: rejected by ana: no"
    assert [(a.metadata.name, a.status.phase) for a in state.void] == [("fraud-1.second", "Void")]
    assert state.create == ()


def test_the_worst_that_was_said_counts() -> None:
    approved, pending = say(asked(name="a"), ANA), asked(name="b")
    state = ask(petition(), [policy("a"), policy("b")], [approved, pending])
    assert state.phase == "waiting"
    late = expire(pending, NOW + timedelta(days=8))
    assert late is not None
    assert ask(petition(), [policy("a"), policy("b")], [approved, late]).phase == "expired"


@given(
    phases=st.lists(
        st.sampled_from(["Pending", "Approved", "Rejected", "Expired", "Void"]), max_size=4
    ),
    evidence=st.lists(st.sampled_from(["e1", "e2"]), min_size=4, max_size=4),
    wanted=st.sampled_from(["e1", "e2"]),
)
def test_nothing_passes_without_an_approval_for_exactly_its_evidence(
    phases: list[Any], evidence: list[str], wanted: str
) -> None:
    """And asking settles: what was to be written is written once."""
    approvals = []
    for index, phase in enumerate(phases):
        one = asked(petition(evidence=evidence[index])).with_status(phase=phase)
        name = "fraud-1.risk" + (f".{index + 1}" if index else "")
        approvals.append(one.with_(metadata=one.metadata.with_(name=name)))
    about = petition(evidence=wanted)
    state = ask(about, [policy()], approvals)
    exact = [a for a in approvals if a.spec.evidence_digest == wanted]
    assert (state.phase == "approved") == any(a.status.phase == "Approved" for a in exact)
    written = {a.metadata.name: a for a in (*approvals, *state.void, *state.create)}
    assert len(written) == len(approvals) + len(state.create)
    again = ask(about, [policy()], list(written.values()))
    assert (again.phase, again.create, again.void) == (state.phase, (), ())


# -- answers ----------------------------------------------------------------------------------


def test_an_approver_approves() -> None:
    done = say(asked(), ANA, reason="  the recall gain is worth it ")
    assert (done.status.phase, done.status.finished_at) == ("Approved", NOW)
    assert done.status.decisions[0].reason == "the recall gain is worth it"
    assert done.spec == asked().spec


@pytest.mark.parametrize(
    ("subject", "says"),
    [
        (AUTHOR, "made fraud 2.0.0"),
        (person("AUTHOR", "leads"), "made fraud 2.0.0"),
        (REQUESTER, "asked for promotion fraud-1"),
        (PASSER_BY, "policy risk names group leads"),
        (person("leads"), "policy risk names group leads"),
    ],
)
@pytest.mark.parametrize("decision", ["approve", "reject"])
def test_who_may_not_answer(subject: Subject, says: str, decision: Verdict) -> None:
    with pytest.raises(Forbidden) as refused:
        say(asked(), subject, decision)
    assert says in refused.value.message
    assert not may_answer(asked(), subject, NOBODY_ELSE, NOW)


def test_a_rejection_needs_a_reason_and_one_is_enough() -> None:
    approval = say(asked(quorum=3), ANA)
    for empty in ("", "  \n"):
        with pytest.raises(InvalidResource, match="needs a reason"):
            say(approval, BEN, "reject", empty)
    rejected = say(approval, BEN, "reject", "no data from the new region")
    assert rejected.status.phase == "Rejected"
    assert rejected.status.message == "rejected by ben: no data from the new region"
    with pytest.raises(Conflict, match="is Rejected already"):
        say(rejected, CAT)


def test_a_reason_has_its_limits() -> None:
    with pytest.raises(InvalidResource) as refused:
        say(asked(), ANA, reason="x" * 10_000)
    assert refused.value.fields[0].path == "reason"
    assert say(asked(), ANA, reason="x" * MAX_REASON).status.phase == "Approved"


def test_a_quorum_counts_people() -> None:
    one = say(asked(quorum=2), ANA)
    assert (one.status.phase, one.status.message) == ("Pending", "1 of 2 have agreed")
    with pytest.raises(Conflict, match="answer by or for 'ana'"):
        say(one, ANA)
    assert say(one, BEN).status.phase == "Approved"


def test_what_is_over_takes_no_answer() -> None:
    approval = asked()
    late = Answer(ANA, "approve", "", NOW + timedelta(days=7))
    with pytest.raises(Conflict, match="has expired"):
        answer_approval(approval, late, NOBODY_ELSE)
    for ended in (expire(approval, late.at), void(approval, "the evidence has changed", NOW)):
        assert ended is not None
        with pytest.raises(Conflict, match="already"):
            say(ended, ANA)
    assert expire(approval, late.at - timedelta(seconds=1)) is None
    assert expire(say(approval, ANA), late.at) is None


# -- answers for others -----------------------------------------------------------------------

DAN = person("dan")
PEOPLE = {s.name: s for s in (ANA, BEN, CAT, AUTHOR, REQUESTER, PASSER_BY, DAN)}


def representing(*delegations: Any, people: Any = None) -> Representation:
    return Representation(delegations, PEOPLE if people is None else people)


def test_a_delegate_answers_for_the_delegator_as_one_person() -> None:
    of = representing(delegation("ana", "dan"))
    answered = say(asked(quorum=2), DAN, of=of)
    said = answered.status.decisions[0]
    assert (said.subject, said.on_behalf_of) == ("dan", "ana")
    for again in (ANA, DAN):
        with pytest.raises(Conflict):
            say(answered, again, of=of)
    assert say(answered, BEN, of=of).status.message == "approved by dan for ana, ben"


def test_who_may_answer_for_oneself_has_no_second_voice_by_delegation() -> None:
    of = representing(delegation("ana", "ben"))
    answered = say(asked(quorum=2), BEN, of=of)
    assert answered.status.decisions[0].on_behalf_of is None
    with pytest.raises(Conflict):
        say(answered, BEN, of=of)


@pytest.mark.parametrize(
    ("made", "spec"),
    [
        (delegation("ana", "dan", ends_at=NOW), {}),
        (delegation("ana", "dan", starts_at=NOW + timedelta(hours=1)), {}),
        (delegation("ana", "dan", policies=("other",)), {}),
        (delegation("ana", "ben"), {}),
        (delegation("ana", "dan"), {"delegation": False}),
        (delegation("passer-by", "dan"), {}),
        (delegation("nobody", "dan"), {}),
    ],
)
def test_a_delegation_gives_no_more_than_it_says(made: Any, spec: Any) -> None:
    with pytest.raises(Forbidden):
        say(asked(**spec), DAN, of=representing(made))


def test_delegations_form_no_chains() -> None:
    of = representing(delegation("ana", "passer-by"), delegation("passer-by", "dan"))
    with pytest.raises(Forbidden):
        say(asked(), DAN, of=of)


def test_a_delegator_who_lost_the_group_or_the_token_gives_nothing() -> None:
    made = delegation("ana", "dan")
    for people in ({}, {"ana": person("ana")}):
        with pytest.raises(Forbidden):
            say(asked(), DAN, of=representing(made, people=people))


@pytest.mark.parametrize(
    ("delegator", "delegate", "says"),
    [
        ("author", DAN, "made fraud"),
        ("requester", DAN, "asked for promotion"),
        ("ana", AUTHOR, "made fraud"),
        ("ana", REQUESTER, "asked for promotion"),
    ],
)
def test_delegation_is_no_way_round_the_rule_for_authors(
    delegator: str, delegate: Subject, says: str
) -> None:
    with pytest.raises(Forbidden, match=says):
        say(asked(), delegate, of=representing(delegation(delegator, delegate.name)))


def test_of_several_delegators_one_who_is_free_is_answered_for() -> None:
    of = representing(
        delegation("author", "dan"), delegation("ana", "dan"), delegation("ben", "dan")
    )
    first = say(asked(quorum=2), ANA, of=of)
    assert say(first, DAN, of=of).status.decisions[1].on_behalf_of == "ben"


@pytest.mark.parametrize(
    ("made", "subject", "error", "says"),
    [
        (delegation("ana", "ana"), ANA, InvalidResource, "to"),
        (delegation("ana", "dan", ends_at=NOW), ANA, InvalidResource, "until"),
        (delegation("ana", "dan", policies=("rsk",)), ANA, InvalidResource, "policies[0]"),
        (delegation("ana", "dan", policies=("own",)), ANA, InvalidResource, "policies[0]"),
        (delegation("dan", "ben"), DAN, Forbidden, ""),
    ],
)
def test_delegations_that_mean_nothing_are_refused(
    made: Any, subject: Subject, error: Any, says: str
) -> None:
    policies = [policy("risk"), policy("own", delegation=False)]
    with pytest.raises(error) as refused:
        check_delegation(made, subject, policies)
    if says:
        assert [fault.path for fault in refused.value.fields] == [says]


NAMES = st.sampled_from(sorted(PEOPLE))


@given(
    quorum=st.integers(1, 3),
    answers=st.lists(
        st.tuples(NAMES, st.sampled_from(["approve", "approve", "reject"])), max_size=8
    ),
    delegations=st.lists(st.tuples(NAMES, NAMES), max_size=4),
)
def test_whatever_is_tried_only_enough_different_approvers_approve(
    quorum: int, answers: list[tuple[str, Any]], delegations: list[tuple[str, str]]
) -> None:
    of = representing(*(delegation(a, b) for a, b in delegations))
    approval = asked(quorum=quorum)
    for name, decision in answers:
        before = approval
        try:
            approval = say(approval, PEOPLE[name], decision, of=of)
        except (Forbidden, Conflict):
            approval = before
    said = approval.status.decisions
    spoke = [d.subject for d in said]
    stood_for = [d.on_behalf_of or d.subject for d in said]
    assert len(set(spoke)) == len(spoke)
    assert len(set(stood_for)) == len(stood_for)
    assert {"author", "requester"}.isdisjoint({*spoke, *stood_for})
    assert set(stood_for) <= {"ana", "ben", "cat"}
    agreed = sum(d.decision == "approve" for d in said)
    if approval.status.phase == "Approved":
        assert agreed == quorum == len(said)
    assert (approval.status.phase == "Rejected") == (agreed < len(said))


def test_a_petition_of_the_same_facts_asks_the_same() -> None:
    about = petition()
    assert ask(about, [policy()]) == ask(replace(about), [policy()])
