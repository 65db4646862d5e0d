"""The registry: pushing versions, and what may change about them.

Thin: rules are in `decisions.registration`. The bytes of a version come first, through
`artifacts`; a version cannot name bytes that are not stored.
"""

from __future__ import annotations

from typing import Any

from fastapi import Request
from pydantic import Field
from starlette.responses import Response

from modelplane.api.access import Context, context_of
from modelplane.api.actions import read_action
from modelplane.api.bodies import parse_part
from modelplane.api.committing import commit
from modelplane.api.deployments import Applied, find_version
from modelplane.api.routes import Routes
from modelplane.decisions.admission import Asked
from modelplane.decisions.aliases import (
    Moved,
    Mover,
    aliases_of,
    check_alias,
    move_alias,
)
from modelplane.decisions.corrections import correct_version
from modelplane.decisions.datasets import link_datasets
from modelplane.decisions.drift_report import profile_key
from modelplane.decisions.registration import (
    Registration,
    canonical_version,
    change_tags,
    check_digest,
    count_version,
    register_version,
)
from modelplane.decisions.registry_check import label_of
from modelplane.decisions.signatures import add_signature
from modelplane.decisions.training_names import model_of_group, run_of_token
from modelplane.decisions.training_runs import link_training
from modelplane.errors import Conflict, FieldError, InvalidResource, NotFound
from modelplane.ports.models import load_model
from modelplane.ports.store import Store, Transaction
from modelplane.resources.data_profile import DataProfile
from modelplane.resources.model import (
    Correction,
    Model,
    ModelVersion,
    ModelVersionSpec,
    Signature,
)
from modelplane.resources.model_source import ModelSource
from modelplane.resources.training import TrainingRun

_GIVEN = frozenset({"number", "author", "id", "registered_at"})
_MAX_TAGS = 100
_MAX_DESCRIPTION = 100_000
_MAX_BUNDLE = 200_000


class Push(ModelVersionSpec):
    """The body of a push: a version's record without what the registry gives, and its tags."""

    tags: dict[str, str] = Field(default_factory=dict, max_length=_MAX_TAGS)
    description: str = Field(default="", max_length=_MAX_DESCRIPTION)
    profile: DataProfile | None = Field(
        default=None, description="Of its training data; drift is measured against it."
    )


def add_registry_routes(routes: Routes) -> None:
    """Add the routes of pushes and of actions on versions."""

    async def push(request: Request) -> Response:
        """Register a version whose artifact was uploaded before; repeating it changes nothing."""
        context = context_of(request)
        subject = await context.admit_somewhere(request, "apply", "ModelVersion")
        wanted = parse_part(Push, await context.read_object(request))
        await context.allow(subject, "apply", "ModelVersion", model=wanted.model)
        asked = Asked(subject, context.dependencies.clock.now())
        return (await register(context, wanted, asked)).response()

    async def act(request: Request, name: str, verb: str) -> Response:
        """Change a version's tags, alias or description, correct its record, or sign its files."""
        context = context_of(request)
        subject = await context.admit(request, "act", "ModelVersion", name=name)
        if verb not in _ACTIONS:
            hint = f"it has: {', '.join(_ACTIONS)}"
            raise NotFound(f"a version has no action {verb[:80]!r}", hint=hint)
        body, asked = await read_action(context, request, subject, **_ACTIONS[verb])
        if verb == "correct" and not {"field", "value"} <= body.keys():
            fault = FieldError("value", "required, beside field; null says it should not be there")
            raise InvalidResource("the body is not valid", [fault])
        changed = await change_version(context, name, verb, body, asked)
        return changed.response()

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
        summary="tag, alias, describe, correct or sign",
    )


async def register(context: Context, wanted: Push, asked: Asked) -> Applied:
    """Store the record of a pushed version, and its model when that is new."""
    spec = await _complete(context, wanted)
    name, blobs = f"{spec.model}@{spec.version}", context.dependencies.blobs

    async def prepare() -> tuple[Transaction, Registration]:
        model = await load_model(context.store, spec.model)
        await refuse_watched(context.store, model)
        before = await context.store.find(ModelVersion, name)
        made = await _name_training(context.store, spec, asked)
        linked = link_datasets(made.datasets, await context.catalog.current(), asked.subject.name)
        registration = register_version(
            made.with_(datasets=linked.references),
            before,
            asked.subject,
            number=model.status.last_number + 1,
            tags=wanted.tags,
            description=wanted.description,
        )
        # Before the commit, so that whoever finds the version finds its record too.
        created_at = registration.version.metadata.created_at or asked.now
        await blobs.label(label_of(registration.version.spec, created_at))
        transaction = Transaction(asked.subject)
        if registration.result == "created":
            transaction.create(registration.version, "push")
            if wanted.profile is not None:
                profile = wanted.profile.with_(origin="data")
                transaction.put_evidence(profile_key(name), profile.to_dict())
            for data in linked.written:
                transaction.put(data, "push")
            transaction.put(count_version(model, registration.version.spec.number), "push")
        return transaction, registration

    registration, written = await commit(context.store, prepare)
    version = written[0] if written else registration.version
    return Applied(registration.result, version, warnings=registration.warnings)


