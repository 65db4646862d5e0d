"""What the job of a stage is given, and whether it need run at all. Pure.

Called by `controllers.gates` for the stages that may start, and by the API to explain the cache.
What is here must be the same for both, or the explanation would be of something else.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from modelplane.decisions.contracts import contracts_of
from modelplane.decisions.gate_keys import (
    StagePlace,
    changed_inputs,
    compares,
    compute_inputs,
    compute_key,
    why_never_reused,
)
from modelplane.resources.checks import (
    AccuracyCheck,
    CommandCheck,
    ContractCheck,
    DataName,
    FairnessCheck,
    ParityCheck,
    SchemaCheck,
)
from modelplane.resources.contract import Contract
from modelplane.resources.dataset import DatasetReference, DatasetVersion
from modelplane.resources.environment import Environment
from modelplane.resources.gate_run import DataInput, GateRun, StageResult, StageTask
from modelplane.resources.model import ModelVersion
from modelplane.resources.model_deployment import ModelDeployment
from modelplane.resources.validation_pipeline import Stage

RUN_INPUT = "run"
"""Name of the input that makes a result one of its run alone."""

NOT_REUSED_INPUT = "not-reused"
"""Name of the input that says why."""

_EVALUATION = ("test", "testing", "evaluation", "eval", "validation", "holdout")
_TRAINING = frozenset({"training", "train"})
_ANY_ADDRESS = frozenset({"0.0.0.0", "::"})  # noqa: S104 - recognised, not listened on


@dataclass(frozen=True, slots=True)
class Surroundings:
    """What stages look at besides the run itself.

    Attributes
    ----------
    place
        What they are run by.
    version
        The candidate's record.
    data
        The registered versions of each dataset that a stage names, by dataset.
    contracts
        Those with the candidate's model.
    environments, deployments
        All.
    """

    place: StagePlace
    version: ModelVersion
    data: Mapping[str, Sequence[DatasetVersion]] = field(default_factory=dict)
    contracts: Sequence[Contract] = ()
    environments: Sequence[Environment] = ()
    deployments: Sequence[ModelDeployment] = ()


@dataclass(frozen=True, slots=True)
class StagePlan:
    """How a stage would run now.

    Attributes
    ----------
    task
        What its job is given.
    inputs, key
        What its result depends on. For a stage that is never reused the run is among them.
    not_reused
        Why no result is ever reused; empty when one may be.
    fault
        Why it cannot run at all; empty when it can.
    """

    task: StageTask
    inputs: Mapping[str, str]
    key: str
    not_reused: str = ""
    fault: str = ""


def plan_stage(stage: Stage, run: GateRun, around: Surroundings) -> StagePlan:
    """Return how `stage` of `run` would run now."""
    datasets, fault = _find_data(stage, around)
    task = _fill(stage, run, around, datasets)
    inputs = compute_inputs(task, around.place)
    not_reused = why_never_reused(stage, datasets)
    if not_reused:
        inputs |= {NOT_REUSED_INPUT: not_reused, RUN_INPUT: run.metadata.name}
    return StagePlan(task, inputs, compute_key(inputs), not_reused, fault)


def data_names(stages: Iterable[Stage], version: ModelVersion) -> frozenset[str]:
    """Return the datasets whose registered versions the stages need to be planned."""
    names = {split_data_name(name)[0] for stage in stages for name in _named_data(stage)}
    return frozenset({*names, *(reference.name for reference in version.spec.datasets)})


def split_data_name(name: DataName) -> tuple[str, str]:
    """Return dataset and version of ``DATASET@VERSION``; without one, the version is empty."""
    dataset, at, version = name.rpartition("@")
    return (dataset, version) if at else (name, "")


# -- data ---------------------------------------------------------------------------------


def _named_data(stage: Stage) -> tuple[DataName, ...]:
    check = stage.configuration
    if isinstance(check, CommandCheck):
        return check.datasets
    if isinstance(check, AccuracyCheck | FairnessCheck | ParityCheck):
        return (check.dataset,) if check.dataset else ()
    return ()


def _find_data(stage: Stage, around: Surroundings) -> tuple[tuple[DataInput, ...], str]:
    """Return the data that the stage reads, and why it cannot."""
    found = []
    for name in _named_data(stage):
        dataset, version = split_data_name(name)
        data = _registered(around.data.get(dataset, ()), version)
        if data is None:
            known = ", ".join(v.spec.version for v in around.data.get(dataset, ())[:10])
            there = f"there are versions {known}" if known else "no version of it is registered"
            return (), f"there is no data {name}: {there}; modelplane dataset push registers one"
        found.append(_data_input(data))
    if not found and isinstance(stage.configuration, AccuracyCheck | FairnessCheck):
        default = _default_data(around)
        return ((default,) if default else ()), ""
    return tuple(found), ""


def _registered(versions: Sequence[DatasetVersion], wanted: str) -> DatasetVersion | None:
    if wanted:
        return next((v for v in versions if v.spec.version == wanted), None)
    return max(versions, key=lambda v: v.spec.number, default=None)


def _default_data(around: Surroundings) -> DataInput | None:
    """Return the data that the version was evaluated on when it was pushed, if it says any."""
    references = around.version.spec.datasets
    by_context: dict[str, DatasetReference] = {}
    for reference in references:
        by_context.setdefault(reference.context.lower(), reference)
    chosen = next((by_context[c] for c in _EVALUATION if c in by_context), None)
    if chosen is None:
        chosen = next((r for r in references if r.context.lower() not in _TRAINING), None)
    if chosen is None:
        return None
    if chosen.version:
        registered = _registered(around.data.get(chosen.name, ()), chosen.version)
        if registered is not None:
            return _data_input(registered)
    return DataInput(
        name=chosen.name,
        version=chosen.version or "",
        digest=chosen.digest,
        uri=chosen.uri,
        format=chosen.format,
    )


def _data_input(data: DatasetVersion) -> DataInput:
    spec = data.spec
    return DataInput(
        name=spec.dataset,
        version=spec.version,
        digest=spec.digest,
        uri=spec.uri,
        format=spec.format,
    )


# -- the task -----------------------------------------------------------------------------


def _fill(
    stage: Stage, run: GateRun, around: Surroundings, datasets: tuple[DataInput, ...]
) -> StageTask:
    check = stage.configuration
    further: dict[str, Any] = {}
    if isinstance(check, ContractCheck | SchemaCheck):
        model = run.spec.candidate.revision.model
        further["contracts"] = contracts_of(around.contracts, model, check)
    if isinstance(check, ParityCheck):
        further |= _parity(check, run, around)
    if stage.check == "security_scan":
        signatures = around.version.status.signatures
        further["signatures"] = tuple(signature.to_dict() for signature in signatures)
        further["trusted_keys"] = trusted_keys(around.environments, around.place)
    return StageTask(
        run=run.metadata.name,
        stage=stage,
        candidate=run.spec.candidate,
        champion=run.spec.champion if compares(stage) else None,
        datasets=datasets,
        **further,
    )


def trusted_keys(environments: Sequence[Environment], place: StagePlace) -> tuple[str, ...]:
    """Return the keys that some environment trusts; where one names none, this modelplane's."""
    keys = {key for environment in environments for key in environment.spec.trusted_keys}
    if place.public_key and any(not e.spec.trusted_keys for e in environments):
        keys.add(place.public_key)
    return tuple(sorted(keys))


