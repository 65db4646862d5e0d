"""The lineage graph: what it finds each way, what it calls things, and the events made of it."""

from __future__ import annotations

import itertools
import uuid
from datetime import UTC, datetime
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from modelplane.decisions.datasets import link_datasets
from modelplane.decisions.lineage import Direction, Lineage, LineageNode, walk_lineage
from modelplane.decisions.lineage_start import find_start
from modelplane.decisions.openlineage import deployment_event, is_deployment, run_event
from modelplane.decisions.registry_index import RegistryIndex
from modelplane.errors import InvalidResource, NotFound
from modelplane.resources.dataset import DatasetReference
from modelplane.resources.meta import Metadata
from modelplane.resources.model import (
    AliasMove,
    AliasMoveSpec,
    Model,
    ModelStatus,
    ModelVersion,
    ModelVersionSpec,
    ModelVersionStatus,
    Serving,
    Training,
)
from modelplane.resources.model_deployment import (
    ModelDeployment,
    ModelDeploymentSpec,
    ModelDeploymentStatus,
)
from modelplane.resources.revision import Artifact, RuntimeSpec, make_revision

AT = datetime(2026, 3, 1, 12, tzinfo=UTC)
ARTIFACT = Artifact(format="onnx", digest="sha256:" + "a" * 64, size_bytes=3)


def data(name: str, digest: str = "unknown", **more: Any) -> DatasetReference:
    return DatasetReference(name=name, digest=digest, **more)


class Registry:
    """A registry in the making."""

    def __init__(self) -> None:
        self.index = RegistryIndex()

    def push(
        self,
        model: str,
        version: str,
        *references: DatasetReference,
        link: bool = True,
        deleted: bool = False,
        **training: Any,
    ) -> ModelVersion:
        if link:
            linked = link_datasets(references, self.index, "anna")
            references = linked.references
            for resource in linked.written:
                self.index.put(resource)
        before = self.index.models.get(model) or Model(metadata=Metadata(name=model))
        number = before.status.last_number + 1
        self.index.put(before.with_status(last_number=number))
        made = ModelVersion(
            metadata=Metadata(name=f"{model}@{version}", created_at=AT),
            spec=ModelVersionSpec(
                model=model, version=version, number=number, id=f"mv-{model}-{version}",
                artifact=ARTIFACT, datasets=references, training=Training(**training),
                metrics={"auc": 0.9}, author="anna",
            ),
            status=ModelVersionStatus(deleted_at=AT if deleted else None),
        )  # fmt: skip
        self.index.put(made)
        return made

    def deploy(
        self, place: str, name: str, model: str, version: str, *, stable: str | None = None
    ) -> None:
        revision = make_revision(model, stable, ARTIFACT, RuntimeSpec()) if stable else None
        self.index.put(
            ModelDeployment(
                metadata=Metadata(name=name, environment=place),
                spec=ModelDeploymentSpec(model=model, version=version),
                status=ModelDeploymentStatus(stable=revision),
            )
        )

    def status(self, model: str, **changes: Any) -> None:
        before = self.index.models[model]
        self.index.put(before.with_(status=ModelStatus(**{**dict(before.status), **changes})))

    def walk(self, of: str, direction: Direction = "both", depth: int = 2) -> Lineage:
        return walk_lineage(self.index, find_start(self.index, of), direction, depth)


def ids(graph: Lineage) -> list[str]:
    return [node.id for node in graph.nodes]


def edges(graph: Lineage) -> set[tuple[str, str, tuple[str, ...]]]:
    return {(edge.source, edge.target, edge.roles) for edge in graph.edges}


def node(graph: Lineage, node_id: str) -> LineageNode:
    return next(one for one in graph.nodes if one.id == node_id)


@pytest.fixture
def registry() -> Registry:
    """Two models on common data; fraud 1.0.0 serves, 1.1.0 is being rolled out."""
    made = Registry()
    tx, images = data("tx", "sha256:1", rows=5), data("images", "sha256:i", context="evaluation")
    made.push("fraud", "1.0.0", tx, run_id="r1", git_commit="c" * 40, command="python train.py")
    made.push("fraud", "1.1.0", data("tx", "sha256:2"), images, git_commit="d" * 40)
    made.push("spam", "1.0.0", tx, run_id="r1")
    made.deploy("production", "fraud", "fraud", "1.1.0", stable="1.0.0")
    made.deploy("staging", "fraud", "fraud", "1.1.0", stable="1.1.0")
    made.deploy("staging", "spam", "spam", "1.0.0")
    serving = Serving(
        environment="production", deployment="fraud", champion="1.0.0", challenger="1.1.0"
    )
    gone = Serving(environment="old", deployment="gone", challenger="1.0.0")
    made.status("fraud", serving=(serving, gone), aliases={"champion": "1.0.0"})
    return made


