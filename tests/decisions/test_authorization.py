"""Role x verb x kind x stage: the whole table of who may do what, and what always holds."""

from __future__ import annotations

import itertools
import re
from typing import get_args

import pytest
from hypothesis import given
from hypothesis import strategies as st

from modelplane.decisions.authorization import (
    Access,
    Allowed,
    Authority,
    Refused,
    Verb,
    labels_of,
)
from modelplane.decisions.roles import (
    AGENT_GROUP,
    BUILT_IN_ROLES,
    FIRST_BINDINGS,
    READS,
    THINGS,
)
from modelplane.resources.meta import Metadata, Subject
from modelplane.resources.model import Model, ModelSpec
from modelplane.resources.role import Role, RoleBinding, RoleBindingSpec, RoleRule, RoleSpec
from modelplane.resources.selector import ModelSelector

VERBS: tuple[Verb, ...] = get_args(Verb)
STAGES = {"lab": "development", "staging": "staging", "production": "production"}
PLACES = (None, *STAGES)
"""Global or over all environments; then one environment of each stage."""

TELLING = {"Audit", "Evidence", "Notification", "Prediction"}
NAMED: dict[str, set[str]] = {
    "read": {*map(str, READS)},
    "open": set(THINGS) - TELLING - {"Token"},
    "telling": TELLING,
    "registered": {"Model", "ModelVersion", "Dataset", "DatasetVersion", "Contract", "Artifact"},
    "deployed": {"ModelDeployment", "Rollout"},
    "placed": {"Environment", "Job", "Replica", "TrafficSplit"},
}
"""Several verbs or kinds by one word, for the table."""

TABLE = """
verbs              kinds                       developer  approver  operator  auditor  agent
read               open                        yes        yes       yes       yes      -
read               telling                     -          -         yes       yes      -
read               Token                       -          -         -         yes      -
upload apply act   registered                  yes        -         -         -        -
run                ValidationPipeline GateRun  yes        -         yes       -        -
run                TrainingTrigger TrainingRun  yes        -         yes       -        -
apply delete       deployed                    low        -         -         -        -
steer              deployed                    low        -         yes       -        -
promote            ModelDeployment             yes        -         -         -        -
promote            Rollout                     low        -         -         -        -
apply              TrafficPolicy               low        -         -         -        -
steer promote      TrafficPolicy               low        -         -         -        -
delete             TrafficPolicy               low        -         yes       -        -
approve            Approval                    -          yes       -         -        -
apply delete       AlertRules Silence          -          -         yes       -        -
apply delete run   Playbook                    -          -         yes       -        -
run                PlaybookRun                 -          -         yes       -        -
approve            PlaybookRun                 -          yes       yes       -        -
act                Delegation                  -          yes       -         -        -
act                Notification                -          -         yes       -        -
list watch         placed                      -          -         -         -        yes
upload download    Artifact                    -          -         -         -        yes
status             Job Replica TrafficSplit Environment  -          -         -         -        yes
report             Telemetry Prediction        -          -         -         -        yes
report             Feedback                    yes        -         yes       -        -
get act            Certificate                 -          -         -         -        yes
act                TrainingRun                 -          -         -         -        yes
"""
"""What each role may do; what stands nowhere is refused, and admin may do everything. ``low``
means: in environments whose stage is development or staging."""
REACHES: dict[str, tuple[str | None, ...]] = {"yes": PLACES, "low": ("lab", "staging"), "-": ()}

AUTHORITY = Authority(BUILT_IN_ROLES, FIRST_BINDINGS, STAGES)
GROUPS = {role.metadata.name: role.metadata.name for role in BUILT_IN_ROLES} | {
    "agent": AGENT_GROUP
}
POLICIES = {"PromotionPolicy", "ApprovalPolicy", "ValidationPipeline", "Environment"}
GRANTS = {"Role", "RoleBinding", "Token"}


def member_of(*groups: str) -> Subject:
    return Subject(name="ann", groups=groups)


def read_table() -> set[tuple[str, str, str, str | None]]:
    """Return every (role, verb, kind, place) that the table allows."""
    header, *rows = (re.split(r" {2,}", line) for line in TABLE.strip().splitlines())
    allowed = set()
    for verbs, kinds, *cells in rows:
        for role, cell in zip(header[2:], cells, strict=True):
            places = REACHES[cell]
            allowed |= set(itertools.product([role], meant(verbs), meant(kinds), places))
    return allowed


def meant(words: str) -> set[str]:
    return {name for word in words.split() for name in NAMED.get(word, {word})}


ALLOWED = read_table()


