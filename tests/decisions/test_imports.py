"""From MLflow's records to ours: what is taken over, and what is left as it is."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from modelplane.decisions.external import (
    ExternalFiles,
    ExternalModel,
    ExternalRun,
    ExternalVersion,
)
from modelplane.decisions.imports import (
    check_importable,
    complete_spec,
    copied_version,
    follow_tags,
    follow_version,
    identify,
    make_version,
    mark_gone,
    pinned_packages,
    plan_model,
    to_request,
    to_requirements,
    to_signature,
)
from modelplane.decisions.registration import free_version
from modelplane.errors import Conflict
from modelplane.resources.meta import Metadata
from modelplane.resources.model import Model, ModelVersion
from modelplane.resources.revision import Artifact
from modelplane_runtime.signature import parse_mlflow_signature, parse_signature

NOW = datetime(2026, 1, 5, tzinfo=UTC)
ARTIFACT = Artifact(format="mlflow", digest=f"sha256:{64 * '0'}", size_bytes=5)
FILES = ExternalFiles(format="mlflow", flavour="sklearn")
TAGS = st.dictionaries(st.sampled_from(["a", "b", "c", "modelplane.promotion"]), st.text())
COLUMNS = {"inputs": [{"type": "double", "name": "a"}, {"type": "long", "name": "b"}]}


def external(number: int = 1, after_s: float = 0, **fields: Any) -> ExternalVersion:
    at = NOW + timedelta(seconds=after_s)
    return ExternalVersion("fraud", number, at, fields.pop("updated_at", at), **fields)


def imported(version: ExternalVersion, *taken: str) -> ModelVersion:
    return make_version(version, ExternalRun(), FILES, ARTIFACT, set(taken))


def model(**status: Any) -> Model:
    return Model(metadata=Metadata(name="fraud")).with_status(**status)


def plan(ours: list[ModelVersion], theirs: list[ExternalVersion]) -> Any:
    return plan_model(model(), ours, ExternalModel("fraud"), theirs, "mlflow")


def test_new_versions_come_newest_first_and_unfinished_ones_wait() -> None:
    theirs = [external(1), external(2, 10), external(3, 20), external(4, 30, is_ready=False)]
    result = plan([imported(external(1))], theirs)
    assert [v.number for v in result.to_import] == [3, 2]
    assert (result.changed, result.vanished) == ((), ())
    assert result.model.status.source == "mlflow"


def test_a_number_given_again_is_another_version() -> None:
    old = imported(external(1))
    result = plan([old], [external(1, 100)])
    assert [v.number for v in result.to_import] == [1]
    assert result.vanished == (old,)
    assert imported(external(1, 100), old.metadata.name).spec.version == "1.0.1"


@given(st.lists(st.integers(1, 5), unique=True), st.lists(st.integers(1, 5), unique=True))
def test_everything_is_here_after_importing_once(there: list[int], here: list[int]) -> None:
    theirs = [external(number) for number in there]
    ours = [imported(external(number)) for number in here]
    result = plan(ours, theirs)
    after = [*ours, *(imported(version) for version in result.to_import)]
    again = plan(after, theirs)
    assert again.to_import == ()
    assert {identify(v) for v in after} >= {(v.number, v.created_at) for v in theirs}
    assert sorted(v.spec.number for v in result.vanished) == sorted(set(here) - set(there))


@given(TAGS, TAGS, TAGS)
def test_tags_of_the_source_follow_it_and_local_ones_stay(
    local: dict[str, str], first: dict[str, str], second: dict[str, str]
) -> None:
    tags, names = follow_tags(local, (), first)
    tags, names = follow_tags(tags, names, second)
    for key, value in second.items():
        if key != "modelplane.promotion":
            assert tags[key] == value
    for key in first.keys() - second.keys() - {"modelplane.promotion"}:
        assert key not in tags
    for key in local.keys() - first.keys() - second.keys():
        assert tags[key] == local[key]
    assert follow_tags(tags, names, second) == (tags, names)
    assert "modelplane.promotion" not in names


def test_what_was_said_here_stays_until_it_changes_there() -> None:
    version = imported(external(description="there"))
    mine = version.with_status(description="here")
    assert follow_version(mine, external(description="there")) == mine
    later = external(description="new", stage="Archived", updated_at=NOW + timedelta(seconds=1))
    followed = follow_version(mine, later)
    assert (followed.status.description, followed.status.stage) == ("new", "Archived")
    assert follow_version(followed, later) == followed


def test_only_what_was_deleted_there_comes_back() -> None:
    version = imported(external())
    buried = version.with_status(deleted_at=NOW)
    assert follow_version(buried, external(tags={"a": "b"})) == buried
    gone = mark_gone(buried, "mlflow", NOW)
    assert follow_version(gone, external()) == version


@pytest.mark.parametrize(
    ("name", "status", "error"),
    [
        ("fraud", {}, None),
        ("fraud", {"source": "mlflow", "last_number": 3}, None),
        ("fraud", {"last_number": 3}, Conflict),
        ("fraud", {"source": "other"}, Conflict),
        ("a?b", {}, ValueError),
    ],
)
def test_a_model_of_somebody_else_is_not_taken(
    name: str, status: dict[str, Any], error: type[Exception] | None
) -> None:
    if error is None:
        check_importable(name, model(**status), "mlflow")
        check_importable(name, None, "mlflow")
        return
    with pytest.raises(error):
        check_importable(name, model(**status), "mlflow")


def test_the_record_holds_what_the_run_and_the_files_say() -> None:
    run = ExternalRun(
        "r1", "bea", {"auc": 0.9}, {"C": "1"},
        {
            "team": "risk",
            "mlflow.source.git.commit": "abc",
            "mlflow.source.git.repoURL": "https://me:pass@git/x.git",
            "mlflow.source.name": "train.py",
        },
    )  # fmt: skip
    files = ExternalFiles(
        "mlflow", "sklearn", COLUMNS, requirements="mlflow==3.17.2\nnumpy==2.4.6", python="3.11.7"
    )
    version = make_version(
        external(7, source="models:/m-1", tags={"k": "v"}), run, files, ARTIFACT, set()
    )
    spec = version.spec
    assert (version.metadata.name, spec.number) == ("fraud@7.0.0", 7)
    assert (spec.requirements, spec.flavour, spec.author) == ("numpy==2.4.6", "sklearn", "bea")
    assert spec.training.packages == {"mlflow": "3.17.2", "numpy": "2.4.6"}
    assert (spec.training.python, spec.training.command) == ("3.11.7", "train.py")
    assert (spec.training.git_commit, spec.training.git_remote) == ("abc", "https://git/x.git")
    assert spec.id.startswith("mv-")
    assert version.status.tags == {"team": "risk", "k": "v"}
    assert version.status.source_tags == ("k",)


def test_what_a_record_says_already_stays_when_its_files_come() -> None:
    spec = imported(external()).spec.with_(
        artifact=None, id="", flavour="mine", metrics={"auc": 0.5}, requirements="x==1"
    )
    run = ExternalRun("r1", metrics={"auc": 0.9}, parameters={"C": "1"})
    filled = complete_spec(spec, run, ExternalFiles("mlflow", "sklearn", COLUMNS), ARTIFACT)
    assert (filled.flavour, filled.metrics, filled.requirements) == ("mine", {"auc": 0.5}, "x==1")
    assert (filled.parameters, filled.training.run_id) == ({"C": "1"}, "r1")
    assert filled.artifact == ARTIFACT
    assert filled.id
    assert filled.signature is not None


@pytest.mark.parametrize(
    ("flavour", "requirements", "wanted"),
    [
        (
            "sklearn",
            "mlflow==3.1\nnumpy\nmlflow-export-import==1",
            "numpy\nmlflow-export-import==1",
        ),
        ("onnx", "mlflow\nmlflow-skinny==3.1", None),
        ("python_function", "mlflow==3.1\nnumpy", "mlflow==3.1\nnumpy"),
        ("sklearn", None, None),
    ],
)
def test_requirements_are_without_mlflow_where_it_is_not_needed(
    flavour: str, requirements: str | None, wanted: str | None
) -> None:
    files = ExternalFiles("mlflow", flavour, requirements=requirements)
    assert to_requirements(files) == wanted


@pytest.mark.parametrize(
    "item",
    [
        *({"type": t, "name": "a"} for t in ("boolean", "integer", "long", "float", "double")),
        {"type": "string", "name": "a", "required": False},
        {"type": "datetime", "name": "a"},
        {"type": "tensor", "tensor-spec": {"dtype": "float32", "shape": [-1, 28]}},
        {"type": "tensor", "name": "x", "tensor-spec": {"dtype": "uint8", "shape": [-1]}},
        {"type": "tensor", "tensor-spec": {"dtype": "object", "shape": [-1]}},
    ],
)
def test_a_signature_means_the_same_to_the_model_server(item: dict[str, Any]) -> None:
    """The model server reads MLflow's own form; ours must say no other thing."""
    ours = to_signature({"inputs": [item]})
    theirs = parse_mlflow_signature({"inputs": json.dumps([item])})
    assert theirs is not None
    read = parse_signature(json.dumps(ours))
    assert [(t.name, t.datatype, t.shape, t.required) for t in read.inputs] == [
        (t.name, t.datatype, t.shape, t.required) for t in theirs.inputs
    ]


