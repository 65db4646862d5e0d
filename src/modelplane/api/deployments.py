"""Deployments: apply, promote and undo, and what people ask of their rollouts.

Loads what the decisions need, lets `decisions.admission` decide, commits. Holds no rule.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

from starlette.responses import Response

from modelplane.api.access import Context
from modelplane.api.answers import json_response
from modelplane.api.committing import commit
from modelplane.api.preflight import warn_of_plan
from modelplane.decisions.admission import (
    Admission,
    Asked,
    Result,
    admit_deployment,
    admit_promotion,
)
from modelplane.decisions.mirroring import check_mirrors
from modelplane.decisions.promotion_sources import admit_undo, choose_source
from modelplane.decisions.rollout_requests import (
    RolloutVerb,
    choose_rollout,
    request_of_rollout,
)
from modelplane.decisions.versions import LATEST, resolve_version
from modelplane.errors import FieldError, InvalidResource, NotFound
from modelplane.ports.situations import load_active, load_situation, write_admission
from modelplane.ports.store import Store, Transaction
from modelplane.resources.environment import Environment
from modelplane.resources.meta import DEFAULT_ENVIRONMENT, Resource
from modelplane.resources.model import ModelVersion
from modelplane.resources.model_deployment import ModelDeployment
from modelplane.resources.promotion import Promotion
from modelplane.resources.rollout import Rollout
from modelplane.resources.versions import parse_version


@dataclass(frozen=True, slots=True)
class Applied:
    """The answer to a change: what is there now, and what else was made or said."""

    result: Result
    resource: Resource[Any, Any]
    promotion: Promotion | None = None
    warnings: tuple[str, ...] = ()

    def response(self) -> Response:
        """Return it as HTTP."""
        return json_response(
            {
                "result": self.result,
                "resource": self.resource.to_dict(),
                "promotion": self.promotion.to_dict() if self.promotion else None,
                "warnings": self.warnings,
            }
        )


async def apply_deployment(
    context: Context, declared: ModelDeployment, asked: Asked, *, dry_run: bool
) -> Applied:
    """Make `declared` what is declared; see `decisions.admission.admit_deployment`."""

    async def prepare() -> tuple[Transaction, Admission]:
        environment = await load_environment(context.store, declared.metadata.environment)
        if declared.spec.mirror_to:
            environments, _ = await context.store.list(Environment)
            check_mirrors(declared, environment, {e.metadata.name: e for e in environments})
        model = declared.spec.model
        version = await load_version(context.store, model, declared.spec.version)
        name = declared.metadata.name
        situation = await load_situation(
            context.store, environment, name, version, own_key=_own_key(context)
        )
        admission = admit_deployment(declared, version, situation, asked)
        return write_admission(admission, asked, "apply"), admission

    applied = await _carry_out(context, prepare, dry_run=dry_run)
    if applied.promotion is None:
        return applied
    said = await warn_of_plan(context, declared)
    return replace(applied, warnings=(*applied.warnings, *said))


def _own_key(context: Context) -> str:
    return context.dependencies.stage_place.public_key


async def _carry_out(
    context: Context,
    prepare: Callable[[], Awaitable[tuple[Transaction, Admission]]],
    *,
    dry_run: bool = False,
) -> Applied:
    written: Sequence[Resource[Any, Any]] = ()
    if dry_run:
        _, admission = await prepare()
    else:
        admission, written = await commit(context.store, prepare)
    deployment = next((r for r in written if isinstance(r, ModelDeployment)), admission.deployment)
    promotion = next((r for r in written if isinstance(r, Promotion)), admission.promotion)
    return Applied(admission.result, deployment, promotion, admission.warnings)


async def load_environment(
    store: Store, name: str | None, *, path: str = "metadata.environment"
) -> Environment:
    """Return an environment that a request names; unknown is invalid, and says which exist."""
    wanted = name or DEFAULT_ENVIRONMENT
    environment = await store.find(Environment, wanted)
    if environment is not None:
        return environment
    known, _ = await store.list(Environment)
    names = ", ".join(e.metadata.name for e in known) or "none"
    raise InvalidResource(
        f"there is no environment {wanted!r}",
        [FieldError(path, f"unknown environment; there are: {names}")],
    )


async def load_deployment(store: Store, name: str, environment: str) -> ModelDeployment:
    """Return a deployment; `NotFound` says where else there is one of that name."""
    deployment = await store.find(ModelDeployment, name, environment)
    if deployment is not None:
        return deployment
    everywhere, _ = await store.list(ModelDeployment)
    places = [str(d.metadata.environment) for d in everywhere if d.metadata.name == name]
    hint = f"it is in: {', '.join(places)}" if places else ""
    raise NotFound(f"there is no deployment {name!r} in {environment}", hint=hint)


async def load_version(store: Store, model: str, wanted: str) -> ModelVersion:
    """Return the version `wanted` names, by its name where that is enough."""
    if wanted != LATEST and not wanted.isdecimal():
        try:
            found = await store.find(ModelVersion, f"{model}@{parse_version(wanted)}")
        except ValueError:
            found = None
        if found is not None and found.status.deleted_at is None:
            return found
    versions, _ = await store.list(ModelVersion, prefix=f"{model}@")
    return resolve_version(model, versions, wanted)


async def find_version(store: Store, name: str) -> ModelVersion:
    """Return a version by its name; its number or ``latest`` may stand for the version in it.

    Raises
    ------
    NotFound
        No such version; says which there are.
    """
    found = await store.find(ModelVersion, name)
    if found is not None:
        return found
    model, at, wanted = name.rpartition("@")
    if not at:
        raise NotFound(f"{name[:80]!r} names no version", hint="write it MODEL@VERSION")
    return await load_version(store, model, wanted)


async def promote(
    context: Context, name: str, body: dict[str, Any], environment: str | None, asked: Asked
) -> Applied:
    """Ask for a version in an environment; see `decisions.admission.admit_promotion`."""
    target_name = body.get("to") or environment or DEFAULT_ENVIRONMENT
    origin = environment if body.get("to") and environment != body["to"] else None

    def choose(
        target: Environment,
        environments: Sequence[Environment],
        deployments: Sequence[ModelDeployment],
    ) -> ModelDeployment:
        return choose_source(name, target, environments, deployments, origin=origin)

    return await promote_chosen(context, target_name, choose, body.get("version"), asked)


Chooser = Callable[[Environment, Sequence[Environment], Sequence[ModelDeployment]], ModelDeployment]
"""Returns the deployment a promotion starts from: of the target, all environments and all
deployments."""


async def promote_chosen(
    context: Context, target_name: str, choose: Chooser, wanted: str | None, asked: Asked
) -> Applied:
    """Ask for a version (None: what the source serves) of the deployment that `choose` returns.

    The door of every way to promote: raises `Forbidden` when who asks may not promote there.
    """
    store = context.store

    async def prepare() -> tuple[Transaction, Admission]:
        target = await load_environment(store, target_name, path="to")
        environments, _ = await store.list(Environment)
        deployments, _ = await store.list(ModelDeployment)
        source = choose(target, environments, deployments)
        name, model = source.metadata.name, source.spec.model
        await context.allow(
            asked.subject, "promote", "ModelDeployment", target.metadata.name, model=model
        )
        stable = source.status.stable
        serving = stable.version if stable else source.spec.version
        written = wanted or serving
        version = await load_version(store, model, written)
        situation = await load_situation(store, target, name, version, own_key=_own_key(context))
        admission = admit_promotion(source, written, version, situation, asked)
        return write_admission(admission, asked, "promote"), admission

    return await _carry_out(context, prepare)


async def undo(context: Context, name: str, environment: str, asked: Asked) -> Applied:
    """Go back to what was stable before the last rollout."""
    store = context.store

    async def prepare() -> tuple[Transaction, Admission]:
        deployment = await load_deployment(store, name, environment)
        rollouts, _ = await store.list(Rollout, environment)
        own = [rollout for rollout in rollouts if rollout.spec.deployment == name]
        active = await load_active(store, deployment)
        admission = admit_undo(deployment, own, active, asked)
        return write_admission(admission, asked, "undo"), admission

    return await _carry_out(context, prepare)


async def find_rollout(
    store: Store,
    name: str,
    environment: str,
    *,
    rollout: str | None = None,
    version: str | None = None,
) -> Rollout:
    """Return the rollout of a deployment that is meant; see `choose_rollout`."""
    deployment = await load_deployment(store, name, environment)
    found, _ = await store.list(Rollout, environment, prefix=f"{name}-")
    own = [one for one in found if one.spec.deployment == name]
    return choose_rollout(deployment, own, name=rollout, version=version)


async def ask_of_rollout(
    context: Context, name: str, environment: str, verb: RolloutVerb, asked: Asked
) -> Applied:
    """Pause, resume, promote or roll back a rollout."""

    async def prepare() -> tuple[Transaction, Rollout]:
        rollout = await context.store.get(Rollout, name, environment)
        changed = request_of_rollout(rollout, verb, asked.subject, asked.reason, asked.now)
        transaction = Transaction(asked.subject, asked.reason)
        if changed != rollout:
            transaction.update(changed, verb)
        return transaction, changed

    rollout, written = await commit(context.store, prepare)
    return Applied("changed" if written else "unchanged", written[0] if written else rollout)