def test_up_from_a_version_are_its_run_and_its_data(registry: Registry) -> None:
    graph = registry.walk("fraud@1.0.0", "up")
    assert graph.roots == ("version/fraud@1.0.0",)
    assert ids(graph) == ["dataset/tx@1", "run/r1", "version/fraud@1.0.0"]
    assert edges(graph) == {
        ("dataset/tx@1", "run/r1", ("training",)),
        ("run/r1", "version/fraud@1.0.0", ()),
    }
    assert node(graph, "run/r1").facts["command"] == "python train.py"
    assert node(graph, "dataset/tx@1").facts["rows"] == 5
    assert node(graph, "version/fraud@1.0.0").facts["aliases"] == ["champion"]


def test_down_from_a_version_are_the_deployments_and_its_part_in_them(registry: Registry) -> None:
    assert edges(registry.walk("fraud@1.1.0", "down")) == {
        ("version/fraud@1.1.0", "deployment/production/fraud", ("challenger", "declared")),
        ("version/fraud@1.1.0", "deployment/staging/fraud", ("declared", "serving")),
    }


def test_which_deployments_depend_on_this_data_is_one_question(registry: Registry) -> None:
    graph = registry.walk("dataset/tx@1", "down")
    found = [one.id for one in graph.nodes if one.kind == "ModelDeployment"]
    assert found == ["deployment/production/fraud", "deployment/staging/spam"]
    assert registry.walk("tx@1", "both") == graph
    assert ids(registry.walk("tx@1", "up")) == ["dataset/tx@1"]


def test_what_a_deployment_stands_on(registry: Registry) -> None:
    graph = registry.walk("production/fraud")
    assert [one for one in ids(graph) if one.startswith("dataset")] == [
        "dataset/images@1", "dataset/tx@1", "dataset/tx@2",
    ]  # fmt: skip
    assert "version/spam@1.0.0" not in ids(graph)
    assert ("dataset/images@1", "run/fraud@1.1.0", ("evaluation",)) in edges(graph)


def test_a_run_leads_both_ways_and_siblings_are_no_ancestors(registry: Registry) -> None:
    graph = registry.walk("run/r1")
    assert [one for one in ids(graph) if one.startswith("version")] == [
        "version/fraud@1.0.0", "version/spam@1.0.0",
    ]  # fmt: skip
    assert "dataset/tx@1" in ids(graph)
    assert "version/spam@1.0.0" not in ids(registry.walk("fraud@1.0.0"))


def test_a_run_does_not_lend_its_data_to_what_was_not_made_from_it() -> None:
    registry = Registry()
    registry.push("a", "1.0.0", data("x", "sha256:x"), run_id="shared")
    registry.push("b", "1.0.0", data("y", "sha256:y"), run_id="shared")
    assert "version/b@1.0.0" not in ids(registry.walk("x@1", "down"))
    assert "dataset/y@1" not in ids(registry.walk("a@1.0.0", "up"))


def test_two_versions_from_one_commit_are_not_one_run() -> None:
    registry = Registry()
    for version in ("1.0.0", "1.1.0"):
        registry.push("a", version, data("x", "sha256:x"), git_commit="c" * 40)
    assert "run/a@1.1.0" not in ids(registry.walk("a@1.0.0"))
    registry.push("b", "1.0.0", data("x", "sha256:x"))
    graph = registry.walk("b@1.0.0")
    assert edges(graph) == {("dataset/x@1", "version/b@1.0.0", ("training",))}


