"""What `get` shows of each kind: columns and how they are filled. Pure.

Called by ``get``, ``describe`` and ``status``.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime

from modelplane.cli import (
    columns_alerts,
    columns_gates,
    columns_playbooks,
    columns_training,
    words,
)
from modelplane.cli.fillers import FILLERS, AnyResource, Row, columns
from modelplane.decisions.corrections import effective
from modelplane.decisions.rollout import policy_of
from modelplane.resources.dataset import Dataset, DatasetVersion
from modelplane.resources.environment import Environment
from modelplane.resources.job import Job
from modelplane.resources.model import AliasMove, Model, ModelVersion
from modelplane.resources.model_deployment import ModelDeployment
from modelplane.resources.model_source import ModelSource
from modelplane.resources.promotion import Promotion
from modelplane.resources.replica import Replica
from modelplane.resources.rollout import Rollout
from modelplane.resources.token import Token
from modelplane.resources.traffic_policy import TrafficPolicy
from modelplane.resources.traffic_split import TrafficSplit

__all__ = [
    "columns_alerts",
    "columns_gates",
    "columns_playbooks",
    "columns_training",
    "headers_of",
    "row_of",
    "rows_of",
]


def headers_of(kind: type[AnyResource]) -> list[str]:
    """Return the headers of a kind's table."""
    headers, _ = FILLERS[kind]
    place = ["ENVIRONMENT"] if kind.scoped else []
    return ["NAME", *place, *headers, "AGE"]


def row_of(resource: AnyResource, now: datetime) -> Row:
    """Return a resource's row under those headers."""
    _, fill = FILLERS[type(resource)]
    metadata = resource.metadata
    place = [metadata.environment or words.NOTHING] if resource.scoped else []
    cells = (cell or words.NOTHING for cell in fill(resource, now))
    return [metadata.name, *place, *cells, words.age(metadata.created_at, now)]


def rows_of(resources: Sequence[AnyResource], now: datetime) -> list[Row]:
    """Return the rows of several resources of one kind."""
    return [row_of(resource, now) for resource in resources]


@columns(Environment, "STAGE", "GATEWAY", "STRATEGY", "PICKLE")
def _environment(resource: Environment, _: datetime) -> Row:
    spec = resource.spec
    gateway = f"! {spec.gateway.url}" if resource.status.gateway_fault else spec.gateway.url
    return [spec.stage, gateway, words.strategy(spec.strategy), spec.allow_pickle]


@columns(Model, "LABELS", "DESCRIPTION")
def _model(resource: Model, _: datetime) -> Row:
    return [words.labels(resource.metadata.labels), resource.spec.description]


@columns(ModelVersion, "NUMBER", "FORMAT", "SIZE", "METRICS", "ALIASES")
def _model_version(resource: ModelVersion, _: datetime) -> Row:
    status = resource.status
    spec = effective(resource.spec, status.corrections)
    metrics = ",".join(f"{name}={value:.4g}" for name, value in spec.metrics.items())
    aliases = "deleted" if status.deleted_at else ",".join(status.aliases)
    artifact = spec.artifact
    return [
        str(spec.number),
        artifact.format if artifact else spec.flavour,
        words.size(artifact.size_bytes) if artifact else "",
        metrics,
        aliases,
    ]


@columns(AliasMove, "WHAT", "FROM", "TO", "BY", "REASON")
def _alias_move(resource: AliasMove, _: datetime) -> Row:
    spec = resource.spec
    what = f"{spec.alias} in {spec.environment}" if spec.environment else spec.alias
    return [what, spec.before or "", spec.after or "", spec.subject, spec.reason]


@columns(Dataset, "VERSIONS", "LABELS", "DESCRIPTION")
def _dataset(resource: Dataset, _: datetime) -> Row:
    count = str(resource.status.last_number)
    return [count, words.labels(resource.metadata.labels), resource.spec.description]


@columns(DatasetVersion, "FORMAT", "ROWS", "COLUMNS", "DIGEST")
def _dataset_version(resource: DatasetVersion, _: datetime) -> Row:
    spec = resource.spec
    rows = "" if spec.rows is None else f"{spec.rows:,}"
    kind, _colon, value = spec.digest.partition(":")
    return [spec.format, rows, str(len(spec.columns) or ""), f"{kind}:{value[:12]}"]


