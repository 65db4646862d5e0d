"""Traffic policies and strategies: many ways to write them, one meaning, faults where written."""

from __future__ import annotations

from textwrap import dedent
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from modelplane.errors import InvalidResource
from modelplane.resources.manifest import canonical, read_document, read_documents
from modelplane.resources.meta import check_name
from modelplane.resources.model_deployment import ModelDeployment
from modelplane.resources.policy_shapes import default_name, written_path
from modelplane.resources.traffic_policy import TrafficPolicy

POSTED: dict[str, Any] = {
    "model_name": "fraud",
    "version": "2.0.0",
    "traffic_rule": {"canary": {"percentage": 10, "predicate": "user.region == 'west'"}},
    "monitoring_hooks": ["latency_alert>95th", "drift_detection/enabled"],
}


def read(text: str) -> TrafficPolicy:
    (resource,) = read_documents(dedent(text), "here")
    assert isinstance(resource, TrafficPolicy)
    return resource


def faults(text: str) -> list[str]:
    with pytest.raises(InvalidResource) as raised:
        read_documents(dedent(text), "here")
    return [str(field) for field in raised.value.fields]


def test_the_form_of_the_issue() -> None:
    policy = read_document(POSTED)
    assert isinstance(policy, TrafficPolicy)
    assert (policy.metadata.name, policy.metadata.environment) == ("fraud-2.0.0", "production")
    spec = policy.spec
    assert (spec.model, spec.version) == ("fraud", "2.0.0")
    assert spec.traffic_rule.canary is not None
    assert spec.traffic_rule.canary.steps == (10.0,)
    assert spec.traffic_rule.predicate == "user.region == 'west'"
    assert spec.monitoring_hooks == ("latency_alert>95th", "drift_detection/enabled")


@pytest.mark.parametrize(
    "text",
    [
        """
        modelName: fraud
        version: 2.0.0
        trafficRule: {canary: {traffic: 10%, predicate: "user.region == 'west'"}}
        monitoringHooks: [latency_alert>95th, drift_detection/enabled]
        """,
        """
        apiVersion: modelplane.dev/v1
        kind: TrafficPolicy
        metadata: {name: fraud-2.0.0, environment: production}
        spec:
          model_name: fraud
          version: 2.0.0
          traffic_rule: {Canary: {weight: 10, predicate: "user.region == 'west'"}}
          monitoring_hooks: [latency_alert>95th, drift_detection/enabled]
        """,
        """
        apiVersion: mcp.example.com/v1
        kind: traffic-policy
        name: fraud-2.0.0
        namespace: production
        model: fraud
        version: 2.0.0
        strategy: {canary: {steps: [10], predicate: "user.region == 'west'"}}
        hooks: [latency_alert>95th, drift_detection/enabled]
        """,
    ],
)
def test_many_ways_to_write_the_same(text: str) -> None:
    assert canonical(read(text)) == canonical(read_document(POSTED))


def test_what_is_canonical_is_read_as_it_is() -> None:
    data = canonical(read_document(POSTED))
    assert canonical(read_document(data)) == data


def test_an_ab_test_names_its_arms() -> None:
    policy = read(
        """
        model_name: fraud
        name: which-is-better
        environment: staging
        traffic_rule:
          a/b/n:
            arms: {2.0.0: 10, 3.0.0: 20%}
            duration: 3d
            analysis: {on_inconclusive: hold, metrics: [errors]}
        """
    )
    ab = policy.spec.traffic_rule.ab
    assert ab is not None
    assert [(arm.version, arm.percentage) for arm in ab.arms] == [("2.0.0", 10), ("3.0.0", 20)]
    assert ab.duration_s == 3 * 86400
    assert (policy.metadata.name, policy.metadata.environment) == ("which-is-better", "staging")


@pytest.mark.parametrize(
    ("word", "name"),
    [
        ("blue-green", "blueGreen"),
        ("BlueGreen", "blueGreen"),
        ("blue_green", "blueGreen"),
        ("ALL AT ONCE", "allAtOnce"),
        ("Rolling-Update", "rolling"),
        ("shadow", "shadow"),
        ("mirror", "shadow"),
        ("canary", "canary"),
    ],
)
def test_strategies_are_known_in_any_spelling(word: str, name: str) -> None:
    written: list[object] = [word, {word: {}}, {word: None}]
    for strategy in written:
        document = {
            "apiVersion": "modelplane.dev/v1",
            "kind": "ModelDeployment",
            "metadata": {"name": "fraud"},
            "spec": {"strategy": strategy},
        }
        resource = read_document(document)
        assert isinstance(resource, ModelDeployment)
        assert resource.spec.strategy is not None
        assert resource.spec.strategy.type == name