@pytest.mark.parametrize(
    "document",
    [
        None,
        {},
        {"inputs": []},
        {"inputs": "text"},
        {"inputs": [3]},
        {"inputs": [{"type": "array", "name": "a", "items": {"type": "long"}}]},
        {"inputs": [{"type": "tensor"}]},
        {"inputs": [{"type": "tensor", "tensor-spec": {"dtype": "complex64", "shape": [-1]}}]},
        {"inputs": [{"type": "tensor", "tensor-spec": {"dtype": "int8", "shape": ["n"]}}]},
    ],
)
def test_a_signature_that_no_tensor_can_carry_is_none(document: Any) -> None:
    assert to_signature(document) is None


def test_an_example_becomes_a_request() -> None:
    example = {"dataframe_split": {"columns": ["b", "a"], "data": [[1, 0.5], [2, None]]}}
    assert to_request(example, to_signature(COLUMNS)) == {
        "inputs": [
            {"name": "b", "datatype": "INT64", "shape": [2], "data": [1, 2]},
            {"name": "a", "datatype": "FP64", "shape": [2], "data": [0.5, None]},
        ]
    }


@pytest.mark.parametrize(
    "table",
    [
        {"columns": ["a"], "data": [[0.5]]},
        {"columns": ["a", "b"], "data": []},
        {"columns": ["a", "b"], "data": [[0.5]]},
        {"columns": ["a", "b"], "data": [["x", 1]]},
        {"columns": ["a", "b"], "data": [[0.5, True]]},
        {"columns": ["a", "b"], "data": 3},
        "text",
    ],
)
def test_an_example_that_does_not_fit_is_left_out(table: Any) -> None:
    assert to_request({"dataframe_split": table}, to_signature(COLUMNS)) is None


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner),
    max_leaves=10,
)


@given(st.dictionaries(st.sampled_from(["inputs", "outputs"]), JSON), JSON)
def test_no_signature_and_no_example_breaks_an_import(document: Any, table: Any) -> None:
    signature = to_signature(document)
    to_request({"dataframe_split": table}, signature)


@given(st.integers(1, 99), st.sets(st.integers(0, 5)))
def test_a_free_version_is_free(number: int, patches: set[int]) -> None:
    taken = {f"fraud@{number}.0.{patch}" for patch in patches}
    found = free_version("fraud", number, taken)
    assert f"fraud@{found}" not in taken
    assert found == f"{number}.0.{min(set(range(7)) - patches)}"


def test_pins_and_copies_are_read() -> None:
    assert pinned_packages("# x\n-r other.txt\nA.b[c]==1.0 ; python_version>'3'\n") == {
        "A.b": "1.0"
    }
    assert copied_version("models:/a b/12") == ("a b", 12)
    assert copied_version("models:/fraud@champion") is None
    assert copied_version("s3://b/fraud/1") is None
