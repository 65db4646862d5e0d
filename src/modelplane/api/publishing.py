"""The publishing endpoint for scripts: ``PUT /v1/models`` with an id and a status.

Also `publish`, the one way from a version to a promotion where no deployment is named; the
MLflow registry's stage transitions use it too. Thin: `decisions.publishing` finds the place,
`api.deployments` promotes.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from fastapi import Request
from starlette.responses import Response

from modelplane.api.access import Context, context_of
from modelplane.api.answers import json_response
from modelplane.api.bodies import take_fields
from modelplane.api.deployments import Applied, load_version, promote_chosen
from modelplane.api.routes import Routes
from modelplane.decisions.admission import Asked
from modelplane.decisions.publishing import choose_deployment, choose_environment
from modelplane.errors import FieldError, InvalidResource, NotFound
from modelplane.ports.situations import load_active
from modelplane.resources.environment import Environment
from modelplane.resources.meta import check_model_name
from modelplane.resources.model import ModelVersion
from modelplane.resources.model_deployment import ModelDeployment
from modelplane.resources.promotion import Promotion

_MAX_REASON = 2000
_EXAMPLE = '{"id": "fraud@1.2.0", "status": "production"}'


async def publish(
    context: Context,
    version: ModelVersion,
    environment: str,
    asked: Asked,
    *,
    deployment: str | None = None,
) -> Applied:
    """Ask that an environment run `version`, in the model's deployment there.

    Parameters
    ----------
    version
        A living version.
    environment
        Name of the environment.
    asked
        Who asks, when and why.
    deployment
        Its name, where the model has several.

    Raises
    ------
    Forbidden
        Who asks may not promote there.
    NoDeployment
        The model has no deployment there nor in an environment before.
    ModelplaneError
        The promotion is refused; nothing was written.
    """
    model = version.spec.model
    # Before looking for a place: who may not promote there learns nothing of what is there.
    await context.allow(asked.subject, "promote", "ModelDeployment", environment, model=model)

    def choose(
        target: Environment,
        environments: Sequence[Environment],
        deployments: Sequence[ModelDeployment],
    ) -> ModelDeployment:
        return choose_deployment(model, target, environments, deployments, wanted=deployment)

    return await promote_chosen(context, environment, choose, version.spec.version, asked)


def add_publishing_routes(routes: Routes) -> None:
    """Add the two routes below ``/v1``."""

    async def put(request: Request) -> Response:
        """Promote a version; the body is JSON, whatever its content type says."""
        context = context_of(request)
        subject = await context.admit_somewhere(request, "promote", "ModelDeployment")
        body = _read_fields(await context.read_object(request))
        environments, _ = await context.store.list(Environment)
        place = choose_environment(body["status"], environments).metadata.name
        version = await _find_version(context, body)
        asked = Asked(subject, context.dependencies.clock.now(), body.get("reason", ""))
        applied = await publish(context, version, place, asked, deployment=body.get("deployment"))
        return await _answer(context, version, body["status"], applied)

    async def get(request: Request, name: str) -> Response:
        """Say where a version serves, and what became of its promotions."""
        context = context_of(request)
        await context.admit(request, "get", "ModelVersion", name=name)
        return json_response(await _describe(context, await _find_version(context, {"id": name})))

    schema = {
        "type": "object",
        "required": ["status"],
        "properties": {
            "id": {"type": "string", "description": "Unique id, or MODEL@VERSION."},
            "name": {"type": "string", "description": "With `version`, instead of `id`."},
            "version": {"type": "string", "description": "Semantic version, number or latest."},
            "status": {"type": "string", "description": "An environment, or its stage."},
            "deployment": {"type": "string", "description": "Where the model has several."},
            "reason": {"type": "string", "description": "Why; goes into the history."},
        },
    }
    routes.add(
        "PUT",
        "/models",
        put,
        tag="Publishing",
        prefix="/v1",
        operation_id="publishModel",
        summary="Promote a version to an environment",
        openapi_extra={
            "requestBody": {"required": True, "content": {"application/json": {"schema": schema}}}
        },
    )
    routes.add(
        "GET",
        "/models/{name}",
        get,
        tag="Publishing",
        prefix="/v1",
        operation_id="getPublishedModel",
        summary="Where a version serves",
    )


def _read_fields(data: dict[str, Any]) -> dict[str, str]:
    """Return the fields of a request to publish, as text and complete."""
    number = data.get("version")
    if isinstance(number, int) and not isinstance(number, bool):
        data["version"] = str(number)
    texts = ("id", "name", "version", "status", "deployment", "reason")
    fields = take_fields(data, **dict.fromkeys(texts, str))
    faults = []
    if "status" not in fields:
        faults.append(FieldError("status", "required: an environment, or its stage"))
    if "id" in fields and {"name", "version"} & fields.keys():
        faults.append(FieldError("id", "give either id, or name and version"))
    elif "id" not in fields and not {"name", "version"} <= fields.keys():
        faults.append(FieldError("id", "required: a version's unique id, or MODEL@VERSION"))
    if faults:
        raise InvalidResource("the body is not valid", faults, hint=f"such as {_EXAMPLE}")
    return {**fields, "reason": fields.get("reason", "")[:_MAX_REASON]}


async def _find_version(context: Context, body: dict[str, str]) -> ModelVersion:
    """Return the living version that `id`, or `name` and `version`, name."""
    wanted = body.get("id", "")
    model, _, version = wanted.rpartition("@")
    if "name" in body:
        model, version = body["name"], body["version"]
    elif not model:
        found = (await context.catalog.current()).find_id(wanted)
        if found is None:
            raise NotFound(
                f"no version has the id {wanted[:80]!r}",
                hint="take spec.id of a version (mv-…), or write MODEL@VERSION",
            )
        if found.status.deleted_at is not None:
            raise NotFound(f"{found.metadata.name} was deleted")
        return found
    try:
        check_model_name(model)
    except ValueError as error:
        path = "name" if "name" in body else "id"
        raise InvalidResource("not a version", [FieldError(path, str(error))]) from None
    return await load_version(context.store, model, version)


async def _answer(
    context: Context, version: ModelVersion, status: str, applied: Applied
) -> Response:
    """Answer 202 while a promotion is on its way, 200 when the version serves already."""
    deployment = applied.resource
    assert isinstance(deployment, ModelDeployment)
    promotion = applied.promotion or await load_active(context.store, deployment)
    data = {
        "id": version.spec.id,
        "name": version.spec.model,
        "version": version.spec.version,
        "status": status,
        "environment": deployment.metadata.environment,
        "deployment": deployment.metadata.name,
        "promotion": promotion.metadata.name if promotion else None,
        "result": applied.result if applied.promotion else "unchanged",
        "warnings": applied.warnings,
    }
    return json_response(data, 202 if promotion else 200)


async def _describe(context: Context, version: ModelVersion) -> dict[str, Any]:
    """Return where a version serves, and the promotions of it that were the latest somewhere."""
    index = await context.catalog.current()
    model, semantic = version.spec.model, version.spec.version
    known = index.models.get(model)
    serving = [
        {"environment": s.environment, "deployment": s.deployment, "role": role}
        for s in (known.status.serving if known else ())
        for role in ("champion", "challenger")
        if getattr(s, role) == semantic
    ]
    latest = [
        (place, d.status.promotion)
        for (place, _), d in sorted(index.deployments.items())
        if d.status.promotion
        and model in {d.spec.model, d.status.stable.model if d.status.stable else None}
    ]
    promotions = []
    for place, name in latest:
        promotion = await context.store.find(Promotion, name, place)
        if promotion is None:
            continue
        revision = promotion.spec.revision
        if (revision.model, revision.version) == (model, semantic):
            promotions.append(_show(place, promotion))
    return {
        "id": version.spec.id,
        "name": model,
        "version": semantic,
        "number": version.spec.number,
        "serving": serving,
        "promotions": promotions,
    }


def _show(place: str, promotion: Promotion) -> dict[str, Any]:
    status = promotion.status
    return {
        "environment": place,
        "deployment": promotion.spec.deployment,
        "promotion": promotion.metadata.name,
        "phase": status.phase,
        "reason": status.reason,
        "message": status.message,
    }
