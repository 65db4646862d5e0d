"""``status``: every environment at one look.

What serves, what moves, what is wrong; and what to do next when there is nothing yet.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import typer

from modelplane.cli import words
from modelplane.cli.options import Plain, PlainOutput
from modelplane.cli.output import print_json, terminal_width
from modelplane.cli.session import Session, command, make_app
from modelplane.cli.tables import format_table
from modelplane.resources.environment import Environment
from modelplane.resources.model_deployment import ModelDeployment
from modelplane.resources.promotion import WAITING_PROMOTION, Promotion
from modelplane.resources.replica import Replica
from modelplane.resources.rollout import Rollout
from modelplane.resources.traffic_split import TrafficSplit

app = make_app()

_BROKEN = frozenset({"Failed", "NotReady"})
_HEADERS = ["DEPLOYMENT", "SERVING", "TRAFFIC", "READY", "MOVING", "TROUBLE"]


@dataclass(frozen=True, slots=True)
class Overview:
    """Everything there is, as it was read."""

    environments: Sequence[Environment]
    deployments: Sequence[ModelDeployment]
    rollouts: Sequence[Rollout]
    replicas: Sequence[Replica]
    splits: Sequence[TrafficSplit]
    promotions: Sequence[Promotion] = ()


@command(app, "status", examples=["modelplane status", "modelplane status -o json"])
def status(session: Session, *, output: PlainOutput = Plain.TEXT) -> None:
    """Show every environment: what serves, what moves, what is wrong."""
    client = session.client
    overview = Overview(
        environments=sorted(client.list(Environment).items, key=lambda e: e.spec.order),
        deployments=client.list(ModelDeployment).items,
        rollouts=client.list(Rollout).items,
        replicas=client.list(Replica).items,
        splits=client.list(TrafficSplit).items,
        promotions=client.list(Promotion).items,
    )
    if output is Plain.JSON:
        print_json(overview_to_dict(overview))
    else:
        typer.echo(format_overview(overview, terminal_width()))


def format_overview(overview: Overview, width: int | None) -> str:
    """Return the overview as text."""
    parts = []
    for environment in overview.environments:
        gateway = environment.spec.gateway
        head = f"{environment.metadata.name}  gateway {gateway.url}"
        if environment.status.gateway_fault:
            head += f"\n! {environment.status.gateway_fault}"
        rows = [_row(overview, item) for item in _deployments_of(overview, environment)]
        body = format_table(_HEADERS, rows, width) if rows else "nothing is deployed here"
        parts.append(f"{head}\n{body}")
    if not overview.deployments:
        parts.append("Next: modelplane push NAME --version 1.0.0 --artifact PATH")
    return "\n\n".join(parts)


def overview_to_dict(overview: Overview) -> dict[str, Any]:
    """Return the overview as JSON types."""
    return {
        "environments": [
            {
                "name": environment.metadata.name,
                "gateway": environment.spec.gateway.to_dict(),
                "deployments": [
                    dict(zip(map(str.lower, _HEADERS), _row(overview, item), strict=True))
                    for item in _deployments_of(overview, environment)
                ],
            }
            for environment in overview.environments
        ]
    }


def _deployments_of(overview: Overview, environment: Environment) -> list[ModelDeployment]:
    name = environment.metadata.name
    return [item for item in overview.deployments if item.metadata.environment == name]


def _row(overview: Overview, deployment: ModelDeployment) -> list[str]:
    spec, status_ = deployment.spec, deployment.status
    cells = [
        deployment.metadata.name,
        status_.stable.version if status_.stable else "",
        _traffic(overview, deployment),
        f"{status_.ready_replicas}/{spec.replicas}",
        _moving(overview, deployment),
        _trouble(overview, deployment),
    ]
    return [cell or words.NOTHING for cell in cells]


def _traffic(overview: Overview, deployment: ModelDeployment) -> str:
    key = (deployment.metadata.environment, deployment.metadata.name)
    for split in overview.splits:
        if (split.metadata.environment, split.metadata.name) == key:
            live = [v for v in split.spec.variants if v.weight_pct > 0]
            return ", ".join(f"{v.version} {words.percent(v.weight_pct)}" for v in live)
    return ""


def _moving(overview: Overview, deployment: ModelDeployment) -> str:
    running = [
        rollout
        for rollout in overview.rollouts
        if rollout.metadata.environment == deployment.metadata.environment
        and rollout.spec.deployment == deployment.metadata.name
        and not rollout.finished
    ]
    running.sort(key=lambda rollout: rollout.spec.ordinal)
    moving = ", ".join(f"{r.spec.candidate.version} {r.status.phase}" for r in running)
    return moving or _waiting(overview, deployment)


def _waiting(overview: Overview, deployment: ModelDeployment) -> str:
    """Return which versions wait to come here, and what for; those of traffic policies too."""
    status = deployment.status
    latest = {status.promotion, *(lane.promotion for lane in status.lanes.values())}
    waiting = []
    for promotion in overview.promotions:
        same = promotion.metadata.environment == deployment.metadata.environment
        mine = same and promotion.metadata.name in latest
        if mine and promotion.status.phase in WAITING_PROMOTION:
            version, found = promotion.spec.revision.version, promotion.status
            waiting.append(f"{version} {found.phase}: {found.message}".rstrip(": "))
    return ", ".join(waiting)


def _trouble(overview: Overview, deployment: ModelDeployment) -> str:
    """Return the first thing that people should look at."""
    for replica in overview.replicas:
        same = replica.metadata.environment == deployment.metadata.environment
        mine = same and replica.spec.deployment == deployment.metadata.name
        if mine and not replica.spec.stopped and replica.status.phase in _BROKEN:
            what = replica.status.reason or replica.status.message
            return f"{replica.metadata.name} {replica.status.phase}: {what}".rstrip(": ")
    troubles = (words.trouble(condition) for condition in deployment.status.conditions)
    return next(filter(None, troubles), "")
