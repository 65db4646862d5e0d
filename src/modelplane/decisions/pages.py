"""Pages: a long list in pieces, each going on behind the last resource of the one before.

Called by the API's lists. A token holds the place of the last resource in the order, not a
count, so what is added or deleted meanwhile moves nothing: nothing that stays as it is comes
twice or is left out. Pure.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from pydantic_core import from_json, to_json

from modelplane.decisions.registry_index import RegistryIndex
from modelplane.decisions.search_matching import Filter
from modelplane.decisions.search_ordering import Order
from modelplane.errors import FieldError, InvalidResource
from modelplane.resources.meta import Resource

MAX_TOKEN = 10_000


@dataclass(frozen=True, slots=True)
class Page:
    """Some resources, and the token that continues after them; empty when that is all."""

    items: Sequence[Resource[Any, Any]]
    token: str = ""


def cut(
    resources: Sequence[Resource[Any, Any]],
    order: Order,
    index: RegistryIndex | None = None,
    *,
    limit: int,
    token: str = "",
    query: str = "",
    wanted: Filter | None = None,
    in_plain_order: bool = False,
) -> Page:
    """Return the piece of `resources` that follows `token`.

    Parameters
    ----------
    resources
        Everything that may match.
    order
        A total order.
    index
        What order and filter read beside the resources.
    limit
        Resources in a page, at least 1.
    token
        Of the page before; empty for the first.
    query
        What was asked for besides filter and order: a token of another query is refused.
    wanted
        What has to hold; None: nothing.
    in_plain_order
        Whether the resources lie as the ties of the order say already.

    Raises
    ------
    InvalidResource
        The token is none, or one of another query.
    """
    text = wanted.text if wanted else ""
    digest = hashlib.sha256(f"{order.text}\n{text}\n{query}".encode()).hexdigest()[:16]
    found = wanted.select(resources, index) if wanted and wanted.predicates else resources
    ordered: Sequence[Resource[Any, Any]] = found
    if order.terms or not in_plain_order:
        ordered = order.sort(found, index, in_plain_order=in_plain_order)
    begin = 0
    if token:
        place = _read(token, digest)
        try:
            begin = order.count_through(ordered, place, index)
        except (TypeError, ValueError):
            raise _refuse("use the one that the last page gave") from None
    items = list(ordered[begin : begin + limit + 1])
    if len(items) <= limit:
        return Page(items)
    items.pop()
    last = to_json([digest, *order.values(items[-1], index)])
    return Page(items, base64.urlsafe_b64encode(last).decode().rstrip("="))


def _read(token: str, digest: str) -> list[Any]:
    """Return the place that a token holds."""
    try:
        if len(token) > MAX_TOKEN:
            raise ValueError(token[:20])
        padded = token + "=" * (-len(token) % 4)
        given, *place = list(from_json(base64.urlsafe_b64decode(padded.encode())))
    except (ValueError, TypeError, binascii.Error):
        raise _refuse("use the one that the last page gave") from None
    if given != digest:
        raise _refuse("it continues another list: filter, order and environment must stay the same")
    return place


def _refuse(message: str) -> InvalidResource:
    fields = [FieldError("query.continue", message)]
    return InvalidResource("not a token to continue this list", fields)
