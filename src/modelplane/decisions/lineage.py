"""What came from what: data, the run that read it, the model version it made, who serves that.

Called by the API over the registry in memory, once per question. Pure. The graph has four
layers and edges only go down them: data → run → model version → deployment; a version whose run
nobody knows hangs on its data directly. Walking up from something finds what made it, walking
down what depends on it; never both in turn, for that would find everything.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any, Literal, NamedTuple

from pydantic import Field

from modelplane.decisions.aliases import aliases_of
from modelplane.decisions.datasets import UNKNOWN, clean_dataset_name, has_digest
from modelplane.decisions.registry_index import RegistryIndex
from modelplane.resources.dataset import DatasetReference
from modelplane.resources.meta import Part
from modelplane.resources.model import ModelVersion, Training
from modelplane.resources.model_deployment import ModelDeployment

Direction = Literal["up", "down", "both"]
NodeKind = Literal["DatasetVersion", "Run", "ModelVersion", "ModelDeployment"]
Relation = Literal["input", "output", "deployed"]

MAX_DEPTH = 2
"""From data to deployments: two steps, runs not counted."""
MAX_NODES = 5000
_LAYERS: tuple[NodeKind, ...] = ("DatasetVersion", "Run", "ModelVersion", "ModelDeployment")


class LineageNode(Part):
    """Something that came from something, or that something came from."""

    id: str = Field(description="`dataset/NAME@VERSION`, `run/ID`, `version/NAME@VERSION` or "
                    "`deployment/ENVIRONMENT/NAME`; may be asked for.")  # fmt: skip
    kind: NodeKind
    name: str
    environment: str | None = None
    registered: bool = Field(default=True, description="Whether the registry holds a record.")
    deleted: bool = Field(default=False, description="Whether it is a tombstone.")
    facts: dict[str, Any] = Field(default_factory=dict, description="What people ask first.")


class LineageEdge(Part):
    """One thing that went into another."""

    source: str = Field(description="Id of the node that was there first.")
    target: str
    relation: Relation = Field(description="Data read, a version made, a version deployed.")
    roles: tuple[str, ...] = Field(
        default=(),
        description="Of data: what it was used for. Of a deployed version: declared, serving, "
        "challenger.",
    )


class Lineage(Part):
    """A part of the graph; nodes layer by layer, edges in the order of their ends."""

    roots: tuple[str, ...] = Field(description="Ids of what was asked for.")
    nodes: tuple[LineageNode, ...]
    edges: tuple[LineageEdge, ...]
    truncated: bool = Field(default=False, description="Whether there was more than is shown.")


class Data(NamedTuple):
    """Which data: a version that is registered, or what is known of data that is not."""

    dataset: str
    label: str

    @property
    def id(self) -> str:
        """The id of its node."""
        return f"dataset/{self.dataset}@{self.label}"


@dataclass(frozen=True, slots=True)
class Start:
    """Where a walk begins; exactly one of these is filled, except that data may be several."""

    data: tuple[Data, ...] = ()
    runs: tuple[str, ...] = ()
    versions: tuple[ModelVersion, ...] = ()
    deployments: tuple[ModelDeployment, ...] = ()


def data_of(reference: DatasetReference, index: RegistryIndex) -> Data:
    """Return which data a reference means; data registered after the model is found too."""
    if not has_digest(reference):
        return Data(clean_dataset_name(reference.name), reference.version or UNKNOWN)
    found = index.find_data(reference.name, reference.digest)
    if found is not None:
        return Data(reference.name, found.spec.version)
    name = clean_dataset_name(reference.name)
    found = index.find_data(name, reference.digest)
    return Data(name, found.spec.version if found else reference.digest)


def run_id_of(version: ModelVersion) -> str | None:
    """Return the id of the run that made a version, or None when nothing is known of it.

    A TrainingRun goes before the run of a tracker that it may have been as well.

    Where the run has no name of its own, it is the version's: two versions from one commit and
    one command may come from two runs.
    """
    training = version.spec.training
    if training.training_run:
        return f"run/{training.training_run}"
    if training.run_id != UNKNOWN:
        return f"run/{training.run_id}"
    known = {training.git_commit, training.command} - {UNKNOWN}
    return f"run/{version.metadata.name}" if known else None


def walk_lineage(
    index: RegistryIndex, start: Start, direction: Direction = "both", depth: int = MAX_DEPTH
) -> Lineage:
    """Return what `start` came from, what came from it, or both.

    Parameters
    ----------
    index
        The registry.
    start
        From `lineage_start.find_start`.
    direction
        ``up`` to what made it, ``down`` to what depends on it.
    depth
        How many steps to go each way, 0 or more; a run is no step.
    """
    walk = _Walk(index)
    walk.add_start(start)
    if direction != "down" and depth > 0:
        walk.go_up(start, depth)
    if direction != "up" and depth > 0:
        walk.go_down(start, depth)
    return walk.result()


class _Deployed(NamedTuple):
    """Who runs which version, both ways."""

    by_version: dict[str, dict[tuple[str, str], set[str]]]
    by_place: dict[tuple[str, str], dict[str, set[str]]]


@dataclass(slots=True)
class _Walk:
    """What was found so far."""

    index: RegistryIndex
    nodes: dict[str, LineageNode] = field(default_factory=dict)
    edges: dict[tuple[str, str], tuple[Relation, set[str]]] = field(default_factory=dict)
    roots: list[str] = field(default_factory=list)
    truncated: bool = False
    _deployed: _Deployed | None = None

    # -- steps ----------------------------------------------------------------------------

    def add_start(self, start: Start) -> None:
        for data in start.data:
            self.roots.append(self._add_data(data))
        for run in start.runs:
            for version in _versions_of_run(self.index, run):
                self._add_run(version)
            self.roots.append(run)
        for version in start.versions:
            self.roots.append(self._add_version(version))
        for deployment in start.deployments:
            self.roots.append(self._add_deployment(deployment))

    def go_up(self, start: Start, depth: int) -> None:
        versions = list(start.versions)
        for deployment in start.deployments:
            deployed = list(self._versions_in(deployment))
            if depth > 1:
                versions += deployed
        for version in versions:
            self._add_inputs(version)
        for run in start.runs:
            for version in _versions_of_run(self.index, run):
                self._add_inputs(version, show_version=False)

    def go_down(self, start: Start, depth: int) -> None:
        if start.data:
            self._go_down_from_data(start.data, depth)
        for run in start.runs:
            for version in _versions_of_run(self.index, run):
                self._link(self._add_run(version), self._add_version(version), "output")
                if depth > 1:
                    self._add_deployments(version)
        for version in start.versions:
            self._add_deployments(version)

    def _go_down_from_data(self, wanted: Iterable[Data], depth: int) -> None:
        chosen = set(wanted)
        versions = {
            version.metadata.name: version
            for dataset in sorted({data.dataset for data in chosen})
            for version in self.index.made_from(dataset)
        }
        # What is deployed comes first, then what is new: of a graph that is too large to be
        # shown whole, they are the part that matters.
        deployed = self._deployments().by_version
        ordered = sorted(
            versions.values(),
            key=lambda v: (v.metadata.name not in deployed, -v.spec.number, v.metadata.name),
        )
        for version in ordered:
            if self.truncated:
                return
            read = [(data_of(one, self.index), one) for one in version.spec.datasets]
            if chosen.isdisjoint(data for data, _ in read):
                continue
            self._add_inputs(version, [pair for pair in read if pair[0] in chosen])
            if depth > 1:
                self._add_deployments(version)

    def result(self) -> Lineage:
        """Return the graph so far; edges whose ends were left out are left out too."""
        nodes = sorted(self.nodes.values(), key=lambda node: (_LAYERS.index(node.kind), node.id))
        edges = (
            LineageEdge(source=source, target=target, relation=relation, roles=tuple(sorted(roles)))
            for (source, target), (relation, roles) in sorted(self.edges.items())
            if source in self.nodes and target in self.nodes
        )
        return Lineage(
            roots=tuple(root for root in self.roots if root in self.nodes),
            nodes=tuple(nodes),
            edges=tuple(edges),
            truncated=self.truncated,
        )

    # -- edges ----------------------------------------------------------------------------

    def _add_inputs(
        self,
        version: ModelVersion,
        read: Iterable[tuple[Data, DatasetReference]] | None = None,
        *,
        show_version: bool = True,
    ) -> None:
        """Add a version with the run and the data that made it: all of that, or `read`."""
        target = run = self._add_run(version)
        if show_version or run is None:
            target = self._add_version(version)
        if read is None:
            read = [(data_of(one, self.index), one) for one in version.spec.datasets]
        for data, reference in read:
            source = self._add_data(data, reference)
            self._link(source, run or target, "input", reference.context)
        if show_version:
            self._link(run, target, "output")

    def _add_deployments(self, version: ModelVersion) -> None:
        places = self._deployments().by_version.get(version.metadata.name, {})
        for place, roles in places.items():
            self._add_deployed(version, self.index.deployments[place], roles)

    def _versions_in(self, deployment: ModelDeployment) -> Iterator[ModelVersion]:
        place = deployment.metadata.environment or "", deployment.metadata.name
        for name, roles in self._deployments().by_place.get(place, {}).items():
            version = self.index.versions.get(name)
            if version is not None:
                self._add_deployed(version, deployment, roles)
                yield version

    def _add_deployed(
        self, version: ModelVersion, deployment: ModelDeployment, roles: set[str]
    ) -> None:
        source, target = self._add_version(version), self._add_deployment(deployment)
        self._link(source, target, "deployed", *roles)

    def _link(
        self, source: str | None, target: str | None, relation: Relation, *roles: str
    ) -> None:
        if source is not None and target is not None:
            self.edges.setdefault((source, target), (relation, set()))[1].update(roles)

    # -- nodes ----------------------------------------------------------------------------

    def _add(self, node_id: str, kind: NodeKind, name: str, **fields: Any) -> str:
        if node_id not in self.nodes:
            if len(self.nodes) >= MAX_NODES:
                self.truncated = True
            else:
                self.nodes[node_id] = LineageNode(id=node_id, kind=kind, name=name, **fields)
        return node_id

    def _add_data(self, data: Data, reference: DatasetReference | None = None) -> str:
        name = f"{data.dataset}@{data.label}"
        record = self.index.dataset_versions.get(name)
        known = record.spec if record else reference or _find_reference(self.index, data)
        facts = {key: getattr(known, key, None) for key in ("digest", "format", "rows", "uri")}
        registered = record is not None
        return self._add(
            data.id, "DatasetVersion", name, registered=registered, facts=_filled(facts)
        )

    def _add_run(self, version: ModelVersion) -> str | None:
        run = run_id_of(version)
        if run is None:
            return None
        facts = _facts_of_run(version.spec.training)
        return self._add(run, "Run", run.partition("/")[2], facts=facts)

    def _add_version(self, version: ModelVersion) -> str:
        name, spec = version.metadata.name, version.spec
        facts = _filled(
            {
                "number": spec.number,
                "flavour": spec.flavour,
                "author": spec.author,
                "aliases": list(aliases_of(self.index.models.get(spec.model), spec.version)),
            }
        )
        is_deleted = version.status.deleted_at is not None
        return self._add(f"version/{name}", "ModelVersion", name, deleted=is_deleted, facts=facts)

    def _add_deployment(self, deployment: ModelDeployment) -> str:
        place, name = deployment.metadata.environment or "", deployment.metadata.name
        return self._add(
            f"deployment/{place}/{name}", "ModelDeployment", name, environment=place or None
        )

    def _deployments(self) -> _Deployed:
        if self._deployed is None:
            self._deployed = _read_deployments(self.index)
        return self._deployed


def _read_deployments(index: RegistryIndex) -> _Deployed:
    """Return which version has which part in which deployment."""
    found = _Deployed(defaultdict(lambda: defaultdict(set)), defaultdict(lambda: defaultdict(set)))

    def note(version: str, place: tuple[str, str], role: str) -> None:
        found.by_version[version][place].add(role)
        found.by_place[place][version].add(role)

    for place, deployment in index.deployments.items():
        spec, stable = deployment.spec, deployment.status.stable
        note(f"{spec.model}@{spec.version}", place, "declared")
        if stable is not None:
            note(f"{stable.model}@{stable.version}", place, "serving")
    for model in index.models.values():
        for serving in model.status.serving:
            place = serving.environment, serving.deployment
            if serving.challenger and place in index.deployments:
                note(f"{model.metadata.name}@{serving.challenger}", place, "challenger")
    return found


def _versions_of_run(index: RegistryIndex, run: str) -> Iterable[ModelVersion]:
    return [version for version in index.versions.values() if run_id_of(version) == run]


def _find_reference(index: RegistryIndex, data: Data) -> DatasetReference | None:
    """Return what some version says of data that is not registered."""
    for version in index.made_from(data.dataset):
        for reference in version.spec.datasets:
            if data_of(reference, index) == data:
                return reference
    return None


def _facts_of_run(training: Training) -> dict[str, Any]:
    facts = {
        "trainingRun": training.training_run,
        "trackedAs": training.run_id if training.training_run else None,
        "gitCommit": training.git_commit,
        "gitDirty": training.git_dirty,
        "gitRemote": training.git_remote,
        "directory": training.directory,
        "command": training.command,
    }
    return _filled(facts)


def _filled(facts: dict[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in facts.items() if value not in (None, "", [], UNKNOWN)}
