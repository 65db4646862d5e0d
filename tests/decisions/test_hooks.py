"""Hooks: every spelling means one thing, unknown ones are refused, what they watch is judged."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from modelplane.decisions.hooks import (
    KNOWN_HOOKS,
    apply_hooks,
    check_hooks,
    hook_statuses,
    parse_hook,
    watches_drift,
)
from modelplane.decisions.rollout import effective_strategy
from modelplane.errors import InvalidResource
from modelplane.resources.environment import EnvironmentSpec
from modelplane.resources.model_deployment import ModelDeploymentSpec
from modelplane.resources.strategy import MetricRule, Strategy
from modelplane.resources.traffic_policy import TrafficPolicy
from tests.decisions.worlds import metadata

CANARY = Strategy.model_validate({"canary": {}})


@pytest.mark.parametrize(
    ("text", "watches", "percentile", "margin"),
    [
        ("latency_alert>95th", "latency", 95, None),
        ("latency_alert@95th", "latency", 95, None),
        ("latency_alert@p99", "latency", 99, None),
        ("latencyAlert > 50th", "latency", 50, None),
        ("latency_alert", "latency", None, None),
        ("latency_alert>20%", "latency", None, 0.2),
        ("latency_alert>95th>20%", "latency", 95, 0.2),
        ("error_alert", "errors", None, None),
        ("error_alert>1%", "errors", None, 0.01),
        ("error_rate@0.5%", "errors", None, 0.005),
        ("errors", "errors", None, None),
        ("drift_detection/enabled", "drift", None, None),
        ("drift_detection", "drift", None, None),
    ],
)
def test_spellings(text: str, watches: str, percentile: int | None, margin: float | None) -> None:
    hook = parse_hook(text)
    assert (hook.text, hook.watches, hook.percentile) == (text, watches, percentile)
    assert hook.margin == (pytest.approx(margin) if margin is not None else None)


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("precision_alert", "known are latency_alert, latency_alert>95th"),
        ("", "known are"),
        ("latency_alert>", "known are"),
        ("latency_alert>90th", "percentiles are 50th, 95th, 99th"),
        ("error_alert>95th", "errors have no percentile"),
        ("error_alert>100%", "below 100 %"),
        ("error_alert>0%", "above 0"),
        ("latency_alert>2000%", "at most 1000 %"),
        ("drift_detection/disabled", "leave it out"),
        ("drift_detection>5%", "write drift_detection/enabled"),
    ],
)
def test_what_is_no_hook_is_refused_with_those_that_are(text: str, says: str) -> None:
    with pytest.raises(InvalidResource) as raised:
        check_hooks(["latency_alert", text])
    (fault,) = raised.value.fields
    assert fault.path == "spec.monitoringHooks[1]"
    assert says in fault.message


def test_hooks_that_contradict_each_other_are_refused() -> None:
    with pytest.raises(InvalidResource) as raised:
        check_hooks(["latency_alert>95th", "latency_alert@p95", "latency_alert>99th"])
    (fault,) = raised.value.fields
    assert fault.path == "spec.monitoringHooks[2]"
    assert "latency_alert>95th" in fault.message


def test_the_known_ones_are_known() -> None:
    for text in KNOWN_HOOKS:
        assert parse_hook(text).text == text


@given(st.text(max_size=60))
def test_any_text_is_a_hook_or_is_refused_in_words(text: str) -> None:
    try:
        hook = parse_hook(text)
    except ValueError:
        with pytest.raises(InvalidResource, match="not known"):
            check_hooks([text])
    else:
        assert hook.watches in {"latency", "errors", "drift"}


def test_a_hook_sharpens_the_metric_that_is_there_and_keeps_the_rest() -> None:
    rules = (
        MetricRule(name="latency", margin=0.5, weight=3),
        MetricRule(name="precision"),
    )
    analysis = {"metrics": [rule.to_dict() for rule in rules], "alpha": 0.01}
    strategy = Strategy.model_validate({"shadow": {"analysis": analysis}})
    watching = apply_hooks(strategy, ["latency_alert>99th", "error_alert>2%"]).analysis
    assert watching is not None
    assert watching.alpha == 0.01
    assert {m.name: (m.percentile, m.margin, m.weight) for m in watching.metrics} == {
        "latency": (99, 0.5, 3),
        "precision": (None, None, 1),
        "errors": (None, 0.02, 1),
    }


HOOKS = st.lists(st.sampled_from([*KNOWN_HOOKS, "unknown_alert"]), max_size=6)
STRATEGIES = st.sampled_from(
    [
        {"canary": {}},
        {"shadow": {}},
        {"rolling": {}},
        {"ab": {"arms": [{"version": "2.0.0", "percentage": 5}]}},
        {"allAtOnce": {}},
        {"blueGreen": {}},
    ]
)


@given(STRATEGIES, HOOKS)
def test_hooks_take_nothing_away_and_change_nothing_else(
    written: dict[str, object], hooks: list[str]
) -> None:
    strategy = Strategy.model_validate(written)
    watching = apply_hooks(strategy, hooks)
    assert watching.type == strategy.type
    assert apply_hooks(watching, hooks) == watching
    if strategy.analysis is None or watching.analysis is None:
        assert watching == strategy
        return
    before = {metric.name for metric in strategy.analysis.metrics}
    assert before <= {metric.name for metric in watching.analysis.metrics}
    assert watching.analysis.alpha == strategy.analysis.alpha


@given(STRATEGIES, HOOKS)
def test_every_hook_has_a_state_and_says_why(written: dict[str, object], hooks: list[str]) -> None:
    strategy = Strategy.model_validate(written)
    statuses = hook_statuses(hooks, strategy)
    assert [status.hook for status in statuses] == hooks
    for status in statuses:
        blind = strategy.analysis is None and not status.hook.startswith("drift")
        active = not blind and not status.hook.startswith("unknown")
        assert (status.state == "active") == active
        assert status.message


def test_drift_is_watched_where_predictions_are_kept() -> None:
    (active,) = hook_statuses(["drift_detection/enabled"], CANARY)
    assert (active.state, "holds the ramp" in active.message) == ("active", True)
    (waiting,) = hook_statuses(["drift_detection/enabled"], CANARY, keeps_predictions=False)
    assert (waiting.state, "keeps no predictions" in waiting.message) == ("waiting", True)
    assert watches_drift(["latency_alert", "drift_detection"])
    assert not watches_drift(["latency_alert", "nonsense"])


def test_what_a_hook_says_is_what_is_judged() -> None:
    rule = MetricRule(name="latency", margin=0.5, percentile=99)
    written = {"canary": {"analysis": {"metrics": [rule.to_dict()]}}}
    (declared, errors) = hook_statuses(
        ["latency_alert", "error_alert>1%"], Strategy.model_validate(written)
    )
    assert "stable's 99th percentile by more than 50 %" in declared.message
    # Harm is a tenth of the margin; the margin is what promotion asks for.
    assert errors.message == (
        "rolls back when the version fails more than stable; passes within 1 points of it"
    )
    (plain,) = hook_statuses(["latency_alert>95th"], CANARY)
    assert "stable's 95th percentile by more than 20 %" in plain.message


def test_the_strategy_that_holds_for_a_policy_watches_what_its_hooks_say() -> None:
    policy = TrafficPolicy.model_validate(
        {
            "metadata": metadata("west").to_dict(),
            "spec": {
                "model": "delay",
                "version": "2.0.0",
                "trafficRule": CANARY.to_dict(),
                "monitoringHooks": ["latency_alert>95th"],
            },
        }
    )
    environment = EnvironmentSpec.model_validate({"stage": "production", "gateway": {"port": 1}})
    strategy = effective_strategy(ModelDeploymentSpec(model="delay"), environment, policy)
    assert strategy.analysis is not None
    assert [m.percentile for m in strategy.analysis.metrics if m.name == "latency"] == [95]
