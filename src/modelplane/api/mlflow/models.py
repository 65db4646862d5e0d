"""Registered models: created, found, described, renamed, deleted, tagged.

Handlers that `routes` names. Each reads the index, lets `decisions.mlflow_changes` decide, and
commits.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from modelplane.api.mlflow.reading import find_model, living_versions
from modelplane.api.mlflow.writing import Call, written
from modelplane.decisions.mlflow_changes import (
    Deployed,
    check_name_free,
    create_model,
    remove_model,
    rename_model,
)
from modelplane.decisions.mlflow_registry import check_name, check_new_name, check_tag, invalid
from modelplane.decisions.registry_check import label_of
from modelplane.decisions.registry_index import RegistryIndex
from modelplane.ports.store import Transaction
from modelplane.resources.meta import Resource
from modelplane.resources.model import AliasMove, Model, ModelVersion
from modelplane.resources.promotion import Promotion


async def create(call: Call) -> bytes:
    """Create a model without versions."""
    name = check_new_name(call.values["name"])
    tags = call.values.get("tags", {})
    for key, value in tags.items():
        check_tag(key, value)

    async def prepare(transaction: Transaction) -> Model:
        moves = await _list_moves(call, name)
        check_name_free(name, tags, (await call.index()).models.get(name))
        description = call.values.get("description", "")
        model = create_model(name, tags, description, call.asked.now, moves=moves)
        transaction.create(model, "register")
        return model

    model, resources = await call.change([name], prepare)
    return await _answer(call, written(resources, model))


async def get(call: Call) -> bytes:
    """Return a model."""
    index = await call.index()
    model = find_model(index, call.values["name"])
    return b'{"registered_model":' + call.encoder.model(model, index) + b"}"


async def update(call: Call) -> bytes:
    """Change the description; without one it becomes empty."""
    name, description = call.values["name"], call.values.get("description", "")

    async def prepare(transaction: Transaction) -> Model:
        model = find_model(await call.index(), name)
        changed = model.with_spec(description=description).with_status(changed_at=call.asked.now)
        transaction.update(changed, "describe")
        return changed

    model, resources = await call.change([name], prepare)
    return await _answer(call, written(resources, model))


async def rename(call: Call) -> bytes:
    """Give a model another name; refused while a version of it is deployed."""
    name, to = call.values["name"], call.values["new_name"]
    if not to.strip():
        raise invalid("Missing value for required parameter 'new_name'.")
    check_new_name(to)
    if to == name:
        return await _touch(call, name)
    mover = call.mover(f"renamed from {name} to {to}")

    async def prepare(transaction: Transaction) -> Model:
        promotions, _ = await call.context.store.list(Promotion)
        moves = await _list_moves(call, to)
        index = await call.index()
        model = find_model(index, name)
        check_name_free(to, {}, index.models.get(to))
        new = create_model(to, {}, "", mover.at, moves=moves)
        versions = living_versions(index, name)
        removal = remove_model(model, versions, deployed_of(index, name, promotions), mover)
        renamed = rename_model(model, versions, new, index.versions_of(to), mover)
        await _label(call, renamed.versions)
        created: list[Resource[Any, Any]] = [renamed.model, *renamed.versions]
        for resource in [*created, *renamed.moves, *removal.moves]:
            transaction.create(resource, "rename")
        for buried in removal.buried:
            transaction.update(buried, "rename")
        transaction.delete(model, "rename")
        return renamed.model

    model, resources = await call.change([name, to], prepare)
    return await _answer(call, written(resources, model))


async def _touch(call: Call, name: str) -> bytes:
    """Answer a renaming to the same name: to MLflow that is an update of everything."""

    async def prepare(transaction: Transaction) -> Model:
        index, now = await call.index(), call.asked.now
        model = find_model(index, name).with_status(changed_at=now)
        versions = [v.with_status(changed_at=now) for v in living_versions(index, name)]
        touched: list[Resource[Any, Any]] = [model, *versions]
        for resource in touched:
            transaction.update(resource, "rename")
        return model

    model, resources = await call.change([name], prepare)
    return await _answer(call, written(resources, model))


async def delete(call: Call) -> bytes:
    """Delete a model with its versions; refused while one of them is deployed."""
    name = call.values["name"]
    mover = call.mover("the model was deleted")

    async def prepare(transaction: Transaction) -> None:
        promotions, _ = await call.context.store.list(Promotion)
        index = await call.index()
        model = find_model(index, name)
        deployed = deployed_of(index, name, promotions)
        removal = remove_model(model, living_versions(index, name), deployed, mover)
        for buried in removal.buried:
            transaction.update(buried, "delete")
        for move in removal.moves:
            transaction.create(move, "alias")
        transaction.delete(model)

    await call.change([name], prepare)
    return b"{}"


def deployed_of(index: RegistryIndex, name: str, promotions: Sequence[Promotion]) -> Deployed:
    """Return what could need versions of one model."""
    deployments = [
        deployment
        for deployment in index.deployments.values()
        if deployment.spec.model == name
        or (deployment.status.stable is not None and deployment.status.stable.model == name)
    ]
    return Deployed(deployments, [p for p in promotions if p.spec.revision.model == name])


async def set_tag(call: Call) -> bytes:
    """Set a tag of a model."""
    name, key, value = call.values["name"], call.values["key"], call.values.get("value", "")
    check_name(name)
    check_tag(key, value)
    return await _change_tags(call, name, key, value)


async def delete_tag(call: Call) -> bytes:
    """Remove a tag of a model; one that is not there changes nothing."""
    name, key = call.values["name"], call.values["key"]
    check_name(name)
    check_tag(key, None)
    return await _change_tags(call, name, key, None)


async def _change_tags(call: Call, name: str, key: str, value: str | None) -> bytes:
    async def prepare(transaction: Transaction) -> None:
        model = find_model(await call.index(), name)
        tags = {k: v for k, v in model.status.tags.items() if k != key}
        if value is not None:
            tags[key] = value
        if tags != model.status.tags:
            transaction.update(model.with_status(tags=tags), "tag")

    await call.change([name], prepare)
    return b"{}"


async def _list_moves(call: Call, name: str) -> Sequence[AliasMove]:
    moves, _ = await call.context.store.list(AliasMove, prefix=f"{name}@")
    return moves


async def _label(call: Call, versions: Sequence[ModelVersion]) -> None:
    """Write beside their files what the versions are called; before they are committed."""
    now = call.asked.now
    for version in versions:
        if version.spec.artifact is not None:
            await call.context.dependencies.blobs.label(label_of(version.spec, now))


async def _answer(call: Call, model: Model) -> bytes:
    index = await call.index()
    return b'{"registered_model":' + call.encoder.model(model, index) + b"}"