def test_data_that_is_not_registered_is_a_node_too() -> None:
    registry = Registry()
    registry.push("a", "1.0.0", data("x", "mlflow:1", rows=4), data("y"), link=False)
    graph = registry.walk("a")
    assert ids(graph) == ["dataset/x@mlflow:1", "dataset/y@unknown", "version/a@1.0.0"]
    assert [one.registered for one in graph.nodes] == [False, False, True]
    for node_id in ids(graph):
        assert registry.walk(node_id, depth=0).roots == (node_id,)
    assert node(registry.walk("dataset/x"), "dataset/x@mlflow:1").facts["rows"] == 4
    # Registered later, the same data is the node it always was.
    for resource in link_datasets([data("x", "mlflow:1")], registry.index, "anna").written:
        registry.index.put(resource)
    assert "version/a@1.0.0" in ids(registry.walk("x@1", "down"))


def test_deleted_versions_are_shown_and_marked() -> None:
    registry = Registry()
    registry.push("a", "1.0.0", data("x", "sha256:x"), deleted=True)
    assert node(registry.walk("x"), "version/a@1.0.0").deleted
    assert registry.walk("a@1.0.0").roots == ("version/a@1.0.0",)


@pytest.mark.parametrize(
    ("of", "direction", "depth", "found"),
    [
        ("tx@1", "down", 1, {"version/fraud@1.0.0", "version/spam@1.0.0", "run/r1"}),
        ("tx@1", "both", 0, set()),
        ("production/fraud", "up", 1, {"version/fraud@1.0.0", "version/fraud@1.1.0"}),
        ("run/r1", "down", 1, {"version/fraud@1.0.0", "version/spam@1.0.0"}),
        ("spam@1.0.0", "down", 1, {"deployment/staging/spam"}),
    ],
)
def test_the_depth_counts_steps_and_a_run_is_none(
    registry: Registry, of: str, direction: Direction, depth: int, found: set[str]
) -> None:
    graph = registry.walk(of, direction, depth)
    assert set(ids(graph)) - set(graph.roots) == found


@pytest.mark.parametrize(
    ("of", "root"),
    [
        ("fraud@champion", "version/fraud@1.0.0"),
        ("fraud@latest", "version/fraud@1.1.0"),
        ("fraud@2", "version/fraud@1.1.0"),
        ("fraud@v1.1", "version/fraud@1.1.0"),
        ("version/fraud@1.0.0", "version/fraud@1.0.0"),
        ("model/spam", "version/spam@1.0.0"),
        ("tx@latest", "dataset/tx@2"),
        ("dataset/tx@sha256:1", "dataset/tx@1"),
        ("dsv/tx@2", "dataset/tx@2"),
        ("staging/fraud", "deployment/staging/fraud"),
        ("deployment/spam", "deployment/staging/spam"),
        ("deployment/production/fraud", "deployment/production/fraud"),
    ],
)
def test_people_may_name_things_as_they_do(registry: Registry, of: str, root: str) -> None:
    assert registry.walk(of).roots == (root,)


@pytest.mark.parametrize(
    ("of", "error", "said"),
    [
        ("frud", NotFound, "did you mean fraud"),
        ("fraud@9.9.9", NotFound, "there are: 1.1.0, 1.0.0"),
        ("fraud@nobody", NotFound, "no version or alias 'nobody'"),
        ("tx@9", NotFound, "there are: 1, 2"),
        ("dataset/ttx", NotFound, "did you mean tx"),
        ("prod/fraud", NotFound, "did you mean"),
        ("deployment/fraud", InvalidResource, "production/fraud, staging/fraud"),
        ("run/none", NotFound, "no version is known"),
        ("a/b/c", InvalidResource, "run/ID"),
        ("/", InvalidResource, "MODEL@VERSION"),
        ("both", InvalidResource, "model/both or dataset/both"),
    ],
)
def test_what_is_not_there_or_could_be_two_things_is_told(
    registry: Registry, of: str, error: type[Exception], said: str
) -> None:
    registry.push("both", "1.0.0", data("both", "sha256:b"))
    with pytest.raises(error) as failed:
        registry.walk(of)
    assert said in str(failed.value)


def test_a_graph_that_is_too_large_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    registry = Registry()
    for number in range(6):
        registry.push("a", f"1.{number}.0", data("x", "sha256:x"))
    registry.deploy("production", "a", "a", "1.0.0")
    monkeypatch.setattr("modelplane.decisions.lineage.MAX_NODES", 4)
    graph = registry.walk("dataset/x")
    assert (len(graph.edges), graph.truncated) == (3, True)
    assert ids(graph) == [  # what is deployed goes before what is new
        "dataset/x@1", "version/a@1.0.0", "version/a@1.5.0", "deployment/production/a",
    ]  # fmt: skip