async def _name_training(store: Store, spec: ModelVersionSpec, asked: Asked) -> ModelVersionSpec:
    """Return the record linked to the training that made it and to the data that caused that.

    The token of a run says which run it is. Others may name one, of this model.
    """
    is_of_run = any(model_of_group(group) for group in asked.subject.groups)
    name = run_of_token(asked.subject.name) if is_of_run else spec.training.training_run
    if not name:
        return spec
    run = await store.find(TrainingRun, name)
    if run is None or run.spec.model != spec.model:
        message = f"there is no training {name[:80]!r} of model {spec.model}"
        raise InvalidResource("not a training", [FieldError("training.trainingRun", message)])
    return link_training(spec, run)


async def refuse_watched(store: Store, model: Model) -> None:
    """Raise `Conflict` when versions of `model` are registered in a registry that is watched."""
    source = model.status.source
    if source is not None and await store.find(ModelSource, source) is not None:
        raise Conflict(
            f"versions of {model.metadata.name!r} come from the source {source!r}",
            hint="register it there, or push under another model's name",
        )


async def _complete(context: Context, wanted: Push) -> ModelVersionSpec:
    """Return the record with a canonical version and the size of the stored artifact."""
    given = _GIVEN & wanted.model_fields_set
    if given:
        faults = [FieldError(name, "is given by the registry; leave it out") for name in given]
        raise InvalidResource("the body is not valid", sorted(faults, key=lambda f: f.path))
    fields = {name: getattr(wanted, name) for name in ModelVersionSpec.model_fields}
    fields["version"] = canonical_version(wanted.model, wanted.version)
    artifact = wanted.artifact
    if artifact is None:
        raise InvalidResource("the body is not valid", [FieldError("artifact", "required")])
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


_ACTIONS: dict[str, dict[str, type]] = {
    "tag": {"tags": dict},
    "alias": {"alias": str, "remove": bool},
    "describe": {"description": str},
    "correct": {"field": str, "value": object},
    "sign": {"bundle": str, "keyId": str},
}


async def change_version(
    context: Context, name: str, verb: str, body: dict[str, Any], asked: Asked
) -> Applied:
    """Carry out one of `_ACTIONS` on a version."""
    store = context.store

    async def prepare() -> tuple[Transaction, tuple[ModelVersion, Model]]:
        version = await find_version(store, name)
        if version.status.deleted_at is not None:
            raise NotFound(f"{name} was deleted")
        model = await load_model(store, version.spec.model)
        transaction = Transaction(asked.subject, asked.reason)
        if verb == "alias":
            moved = _move(model, version, body, asked)
            for changed in moved.written:
                transaction.put(changed, verb)
            return transaction, (version, moved.model)
        after = _change(version, verb, body, asked)
        if after != version:
            transaction.update(after, verb)
        return transaction, (after, model)

    (version, model), written = await commit(store, prepare)
    stored = next((r for r in written if isinstance(r, ModelVersion)), version)
    shown = stored.with_status(aliases=aliases_of(model, version.spec.version))
    return Applied("changed" if written else "unchanged", shown)


def _move(model: Model, version: ModelVersion, body: dict[str, Any], asked: Asked) -> Moved:
    alias = check_alias(body.get("alias", ""))
    mover = Mover(asked.subject.name, asked.now, asked.reason)
    to = version.spec.version
    if not body.get("remove", False):
        return move_alias(model, alias, to, mover)
    return move_alias(model, alias, None, mover) if alias in aliases_of(model, to) else Moved(model)


def _change(version: ModelVersion, verb: str, body: dict[str, Any], asked: Asked) -> ModelVersion:
    """Return a version with its tags or description changed, corrected or signed."""
    if verb == "correct":
        correction = Correction(
            field=body["field"],
            value=body["value"],
            subject=asked.subject.name,
            at=asked.now,
            reason=asked.reason,
        )
        return correct_version(version, correction)
    if verb == "sign":
        signature = Signature.model_construct(
            key_id=body.get("keyId", ""),
            bundle=body.get("bundle", "")[:_MAX_BUNDLE],
            subject=asked.subject.name,
            at=asked.now,
        )
        return add_signature(version, signature)
    if verb == "tag":
        tags = body.get("tags", {})
        faults = [
            FieldError(f"tags.{name[:80]}", "must be text, or null to remove it")
            for name, value in tags.items()
            if not (value is None or isinstance(value, str))
        ]
        if faults:
            raise InvalidResource("the body is not valid", faults)
        return change_tags(version, tags)
    description = body.get("description", "")
    if len(description) > _MAX_DESCRIPTION:
        fault = FieldError("description", f"has more than {_MAX_DESCRIPTION:,} characters")
        raise InvalidResource("the body is not valid", [fault])
    return version.with_status(description=description)
