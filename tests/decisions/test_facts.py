"""Facts: what conditions see of a version, its data and what its gates measured."""

from __future__ import annotations

from typing import Any

import pytest

from modelplane.decisions.facts import Facts, Request, build_facts, fact_names
from tests.decisions.gates import gate, model, pipeline, result_of, version

LATENCY: dict[str, Any] = {"p-95": {"latency": {}}}
REQUEST = Request("production", "production", "ana", automatic=True)


def facts(stages: Any = (), of: Any = None, **more: Any) -> Facts:
    return build_facts(
        of or version(), model(team="risk"), stages, REQUEST, fact_names([pipeline()]), **more
    )


def test_the_record_of_the_version_and_the_request() -> None:
    made = version(
        metrics={"accuracy": 0.99}, flavour="sklearn", parameters={"depth": "3"},
        status={"tags": {"risk": "low"}},
    )  # fmt: skip
    values = facts(of=made).values
    assert {
        "version.model": "delay", "version.semantic": "2.0.0", "version.number": 2,
        "version.author": "vera", "version.flavour": "sklearn", "version.format": "skops",
        "version.metrics": {"accuracy": 0.99}, "version.parameters": {"depth": "3"},
        "version.tags": {"risk": "low"}, "model.labels": {"team": "risk"},
        "signature.present": False, "promotion.environment": "production",
        "promotion.requester": "ana", "promotion.automatic": True, "champion.present": False,
    }.items() <= values.items()  # fmt: skip
    assert "contracts.can_deploy" not in values, "not known is not false"
    assert facts(can_deploy=False).values["contracts.can_deploy"] is False


def test_what_an_ab_test_concluded_is_known_only_where_it_was_looked_for() -> None:
    assert "ab.passed" not in facts().values
    assert facts(ab_verdict="").values["ab.passed"] is False
    assert facts(ab_verdict="harm").values["ab.verdict"] == "harm"
    assert facts(ab_verdict="pass").values["ab.passed"] is True


def test_what_the_author_claims_is_not_what_was_measured() -> None:
    claimed = facts(of=version(metrics={"accuracy": 0.99}))
    assert claimed.metric("accuracy") is None
    run = gate(pipeline()).run
    assert run is not None
    measured = facts([("quality", result_of(run, "quality", {"accuracy": 0.91}, champion=0.9))])
    assert measured.metric("accuracy") == 0.91
    assert measured.values["stages.quality.accuracy"] == 0.91
    assert measured.values["stages.quality.passed"] is True
    assert measured.values["champion.metrics.accuracy"] == 0.9


def test_a_metric_of_two_stages_has_no_value_of_its_own() -> None:
    run = gate(pipeline()).run
    assert run is not None
    twice = [("day", result_of(run, "quality", {"accuracy": 0.9})),
             ("p95-night", result_of(run, "quality", {"accuracy": 0.8}))]  # fmt: skip
    found = facts(twice)
    assert found.metric("accuracy") is None
    assert found.values["stages.day.accuracy"] == 0.9
    assert found.values["stages.p95_night.accuracy"] == 0.8
    same = facts([("a-b", twice[0][1]), ("a_b", twice[1][1])])
    assert not [name for name in same.values if name.startswith("stages.")]


def test_slices_are_not_the_metric() -> None:
    run = gate(pipeline()).run
    assert run is not None
    result = result_of(run, "quality", {"accuracy": 0.9})
    outcome = result.spec.outcome
    sliced = outcome.measurements[0].with_(slice="origin=JFK", value=0.1)
    changed = result.with_spec(outcome=outcome.with_(measurements=(*outcome.measurements, sliced)))
    assert facts([("quality", changed)]).metric("accuracy") == 0.9


@pytest.mark.parametrize(
    ("datasets", "expected"),
    [
        ([("flights", 10, "training")], {"data.rows": 10, "data.flights.rows": 10}),
        ([("flights", 10, "training"), ("weather", 5, "training")],
         {"data.rows": 15, "data.flights.rows": 10, "data.weather.rows": 5}),
        ([("flights", None, "training")], {}),
        ([("flights", 10, "training"), ("weather", None, "training")], {"data.flights.rows": 10}),
        ([("flights", 10, "test")], {"data.flights.rows": 10}),
        ([("flights", 3, "training"), ("flights", 9, "test")],
         {"data.rows": 3, "data.flights.rows": 3}),
        ([("a-b", 1, "training"), ("a b", 2, "training")], {"data.rows": 3}),
    ],
)  # fmt: skip
def test_rows_of_the_data(datasets: list[tuple[str, int | None, str]], expected: Any) -> None:
    references = [{"name": n, "rows": rows, "context": of} for n, rows, of in datasets]
    values = facts(of=version(datasets=references)).values
    assert {n: v for n, v in values.items() if n.startswith("data.")} == expected


def test_names_come_from_the_stages_and_the_registered_data() -> None:
    names = fact_names([pipeline("load", **LATENCY)], ["flight data", "a-b", "a b"])
    assert names.types["stages.p_95.latency_p95_s"] == "number"
    assert names.types["metrics.latency_p95_s"] == "number"
    assert names.types["data.flight_data.rows"] == "number"
    assert names.types["data.flight_data.version"] == "text"
    assert "metrics.accuracy" not in names.types
    assert "data.a_b.rows" not in names.types, "two datasets would have this name"
    assert names.measured["latency_p95_s"] == ("p-95",)


def test_every_value_has_a_declared_name_of_its_type() -> None:
    passed = gate(pipeline())
    names = fact_names([pipeline()], ["flights"])
    made = version(datasets=[{"name": "flights", "rows": 3, "version": "1"}])
    found = build_facts(
        made,
        model(),
        list(passed.results.items()),
        REQUEST,
        names,
        can_deploy=True,
        ab_verdict="pass",
    )
    types: dict[str, Any] = {
        "number": (int, float), "text": str, "truth": bool, "texts": dict, "numbers": dict,
    }  # fmt: skip
    for name, value in found.values.items():
        assert isinstance(value, types[names.types[name]]), name