REFERENCES = st.lists(
    st.builds(
        data,
        st.sampled_from(["x", "y"]),
        st.sampled_from(["unknown", "sha256:1", "sha256:2"]),
    ),
    max_size=3,
)
PUSHES = st.lists(
    st.tuples(
        st.sampled_from(["m", "n"]),
        REFERENCES,
        st.booleans(),
        st.sampled_from(["unknown", "r1", "r2"]),
        st.sampled_from([None, "staging", "production"]),
    ),
    min_size=1,
    max_size=8,
)


@settings(max_examples=60)
@given(pushes=PUSHES)
def test_up_and_down_see_the_same_edges_from_both_ends(pushes: list[Any]) -> None:
    registry = Registry()
    for number, (model, references, link, run, place) in enumerate(pushes):
        registry.push(model, f"1.{number}.0", *references, link=link, run_id=run)
        if place:
            registry.deploy(place, model, model, f"1.{number}.0")
    starts = {
        one.id
        for version in registry.index.versions
        for one in registry.walk(f"version/{version}").nodes
    }
    up = {one: set(ids(registry.walk(one, "up"))) for one in starts}
    down = {one: set(ids(registry.walk(one, "down"))) for one in starts}
    for one, other in itertools.product(starts, starts):
        if one.startswith("run/") or other.startswith("run/"):
            continue
        assert (other in down[one]) == (one in up[other]), (one, other)
    # By hand: data leads to exactly the versions that name it, whatever lies between.
    for one in starts:
        if not one.startswith("dataset/"):
            continue
        dataset, _, label = one.removeprefix("dataset/").partition("@")
        record = registry.index.dataset_versions.get(f"{dataset}@{label}")
        digest = record.spec.digest if record else label
        naming = {
            f"version/{name}"
            for name, version in registry.index.versions.items()
            for reference in version.spec.datasets
            if (reference.name, reference.digest) == (dataset, digest)
        }
        assert {found for found in down[one] if found.startswith("version/")} == naming


# -- OpenLineage ------------------------------------------------------------------------------


def facets_of(event: dict[str, Any]) -> dict[str, dict[str, Any]]:
    """Every facet of an event by its name."""
    holders = [event["run"]["facets"], event["job"]["facets"]]
    for dataset in (*event["inputs"], *event["outputs"]):
        holders += [dataset["facets"], dataset.get("inputFacets", {})]
    return {name: facet for holder in holders for name, facet in holder.items()}


def check_event(event: dict[str, Any]) -> None:
    """Check what the specification requires of a run event and of the facets used."""
    assert event["eventType"] == "COMPLETE"
    assert datetime.fromisoformat(event["eventTime"]).tzinfo is not None
    assert (
        event["schemaURL"] == "https://openlineage.io/spec/2-0-2/OpenLineage.json#/$defs/RunEvent"
    )
    assert "://" in event["producer"]
    assert str(uuid.UUID(event["run"]["runId"])) == event["run"]["runId"]
    for named in (event["job"], *event["inputs"], *event["outputs"]):
        assert named["namespace"]
        assert named["name"]
    required = {
        "version": ["datasetVersion"],
        "sourceCodeLocation": ["type", "url"],
        "jobType": ["processingType", "integration"],
        "processing_engine": ["version"],
    }
    for name, facet in facets_of(event).items():
        assert {"_producer", "_schemaURL", *required.get(name, ())} <= facet.keys(), name
        assert facet["_schemaURL"].startswith("https://openlineage.io/spec/")
        assert all(value is not None for value in facet.values())


def test_what_comes_to_serve_is_an_event_from_the_model_to_the_deployment() -> None:
    spec = AliasMoveSpec(
        model="fraud", alias="champion", environment="production", deployment="f",
        before="1.0.0", after="1.1.0", at=AT, subject="anna", reason="better",
    )  # fmt: skip
    first, second = (
        AliasMove(metadata=Metadata(name=f"fraud@0000000{number}"), spec=spec) for number in (1, 2)
    )
    event = deployment_event(first, "risk")
    check_event(event)
    assert event["job"] == {**event["job"], "namespace": "risk", "name": "production.f.deployment"}
    names = {end: one["name"] for end in ("inputs", "outputs") for one in event[end]}
    assert names == {"inputs": "models/fraud", "outputs": "deployments/production/f"}
    assert facets_of(event)["version"]["datasetVersion"] == "1.1.0"
    assert facets_of(event)["modelplane_deployment"]["reason"] == "better"
    # the model is called as in the event of its training, so that a catalogue joins the two
    trained = run_event(Registry().push("fraud", "1.1.0"), RegistryIndex(), "risk")
    assert trained["outputs"][0]["name"] == event["inputs"][0]["name"]
    assert deployment_event(second)["run"] != event["run"]


