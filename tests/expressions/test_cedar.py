"""Policies mean what they say, names are never syntax, and what Cedar cannot decide is no."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import get_args

import cedarpy
import pytest
from hypothesis import given
from hypothesis import strategies as st

from modelplane.decisions.authorization import Authority
from modelplane.decisions.roles import FIRST_BINDINGS
from modelplane.expressions.cedar import (
    CedarPolicies,
    CedarPolicy,
    CedarRequest,
    quote,
    write_policy,
)
from modelplane.resources.role import Verb

SCHEMA = json.dumps(
    {
        "": {
            "entityTypes": {
                "Group": {},
                "Subject": {"memberOfTypes": ["Group"]},
                "Resource": {
                    "shape": {
                        "type": "Record",
                        "attributes": {
                            "kind": {"type": "String"},
                            "environment": {"type": "String", "required": False},
                            "stage": {"type": "String", "required": False},
                            "model": {"type": "String", "required": False},
                            "labels": {
                                "type": "Set",
                                "element": {
                                    "type": "Record",
                                    "attributes": {
                                        "name": {"type": "String"},
                                        "value": {"type": "String"},
                                    },
                                },
                            },
                        },
                    }
                },
            },
            "actions": {
                verb: {
                    "appliesTo": {
                        "principalTypes": ["Subject"],
                        "resourceTypes": ["Resource"],
                        "context": {
                            "type": "Record",
                            "attributes": {"somewhere": {"type": "Boolean"}},
                        },
                    }
                }
                for verb in get_args(Verb)
            },
        }
    }
)
"""What requests and policies are made of; Cedar's validator holds policies against it."""

FULL = CedarPolicy(
    "ops/steer@ops",
    groups=("ops", "on call"),
    verbs=("steer", "apply"),
    kinds=("Rollout", "Job"),
    stages=("staging",),
    environments=("staging", "blue"),
    models=("fraud", "churn"),
    labels=(("team", "risk"), ("tier", "1")),
)
MEANT = CedarRequest(
    groups=("on call",),
    verb="steer",
    kind="Rollout",
    environment="blue",
    stage="staging",
    model="fraud",
    labels=(("team", "risk"), ("tier", "1"), ("x", "y")),
)


def test_a_policy_holds_for_what_it_names() -> None:
    answer = CedarPolicies([FULL]).ask(MEANT)
    assert answer.allowed
    assert answer.reasons == ("ops/steer@ops",)


@pytest.mark.parametrize(
    "changed",
    [
        {"groups": ()},
        {"groups": ("on", "call")},
        {"verb": "delete"},
        {"kind": "Model"},
        {"stage": "production"},
        {"stage": None},
        {"environment": "green"},
        {"environment": None},
        {"model": "other"},
        {"model": None},
        {"labels": (("team", "risk"),)},
        {"labels": (("team", "risk"), ("tier", "2"))},
        {"labels": ()},
    ],
    ids=str,
)
def test_and_for_nothing_else(changed: dict[str, object]) -> None:
    answer = CedarPolicies([FULL]).ask(replace(MEANT, **changed))  # type: ignore[arg-type]
    assert not answer.allowed
    assert answer.reasons == ()


def test_somewhere_asks_whether_it_could_hold_in_any_place() -> None:
    nowhere = CedarRequest(groups=("ops",), verb="steer", kind="Rollout", somewhere=True)
    assert CedarPolicies([FULL]).ask(nowhere).allowed
    assert not CedarPolicies([FULL]).ask(replace(nowhere, kind="Model")).allowed
    assert not CedarPolicies([FULL]).ask(replace(nowhere, groups=("devs",))).allowed


def test_what_is_forbidden_is_so_whatever_permits_it() -> None:
    everything = CedarPolicy("all", groups=("a", "b"))
    never = CedarPolicy("never", kinds=("Token",), effect="forbid", unless_groups=("b",))
    policies = CedarPolicies([everything, never])
    asked = CedarRequest(groups=("a",), verb="get", kind="Token")
    assert policies.ask(asked).reasons == ("never",)
    assert not policies.ask(asked).allowed
    assert policies.ask(replace(asked, groups=("b",))).allowed
    assert policies.ask(replace(asked, kind="Model")).allowed


def test_no_policies_allow_nothing() -> None:
    assert not CedarPolicies([]).ask(MEANT).allowed


TEXTS = st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=30)
NASTY = st.sampled_from(
    ['"', '"] } ; permit (principal, action, resource);', "\\", "\\u{41}", "//", "*", "\n", "é",
     "__entity", "__extn", 'ops" || true', "\x00", "🂡"]
)  # fmt: skip


@given(group=TEXTS | NASTY, other=TEXTS | NASTY, name=TEXTS | NASTY, value=TEXTS | NASTY)
def test_no_name_is_ever_syntax(group: str, other: str, name: str, value: str) -> None:
    policy = CedarPolicy(
        f"{name}/{value}@{group}",
        groups=(group,),
        kinds=(name,),
        environments=(value,),
        models=(name,),
        labels=((name, value),),
    )
    policies = CedarPolicies([policy])
    asked = CedarRequest(
        groups=(group,),
        verb="get",
        kind=name,
        environment=value,
        model=name,
        labels=((name, value),),
    )
    assert policies.ask(asked).reasons == (policy.id,)
    for changed in (
        {"groups": (other,)}, {"kind": other}, {"environment": other}, {"model": other},
        {"labels": ((other, value),)}, {"labels": ((name, other),)},
    ):  # fmt: skip
        asked_otherwise = replace(asked, **changed)
        assert policies.ask(asked_otherwise).allowed == (asked_otherwise == asked)


def test_what_cedar_cannot_read_is_refused() -> None:
    everything = CedarPolicies([CedarPolicy("all")])
    half = CedarRequest(groups=("\ud800",), verb="get", kind="Model")
    assert not everything.ask(half).allowed


def test_policies_are_valid_against_the_shape_of_requests() -> None:
    forbid = CedarPolicy(
        "f", kinds=("Role",), verbs=("apply",), effect="forbid", unless_groups=("x",)
    )
    text = "\n".join(map(write_policy, (FULL, CedarPolicy("all"), forbid)))
    result = cedarpy.validate_policies(text, SCHEMA)
    assert result.validation_passed, [str(error) for error in result.errors]
    wrong = write_policy(FULL).replace("resource.kind", "resource.sort")
    assert not cedarpy.validate_policies(wrong, SCHEMA).validation_passed


@pytest.mark.parametrize("group", ["developer", "approver", "operator", "auditor", "admin"])
def test_the_built_in_roles_are_valid_policies(group: str) -> None:
    text = Authority([], FIRST_BINDINGS).policies(frozenset({group})).text
    assert f"@{group}" in text
    result = cedarpy.validate_policies(text, SCHEMA)
    assert result.validation_passed, [str(error) for error in result.errors]


@given(TEXTS | NASTY)
def test_a_literal_is_plain_ascii_on_one_line(text: str) -> None:
    quoted = quote(text)
    assert quoted.isascii()
    assert quoted.isprintable()
    assert '"' not in quoted[1:-1]
