"""What holds for every kind: get, list, apply, delete, act, watch.

The ground of `Client`; holds no rules. Requests come from `calls`, answers go through `answers`.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, Self, TypeVar

import httpx

from modelplane.client import calls
from modelplane.client.answers import (
    Applied,
    EventReader,
    Listing,
    read_applied,
    read_object,
    read_resource,
)
from modelplane.client.calls import Call
from modelplane.client.connection import Connection
from modelplane.client.endpoint import find_endpoint
from modelplane.client.listing import Pages
from modelplane.client.reproduction import guarded_transport
from modelplane.client.transport import STREAM_TIMEOUT
from modelplane.errors import NotFound, TransientError
from modelplane.ports.store import Change
from modelplane.resources.meta import Resource

R = TypeVar("R", bound=Resource[Any, Any])


class ResourceClient:
    """Reads and declares resources of any kind; `Client` tells the parameters."""

    def __init__(
        self,
        url: str | None = None,
        token: str | None = None,
        *,
        state: str | Path | None = None,
        timeout_s: float = 10.0,
        transport: httpx.BaseTransport | None = None,
    ) -> None:
        self.endpoint = find_endpoint(url, token, state)
        self._connection = Connection(self.endpoint, timeout_s, transport or guarded_transport())

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    def close(self) -> None:
        """Close the connections."""
        self._connection.close()

    # -- resources ------------------------------------------------------------------------

    def get(self, kind: type[R], name: str, environment: str | None = None) -> R:
        """Return one resource; raises `NotFound`."""
        return read_resource(kind, self._connection.send(calls.get(kind, name, environment)))

    def find(self, kind: type[R], name: str, environment: str | None = None) -> R | None:
        """Return one resource, or None."""
        try:
            return self.get(kind, name, environment)
        except NotFound:
            return None

    def list(
        self,
        kind: type[R],
        environment: str | None = None,
        *,
        labels: Mapping[str, str] | None = None,
        filter_string: str = "",
        order_by: str = "",
        limit: int | None = None,
    ) -> Listing[R]:
        """Return a kind's resources, of all environments when none is named.

        The registry's kinds take a filter and an order in the language of MLflow's search:
        ``metrics.auc > 0.9 and tags.team = 'risk'`` and ``metrics.auc DESC, name``.
        """
        call = calls.list_(kind, environment, labels, filter_string, order_by)
        pages = Pages(kind, call, limit)
        while pages.next is not None:
            pages.take(self._connection.send(pages.next))
        return pages.listing

    def apply(self, resource: R, *, dry_run: bool = False, reason: str = "") -> Applied[R]:
        """Declare what `resource` should be; its status is not sent."""
        body = self._connection.send(calls.apply(resource, dry_run=dry_run, reason=reason))
        return read_applied(type(resource), body)

    def delete(
        self, kind: type[R], name: str, environment: str | None = None, *, reason: str = ""
    ) -> R:
        """Delete one resource and return it as it was; raises `NotFound`, `Conflict`."""
        return read_resource(
            kind, self._connection.send(calls.delete(kind, name, environment, reason))
        )

    def put_status(self, resource: R, *, if_unchanged: bool = False) -> R:
        """Report the status of this very resource; for agents."""
        call = calls.put_status(resource, if_unchanged=if_unchanged)
        return read_resource(type(resource), self._connection.send(call))

    def act(
        self,
        kind: type[Resource[Any, Any]],
        name: str,
        verb: str,
        environment: str | None = None,
        **body: Any,
    ) -> dict[str, Any]:
        """Do `verb` to a resource and return the answer as plain data."""
        return read_object(self._connection.send(calls.act(kind, name, verb, environment, body)))

    def send(self, call: Call, *, timeout_s: float | None = None) -> dict[str, Any]:
        """Send any call and return the answer as plain data.

        `timeout_s` is for answers that take long; left out, the client's own.
        """
        timeout = None if timeout_s is None else httpx.Timeout(10.0, read=timeout_s)
        return read_object(self._connection.send(call, timeout))

    def watch(self, kind: type[R], since: int, environment: str | None = None) -> Iterator[Change]:
        """Yield the changes of a kind after resource version `since`, until something ends it.

        Raises
        ------
        Conflict
            With code ``expired``: list again, and watch from there.
        TransientError
            The connection was lost, or the server stops: watch again from the last version seen.
        """
        call = calls.watch(kind, since, environment)
        events = EventReader(kind, since)
        with self._connection.stream(call, STREAM_TIMEOUT) as response:
            for line in response.iter_lines():
                change = events.read(line)
                if change is not None:
                    yield change
        raise TransientError("the watch was ended by the server")
