"""Registering versions of data: ``POST /dataset-versions``.

Thin: the rules are in `decisions.datasets`. The data itself is never sent here, only what was
said of it where it lies.
"""

from __future__ import annotations

from fastapi import Request
from pydantic import Field
from starlette.responses import Response

from modelplane.api.access import Context, context_of
from modelplane.api.bodies import parse_part
from modelplane.api.committing import commit
from modelplane.api.deployments import Applied
from modelplane.api.routes import Routes
from modelplane.decisions.admission import Asked
from modelplane.decisions.datasets import RegisteredData, register_data
from modelplane.ports.store import Transaction
from modelplane.resources.dataset import DatasetReference, DatasetVersion
from modelplane.resources.meta import Part


class PushedData(Part):
    """The body: data as it was described where it lies, and what to call it."""

    data: DatasetReference = Field(description="`data.version` is taken when it is free.")
    version: str | None = Field(
        default=None, description="What to call it; refused when that is other data."
    )
    description: str = Field(
        default="", max_length=10_000, description="Of the dataset, when it is new."
    )


def add_dataset_routes(routes: Routes) -> None:
    """Add the route that registers a version of data."""

    async def push(request: Request) -> Response:
        """Register a version of data; the same data again changes nothing."""
        context = context_of(request)
        subject = await context.admit(request, "apply", "DatasetVersion")
        wanted = parse_part(PushedData, await context.read_object(request))
        asked = Asked(subject, context.dependencies.clock.now())
        return (await _register(context, wanted, asked)).response()

    data = {"$ref": "#/components/schemas/DatasetReference"}
    text = {"type": "string"}
    schema = {
        "type": "object",
        "required": ["data"],
        "properties": {"data": data, "version": text, "description": text},
    }
    content = {"application/json": {"schema": schema}}
    routes.add(
        "POST",
        "/dataset-versions",
        push,
        tag="DatasetVersion",
        operation_id="pushDatasetVersion",
        openapi_extra={"requestBody": {"required": True, "content": content}},
    )


async def _register(context: Context, wanted: PushedData, asked: Asked) -> Applied:
    async def prepare() -> tuple[Transaction, RegisteredData]:
        registered = register_data(
            wanted.data,
            await context.catalog.current(),
            asked.subject.name,
            version=wanted.version,
            description=wanted.description,
        )
        transaction = Transaction(asked.subject)
        for resource in registered.written:
            transaction.put(resource, "push")
        return transaction, registered

    registered, written = await commit(context.store, prepare)
    version = next((r for r in written if isinstance(r, DatasetVersion)), registered.version)
    return Applied(registered.result, version, warnings=registered.warnings)