@pytest.mark.parametrize("role", GROUPS)
def test_role_verb_kind_and_stage(role: str) -> None:
    subject = member_of(GROUPS[role])
    wrong = [
        (verb, kind, place)
        for verb in VERBS
        for kind in THINGS
        for place in PLACES
        if isinstance(AUTHORITY.authorize(subject, Access(verb, kind, place)), Allowed)
        != (role == "admin" or (role, verb, kind, place) in ALLOWED)
    ]
    assert wrong == []


VERB = st.sampled_from(VERBS)
KIND = st.sampled_from(THINGS)
PLACE = st.sampled_from([*PLACES, "elsewhere"])
GROUP = st.sampled_from([*GROUPS.values(), "others"]) | st.text(max_size=8)


@given(groups=st.lists(GROUP), verb=VERB, kind=KIND, place=PLACE, somewhere=st.booleans())
def test_nobody_is_let_in_without_a_binding(
    groups: list[str], verb: Verb, kind: str, place: str | None, somewhere: bool
) -> None:
    subject = Subject(name="admin", groups=tuple(groups))
    decision = AUTHORITY.authorize(subject, Access(verb, kind, place, somewhere=somewhere))
    if isinstance(decision, Allowed):
        binding = decision.rule.rpartition("@")[2]
        assert binding in {b.metadata.name for b in AUTHORITY.bindings_of(subject)}


@given(groups=st.sets(GROUP), verb=st.sampled_from(["apply", "delete", "act"]), place=PLACE,
       kind=st.sampled_from(sorted(GRANTS | POLICIES)))  # fmt: skip
def test_only_admin_writes_grants_and_policies(
    groups: set[str], verb: Verb, place: str | None, kind: str
) -> None:
    decision = AUTHORITY.authorize(member_of(*groups), Access(verb, kind, place))
    assert isinstance(decision, Allowed) == ("admin" in groups)


@given(groups=st.sets(GROUP, max_size=4), more=GROUP, verb=VERB, kind=KIND, place=PLACE)
def test_another_group_never_takes_away(
    groups: set[str], more: str, verb: Verb, kind: str, place: str | None
) -> None:
    access = Access(verb, kind, place)
    if isinstance(AUTHORITY.authorize(member_of(*groups), access), Allowed):
        assert isinstance(AUTHORITY.authorize(member_of(*groups, more), access), Allowed)


def own_role(*rules: RoleRule, name: str = "own") -> Role:
    return Role(metadata=Metadata(name=name), spec=RoleSpec(rules=rules))


def bind(role: str, *groups: str, name: str = "b", **limits: object) -> RoleBinding:
    spec = RoleBindingSpec.model_validate({"role": role, "groups": groups, **limits})
    return RoleBinding(metadata=Metadata(name=name), spec=spec)


def test_an_own_role_that_may_do_everything_still_cannot_grant() -> None:
    everything = own_role(RoleRule(name="all", verbs=("*",), kinds=("*",)))
    authority = Authority([everything], [bind("own", "ops")], STAGES)
    for verb in VERBS:
        for kind in THINGS:
            decision = authority.authorize(member_of("ops"), Access(verb, kind))
            grants = verb in {"apply", "delete", "act"} and kind in GRANTS
            assert isinstance(decision, Refused) == grants, (verb, kind)
            if isinstance(decision, Refused):
                assert decision.rule == "only-admin-grants"
                assert "that takes role admin" in decision.message


def test_the_role_admin_limited_to_an_environment_cannot_grant() -> None:
    limited = bind("admin", "ops", environments=["staging"])
    authority = Authority([], [limited], STAGES)
    assert isinstance(
        authority.authorize(member_of("ops"), Access("apply", "Job", "staging")), Allowed
    )
    for place in (None, "staging"):
        decision = authority.authorize(member_of("ops"), Access("apply", "Role", place))
        assert isinstance(decision, Refused)


def test_built_in_roles_are_those_of_the_code_whatever_is_stored() -> None:
    forged = own_role(RoleRule(name="all", verbs=("*",), kinds=("*",)), name="auditor")
    stolen = bind("admin", "ops", name="system-agents")
    authority = Authority([forged], [*FIRST_BINDINGS, stolen], STAGES)
    assert isinstance(authority.authorize(member_of("auditor"), Access("apply", "Job")), Refused)
    assert isinstance(authority.authorize(member_of("ops"), Access("get", "Job")), Refused)
    nothing = Authority([], [], {})
    assert isinstance(nothing.authorize(member_of("admin"), Access("apply", "Role")), Allowed)