@pytest.mark.parametrize(
    ("changes", "tells"),
    [
        ({}, True),
        ({"alias": "challenger"}, False),
        ({"environment": None, "deployment": None}, False),
        ({"after": None}, False),
    ],
)
def test_only_what_a_deployment_comes_to_serve_is_told(
    changes: dict[str, Any], tells: bool
) -> None:
    fields = {
        "model": "m", "alias": "champion", "environment": "staging", "deployment": "m",
        "after": "1.0.0", "at": AT, "subject": "anna",
    }  # fmt: skip
    spec = AliasMoveSpec(**{**fields, **changes})
    assert is_deployment(AliasMove(metadata=Metadata(name="m@00000001"), spec=spec)) is tells


def test_a_version_is_a_run_event() -> None:
    registry = Registry()
    columns = [{"name": "id", "type": "long"}]
    tx = DatasetReference.model_validate(
        {"name": "tx", "digest": "delta:1", "version": "3", "rows": 5, "format": "delta",
         "uri": "s3://lake/tx@3", "columns": columns}
    )  # fmt: skip
    version = registry.push(
        "fraud", "1.0.0", tx, data("y"),
        git_commit="c" * 40, git_remote="git@host:team/code.git", directory="src",
        python="3.12.1", command="python train.py",
    )  # fmt: skip
    event = run_event(version, registry.index)
    check_event(event)
    assert event["job"]["name"] == "fraud.training"
    code = event["job"]["facets"]["sourceCodeLocation"]
    assert (code["url"], code["version"], code["path"]) == (
        "ssh://git@host/team/code.git", "c" * 40, "src",
    )  # fmt: skip
    first, second = event["inputs"]
    assert first["name"] == "datasets/tx"
    assert first["facets"]["version"]["datasetVersion"] == "3"
    assert first["facets"]["schema"]["fields"] == columns
    assert first["facets"]["dataSource"]["uri"] == "s3://lake/tx"
    (place,) = first["facets"]["symlinks"]["identifiers"]
    assert (place["namespace"], place["name"]) == ("s3://lake", "tx")
    assert first["inputFacets"]["inputStatistics"]["rowCount"] == 5
    assert "version" not in second["facets"]
    (output,) = event["outputs"]
    assert output["name"] == "models/fraud"
    assert output["facets"]["version"]["datasetVersion"] == "1.0.0"
    assert output["facets"]["modelplane_model"]["metrics"] == {"auc": 0.9}


def test_the_runs_id_is_its_own_where_that_is_a_uuid() -> None:
    registry = Registry()
    mlflow = "9f86d081884c7d659a2feaa0c55ad015"
    runs = [
        run_event(registry.push("m", f"1.{n}.0", run_id=run), registry.index)["run"]["runId"]
        for n, run in enumerate((mlflow, mlflow, "nightly-7", "nightly-7", "unknown", "unknown"))
    ]
    assert runs[0] == runs[1] == str(uuid.UUID(mlflow))
    assert runs[2] == runs[3]
    assert len(set(runs)) == 4
    again = run_event(registry.index.versions["m@1.4.0"], registry.index)
    assert again["run"]["runId"] == runs[4]


@given(
    uri=st.text(max_size=40) | st.sampled_from(["file:///a b", "a/b@3", "s3://b", "x@y:z", "%"]),
    name=st.text(max_size=20),
    remote=st.text(max_size=30),
    run=st.text(max_size=40),
)
def test_whatever_was_recorded_is_an_event(uri: str, name: str, remote: str, run: str) -> None:
    registry = Registry()
    references = [data(name, "sha256:1", uri=uri), data(name, uri=uri, format="delta")]
    version = registry.push("m", "1.0.0", *references, git_remote=remote, run_id=run)
    check_event(run_event(version, registry.index))
