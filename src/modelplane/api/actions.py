"""Actions on deployments and rollouts: ``POST …/{name}:{verb}``.

Thin: each reads its body and calls `deployments`.
"""

from __future__ import annotations

from typing import Annotated, Any

from fastapi import Query, Request
from starlette.responses import Response

from modelplane.api.access import Context, context_of
from modelplane.api.bodies import take_fields
from modelplane.api.deployments import ask_of_rollout, find_rollout, promote, undo
from modelplane.api.routes import Routes
from modelplane.decisions.admission import Asked
from modelplane.decisions.rollout_requests import RolloutVerb
from modelplane.errors import NotFound
from modelplane.resources.meta import DEFAULT_ENVIRONMENT, Subject

EnvironmentQuery = Annotated[
    str | None, Query(description=f"The environment; {DEFAULT_ENVIRONMENT} when left out.")
]
_ROLLOUT_VERBS: dict[str, RolloutVerb] = {
    "pause": "pause",
    "resume": "resume",
    "promote-rollout": "promote",
    "rollback": "rollback",
}


async def read_action(
    context: Context, request: Request, subject: Subject, **fields: type
) -> tuple[dict[str, Any], Asked]:
    """Return an action's body, and who asks for it and why."""
    taken = take_fields(await context.read_object(request), reason=str, **fields)
    reason = taken.pop("reason", "")
    return taken, Asked(subject, context.dependencies.clock.now(), reason[:2000])


def add_action_routes(routes: Routes) -> None:
    """Add the actions on deployments and rollouts."""

    async def act(
        request: Request, name: str, verb: str, environment: EnvironmentQuery = None
    ) -> Response:
        """Promote a version; pause, resume, promote-rollout or roll back a rollout; undo.

        Where several rollouts run, `rollout` or `version` in the body says which is meant.
        """
        context = context_of(request)
        place = environment or DEFAULT_ENVIRONMENT
        if verb == "promote":
            subject = await context.admit_somewhere(request, "promote", "ModelDeployment")
            body, asked = await read_action(context, request, subject, version=str, to=str)
            return (await promote(context, name, body, environment, asked)).response()
        subject = await context.admit(request, "steer", "ModelDeployment", place, name=name)
        if verb == "undo":
            _, asked = await read_action(context, request, subject)
            return (await undo(context, name, place, asked)).response()
        if verb not in _ROLLOUT_VERBS:
            known = ", ".join(["promote", "undo", *_ROLLOUT_VERBS])
            raise NotFound(f"a deployment has no action {verb[:80]!r}", hint=f"it has: {known}")
        which, asked = await read_action(context, request, subject, rollout=str, version=str)
        meant = await find_rollout(context.store, name, place, **which)
        applied = await ask_of_rollout(
            context, meant.metadata.name, place, _ROLLOUT_VERBS[verb], asked
        )
        return applied.response()

    async def act_on_rollout(
        request: Request, name: str, verb: str, environment: EnvironmentQuery = None
    ) -> Response:
        """Pause, resume, promote or roll back."""
        context = context_of(request)
        place = environment or DEFAULT_ENVIRONMENT
        subject = await context.admit(request, "steer", "Rollout", place, name=name)
        verbs: dict[str, RolloutVerb] = {value: value for value in _ROLLOUT_VERBS.values()}
        if verb not in verbs:
            hint = f"it has: {', '.join(verbs)}"
            raise NotFound(f"a rollout has no action {verb[:80]!r}", hint=hint)
        _, asked = await read_action(context, request, subject)
        applied = await ask_of_rollout(context, name, place, verbs[verb], asked)
        return applied.response()

    routes.add(
        "POST",
        "/model-deployments/{name}:{verb}",
        act,
        tag="ModelDeployment",
        operation_id="actOnModelDeployment",
        summary="promote, undo, pause, resume, promote-rollout or rollback",
    )
    routes.add(
        "POST",
        "/rollouts/{name}:{verb}",
        act_on_rollout,
        tag="Rollout",
        operation_id="actOnRollout",
        summary="pause, resume, promote or rollback",
    )
