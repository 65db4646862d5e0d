"""Which rollout of a deployment a person means: several may run beside each other.

Called by the commands of ``rollout``; what is meant is decided by `decisions.rollout_requests`.
"""

from __future__ import annotations

from typing import Annotated

import typer

from modelplane.cli.session import Session
from modelplane.decisions.rollout_requests import choose_rollout
from modelplane.errors import NotFound
from modelplane.resources.model_deployment import ModelDeployment
from modelplane.resources.rollout import Rollout

WhichRollout = Annotated[
    str | None,
    typer.Option("--rollout", metavar="NAME", help="The rollout that is meant, where several run."),
]
WhichVersion = Annotated[
    str | None,
    typer.Option("--version", metavar="VERSION", help="The rollout that brings this version."),
]


def find_shown(
    session: Session, deployment: ModelDeployment, *, name: str | None, version: str | None
) -> list[Rollout]:
    """Return the rollout that is named, or those that run, or else the deployment's latest.

    Raises
    ------
    NotFound
        There is none like that, or none at all.
    """
    if name is not None or version is not None:
        return [_find_named(session, deployment, name, version)]
    running = _load_running(session, deployment)
    if running:
        return running
    place = deployment.metadata.environment
    if deployment.status.rollout is None:
        raise NotFound(f"{deployment.metadata.name} has had no rollout in {place}")
    return [session.client.get(Rollout, deployment.status.rollout, place)]


def find_running(
    session: Session, deployment: str, environment: str, *, name: str | None, version: str | None
) -> str | None:
    """Return the name of the rollout that is meant; None when the deployment's own latest is.

    Raises
    ------
    InvalidResource
        Several run, and none was named.
    NotFound
        There is none like that.
    """
    found = session.client.get(ModelDeployment, deployment, environment)
    if name is not None or version is not None:
        return _find_named(session, found, name, version).metadata.name
    if not found.status.lanes:
        return None
    running = _load_running(session, found)
    return choose_rollout(found, running).metadata.name if running else None


def _find_named(
    session: Session, deployment: ModelDeployment, name: str | None, version: str | None
) -> Rollout:
    items = session.client.list(Rollout, deployment.metadata.environment).items
    own = [item for item in items if item.spec.deployment == deployment.metadata.name]
    return choose_rollout(deployment, own, name=name, version=version)


def _load_running(session: Session, deployment: ModelDeployment) -> list[Rollout]:
    """Return the deployment's running rollouts: its own, and those of its traffic policies."""
    status, place = deployment.status, deployment.metadata.environment
    names = [status.rollout, *(lane.rollout for lane in status.lanes.values())]
    found = [session.client.find(Rollout, name, place) for name in names if name]
    running = [rollout for rollout in found if rollout is not None and not rollout.finished]
    return sorted(running, key=lambda rollout: rollout.spec.ordinal)
