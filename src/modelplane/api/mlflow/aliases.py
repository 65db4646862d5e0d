"""Aliases of registered models: set, removed, followed.

Handlers that `routes` names. Every move is recorded, as one made through modelplane's own API.
"""

from __future__ import annotations

from modelplane.api.mlflow.reading import find_model, find_version
from modelplane.api.mlflow.versions import find_by_alias
from modelplane.api.mlflow.writing import Call
from modelplane.decisions.aliases import move_alias
from modelplane.decisions.mlflow_registry import check_alias, check_name, read_number
from modelplane.ports.store import Transaction


async def put(call: Call) -> bytes:
    """Let an alias name a version."""
    name, alias = check_name(call.values["name"]), call.values["alias"]
    check_alias(alias, is_new=True)
    read_number(call.values["version"])

    async def prepare(transaction: Transaction) -> None:
        index = await call.index()
        version = find_version(index, name, call.values["version"])
        model = find_model(index, name)
        for changed in move_alias(model, alias, version.spec.version, call.mover()).written:
            transaction.put(changed, "alias")

    await call.change([name], prepare)
    return b"{}"


async def delete(call: Call) -> bytes:
    """Take an alias away; one that is not there changes nothing."""
    name, alias = check_name(call.values["name"]), call.values["alias"]
    check_alias(alias, is_new=False)

    async def prepare(transaction: Transaction) -> None:
        model = find_model(await call.index(), name)
        for changed in move_alias(model, alias, None, call.mover()).written:
            transaction.put(changed, "alias")

    await call.change([name], prepare)
    return b"{}"


async def get(call: Call) -> bytes:
    """Return the version that an alias names."""
    name, alias = check_name(call.values["name"]), call.values["alias"]
    check_alias(alias, is_new=False)
    index = await call.index()
    version = find_by_alias(index, name, alias)
    return b'{"model_version":' + call.encoder.version(version, index.models.get(name)) + b"}"
