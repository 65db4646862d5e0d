"""Serves named resources to an Envoy that needs no order but one: what is used before its users.

The inbound proxy's side of `ads`; gateways, whose routes are offered, judged and taken back, have
`book` and `stream` instead. What is wanted stands in `ResourceTables`; a `TableStream`, one for
each connection, sends what differs from what Envoy holds. A refused resource is not sent again
until it changes; the others are not held up by it.
"""

from __future__ import annotations

import asyncio
import itertools
import logging
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable
from dataclasses import dataclass, field
from typing import Any

from envoy.service.discovery.v3 import discovery_pb2

from modelplane.adapters.proxy.xds import CLUSTER, LISTENER, SECRET, XdsResource

_log = logging.getLogger(__name__)

_ORDER = (SECRET, CLUSTER, LISTENER)
"""What is used comes before what uses it; removals go the other way."""


@dataclass(slots=True)
class ResourceTables:
    """What one Envoy should have, and what it said to it.

    Attributes
    ----------
    wanted
        By type and name.
    faults
        Refusals by type and name: version and reason.
    held
        By type and name: the version that the connected Envoy holds.
    """

    wanted: dict[str, dict[str, XdsResource]] = field(
        default_factory=lambda: {kind: {} for kind in _ORDER}
    )
    faults: dict[tuple[str, str], tuple[str, str]] = field(default_factory=dict)
    held: dict[tuple[str, str], str] = field(default_factory=dict)

    def put(self, kind: str, resources: Iterable[XdsResource]) -> None:
        """Want `resources`."""
        self.wanted[kind].update({one.name: one for one in resources})

    def remove(self, kind: str, name: str) -> None:
        """Want a resource no more; unknown names change nothing."""
        self.wanted[kind].pop(name, None)

    def fault(self, kind: str, name: str) -> str | None:
        """Return why the wanted form of a resource was refused; None when it was not."""
        wanted, fault = self.wanted[kind].get(name), self.faults.get((kind, name))
        return fault[1] if fault and wanted and fault[0] == wanted.version else None

    def is_held(self, kind: str, name: str) -> bool:
        """Whether Envoy has a resource as it is wanted."""
        wanted = self.wanted[kind].get(name)
        return wanted is not None and self.held.get((kind, name)) == wanted.version


@dataclass(frozen=True, slots=True)
class _Sent:
    kind: str
    versions: dict[str, str]
    removed: tuple[str, ...]


class TableStream:
    """One connection of Envoy."""

    def __init__(
        self,
        tables: ResourceTables,
        write: Callable[[Any], Awaitable[None]],
        on_verdict: Callable[[], None],
    ) -> None:
        self.listener_fault: str | None = None
        self.listening = False
        self._tables = tables
        self._write = write
        self._on_verdict = on_verdict
        epoch = uuid.uuid4().hex[:8]
        self._nonces = (f"{epoch}-{number}" for number in itertools.count(1))
        self._offered: dict[str, dict[str, str]] = {kind: {} for kind in _ORDER}
        self._subscribed: set[str] = set()
        self._begun: set[str] = set()
        self._answered: set[str] = set()
        self._sent: dict[str, _Sent] = {}
        tables.held.clear()

    @property
    def renewal_fault(self) -> str | None:
        """Why Envoy does not use a secret as it is now wanted; None when it does."""
        faults = (self._tables.fault(SECRET, name) for name in self._tables.wanted[SECRET])
        return next((fault for fault in faults if fault), None)

    async def run(self, requests: AsyncIterator[Any], changed: asyncio.Event) -> None:
        """Serve the connection until Envoy hangs up."""
        sending = asyncio.ensure_future(self._send_changes(changed))
        reading = asyncio.ensure_future(self._read(requests, changed))
        try:
            await asyncio.wait((sending, reading), return_when=asyncio.FIRST_COMPLETED)
            if not reading.done():
                sending.result()
        finally:
            sending.cancel()
            reading.cancel()
            await asyncio.gather(sending, reading, return_exceptions=True)

    async def _read(self, requests: AsyncIterator[Any], changed: asyncio.Event) -> None:
        async for request in requests:
            if request.type_url in self._offered:
                self._note_verdict(request)
                self._note_subscription(request)
                changed.set()

    def _note_verdict(self, request: Any) -> None:
        sent = self._sent.pop(request.response_nonce, None)
        if sent is None:
            return
        refused = request.HasField("error_detail")
        message = request.error_detail.message or "refused without a reason" if refused else ""
        for name, version in sent.versions.items():
            if refused:
                _log.error("Envoy refused %s %s: %s", sent.kind.rpartition(".")[2], name, message)
                self._tables.faults[sent.kind, name] = (version, message)
            else:
                self._tables.faults.pop((sent.kind, name), None)
                self._tables.held[sent.kind, name] = version
        for name in () if refused else sent.removed:
            self._tables.held.pop((sent.kind, name), None)
        if sent.kind == LISTENER:
            self.listening = True
        self._on_verdict()

    def _note_subscription(self, request: Any) -> None:
        kind = request.type_url
        if kind not in self._begun:
            self._begun.add(kind)
            self._offered[kind].update(request.initial_resource_versions)
            for name, version in request.initial_resource_versions.items():
                self._tables.held[kind, name] = version
            if kind == LISTENER and request.initial_resource_versions:
                self.listening = True
        if kind == SECRET:
            for name in request.resource_names_unsubscribe:
                self._offered[kind].pop(name, None)
            self._subscribed.difference_update(request.resource_names_unsubscribe)
            self._subscribed.update(request.resource_names_subscribe)

    async def _send_changes(self, changed: asyncio.Event) -> None:
        while True:
            await changed.wait()
            changed.clear()
            for kind in _ORDER:
                await self._send_wanted(kind)
            for kind in reversed(_ORDER):
                await self._send_removed(kind)

    async def _send_wanted(self, kind: str) -> None:
        if kind not in self._begun:
            return
        offered = self._offered[kind]
        new = [
            one
            for name, one in sorted(self._tables.wanted[kind].items())
            if offered.get(name) != one.version and (kind != SECRET or name in self._subscribed)
        ]
        # One response each: a refusal then says which was meant, and takes no other with it.
        for one in new:
            await self._send(kind, (one,))
        if not new and kind not in self._answered and kind != SECRET and not offered:
            await self._send(kind)  # Envoy waits for a first answer

    async def _send_removed(self, kind: str) -> None:
        # Secrets are never taken away: who still uses one would stop serving.
        if kind in self._begun and kind != SECRET:
            gone = tuple(
                name for name in self._offered[kind] if name not in self._tables.wanted[kind]
            )
            if gone:
                await self._send(kind, (), gone)

    async def _send(
        self, kind: str, resources: tuple[XdsResource, ...] = (), removed: tuple[str, ...] = ()
    ) -> None:
        versions = {one.name: one.version for one in resources}
        for name in removed:
            self._offered[kind].pop(name, None)
        self._offered[kind].update(versions)
        self._answered.add(kind)
        nonce = next(self._nonces)
        self._sent[nonce] = _Sent(kind, versions, removed)
        await self._write(
            discovery_pb2.DeltaDiscoveryResponse(
                type_url=kind,
                nonce=nonce,
                resources=[
                    discovery_pb2.Resource(name=r.name, version=r.version, resource=r.packed)
                    for r in resources
                ],
                removed_resources=removed,
            )
        )
