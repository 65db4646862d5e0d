"""The short form of pipelines means what the full form says."""

from __future__ import annotations

from textwrap import dedent
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from modelplane.errors import InvalidResource
from modelplane.resources.manifest import canonical, read_document, read_documents
from modelplane.resources.validation_pipeline import CHECKS, ValidationPipeline


def read(text: str) -> ValidationPipeline:
    (resource,) = read_documents(dedent(text), "here")
    assert isinstance(resource, ValidationPipeline)
    return resource


def faults(text: str) -> list[str]:
    with pytest.raises(InvalidResource) as raised:
        read_documents(dedent(text), "here")
    return [str(field) for field in raised.value.fields]


ISSUE = """
    pipeline:
      stages: [validate:accuracy, validate:latency, approve:security_scan]
      triggers: {on_model_push: true}
"""


def test_the_form_of_the_issue() -> None:
    pipeline = read(ISSUE)
    assert pipeline.metadata.name == "default"
    assert [(s.name, s.role, s.check) for s in pipeline.spec.stages] == [
        ("accuracy", "validate", "accuracy"),
        ("latency", "validate", "latency"),
        ("security_scan", "approve", "security_scan"),
    ]
    assert pipeline.spec.triggers.on_model_push


@pytest.mark.parametrize(
    "text",
    [
        """
        pipeline: {stages: [validate:accuracy]}
        triggers: {on_model_push: true}
        """,
        """
        pipeline: [accuracy]
        triggers: [on_model_push]
        """,
        """
        pipeline: {stages: [{"validate:accuracy": {}}], triggers: [onModelPush]}
        """,
        """
        pipeline: {stages: [{accuracy: null, name: accuracy}], triggers: on_model_push}
        """,
        """
        apiVersion: modelplane.dev/v1
        kind: ValidationPipeline
        metadata: {name: default}
        spec: {stages: [accuracy], triggers: {onModelPush: true}}
        """,
        """
        apiVersion: modelplane.dev/v1
        kind: Pipeline
        metadata: {name: default}
        stages: [{name: accuracy, role: validate, accuracy: {}}]
        triggers: [on-model-push]
        """,
    ],
)
def test_many_ways_to_write_the_same(text: str) -> None:
    same = read("pipeline: {stages: [validate:accuracy], triggers: {on_model_push: true}}")
    assert canonical(read(text)) == canonical(same)


def test_configuration_and_fields_of_the_stage_stand_beside_each_other() -> None:
    pipeline = read("""
        pipeline:
          name: fraud-quality
          models: [fraud]
          max_parallel: 2
          stages:
            - validate:accuracy: {dataset: fraud-test, threshold: 0.92, max_rows: 500}
              timeout: 5m
              needs: [suite]
            - {"validate:command": "python check.py", name: suite}
            - approve:security_scan
          triggers:
            - on_dataset: fraud-test
            - schedule: 0 3 * * *
            - on_contract
    """)
    accuracy, suite, scan = pipeline.spec.stages
    assert accuracy.accuracy is not None
    assert (accuracy.accuracy.dataset, accuracy.accuracy.max_rows) == ("fraud-test", 500)
    assert (accuracy.timeout_s, accuracy.needs) == (300.0, ("suite",))
    assert suite.command is not None
    assert (suite.name, suite.command.run) == ("suite", ("python", "check.py"))
    assert scan.role == "approve"
    assert pipeline.metadata.name == "fraud-quality"
    assert pipeline.spec.models.names == ("fraud",)
    assert pipeline.spec.max_parallel == 2
    assert pipeline.spec.triggers.on_dataset == ("fraud-test",)
    assert pipeline.spec.triggers.schedule == "0 3 * * *"
    assert pipeline.spec.triggers.on_contract


def test_words_that_stand_twice_are_numbered_around_given_names() -> None:
    pipeline = read("""
        pipeline:
          - accuracy
          - accuracy: {dataset: other}
          - {name: accuracy-2, latency: {}}
          - accuracy: {dataset: third}
    """)
    names = [stage.name for stage in pipeline.spec.stages]
    assert names == ["accuracy", "accuracy-3", "accuracy-2", "accuracy-4"]


@pytest.mark.parametrize(
    ("text", "path", "says"),
    [
        ("pipeline: [validate:acuracy]", "pipeline[0]", "did you mean 'accuracy'?"),
        ("pipeline: {stages: [check:accuracy]}", "pipeline.stages[0]", "not a role"),
        ("pipeline: {stages: [accuracy], triggers: [on_push]}", "pipeline.triggers[0]",
         "not a trigger"),
        ("pipeline: {stages: [accuracy], triggers: {on_dataset: true}}",
         "pipeline.triggers.on_dataset", "needs the datasets"),
        ("pipeline: {stages: [accuracy], triggers: {schedule: often}}",
         "pipeline.triggers.schedule", "cron"),
        ("pipeline: {stages: [{'validate:accuracy': {treshold: 1}}]}",
         "pipeline.stages[0].validate:accuracy.treshold", "threshold"),
        ("pipeline: {stages: [{'validate:accuracy': {threshold: high}}]}",
         "pipeline.stages[0].validate:accuracy.threshold", "number"),
        ("pipeline: {stages: [accuracy], stage: 1}", "pipeline.stage", "'stages'"),
        ("pipeline: {stages: [accuracy]}\ntrigers: [on_model_push]", "trigers", "'triggers'"),
        ("pipeline: 7", "pipeline", "must be a map"),
        ("pipeline: {stages: []}", "pipeline.stages", "not empty"),
        ("pipeline: [{accuracy: {}, latency: {}}]", "pipeline[0]", "exactly one check"),
        ("pipeline: [{accuracy: {}, shards: 3}]", "pipeline[0]", "cases"),
        ("pipeline: [{accuracy: {}, needs: [nothing]}]", "", "needs names no stage"),
        ("pipeline: {stages: [accuracy], triggers: {on_model_push: true}}\ntriggers: []",
         "triggers", "differs"),
    ],
)  # fmt: skip
def test_faults_are_told_where_they_were_written(text: str, path: str, says: str) -> None:
    told = faults(text)
    assert len(told) == 1, told
    assert told[0].startswith(path), told
    assert says in told[0], told


def test_names_given_twice_are_a_fault_and_not_renamed() -> None:
    (told,) = faults("pipeline: [{name: a, accuracy: {}}, {name: a, latency: {}}]")
    assert "named twice" in told


@given(
    st.lists(
        st.tuples(st.sampled_from(["", "validate:", "approve:"]), st.sampled_from(CHECKS)),
        min_size=1,
        max_size=6,
    )
)
def test_the_full_form_of_any_words_reads_as_itself(words: list[tuple[str, str]]) -> None:
    needed: dict[str, Any] = {"command": {"run": ["true"]}, "fairness": {"group": "g"}}
    stages: list[Any] = [
        {f"{role or 'validate:'}{check}": needed[check]} if check in needed else role + check
        for role, check in words
    ]
    read_once = read_document({"pipeline": {"stages": stages}})
    assert read_document(canonical(read_once)) == read_once
    assert [s.check for s in read_once.spec.stages] == [check for _, check in words]
    assert len({s.name for s in read_once.spec.stages}) == len(words)
