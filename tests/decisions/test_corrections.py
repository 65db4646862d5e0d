"""Corrections: the record stays, what it should have said stands beside it and counts."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from modelplane.decisions.corrections import (
    MAX_CORRECTIONS,
    canonical_field,
    correct_version,
    effective,
    read_value,
)
from modelplane.errors import Conflict, InvalidResource
from modelplane.resources.meta import Metadata
from modelplane.resources.model import Correction, ModelVersion, ModelVersionSpec, Training

NOW = datetime(2026, 3, 1, 12, 0, tzinfo=UTC)
VERSION = ModelVersion(
    metadata=Metadata(name="fraud@1.0.0"),
    spec=ModelVersionSpec(
        model="fraud",
        version="1.0.0",
        flavour="sklearn",
        metrics={"accuracy": 0.93, "recall": 0.5},
        parameters={"depth": "3"},
        training=Training(python="3.11.4", git_commit="abc", git_dirty=True),
        feature_configuration={"window": "7d"},
    ),
)


def correction(field: str, value: Any, reason: str = "wrong test set") -> Correction:
    return Correction(field=field, value=value, subject="ana", at=NOW, reason=reason)


def corrected(*pairs: tuple[str, Any]) -> ModelVersion:
    version = VERSION
    for field, value in pairs:
        version = correct_version(version, correction(field, value))
    return version


def seen(version: ModelVersion) -> ModelVersionSpec:
    return effective(version.spec, version.status.corrections)


def test_the_record_stays_and_the_corrected_view_differs_in_one_field() -> None:
    version = corrected(("metrics.accuracy", 0.91))
    assert version.spec == VERSION.spec
    assert seen(version) == VERSION.spec.with_(metrics={"accuracy": 0.91, "recall": 0.5})
    (kept,) = version.status.corrections
    assert (kept.field, kept.value, kept.subject, kept.at) == ("metrics.accuracy", 0.91, "ana", NOW)


@pytest.mark.parametrize(
    ("field", "value", "read"),
    [
        ("metrics.f1", 1, lambda spec: spec.metrics["f1"] == 1.0),
        ("metrics.recall", None, lambda spec: "recall" not in spec.metrics),
        ("metrics.a.b", 0.1, lambda spec: spec.metrics["a.b"] == 0.1),
        ("parameters.depth", "4", lambda spec: spec.parameters == {"depth": "4"}),
        ("flavour", "onnx", lambda spec: spec.flavour == "onnx"),
        ("flavour", None, lambda spec: spec.flavour == ""),
        ("training.git_commit", "def", lambda spec: spec.training.git_commit == "def"),
        ("training.gitCommit", None, lambda spec: spec.training.git_commit == "unknown"),
        ("training.git_dirty", False, lambda spec: spec.training.git_dirty is False),
        ("training.gitDirty", None, lambda spec: spec.training.git_dirty is None),
        ("training.hardware", "A100", lambda spec: spec.training.python == "3.11.4"),
        ("feature_configuration.window", {"days": 30},
         lambda spec: spec.feature_configuration == {"window": {"days": 30}}),
        ("featureConfiguration.lag", 2, lambda spec: spec.feature_configuration["lag"] == 2),
    ],
)  # fmt: skip
def test_each_field_that_can_be_corrected(field: str, value: Any, read: Any) -> None:
    assert read(seen(corrected((field, value))))


def test_the_last_correction_of_a_field_counts_and_all_are_kept() -> None:
    version = corrected(("metrics.accuracy", 0.91), ("metrics.accuracy", 0.92))
    assert seen(version).metrics["accuracy"] == 0.92
    assert len(version.status.corrections) == 2


def test_saying_again_what_holds_already_changes_nothing() -> None:
    version = corrected(("metrics.accuracy", 0.91))
    assert correct_version(version, correction("metrics.accuracy", 0.91)) is version
    assert correct_version(VERSION, correction("flavour", "sklearn")) is VERSION


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("metrics.accuracy", "0.91"),
        ("metrics.accuracy", True),
        ("metrics.accuracy", float("nan")),
        ("metrics.accuracy", 10**400),
        ("parameters.depth", 3),
        ("training.git_dirty", "yes"),
        ("flavour", 7),
        ("flavour", "x" * 10_001),
        ("feature_configuration.window", "x" * 10_001),
        ("metrics.", 1.0),
        ("metrics.a\nb", 1.0),
        ("metrics", {"accuracy": 1}),
        ("datasets", []),
        ("artifact.digest", "sha256:0"),
        ("version", "2.0.0"),
        ("training.packages", {}),
        ("", ""),
    ],
)
def test_what_cannot_be_corrected_is_refused(field: str, value: Any) -> None:
    with pytest.raises(InvalidResource):
        correct_version(VERSION, correction(field, value))


def test_a_misspelt_field_names_the_nearest_and_a_correction_needs_a_reason() -> None:
    with pytest.raises(InvalidResource, match=r"did you mean 'training\.git_commit'"):
        correct_version(VERSION, correction("training.git_comit", "abc"))
    with pytest.raises(InvalidResource, match="says why"):
        correct_version(VERSION, correction("flavour", "onnx", reason=" "))


def test_there_is_an_end_to_corrections() -> None:
    version = corrected(*(("metrics.accuracy", float(i)) for i in range(MAX_CORRECTIONS)))
    with pytest.raises(Conflict, match="200 corrections"):
        correct_version(version, correction("metrics.accuracy", -1.0))


@given(
    st.lists(
        st.tuples(
            st.sampled_from(["metrics.a", "metrics.b", "parameters.p", "flavour"]),
            st.one_of(st.none(), st.floats(allow_nan=False, allow_infinity=False), st.text()),
        ),
        max_size=20,
    )
)
def test_the_corrected_view_is_that_of_a_replay(pairs: list[tuple[str, Any]]) -> None:
    version, metrics, parameters, flavour = VERSION, dict(VERSION.spec.metrics), {}, "sklearn"
    parameters = dict(VERSION.spec.parameters)
    for field, value in pairs:
        try:
            version = correct_version(version, correction(field, value))
        except InvalidResource:
            continue
        place, _, name = field.partition(".")
        if place == "flavour":
            flavour = value or ""
        else:
            entries: dict[str, Any] = metrics if place == "metrics" else parameters
            entries.pop(name, None)
            if value is not None:
                entries[name] = value
    spec = seen(version)
    assert (spec.metrics, spec.parameters, spec.flavour) == (metrics, parameters, flavour)
    assert version.spec == VERSION.spec


def test_nothing_corrected_is_the_record_itself() -> None:
    assert effective(VERSION.spec, ()) is VERSION.spec


@pytest.mark.parametrize(
    ("field", "text", "value"),
    [
        ("metrics.accuracy", "0.91", 0.91),
        ("metrics.accuracy", "much", "much"),
        ("metrics.accuracy", "nan", "nan"),
        ("parameters.depth", "3", "3"),
        ("training.git_dirty", "false", False),
        ("training.git_commit", "123", "123"),
        ("feature_configuration.lag", "[1, 2]", [1, 2]),
        ("feature_configuration.lag", "two", "two"),
        ("feature_configuration.lag", "NaN", "NaN"),
    ],
)
def test_what_people_type_becomes_a_value_of_the_field_s_kind(
    field: str, text: str, value: Any
) -> None:
    assert read_value(field, text) == value


def test_fields_have_one_canonical_path() -> None:
    assert canonical_field("training.gitCommit") == "training.git_commit"
    assert canonical_field("featureConfiguration.window.days") == (
        "feature_configuration.window.days"
    )
