"""The registry: pushing versions, and what may change about them.

Thin: rules are in `decisions.registration`. The bytes of a version come first, through
`artifacts`; a version cannot name bytes that are not stored.
"""

from __future__ import annotations

from typing import Any

from fastapi import Request
from pydantic import Field
from starlette.responses import Response

from modelplane.api.access import Context
from modelplane.api.actions import read_action
from modelplane.api.bodies import parse_object, parse_part, read_body
from modelplane.api.committing import commit
from modelplane.api.deployments import Applied
from modelplane.api.routes import Routes
from modelplane.decisions.admission import Asked
from modelplane.decisions.registration import (
    MODEL_LABEL,
    Registration,
    canonical_version,
    change_tags,
    check_digest,
    move_alias,
    register_version,
)
from modelplane.errors import FieldError, InvalidResource, NotFound
from modelplane.ports.store import Store, Transaction
from modelplane.resources.meta import Metadata, check_name
from modelplane.resources.model import Model, ModelVersion, ModelVersionSpec

_LAST_NUMBER = "modelplane.dev/last-number"
"""Annotation of a model: the number given last. Written with each version, so that two pushes
at once cannot take the same one."""

_MAX_TAGS = 100


class Push(ModelVersionSpec):
    """The body of a push: a version's record without what the registry gives, and its tags."""

    tags: dict[str, str] = Field(default_factory=dict, max_length=_MAX_TAGS)
    description: str = Field(default="", max_length=10_000)


def add_registry_routes(routes: Routes, context: Context) -> None:
    """Add the routes of pushes and of actions on versions."""
    limits = context.dependencies.limits

    async def push(request: Request) -> Response:
        """Register a version whose artifact was uploaded before; repeating it changes nothing."""
        subject = await context.admit(request, "apply", "ModelVersion")
        body = await read_body(request, limits.json_bytes, limits.idle_timeout_s)
        wanted = parse_part(Push, parse_object(body))
        asked = Asked(subject, context.dependencies.clock.now())
        return (await register(context, wanted, asked)).response()

    async def act(request: Request, name: str, verb: str) -> Response:
        """Change the tags, an alias or the description of a version."""
        subject = await context.admit(request, "act", "ModelVersion")
        if verb not in _ACTIONS:
            hint = f"it has: {', '.join(_ACTIONS)}"
            raise NotFound(f"a version has no action {verb[:80]!r}", hint=hint)
        body, asked = await read_action(context, request, subject, **_ACTIONS[verb])

        async def prepare() -> tuple[Transaction, ModelVersion]:
            version = await context.store.get(ModelVersion, name)
            if version.status.deleted_at is not None:
                raise NotFound(f"{name} was deleted")
            transaction = Transaction(asked.subject, asked.reason)
            for changed in await _change(context.store, version, verb, body, asked):
                transaction.update(changed, verb)
            return transaction, version

        version, written = await commit(context.store, prepare)
        changed = next((v for v in written if v.metadata.name == name), version)
        return Applied("changed" if written else "unchanged", changed).response()

    schema = {"$ref": "#/components/schemas/ModelVersionSpec"}
    content = {"application/json": {"schema": schema}}
    routes.add(
        "POST",
        "/model-versions",
        push,
        tag="ModelVersion",
        operation_id="pushModelVersion",
        openapi_extra={"requestBody": {"required": True, "content": content}},
    )
    routes.add(
        "POST",
        "/model-versions/{name}:{verb}",
        act,
        tag="ModelVersion",
        operation_id="actOnModelVersion",
        summary="tag, alias or describe",
    )


