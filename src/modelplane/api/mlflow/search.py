"""Searches of MLflow's clients, answered from memory.

Handlers that `routes` names. The language of filters and orders is `decisions.search_mlflow`;
pages are cut by `decisions.pages`, so that a page token stays true while things are registered.
"""

from __future__ import annotations

from pydantic_core import to_json

from modelplane.api.mlflow.writing import Call
from modelplane.decisions.mlflow_registry import invalid
from modelplane.decisions.pages import Page, cut
from modelplane.decisions.registry_index import RegistryIndex
from modelplane.decisions.search import (
    MlflowEntity,
    Order,
    compile_mlflow_filter,
    compile_mlflow_order,
)
from modelplane.errors import InvalidResource

MAX_MODELS, MAX_VERSIONS = 1_000, 200_000
DEFAULT_MODELS = 100


async def search_models(call: Call) -> bytes:
    """Return a page of the models that a filter selects."""
    limit = call.values.get("max_results", DEFAULT_MODELS)
    index, page = await _search(call, "model", limit)
    shown = b",".join(call.encoder.model(model, index) for model in page.items)  # type: ignore[arg-type]
    return _answer(b'"registered_models":[' + shown + b"]", page)


async def search_versions(call: Call) -> bytes:
    """Return a page of the versions that a filter selects."""
    limit = call.values.get("max_results", MAX_VERSIONS)
    if limit < 1:
        raise invalid(
            f"Invalid value for max_results. It must be a positive integer, but got {limit}"
        )
    index, page = await _search(call, "version", limit)
    shown = call.encoder.versions(page.items, index)  # type: ignore[arg-type]
    return _answer(b'"model_versions":' + shown, page)


async def _search(call: Call, entity: MlflowEntity, limit: int) -> tuple[RegistryIndex, Page]:
    wanted = compile_mlflow_filter(call.values.get("filter"), entity)
    order = compile_mlflow_order(call.values.get("order_by", ()), entity)
    index = await call.index()
    found = call.found.find(index, entity, wanted, order)
    if limit < 1:
        return index, Page(())
    token = call.values.get("page_token", "")
    sorted_so = Order((), order.all_terms)  # what was found lies in this order already
    try:
        page = cut(
            found,
            sorted_so,
            index,
            limit=limit,
            token=token,
            query=wanted.text,
            in_plain_order=True,
        )
    except InvalidResource as error:
        raise invalid(f"Invalid page token: {error.fields[0].message}") from None
    return index, page


def _answer(shown: bytes, page: Page) -> bytes:
    if not page.items:
        return b"{}"
    token = b',"next_page_token":' + to_json(page.token) if page.token else b""
    return b"{" + shown + token + b"}"
