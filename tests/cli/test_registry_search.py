"""registry search: what is found, and that the table shows what was asked about."""

from __future__ import annotations

import json
from datetime import timedelta
from typing import Any

import pytest

from modelplane.resources.dataset import DatasetReference
from modelplane.resources.meta import Metadata
from modelplane.resources.model import (
    Model,
    ModelStatus,
    ModelVersion,
    ModelVersionSpec,
    ModelVersionStatus,
)
from tests.cli.conftest import Run
from tests.cli.fakes import NOW, FakeClient


def version(model: str, number: int, metrics: dict[str, float], **status: Any) -> ModelVersion:
    spec = ModelVersionSpec(
        model=model,
        version=f"{number}.0.0",
        number=number,
        flavour="sklearn",
        metrics=metrics,
        datasets=(DatasetReference(name="transactions", version=str(number)),),
    )
    name = f"{model}@{number}.0.0"
    made = Metadata(name=name, created_at=NOW - timedelta(days=number))
    return ModelVersion(metadata=made, spec=spec, status=ModelVersionStatus(**status))


@pytest.fixture
def client() -> FakeClient:
    return FakeClient(
        version("fraud", 1, {"auc": 0.91, "f1": 0.5}, tags={"team": "risk"}),
        version("fraud", 2, {"auc": 0.95}, tags={"team": "risk"}, aliases=("champion",)),
        version("it's", 3, {"auc": 0.99}, tags={"team": "ads"}),
        Model(metadata=Metadata(name="fraud"), status=ModelStatus(tags={"team": "risk"})),
    )


def test_the_table_shows_what_was_asked_about(run: Run) -> None:
    result = run(
        "registry", "search", "tags.team = 'risk' and metrics.auc > 0.9",
        "--order-by", "metrics.auc DESC",
    )  # fmt: skip
    assert result.stdout == (
        "NAME         TEAM  AUC   NUMBER  FORMAT   SIZE  ALIASES   AGE\n"
        "fraud@2.0.0  risk  0.95  2       sklearn  -     champion  2d\n"
        "fraud@1.0.0  risk  0.91  1       sklearn  -     -         1d\n"
    )


def test_without_a_metric_asked_about_all_are_shown(run: Run) -> None:
    lines = run("registry", "search", "--model", "it's").stdout.splitlines()
    assert lines[0].split() == ["NAME", "NUMBER", "FORMAT", "SIZE", "METRICS", "ALIASES", "AGE"]
    assert lines[1].split() == ["it's@3.0.0", "3", "sklearn", "-", "auc=0.99", "-", "3d"]


def test_model_and_filter_together_and_a_limit(run: Run) -> None:
    words = ("registry", "search", "--model", "fraud", "--order-by", "number DESC", "-o", "name")
    assert run(*words).stdout == "modelversion/fraud@2.0.0\nmodelversion/fraud@1.0.0\n"
    assert run(*words, "--limit", "1").stdout == "modelversion/fraud@2.0.0\n"
    found = run(*words, "dataset = 'transactions@1'").stdout
    assert found == "modelversion/fraud@1.0.0\n"


def test_the_list_as_json(run: Run) -> None:
    listing = json.loads(run("registry", "search", "metrics.f1 IS NOT NULL", "-o", "json").stdout)
    assert listing["kind"] == "ModelVersionList"
    assert [item["spec"]["version"] for item in listing["items"]] == ["1.0.0"]


def test_models_are_searched_too(run: Run) -> None:
    result = run("registry", "search", "--kind", "models", "tags.team LIKE 'r%'", "-o", "name")
    assert result.stdout == "model/fraud\n"
    refused = run("registry", "search", "--kind", "models", "--model", "fraud")
    assert refused.exit_code == 2


def test_nothing_found_leaves_stdout_empty(run: Run) -> None:
    result = run("registry", "search", "metrics.auc > 2")
    assert (result.exit_code, result.stdout) == (0, "")
    assert "no model-versions match" in result.stderr


def test_a_mistake_is_shown_with_its_place(run: Run) -> None:
    result = run("registry", "search", "metrics.auc > 0.9 and flavor = 'sklearn' and autor = 'ann'")
    assert result.exit_code == 2
    assert "at character 46" in result.stderr
    assert "'author'" in result.stderr


def test_kinds_that_are_not_searched_are_named(run: Run) -> None:
    result = run("registry", "search", "--kind", "rollouts")
    assert result.exit_code == 2
    assert "model-versions" in result.stderr