@columns(ModelSource, "TYPE", "URL", "MODELS", "VERSIONS", "FAILED", "READY")
def _model_source(resource: ModelSource, _: datetime) -> Row:
    spec, status = resource.spec, resource.status
    ready = next((c for c in status.conditions if c.type == "Ready"), None)
    counts = [str(status.models), str(status.versions), str(len(status.failures))]
    return [spec.type, spec.url, *counts, ready.status if ready else "Unknown"]


@columns(ModelDeployment, "MODEL", "VERSION", "SERVING", "READY", "STRATEGY", "ROLLOUT")
def _model_deployment(resource: ModelDeployment, _: datetime) -> Row:
    spec, status = resource.spec, resource.status
    return [
        spec.model,
        spec.version,
        status.stable.version if status.stable else "",
        f"{status.ready_replicas}/{spec.replicas}",
        words.strategy(spec.strategy),
        status.rollout or "",
    ]


@columns(Promotion, "VERSION", "PHASE", "BY", "REASON")
def _promotion(resource: Promotion, _: datetime) -> Row:
    spec, status = resource.spec, resource.status
    return [spec.revision.version, status.phase, spec.subject.name, spec.reason or status.message]


@columns(Rollout, "VERSIONS", "PHASE", "WEIGHT", "STRATEGY", "POLICY", "MESSAGE")
def _rollout(resource: Rollout, _: datetime) -> Row:
    status = resource.status
    return [
        words.versions(resource),
        status.phase,
        words.share(status),
        status.strategy.type if status.strategy is not None else "",
        policy_of(resource.spec.lane),
        status.message or status.reason,
    ]


@columns(TrafficSplit, "SPLIT", "IN FORCE")
def _traffic_split(resource: TrafficSplit, _: datetime) -> Row:
    shares = [f"{v.version} {words.percent(v.weight_pct)}" for v in resource.spec.variants]
    status, generation = resource.status, resource.metadata.generation
    refused = status.refused_generation == generation
    in_force = "yes" if status.accepted_generation == generation else "not yet"
    return [", ".join(shares), f"refused: {status.message}" if refused else in_force]


@columns(TrafficPolicy, "DEPLOYMENT", "VERSIONS", "RULE", "WHO", "HOOKS", "PHASE", "MESSAGE")
def _traffic_policy(resource: TrafficPolicy, _: datetime) -> Row:
    spec, status = resource.spec, resource.status
    rule = spec.traffic_rule
    arms = [f"{a.version} {words.percent(a.percentage)}" for a in rule.ab.arms] if rule.ab else []
    waiting = {hook.hook for hook in status.hooks if hook.state == "waiting"}
    hooks = [f"{hook} (waiting)" if hook in waiting else hook for hook in spec.monitoring_hooks]
    refusal = f"the gateway refused its routes: {status.gateway}" if status.gateway else ""
    return [
        spec.deployment or "",
        ", ".join(arms) or spec.version or "",
        words.strategy(rule),
        rule.predicate or "everybody",
        ", ".join(hooks),
        status.phase,
        refusal or status.message,
    ]


@columns(Replica, "VERSION", "PHASE", "RESTARTS", "NODE", "MESSAGE")
def _replica(resource: Replica, _: datetime) -> Row:
    spec, status = resource.spec, resource.status
    message = status.message or status.reason
    return [spec.revision.version, status.phase, str(status.restarts), spec.node, message]


@columns(Job, "PHASE", "ATTEMPT", "EXIT", "MESSAGE")
def _job(resource: Job, _: datetime) -> Row:
    status = resource.status
    code = "" if status.exit_code is None else str(status.exit_code)
    return [status.phase, str(status.attempt), code, status.message]


@columns(Token, "GROUPS", "EXPIRES")
def _token(resource: Token, _: datetime) -> Row:
    expires_at = resource.spec.expires_at
    return [",".join(resource.spec.groups), f"{expires_at:%Y-%m-%d}" if expires_at else "never"]
