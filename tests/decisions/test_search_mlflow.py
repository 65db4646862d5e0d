"""MLflow's filters and orders: what its registry accepts, finds and says (MLflow 3.17.2)."""

from __future__ import annotations

from contextlib import suppress
from datetime import UTC, datetime, timedelta
from typing import Any, Literal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from modelplane.decisions.search import (
    MlflowFilterError,
    compile_mlflow_filter,
    compile_mlflow_order,
)
from modelplane.resources.meta import Metadata
from modelplane.resources.model import (
    Model,
    ModelSpec,
    ModelStatus,
    ModelVersion,
    ModelVersionSpec,
    ModelVersionStatus,
    Training,
)

NOW = datetime(2026, 3, 1, 12, 0, tzinfo=UTC)


def model(name: str, tags: dict[str, str], at: int) -> Model:
    made = Metadata(name=name, created_at=NOW, updated_at=NOW + timedelta(seconds=at))
    return Model(metadata=made, spec=ModelSpec(), status=ModelStatus(tags=tags))


def version(name: str, number: int, run: str, tags: dict[str, str], at: int) -> ModelVersion:
    spec = ModelVersionSpec(
        model=name,
        version=f"{number}.0.0",
        number=number,
        source=f"s3://bucket/{name}/{number}",
        training=Training(run_id=run),
        registered_at=NOW - timedelta(seconds=at),
    )
    status = ModelVersionStatus(tags=tags, changed_at=NOW + timedelta(seconds=at))
    return ModelVersion(metadata=Metadata(name=f"{name}@{number}.0.0"), spec=spec, status=status)


MODELS = [
    model("fraud", {"team": "risk", "a b": "x"}, 3),
    model("Fraud_2", {"team": "Risk"}, 1),
    model("ads model", {}, 2),
    model("prompt", {"mlflow.prompt.is_prompt": "true", "team": "risk"}, 4),
]
BURIED = version("fraud", 9, "r1", {"team": "risk"}, 9).with_status(deleted_at=NOW)
VERSIONS = [
    version("fraud", 1, "r1", {"team": "risk"}, 1),
    version("fraud", 2, "unknown", {"team": "it''s", "a.b": "v1"}, 4),
    version("Fraud_2", 1, "r2", {"team": "Risk", "share": "100%"}, 3),
    version("prompt", 1, "r1", {"mlflow.prompt.is_prompt": "true"}, 2),
    BURIED,
]


def found(text: str, entity: Literal["model", "version"] = "version") -> list[str]:
    wanted = compile_mlflow_filter(text, entity)
    if entity == "model":
        return [m.metadata.name for m in MODELS if wanted(m)]
    return [v.metadata.name.removesuffix(".0.0") for v in VERSIONS if wanted(v)]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("", ["fraud@1", "fraud@2", "Fraud_2@1"]),
        ("name = 'fraud'", ["fraud@1", "fraud@2"]),
        ('name = "fraud" and version_number > 1', ["fraud@2"]),
        ("version_number = '1'", ["fraud@1", "Fraud_2@1"]),
        ("name LIKE 'fraud%'", ["fraud@1", "fraud@2"]),
        ("name ilike 'FRAUD%'", ["fraud@1", "fraud@2", "Fraud_2@1"]),
        ("name IN ('fraud', 'x') AND", ["fraud@1", "fraud@2"]),
        ("name not in ('fraud',)", ["Fraud_2@1"]),
        ("run_id = 'r1'", ["fraud@1"]),
        ("run_id != 'r1'", ["fraud@2", "Fraud_2@1"]),
        ("run_id IN ('r1','r2')", ["fraud@1", "Fraud_2@1"]),
        ("source_path LIKE 's3://bucket/fraud/%'", ["fraud@1", "fraud@2"]),
        ("tags.team = 'risk' attribute.name = 'fraud'", ["fraud@1"]),
        ("tag.team != 'risk'", ["fraud@2", "Fraud_2@1"]),
        ("tags.`a.b` = 'v1' and tags.a.b LIKE 'v_'", ["fraud@2"]),
        ("tags.team = 'it''s'", ["fraud@2"]),
        ("tags.share = '100%'", ["Fraud_2@1"]),
        ("tags.`mlflow.prompt.is_prompt` = 'true'", ["prompt@1"]),
        ("tags.`mlflow.prompt.is_prompt` != 'true'", ["fraud@1", "fraud@2", "Fraud_2@1"]),
        ("tags.`mlflow.prompt.is_prompt` = 'false'", ["fraud@1", "fraud@2", "Fraud_2@1"]),
    ],
)
def test_versions_that_are_found(text: str, expected: list[str]) -> None:
    assert found(text) == expected


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("", ["fraud", "Fraud_2", "ads model"]),
        ("name LIKE '%a%'", ["fraud", "Fraud_2", "ads model"]),
        ("name != 'fraud' and tags.team ILIKE 'risk'", ["Fraud_2"]),
        ("tags.\"a b\" = 'x'", ["fraud"]),
        ("tags.`mlflow.prompt.is_prompt` = 'true' and tags.team = 'risk'", ["prompt"]),
    ],
)
def test_models_that_are_found(text: str, expected: list[str]) -> None:
    assert found(text, "model") == expected