def _parity(check: ParityCheck, run: GateRun, around: Surroundings) -> dict[str, Any]:
    """Return what serves the model in each environment, and where its gateway is."""
    model = run.spec.candidate.revision.model
    endpoints: dict[str, str] = {}
    serving: dict[str, Any] = {}
    places = {e.metadata.name: e for e in around.environments}
    for deployment in sorted(around.deployments, key=lambda d: d.metadata.name):
        name, stable = deployment.metadata.environment or "", deployment.status.stable
        if name not in places or name in serving:
            continue
        if deployment.spec.model != model or stable is None:
            continue
        if check.environments and name not in check.environments:
            continue
        gateway = places[name].spec.gateway
        host = "127.0.0.1" if gateway.host in _ANY_ADDRESS else gateway.host
        endpoints[name] = gateway.url_at(host)
        serving[name] = {
            "name": deployment.metadata.name,
            "version": stable.version,
            "digest": stable.artifact.digest,
            "headers": {},
        }
    return {"endpoints": endpoints, "deployments": serving}


# -- the cache, explained -----------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class CacheExplanation:
    """Whether a stage would be reused, and if not, why.

    Attributes
    ----------
    stage, check
        Which stage.
    hit
        The result that would be reused; None when it would run.
    before
        The newest result of this stage and model, when there is one.
    changed
        Names of the inputs that are not as they were then.
    reason
        In one sentence.
    """

    stage: str
    check: str
    hit: StageResult | None
    before: StageResult | None
    changed: tuple[str, ...]
    reason: str


def explain_stage(
    plan: StagePlan, matching: Sequence[StageResult], before: StageResult | None
) -> CacheExplanation:
    """Return whether the stage would be reused now.

    Parameters
    ----------
    plan
        How it would run.
    matching
        Results of its key, oldest first.
    before
        The newest result of a stage of this name and this model.
    """
    stage = plan.task.stage
    hit = matching[-1] if matching and not plan.not_reused else None
    changed: tuple[str, ...] = ()
    if hit is not None:
        reason = f"nothing changed since {hit.spec.run}"
    elif plan.fault:
        reason = plan.fault
    elif plan.not_reused:
        reason = f"never reused: {plan.not_reused}"
    elif before is None:
        reason = "it has not run for this model yet"
    else:
        changed = changed_inputs(plan.inputs, before)
        reason = f"{', '.join(changed)} changed since {before.spec.run}"
    return CacheExplanation(stage.name, stage.check, hit, before, changed, reason)
