"""How the API and the controllers find what a run of a pipeline is made of.

Stands beside the store's port because both floors need it and neither knows the other.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from modelplane.decisions.admission import compute_revision
from modelplane.decisions.gate_keys import StagePlace
from modelplane.decisions.gate_plans import Surroundings, data_names
from modelplane.decisions.gate_runs import newest_run, serve_version
from modelplane.decisions.gate_runs import next_number as number_after
from modelplane.decisions.gates import KEY_IN_NAME
from modelplane.ports.store import Store
from modelplane.resources.contract import Contract
from modelplane.resources.dataset import DatasetVersion
from modelplane.resources.environment import Environment
from modelplane.resources.gate_run import GateRun, ServedModel, StageResult
from modelplane.resources.meta import Metadata
from modelplane.resources.model import ModelVersion, ModelVersionSpec
from modelplane.resources.model_deployment import ModelDeployment, ModelDeploymentSpec
from modelplane.resources.revision import Revision
from modelplane.resources.validation_pipeline import Stage, ValidationPipeline


async def find_run(
    store: Store, pipeline: ValidationPipeline, revision: Revision
) -> GateRun | None:
    """Return the newest run of the pipeline as it is now for exactly `revision`.

    Cancelled runs do not count.
    """
    labels = {"pipeline": pipeline.metadata.name, "revision": revision.short}
    runs, _ = await store.list(GateRun, labels=labels)
    return newest_run(runs, pipeline, revision)


async def next_number(store: Store, pipeline: str) -> int:
    """Return the number of a pipeline's next run; whoever creates it first has it."""
    runs, _ = await store.list(GateRun, labels={"pipeline": pipeline})
    return number_after(runs)


async def served_model(store: Store, version: ModelVersion, revision: Revision) -> ServedModel:
    """Return a version under `revision` as its stages run it."""
    return serve_version(version, revision)


async def find_champion(store: Store, model: str) -> ServedModel | None:
    """Return what serves `model` furthest on the way to production; None when nothing does."""
    places = {e.metadata.name: e.spec.order for e in (await store.list(Environment))[0]}
    deployments, _ = await store.list(ModelDeployment)
    serving = [d for d in deployments if d.spec.model == model and d.status.stable is not None]
    furthest = sorted(
        serving,
        key=lambda d: (-places.get(d.metadata.environment or "", 0), d.metadata.name),
    )
    for deployment in furthest:
        revision = deployment.status.stable
        assert revision is not None
        version = await store.find(ModelVersion, f"{model}@{revision.version}")
        if version is not None:
            return serve_version(version, revision)
    return None


async def first_revision(store: Store, version: ModelVersion) -> Revision:
    """Return the revision of `version` that its first promotion will ask for.

    Under the settings of the model's deployment where the way to production begins, or the
    defaults where there is none, so that a run made beforehand counts for the promotion.

    Raises
    ------
    InvalidResource
        The version's files are not here.
    """
    places = {e.metadata.name: e.spec.order for e in (await store.list(Environment))[0]}
    deployments, _ = await store.list(ModelDeployment)
    mine = [d for d in deployments if d.spec.model == version.spec.model]
    mine.sort(key=lambda d: (places.get(d.metadata.environment or "", 0), d.metadata.name))
    spec = mine[0].spec if mine else ModelDeploymentSpec(model=version.spec.model)
    return compute_revision(spec, version)


async def load_surroundings(
    store: Store, candidate: ServedModel, stages: Sequence[Stage], place: StagePlace
) -> Surroundings:
    """Return what `stages` look at besides the run; see `decisions.gate_plans.Surroundings`."""
    model, version = candidate.revision.model, candidate.revision.version
    name = f"{model}@{version}"
    record = await store.find(ModelVersion, name)
    if record is None:  # the record went while the run was on its way
        spec = ModelVersionSpec(model=model, version=version)
        record = ModelVersion(metadata=Metadata(name=name), spec=spec)
    data = {
        dataset: (await store.list(DatasetVersion, prefix=f"{dataset}@"))[0]
        for dataset in sorted(data_names(stages, record))
    }
    checks = {stage.check for stage in stages}
    contracts: Sequence[Contract] = ()
    if checks & {"contract", "schema"}:
        contracts = [c for c in (await store.list(Contract))[0] if c.spec.model == model]
    environments, _ = await store.list(Environment)
    deployments: Sequence[ModelDeployment] = ()
    if "parity" in checks:
        deployments, _ = await store.list(ModelDeployment)
    return Surroundings(place, record, data, contracts, environments, deployments)


async def results_of(store: Store, key: str) -> Sequence[StageResult]:
    """Return the results of a key, oldest first."""
    found, _ = await store.list(StageResult, prefix=key[:KEY_IN_NAME])
    return _in_order(result for result in found if result.spec.key == key)


async def last_result(store: Store, model: str, stage: str) -> StageResult | None:
    """Return the newest result of a stage of this name for a model."""
    found, _ = await store.list(StageResult, labels={"model": model, "stage": stage})
    return _in_order(found)[-1] if found else None


def _in_order(results: Iterable[StageResult]) -> list[StageResult]:
    return sorted(results, key=lambda result: result.metadata.resource_version)
