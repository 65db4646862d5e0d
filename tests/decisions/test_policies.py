"""Promotion policies: which of them count, and what they may refer to."""

from __future__ import annotations

import pytest

from modelplane.decisions.policies import (
    Surroundings,
    check_pipeline_change,
    check_pipeline_unused,
    check_policy,
    digest_policy,
    matching_policies,
    mentions,
)
from modelplane.errors import Conflict, InvalidResource
from modelplane.resources.approval import ApprovalPolicy
from modelplane.resources.promotion_policy import PromotionPolicy
from tests.decisions.gates import approval_policy, model, pipeline, policy

AROUND = Surroundings({"checks": pipeline()}, ("flights",), ("staging", "production"))


def test_policies_count_by_environment_and_model() -> None:
    policies = [
        policy("b", models={"labels": {"team": "risk"}}),
        policy("a"),
        policy("c", environments=["staging"]),
        policy("d", models={"names": ["delay"], "labels": {"team": "ops"}}),
        policy("e", models={"names": ["other"]}),
    ]

    def names(place: str, **labels: str) -> list[str]:
        return [p.metadata.name for p in matching_policies(policies, place, model(**labels))]

    assert names("production") == ["a"]
    assert names("production", team="risk") == ["a", "b"]
    assert names("production", team="ops") == ["a", "d"]
    assert names("staging") == ["c"]


def test_all_faults_are_told_at_once() -> None:
    wrong = policy(
        environments=["nowhere"], pipelines=["checks", "gone"],
        conditions=["metrics.recall > 1", "true", "version.number"],
    )  # fmt: skip
    with pytest.raises(InvalidResource) as raised:
        check_policy(wrong, AROUND)
    paths = [fault.path for fault in raised.value.fields]
    assert paths == [
        "spec.environments[0]", "spec.pipelines[1]",
        "spec.conditions[0].expression", "spec.conditions[2].expression",
    ]  # fmt: skip


def test_what_is_measured_elsewhere_is_no_name_here() -> None:
    around = Surroundings(
        {"checks": pipeline(), "speed": pipeline("speed", load={"latency": {}})},
        (), ("production",),
    )  # fmt: skip
    condition = ["metrics.latency_p95_s < 0.1"]
    check_policy(policy(pipelines=["checks", "speed"], conditions=condition), around)
    with pytest.raises(InvalidResource, match="no stage of its pipelines measures"):
        check_policy(policy(pipelines=["checks"], conditions=condition), around)


def test_a_pipeline_may_change_unless_a_policy_would_lose_a_name() -> None:
    needs = policy(pipelines=["checks"], conditions=["metrics.accuracy > 0.9"])
    people = approval_policy(threshold={"accuracy": 0.9})
    without = pipeline(quality={"latency": {}})
    more = pipeline(quality={"accuracy": {}}, load={"latency": {}})
    each: list[list[PromotionPolicy | ApprovalPolicy]] = [[needs], [people], [needs, people]]
    for policies in each:
        check_pipeline_change(more, policies, AROUND)
        with pytest.raises(InvalidResource, match="would break a policy") as raised:
            check_pipeline_change(without, policies, AROUND)
        assert len(raised.value.fields) == len(policies)
    check_pipeline_change(without, [policy(pipelines=["checks"])], AROUND)
    doubled = pipeline(day={"accuracy": {}}, night={"accuracy": {}})
    with pytest.raises(InvalidResource, match="several stages measure"):
        check_pipeline_change(doubled, [needs], AROUND)


def test_what_was_wrong_already_does_not_stop_a_change() -> None:
    broken = policy(pipelines=["checks"], conditions=["metrics.gone > 0.9"])
    check_pipeline_change(pipeline(quality={"accuracy": {"threshold": 0.9}}), [broken], AROUND)


def test_a_required_pipeline_is_not_deleted() -> None:
    with pytest.raises(Conflict, match="required by PromotionPolicy guard"):
        check_pipeline_unused("checks", [policy(pipelines=["checks"])])
    check_pipeline_unused("other", [policy(pipelines=["checks"])])


def test_the_digest_names_the_spec() -> None:
    assert digest_policy(policy("a")) == digest_policy(policy("b"))
    assert digest_policy(policy(conditions=["true"])) != digest_policy(policy())


def test_names_in_text_are_not_mentioned() -> None:
    assert mentions([policy(conditions=["contracts.can_deploy"])], "contracts.")
    assert not mentions([policy(conditions=["'contracts.' == version.model"])], "contracts.")