def test_fields_of_strategies_are_known_in_snake_case() -> None:
    policy = read(
        """
        model: fraud
        version: 2.0.0
        traffic_rule:
          shadow:
            percentage: 30
            min_compared: 50
            analysis: {on_inconclusive: rollback, slices: [{by: user.region, values: [west]}]}
        """
    )
    shadow = policy.spec.traffic_rule.shadow
    assert shadow is not None
    assert (shadow.percentage, shadow.min_compared) == (30, 50)
    assert shadow.analysis.on_inconclusive == "rollback"


@pytest.mark.parametrize(
    ("text", "says"),
    [
        (
            """
            model_name: fraud
            version: 2.0.0
            traffic_rule:
              canary:
                percentage: 110
            """,
            "traffic_rule.canary.percentage: a percentage lies between 0 and 100, got 110 (line 6)",
        ),
        (
            """
            model_name: fraud
            version: 2.0.0
            traffic_rule:
              canary:
                predikate: "true"
            """,
            "traffic_rule.canary.predikate: unknown field; did you mean 'predicate'? (line 6)",
        ),
        (
            """
            model_name: fraud
            version: 2.0.0
            traffic_rule:
              canary:
                analysis: {on_inconclusive: perhaps}
            """,
            "traffic_rule.canary.analysis.on_inconclusive: ",
        ),
        (
            """
            model_name: fraud
            version: 2.0
            traffic_rule: canary
            """,
            "version: reads as the number 2.0; put it in quotes",
        ),
        (
            """
            model_name: fraud
            version: 2.0.0
            traffic_rule: cannary
            """,
            "traffic_rule: not a strategy: 'cannary'; did you mean 'canary'?",
        ),
        (
            """
            model_name: fraud
            version: 2.0.0
            traffic_rule: {ab: {arms: {3.0.0: 10}}}
            """,
            "name a version, or the arms of `ab`; not both",
        ),
        (
            """
            version: 2.0.0
            traffic_rule: canary
            metadata: {name: x}
            """,
            "name the deployment or the model",
        ),
        (
            """
            model_name: fraud
            model: flights
            version: 2.0.0
            traffic_rule: canary
            """,
            "model: differs from model_name; write it once",
        ),
        (
            """
            model_name: fraud
            version: 2.0.0
            traffic_rule: canary
            colour: red
            """,
            "colour: unknown field",
        ),
    ],
)
def test_faults_are_told_where_they_were_written(text: str, says: str) -> None:
    assert any(says in fault for fault in faults(text)), faults(text)


def test_an_ab_test_is_no_strategy_of_a_deployment() -> None:
    strategies: list[object] = ["ab", {"ab": {"arms": {"2.0.0": 10}}}]
    for strategy in strategies:
        with pytest.raises(InvalidResource) as raised:
            read_document(
                {
                    "apiVersion": "modelplane.dev/v1",
                    "kind": "ModelDeployment",
                    "metadata": {"name": "fraud"},
                    "spec": {"strategy": strategy},
                }
            )
        assert "TrafficPolicy" in str(raised.value)


@given(
    st.fixed_dictionaries(
        {}, optional={"model": st.text(min_size=1, max_size=200), "version": st.text(max_size=80)}
    )
)
def test_a_policy_without_a_name_gets_a_valid_one_or_none(spec: dict[str, str]) -> None:
    name = default_name(spec)
    assert not name or check_name(name) == name


@pytest.mark.parametrize(
    ("path", "document", "written"),
    [
        ("spec.monitoringHooks[1]", POSTED, "monitoring_hooks[1]"),
        ("spec.trafficRule.canary.predicate", POSTED, "traffic_rule.canary.predicate"),
        ("spec.model", POSTED, "model_name"),
        ("spec.model", {"spec": {"model": "fraud"}}, "spec.model"),
        ("metadata.name", POSTED, "metadata.name"),
    ],
)
def test_paths_are_told_as_they_were_written(
    path: str, document: dict[str, Any], written: str
) -> None:
    assert written_path(path, document) == written
