"""One resource in full, for people; of a deployment also its rollouts, replicas and traffic.

Called by ``describe``.
"""

from __future__ import annotations

from datetime import datetime
from typing import Any

from modelplane.cli import words
from modelplane.cli.columns import headers_of, row_of, rows_of
from modelplane.cli.output import format_yaml, terminal_width
from modelplane.cli.session import Session
from modelplane.cli.tables import format_table
from modelplane.resources.meta import Condition, Resource
from modelplane.resources.model import ModelVersion
from modelplane.resources.model_deployment import ModelDeployment
from modelplane.resources.promotion import Promotion
from modelplane.resources.replica import Replica
from modelplane.resources.rollout import Rollout
from modelplane.resources.traffic_split import TrafficSplit

AnyResource = Resource[Any, Any]

_RELATED: tuple[type[AnyResource], ...] = (TrafficSplit, Replica, Rollout, Promotion)
_SHOWN = 10
_HIDDEN = ("conditions", "corrections", "logTail", "policies", "gates")


def describe_resource(session: Session, resource: AnyResource) -> str:
    """Return a resource in words: its row, spec, status, conditions, and what hangs on it."""
    now = session.now()
    pairs = [
        (header.capitalize(), cell)
        for header, cell in zip(headers_of(type(resource)), row_of(resource, now), strict=True)
    ]
    width = max(len(name) for name, _ in pairs) + 2
    parts = ["\n".join(f"{name + ':':{width}}{cell}" for name, cell in pairs)]
    status = resource.status.to_dict()
    parts.append(_section("Spec", resource.spec.to_dict()))
    parts.append(_section("Status", {k: v for k, v in status.items() if k not in _HIDDEN}))
    parts.append(_describe_conditions(getattr(resource.status, "conditions", ())))
    if isinstance(resource, ModelVersion):
        parts.append(_describe_corrections(resource))
    if isinstance(resource, Promotion):
        parts.append(_describe_guards(resource))
    if isinstance(resource, ModelDeployment):
        parts += [_related(session, resource, kind) for kind in _RELATED]
        parts += _describe_metrics(session, resource)
    if status.get("logTail"):
        parts.append(f"End of its log:\n{_indent(str(status['logTail']))}")
    return "\n\n".join(part for part in parts if part) + "\n"


def _section(title: str, data: dict[str, Any]) -> str:
    filled = {key: value for key, value in data.items() if value not in ("", [], {}, None)}
    return f"{title}:\n{_indent(format_yaml(filled))}" if filled else ""


def _describe_conditions(conditions: tuple[Condition, ...]) -> str:
    rows = [[c.type, c.status, c.reason, c.message] for c in conditions]
    return _table("Conditions", ["TYPE", "STATUS", "REASON", "MESSAGE"], rows)


def _describe_corrections(version: ModelVersion) -> str:
    """Return what the record, shown above as it was registered, should have said."""
    rows = [
        [c.field, "nothing" if c.value is None else str(c.value), f"{c.at:%Y-%m-%d %H:%M} UTC",
         c.subject, c.reason]
        for c in version.status.corrections
    ]  # fmt: skip
    return _table("Corrected since", ["FIELD", "SHOULD BE", "AT", "BY", "WHY"], rows)


def _describe_guards(promotion: Promotion) -> str:
    """Return what everything that guards the environment said of it."""
    status = promotion.status
    rows = [[p.kind, p.name, p.outcome, p.message] for p in status.policies]
    rows += [["Gate", gate.pipeline, gate.phase, gate.run] for gate in status.gates]
    return _table("Guarded by", ["KIND", "NAME", "OUTCOME", "MESSAGE"], rows)


def _related(session: Session, deployment: ModelDeployment, kind: type[AnyResource]) -> str:
    environment = deployment.metadata.environment
    items = [
        item
        for item in session.client.list(kind, environment).items
        if item.spec.deployment == deployment.metadata.name
    ]
    items.sort(key=lambda item: getattr(item.spec, "ordinal", 0))
    return _table(f"{kind.__name__}s", headers_of(kind), rows_of(items[-_SHOWN:], session.now()))


def _describe_metrics(session: Session, deployment: ModelDeployment) -> list[str]:
    """Return what each replica's model server said of itself, where an endpoint is declared."""
    stable = deployment.status.stable
    if deployment.spec.metrics_endpoint is None and (
        stable is None or stable.runtime.metrics_endpoint is None
    ):
        return []
    place = deployment.metadata.environment or ""
    traffic = session.client.traffic(deployment.metadata.name, place)
    parts = []
    for variant in traffic["variants"]:
        for replica, told in variant.get("metrics", {}).items():
            ago = words.age(datetime.fromisoformat(told["at"]), session.now())
            title = f"Metrics of {variant['version'] or variant['revision']}, {replica}, {ago} ago"
            if told["error"]:
                parts.append(f"{title}:\n  {told['error']}")
                continue
            rows = [[name, f"{value:.12g}"] for name, value in told["samples"].items()]
            if told["truncated"]:
                rows.append(["…", ""])
            parts.append(_table(title, ["METRIC", "VALUE"], rows) or f"{title}: none")
    return parts


def _table(title: str, headers: list[str], rows: list[list[str]]) -> str:
    width = terminal_width()
    table = format_table(headers, rows, None if width is None else width - 2)
    return f"{title}:\n{_indent(table)}" if rows else ""


def _indent(text: str) -> str:
    return "\n".join(f"  {line}" for line in text.rstrip().splitlines())