def test_a_binding_of_a_role_that_is_gone_gives_nothing() -> None:
    authority = Authority([], [bind("gone", "ops")], STAGES)
    assert isinstance(authority.authorize(member_of("ops"), Access("get", "Model")), Refused)


@pytest.mark.parametrize(
    ("access", "allowed"),
    [
        (Access("apply", "ModelDeployment", "staging"), True),
        (Access("apply", "ModelDeployment", "lab"), False),
        (Access("list", "ModelDeployment", "staging"), True),
        (Access("list", "ModelDeployment"), False),
        (Access("get", "Model"), False),
        (Access("apply", "ModelVersion", somewhere=True), True),
        (Access("approve", "Approval", somewhere=True), False),
    ],
    ids=str,
)
def test_a_binding_limited_to_environments_reaches_nothing_else(
    access: Access, allowed: bool
) -> None:
    authority = Authority([], [bind("developer", "devs", environments=["staging"])], STAGES)
    assert isinstance(authority.authorize(member_of("devs"), access), Allowed) == allowed


def test_a_binding_limited_to_models_reaches_requests_about_them() -> None:
    names = ModelSelector(names=("fraud", "churn"))
    labels = ModelSelector(labels={"team": "risk", "tier": "1"})
    authority = Authority(
        [],
        [
            bind("developer", "named", name="named", models=names.to_dict()),
            bind("developer", "labelled", name="labelled", models=labels.to_dict()),
        ],
        STAGES,
    )
    risk = (("team", "risk"), ("tier", "1"), ("x", "y"))

    def may(group: str, model: str | None, labels: tuple[tuple[str, str], ...] = ()) -> bool:
        access = Access("promote", "ModelDeployment", "production", model, labels)
        return isinstance(authority.authorize(member_of(group), access), Allowed)

    assert may("named", "fraud")
    assert not may("named", "other")
    assert not may("named", None)
    assert may("labelled", "other", risk)
    assert not may("labelled", "fraud", risk[:1])
    assert not may("labelled", "fraud")
    assert authority.is_limited_to_models(member_of("named"))
    assert not AUTHORITY.is_limited_to_models(member_of("developer"))


def test_labels_are_those_of_the_model() -> None:
    metadata = Metadata(name="fraud", labels={"tier": "1", "team": "risk"})
    model = Model(metadata=metadata, spec=ModelSpec())
    assert labels_of(model) == (("team", "risk"), ("tier", "1"))
    assert labels_of(None) == ()


@pytest.mark.parametrize(
    ("groups", "access", "says"),
    [
        (("x",), Access("steer", "Rollout", "production"),
         "'ann' may not steer Rollout in production (rule default-deny): no role is bound to its "
         "groups (x), and that takes role operator (rule steer)"),
        ((), Access("get", "Model"), "it has no group, and that takes role developer (rule read)"),
        (("developer",), Access("apply", "ModelDeployment", "production"),
         "that takes role admin (rule everything)"),
        (("developer",), Access("list", "Audit"), "that takes role operator (rule read)"),
        (("developer",), Access("apply", "RoleBinding"),
         "(rule only-admin-grants): that takes role admin"),
        (("limited",), Access("steer", "Rollout", "production"),
         "binding b of role operator is only for environments staging and models fraud, team=risk"),
        (("limited",), Access("list", "Rollout"), "list Rollout in all environments (rule"),
        (("developer",), Access("apply", "ModelDeployment", "production", "fraud"),
         "apply ModelDeployment of model fraud in production"),
    ],
)  # fmt: skip
def test_a_refusal_says_who_what_where_which_rule_and_what_it_takes(
    groups: tuple[str, ...], access: Access, says: str
) -> None:
    models = {"names": ["fraud"], "labels": {"team": "risk"}}
    limited = bind("operator", "limited", environments=["staging"], models=models)
    authority = Authority(BUILT_IN_ROLES, [*FIRST_BINDINGS, limited], STAGES)
    decision = authority.authorize(member_of(*groups), access)
    assert isinstance(decision, Refused)
    assert says in decision.message


def test_a_grant_names_role_rule_and_binding() -> None:
    decision = AUTHORITY.authorize(member_of("operator"), Access("steer", "Rollout", "production"))
    assert decision == Allowed("operator/steer@operator")


def test_an_own_role_is_proposed_before_admin() -> None:
    rule = RoleRule(name="deploy", verbs=("apply",), kinds=("ModelDeployment",))
    authority = Authority([own_role(rule, name="releaser")], FIRST_BINDINGS, STAGES)
    decision = authority.authorize(
        member_of("developer"), Access("apply", "ModelDeployment", "production")
    )
    assert isinstance(decision, Refused)
    assert "that takes role releaser (rule deploy)" in decision.message