_TYPES = "Valid entity types are ('attribute', 'tag', 'tags')"
_QUOTES = (
    "Parameter value is either not quoted or unidentified quote types used for string value x. "
    "Use either single or double quotes."
)


@pytest.mark.parametrize(
    ("entity", "text", "message"),
    [
        ("version", "metrics.x > 1", f"Invalid entity type 'metrics'. {_TYPES}"),
        (
            "version",
            "current_stage = 'None'",
            "Invalid attribute key 'current_stage' specified. Valid keys are "
            "'{'name', 'run_id', 'source_path', 'version_number'}'",
        ),
        (
            "model",
            "attribute.`name` = 'a'",
            "Invalid attribute key '`name`' specified. Valid keys are '{'name'}'",
        ),
        ("version", "name = x", _QUOTES),
        ("version", "tags.a = x", _QUOTES),
        ("version", "name > 'a'", "Invalid comparator for attribute: >"),
        ("version", "run_id ~ 'a'", "Invalid comparator for attribute: ~"),
        ("version", "name NOT LIKE 'a'", "Invalid comparator for attribute: NOT LIKE"),
        ("model", "tags.a >= 'a'", "Invalid comparator for tag: >="),
        (
            "version",
            "version_number LIKE '1'",
            "Invalid comparator for attribute version_number: LIKE",
        ),
        (
            "version",
            "version_number = 1.5",
            "Invalid value for numeric attribute 'version_number': 1.5",
        ),
        (
            "version",
            "version_number = 'abc'",
            "Invalid value for numeric attribute 'version_number': 'abc'",
        ),
        (
            "version",
            "name = 5",
            "Only the '{'creation_timestamp', 'last_updated_timestamp', 'version_number'}' "
            "attributes support comparison with numeric values.",
        ),
        (
            "model",
            "name = 5",
            "Expected a quoted string value or a list of quoted string values for attributes. "
            "Got value 5",
        ),
        (
            "version",
            "tags.a = 5",
            "Expected a quoted string value for tag (e.g. 'my-value'). Got value 5",
        ),
        (
            "version",
            "tags.a IN ('b', 'c')",
            "Expected a quoted string value for tag (e.g. 'my-value'). Got value ('b', 'c')",
        ),
        (
            "version",
            "source_path IN ('a')",
            "Only ['name', 'run_id'] attributes support comparison with a list of quoted string "
            "values.",
        ),
        (
            "version",
            "name IN ()",
            "While parsing a list in the query, expected a non-empty list of string values, "
            "but got empty list",
        ),
        (
            "model",
            "name IN (1, 2)",
            "While parsing a list in the query, expected string value, punctuation, or "
            "whitespace, but got different type in list: (1, 2)",
        ),
        ("version", "name = 'a' OR name = 'b'", "Invalid clause(s) in filter string: OR"),
        ("version", "version = 1", "Invalid clause(s) in filter string: version, =, 1"),
        ("version", "name IN 'a'", "Invalid clause(s) in filter string: name, IN, 'a'"),
        ("model", "tags.a.b IS NULL ('x')", "Invalid clause(s) in filter string: ('x')"),
        ("model", "5 = 'x'", "Invalid comparison clause. Expected 'Identifier' found '5'"),
        (
            "version",
            "name = 'a'; name = 'b'",
            "Search filter contained multiple expression \"name = 'a'; name = 'b'\". "
            "Provide AND-ed expression list.",
        ),
    ],
)
def test_what_mlflow_refuses_is_refused_in_its_words(
    entity: Literal["model", "version"], text: str, message: str
) -> None:
    with pytest.raises(MlflowFilterError) as raised:
        compile_mlflow_filter(text, entity)
    assert raised.value.message == message


