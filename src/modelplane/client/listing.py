"""Whole lists out of the API's pages. Sends nothing itself: both clients share it."""

from __future__ import annotations

from dataclasses import replace
from typing import Any, Generic, TypeVar

from modelplane.client.answers import Listing, read_page
from modelplane.client.calls import Call
from modelplane.resources.meta import Resource

R = TypeVar("R", bound=Resource[Any, Any])

LARGEST_PAGE = 10_000
"""What the API gives at once at the most."""


class Pages(Generic[R]):
    """Says what to ask for next, and takes the answers.

    Parameters
    ----------
    kind, call
        What is listed, and the call for its first page.
    limit
        How many resources are wanted at the most; None: all.
    page_size
        How many to ask for at once; None leaves it to the server.
    """

    def __init__(
        self,
        kind: type[R],
        call: Call,
        limit: int | None = None,
        *,
        page_size: int | None = None,
    ) -> None:
        self._kind = kind
        self._limit = limit
        self._page_size = page_size
        self._items: list[R] = []
        self._version: int | None = None
        self._call = call
        self.next: Call | None = self._continue("")

    def take(self, body: bytes) -> None:
        """Take the answer to `next`."""
        page, token = read_page(self._kind, body)
        self._items += page.items
        if self._version is None:  # a watch from the first page's version sees what came since
            self._version = page.resource_version
        is_full = self._limit is not None and len(self._items) >= self._limit
        self.next = self._continue(token) if token and not is_full else None

    @property
    def listing(self) -> Listing[R]:
        """Everything that was taken."""
        return Listing(tuple(self._items[: self._limit]), self._version or 0)

    def _continue(self, token: str) -> Call:
        query = dict(self._call.query)
        if token:
            query["continue"] = token
        size = self._page_size
        if self._limit is not None:
            size = min(self._limit - len(self._items), size or LARGEST_PAGE)
        if size is not None:
            query["limit"] = size
        return replace(self._call, query=query)