async def register(context: Context, wanted: Push, asked: Asked) -> Applied:
    """Store the record of a pushed version, and its model when that is new."""
    store = context.store
    spec = await _complete(context, wanted)
    name = f"{spec.model}@{spec.version}"

    async def prepare() -> tuple[Transaction, Registration]:
        model = await store.find(Model, spec.model)
        before = await store.find(ModelVersion, name)
        number = await _last_number(store, spec.model, model) + 1
        registration = register_version(
            spec,
            before,
            asked.subject,
            number=number,
            tags=wanted.tags,
            description=wanted.description,
        )
        transaction = Transaction(asked.subject)
        if registration.result == "created":
            transaction.create(registration.version, "push")
            _count(transaction, model or Model(metadata=Metadata(name=spec.model)), number)
        return transaction, registration

    registration, written = await commit(store, prepare)
    version = written[0] if written else registration.version
    return Applied(registration.result, version, warnings=registration.warnings)


async def _complete(context: Context, wanted: Push) -> ModelVersionSpec:
    """Return the record with a canonical version and the size of the stored artifact."""
    given = {"number", "author"} & wanted.model_fields_set
    if given:
        faults = [FieldError(name, "is given by the registry; leave it out") for name in given]
        raise InvalidResource("the body is not valid", sorted(faults, key=lambda f: f.path))
    fields = {name: getattr(wanted, name) for name in ModelVersionSpec.model_fields}
    fields["version"] = canonical_version(wanted.model, wanted.version)
    artifact = wanted.artifact
    check_digest(artifact.digest, "artifact.digest")
    if (artifact.format == "command") != bool(artifact.command):
        message = "goes with format command, and only with it"
        raise InvalidResource("the body is not valid", [FieldError("artifact.command", message)])
    tree = await context.dependencies.blobs.find(artifact.digest)
    if tree is None:
        message = "nothing is stored under this digest"
        raise InvalidResource(
            "the artifact is missing",
            [FieldError("artifact.digest", message)],
            hint=f"upload it first: PUT /api/v1/artifacts/{artifact.digest}",
        )
    fields["artifact"] = artifact.with_(size_bytes=tree.size_bytes)
    return ModelVersionSpec.model_construct(**fields)


async def _last_number(store: Store, name: str, model: Model | None) -> int:
    if model is not None and model.metadata.annotations.get(_LAST_NUMBER, "").isdecimal():
        return int(model.metadata.annotations[_LAST_NUMBER])
    versions, _ = await store.list(ModelVersion, labels={MODEL_LABEL: name})
    return max((version.spec.number for version in versions), default=0)


def _count(transaction: Transaction, model: Model, number: int) -> None:
    annotations = model.metadata.annotations | {_LAST_NUMBER: str(number)}
    counted = model.with_(metadata=model.metadata.with_(annotations=annotations))
    if model.metadata.resource_version:
        transaction.update(counted, "count")
    else:
        transaction.create(counted, "push")


_ACTIONS: dict[str, dict[str, type]] = {
    "tag": {"tags": dict},
    "alias": {"alias": str, "remove": bool},
    "describe": {"description": str},
}


async def _change(
    store: Store, version: ModelVersion, verb: str, body: dict[str, Any], asked: Asked
) -> list[ModelVersion]:
    """Return the versions that an action changes, changed."""
    if verb == "tag":
        tags = body.get("tags", {})
        faults = [
            FieldError(f"tags.{name[:80]}", "must be text, or null to remove it")
            for name, value in tags.items()
            if not (value is None or isinstance(value, str))
        ]
        if faults:
            raise InvalidResource("the body is not valid", faults)
        changed = [change_tags(version, tags)]
    elif verb == "describe":
        description = body.get("description", "")
        if len(description) > 10_000:
            fault = FieldError("description", "has more than 10,000 characters")
            raise InvalidResource("the body is not valid", [fault])
        changed = [version.with_status(description=description)]
    else:
        try:
            alias = check_name(body.get("alias", ""))
        except ValueError as error:
            raise InvalidResource("not an alias", [FieldError("alias", str(error))]) from None
        model = version.spec.model
        versions, _ = await store.list(ModelVersion, labels={MODEL_LABEL: model})
        remove = body.get("remove", False)
        changed = move_alias(versions, version, alias, asked, remove=remove)
    before = {version.metadata.name: version}
    return [v for v in changed if v != before.get(v.metadata.name)]