def ordered(entity: Literal["model", "version"], *order_by: str) -> list[str]:
    order = compile_mlflow_order(order_by, entity)
    listed: list[Any] = order.sort(MODELS if entity == "model" else VERSIONS[:4])
    return [item.metadata.name.removesuffix(".0.0") for item in listed]


def test_orders() -> None:
    assert ordered("version") == ["fraud@2", "Fraud_2@1", "prompt@1", "fraud@1"]
    assert ordered("version", "name") == ["Fraud_2@1", "fraud@2", "fraud@1", "prompt@1"]
    assert ordered("version", "version_number DESC", "attribute.name desc") == [
        "fraud@2", "prompt@1", "fraud@1", "Fraud_2@1",
    ]  # fmt: skip
    assert ordered("version", "creation_timestamp")[0] == "fraud@2"
    assert ordered("model") == ["Fraud_2", "ads model", "fraud", "prompt"]
    assert ordered("model", "timestamp DESC") == ["prompt", "fraud", "ads model", "Fraud_2"]
    assert ordered("model", "last_updated_timestamp")[0] == "Fraud_2"


@pytest.mark.parametrize(
    ("entity", "order_by", "message"),
    [
        ("version", ["name foo"], "Invalid ordering key in order_by clause 'name foo'."),
        ("version", [""], "Invalid order_by clause ''. Could not be parsed."),
        ("model", ["name,x"], "Invalid order_by clause 'name,x'. Could not be parsed."),
        ("version", ["name asc desc"], "Invalid order_by clause 'name asc desc'. "),
        (
            "version",
            ["run_id"],
            "Invalid attribute key 'run_id' specified. Valid keys are '{'creation_timestamp', "
            "'last_updated_timestamp', 'name', 'version_number'}'",
        ),
        ("version", ["tags.x"], "Invalid order by key 'x' specified. Valid keys are {"),
        ("version", ["bar.name"], f"Invalid entity type 'bar'. {_TYPES}"),
        (
            "model",
            ["`name`"],
            "Invalid order by key '`name`' specified. Valid keys are '{'name', 'timestamp'}'",
        ),
        (
            "model",
            ["timestamp", "last_updated_timestamp DESC"],
            "`order_by` contains duplicate fields: ['timestamp', 'last_updated_timestamp DESC']",
        ),
    ],
)
def test_orders_that_mlflow_refuses(
    entity: Literal["model", "version"], order_by: list[str], message: str
) -> None:
    with pytest.raises(MlflowFilterError) as raised:
        compile_mlflow_order(order_by, entity)
    assert raised.value.message.startswith(message)


@given(
    st.text()
    | st.lists(
        st.sampled_from(
            ["name", "tags.`b`", "version_number", "run_id", ">", "=", "~", "LIKE", "IN", "NOT",
             "IS", "NULL", "AND", "OR", "(", ")", ",", ";", "'x'", '"y"', "1", "-2.5", "version"]
        )
    ).map(" ".join),
    st.sampled_from(["model", "version"]),
)  # fmt: skip
def test_no_text_crashes_it(text: str, entity: Literal["model", "version"]) -> None:
    with suppress(MlflowFilterError):  # any other error fails the test
        found(text, entity)
    with suppress(MlflowFilterError):
        assert compile_mlflow_order([text], entity).text
