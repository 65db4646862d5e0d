"""What conditions of policies see: the names that exist, and what they stand for.

Called when a policy is applied (`fact_names`: which names it may use) and when a promotion is
decided or replayed (`build_facts`). Pure. `metrics` is what gates measured; what the author
claimed at the push is `version.metrics`.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from modelplane.decisions.gate_metrics import metrics_of
from modelplane.expressions.cel import NameType, Value, identifier
from modelplane.resources.gate_run import StageOutcome, StageResult
from modelplane.resources.model import Model, ModelVersion
from modelplane.resources.rollout import AbVerdict
from modelplane.resources.validation_pipeline import ValidationPipeline

TRAINING = "training"

_ALWAYS: dict[str, NameType] = {
    "version.model": "text",
    "version.semantic": "text",
    "version.number": "number",
    "version.author": "text",
    "version.format": "text",
    "version.flavour": "text",
    "version.size_bytes": "number",
    "version.metrics": "numbers",
    "version.parameters": "texts",
    "version.tags": "texts",
    "version.labels": "texts",
    "model.labels": "texts",
    "model.tags": "texts",
    "data.rows": "number",
    "signature.present": "truth",
    "champion.present": "truth",
    "contracts.can_deploy": "truth",
    "ab.verdict": "text",
    "ab.passed": "truth",
    "promotion.environment": "text",
    "promotion.stage": "text",
    "promotion.requester": "text",
    "promotion.automatic": "truth",
    "promotion.traffic_policy": "text",
}


@dataclass(frozen=True, slots=True)
class FactNames:
    """The names that a condition may use.

    Attributes
    ----------
    types
        What each name stands for.
    measured
        The metrics that the stages measure, each with the stages that do. With several,
        ``metrics.NAME`` is not a name: ``stages.STAGE.NAME`` says which is meant.
    """

    types: Mapping[str, NameType]
    measured: Mapping[str, tuple[str, ...]] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Request:
    """What a promotion asks for, as conditions see it."""

    environment: str
    stage: str
    requester: str = ""
    automatic: bool = False
    traffic_policy: str = ""


@dataclass(frozen=True, slots=True)
class Facts:
    """Values by name, and the names that could have one.

    `values` leaves out what is not known; a condition on it is not true.
    """

    values: Mapping[str, Value]
    names: FactNames

    def metric(self, name: str) -> float | None:
        """Return what gates measured as `name`; None when none or several did."""
        value = self.values.get(f"metrics.{identifier(name)}")
        return float(value) if isinstance(value, int | float) else None


def fact_names(
    pipelines: Iterable[ValidationPipeline],
    datasets: Collection[str] = (),
    *,
    of_several: bool = False,
) -> FactNames:
    """Return the names that exist when `pipelines` have run.

    Parameters
    ----------
    pipelines
        Those whose stages measure.
    datasets
        Names of registered datasets.
    of_several
        Whether ``metrics.NAME`` exists, too, where several stages measure it: for policies that
        name no pipelines of their own, since not all of `pipelines` run for one promotion.
    """
    types = dict(_ALWAYS)
    stages = [stage for pipeline in pipelines for stage in pipeline.spec.stages]
    measured: dict[str, tuple[str, ...]] = {}
    for stage in stages:
        place = f"stages.{identifier(stage.name)}"
        types[f"{place}.passed"] = "truth"
        for metric in dict.fromkeys(metrics_of(stage)):
            measured[metric] = (*measured.get(metric, ()), stage.name)
            types[f"{place}.{identifier(metric)}"] = "number"
    for metric, by in measured.items():
        if len(by) == 1 or of_several:
            types[f"metrics.{identifier(metric)}"] = "number"
            types[f"champion.metrics.{identifier(metric)}"] = "number"
    unclear = _named_twice(datasets)
    for name in map(identifier, datasets):
        if name not in unclear:
            types[f"data.{name}.rows"] = "number"
            types[f"data.{name}.version"] = "text"
    if not of_several:
        lost = tuple(f"stages.{name}." for name in _named_twice([s.name for s in stages]))
        types = {name: of for name, of in types.items() if not name.startswith(lost)}
    return FactNames(types, measured)


def build_facts(
    version: ModelVersion,
    model: Model,
    stages: Sequence[tuple[str, StageResult]],
    request: Request,
    names: FactNames,
    *,
    has_champion: bool = False,
    can_deploy: bool | None = None,
    ab_verdict: AbVerdict | None = None,
) -> Facts:
    """Return what conditions see of one promotion.

    Parameters
    ----------
    version, model
        The records as they are.
    stages
        Name and result of each stage of the gates that count.
    request
        What is asked for.
    names
        From `fact_names`, of the same pipelines.
    has_champion
        Whether the gates compared with a champion.
    can_deploy
        Whether the consumers in the environment can live with the version; None: not known.
    ab_verdict
        What the version's last A/B test concluded, empty when there was none; None: not known.
    """
    values: dict[str, Value] = {
        **_version_facts(version, model),
        **_data_facts(version),
        **_stage_facts(stages),
        "champion.present": has_champion,
        "promotion.environment": request.environment,
        "promotion.stage": request.stage,
        "promotion.requester": request.requester,
        "promotion.automatic": request.automatic,
        "promotion.traffic_policy": request.traffic_policy,
    }
    if can_deploy is not None:
        values["contracts.can_deploy"] = can_deploy
    if ab_verdict is not None:
        values |= {"ab.verdict": ab_verdict, "ab.passed": ab_verdict == "pass"}
    return Facts(values, names)


def _version_facts(version: ModelVersion, model: Model) -> dict[str, Value]:
    spec = version.spec
    facts: dict[str, Value] = {
        "version.model": spec.model,
        "version.semantic": spec.version,
        "version.number": spec.number,
        "version.author": spec.author,
        "version.flavour": spec.flavour,
        "version.metrics": spec.metrics,
        "version.parameters": spec.parameters,
        "version.tags": version.status.tags,
        "version.labels": version.metadata.labels,
        "model.labels": model.metadata.labels,
        "model.tags": model.status.tags,
        "signature.present": bool(version.status.signatures),
    }
    if spec.artifact is not None:
        facts["version.format"] = spec.artifact.format
        facts["version.size_bytes"] = spec.artifact.size_bytes
    return facts


def _data_facts(version: ModelVersion) -> dict[str, Value]:
    facts: dict[str, Value] = {}
    unclear = _named_twice({reference.name for reference in version.spec.datasets})
    # What it was trained on comes last and so wins over other uses of the same dataset.
    for reference in sorted(version.spec.datasets, key=lambda each: each.context == TRAINING):
        if identifier(reference.name) in unclear:
            continue
        place = f"data.{identifier(reference.name)}"
        if reference.rows is not None:
            facts[f"{place}.rows"] = reference.rows
        if reference.version is not None:
            facts[f"{place}.version"] = reference.version
    rows = [each.rows for each in version.spec.datasets if each.context == TRAINING]
    known = [count for count in rows if count is not None]
    if rows and len(known) == len(rows):
        facts["data.rows"] = sum(known)
    return facts


def _stage_facts(stages: Sequence[tuple[str, StageResult]]) -> dict[str, Value]:
    facts: dict[str, Value] = {}
    twice = _named_twice([name for name, _ in stages])
    by_metric: dict[str, list[tuple[float, float | None]]] = {}
    for name, result in stages:
        outcome = result.spec.outcome
        place = f"stages.{identifier(name)}"
        if identifier(name) not in twice:
            facts[f"{place}.passed"] = outcome.passed
        for metric, (value, champion) in _measured(outcome).items():
            by_metric.setdefault(identifier(metric), []).append((value, champion))
            if identifier(name) not in twice:
                facts[f"{place}.{identifier(metric)}"] = value
    for metric, found in by_metric.items():
        if len(found) > 1:
            continue
        value, champion = found[0]
        facts[f"metrics.{metric}"] = value
        if champion is not None:
            facts[f"champion.metrics.{metric}"] = champion
    return facts


def _measured(outcome: StageOutcome) -> dict[str, tuple[float, float | None]]:
    return {m.name: (m.value, m.champion) for m in outcome.measurements if not m.slice}


def _named_twice(names: Iterable[str]) -> frozenset[str]:
    """Return what several of `names` become as identifiers: none of them is meant then."""
    cleaned = [identifier(name) for name in names]
    return frozenset(name for name in cleaned if cleaned.count(name) > 1)
