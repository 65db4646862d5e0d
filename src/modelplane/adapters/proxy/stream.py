"""One connection of Envoy to the configuration server, in incremental (delta) xDS.

Made by `ads` for each connection. It offers the changes in `book.RouteBook` in an order that
never lets a route name a cluster that is not warm: clusters, their endpoints, the listener, then
scopes; what is no longer named goes last, after its requests can have ended. Every step waits for
Envoy's acknowledgement. It computes no configuration and decides no verdict's consequences: the
book does.
"""

from __future__ import annotations

import asyncio
import itertools
import logging
import time
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from envoy.service.discovery.v3 import discovery_pb2

from modelplane.adapters.proxy.book import Change, RouteBook
from modelplane.adapters.proxy.xds import (
    CLUSTER,
    ENDPOINTS,
    EXTENSION,
    LISTENER,
    SCOPE,
    SECRET,
    XdsResource,
)

_log = logging.getLogger(__name__)

_ANSWER_TIMEOUT_S = 10.0
_BATCH = 256
_BY_NAME = (ENDPOINTS, SECRET, EXTENSION)
"""What Envoy asks for by name, when something else that it has names it."""

_UNKNOWN_LINGER_S = 60.0
"""How long clusters of an earlier run may still have requests: the default request time-out."""


class StreamStuck(Exception):
    """Envoy did not answer in time; the stream is closed and Envoy connects again."""


@dataclass(frozen=True, slots=True)
class _Sent:
    resource_type: str
    versions: dict[str, str]
    removed: tuple[str, ...]


class Stream:
    """One connection of Envoy: what it holds, what it was offered, what it refused."""

    def __init__(
        self,
        book: RouteBook,
        write: Callable[[Any], Awaitable[None]],
        on_verdict: Callable[[], None],
    ) -> None:
        self.listener_fault: str | None = None
        self.listening = False
        self._book = book
        self._write = write
        self._on_verdict = on_verdict
        epoch = uuid.uuid4().hex[:8]
        self._nonces = (f"{epoch}-{number}" for number in itertools.count(1))
        self._held: dict[str, dict[str, str]] = {t: {} for t in book.tables}
        self._offered: dict[str, dict[str, str]] = {t: {} for t in book.tables}
        self._faults: dict[tuple[str, str], str] = {}
        self._awaited: dict[tuple[str, str], str | None] = {}
        self._fault: str | None = None
        self._refused: dict[tuple[str, str], tuple[str, str]] = {}
        self._sent: dict[str, _Sent] = {}
        self._subscribed: dict[str, set[str]] = {kind: set() for kind in _BY_NAME}
        self._begun: set[str] = set()
        self._news = asyncio.Condition()
        self._write_lock = asyncio.Lock()

    async def run(self, requests: AsyncIterator[Any], changed: asyncio.Event) -> None:
        """Serve the connection until Envoy hangs up or does not answer."""
        serving = asyncio.ensure_future(self._serve(changed))
        reading = asyncio.ensure_future(self._read(requests))
        try:
            await asyncio.wait((serving, reading), return_when=asyncio.FIRST_COMPLETED)
            if not reading.done():
                serving.result()
        finally:
            serving.cancel()
            reading.cancel()
            await asyncio.gather(serving, reading, return_exceptions=True)

    @property
    def renewal_fault(self) -> str | None:
        """Why Envoy does not use a secret or filter as it is now wanted; None when it does."""
        for (kind, name), (version, fault) in self._refused.items():
            wanted = self._book.tables[kind].get(name)
            if wanted is not None and wanted.version == version:
                return fault
        return None

    # What Envoy says

    async def _read(self, requests: AsyncIterator[Any]) -> None:
        """Take in what Envoy sends until it hangs up."""
        async for request in requests:
            if request.type_url in self._held:
                self._note_verdict(request)
                await self._note_subscription(request)
                async with self._news:
                    self._news.notify_all()

    def _note_verdict(self, request: Any) -> None:
        sent = self._sent.pop(request.response_nonce, None)
        if sent is None:
            return
        kind = sent.resource_type
        offered = self._offered[kind]
        if request.HasField("error_detail"):
            message = request.error_detail.message or "refused without a reason"
            for name in (*sent.versions, *sent.removed):
                offered.pop(name, None)
                self._faults[kind, name] = message
                if (kind, name) in self._awaited:
                    self._fault = message
            return
        self._note_held(kind, sent.versions)
        for name in sent.removed:
            self._held[kind].pop(name, None)
            self._awaited.pop((kind, name), None)

    def _note_held(self, kind: str, versions: Mapping[str, str]) -> None:
        self._held[kind].update(versions)
        for name, version in versions.items():
            if self._awaited.get((kind, name)) == version:
                del self._awaited[kind, name]

    async def _note_subscription(self, request: Any) -> None:
        kind = request.type_url
        self._note_held(kind, request.initial_resource_versions)
        self._offered[kind].update(request.initial_resource_versions)
        self._begun.add(kind)
        if kind not in _BY_NAME:
            return
        subscribed = self._subscribed[kind]
        for name in request.resource_names_unsubscribe:
            subscribed.discard(name)
            self._held[kind].pop(name, None)
            self._offered[kind].pop(name, None)
        names = list(request.resource_names_subscribe)
        subscribed.update(names)
        table = self._book.tables[kind]
        known = [table[name] for name in names if name in table]
        # Of a secret or filter that is not read yet Envoy may hold an earlier form: let it.
        unknown = [name for name in names if name not in table] if kind == ENDPOINTS else []
        await self._send(kind, self._not_offered(kind, known), unknown)

    # What Envoy is told

    async def _serve(self, changed: asyncio.Event) -> None:
        """Bring Envoy up to date, then offer every change as it comes."""
        await self._begin()
        while True:
            retired_at = min(self._book.retired.values(), default=None)
            wait_s = None if retired_at is None else max(0.0, retired_at - time.monotonic())
            try:
                async with asyncio.timeout(wait_s):
                    await changed.wait()
            except TimeoutError:
                await self._remove_retired()
            changed.clear()
            if self._not_offered(LISTENER, self._book.tables[LISTENER].values()):
                await self._begin_listener()  # it admits others than before
            await self._send_renewed()
            while changes := self._book.take(_BATCH):
                self._accept(await self._sift(changes, self._offer))

    async def _send_renewed(self) -> None:
        """Send the secrets and filters of the gateway that were replaced; Envoy swaps them whole.

        One that it refuses changes nothing: Envoy goes on with the one before.
        """
        for kind in (SECRET, EXTENSION):
            table = self._book.tables[kind]
            used = [table[name] for name in sorted(self._subscribed[kind]) if name in table]
            for one in self._not_offered(kind, used):
                await self._send(kind, [one])
                if fault := await self._settle({kind: [one]}):
                    self._offered[kind][one.name] = one.version  # not to be sent again
                    self._refused[kind, one.name] = one.version, fault
                    _log.error("Envoy refused %s: %s", one.name, fault)

    async def _begin(self) -> None:
        """Send what a new connection needs; of what Envoy already holds, nothing."""
        await self._until_begun(CLUSTER)
        before = set(self._held[CLUSTER])
        changes = self._book.begin()
        if not changes and not before:
            await self._send(CLUSTER, (), always=True)
        changes = await self._sift(changes, self._offer_clusters)
        self._book.retire_unknown(before, until_s=time.monotonic() + _UNKNOWN_LINGER_S)
        await self._begin_listener()
        await self._until_begun(SCOPE)
        await self._begin_scopes(changes)

    async def _begin_listener(self) -> None:
        await self._until_begun(LISTENER)
        table = self._book.tables[LISTENER]
        wanted = table.values()
        # From before the agent came back: whom it lets in may have lost that meanwhile.
        unknown = [name for name in self._held[LISTENER] if name not in table]
        await self._send(LISTENER, self._not_offered(LISTENER, wanted), unknown)
        self.listener_fault = await self._settle(
            {LISTENER: wanted}, ((LISTENER, name) for name in unknown)
        )
        self.listening = self.listener_fault is None
        if self.listener_fault:
            # Not to be sent again.
            self._offered[LISTENER].update({one.name: one.version for one in wanted})
            _log.error("Envoy refused the listener: %s", self.listener_fault)

    async def _begin_scopes(self, changes: Sequence[Change]) -> None:
        """Send the first scopes in one response: Envoy opens its port once it has one."""
        wanted = {change.scope_name for change in changes}
        fixed = list(self._book.tables[SCOPE].values())
        wanted.update(scope.name for scope in fixed)
        unknown = [name for name in self._held[SCOPE] if name not in wanted]

        async def offer(some: Sequence[Change]) -> str | None:
            scopes = [*fixed, *(change.route.scope for change in some if change.route)]
            await self._send(SCOPE, self._not_offered(SCOPE, scopes), unknown)
            return await self._settle({SCOPE: scopes}, ((SCOPE, name) for name in unknown))

        self._accept(await self._sift(changes, offer) if changes else [])
        if not changes and (fault := await offer([])):
            _log.error("Envoy refused the gateway's own routes: %s", fault)

    def _accept(self, changes: Sequence[Change]) -> None:
        now_s = time.monotonic()
        for change in changes:
            self._book.accept(change, now_s=now_s)
        self._on_verdict()

    async def _sift(
        self,
        changes: Sequence[Change],
        offer: Callable[[Sequence[Change]], Awaitable[str | None]],
    ) -> list[Change]:
        """Offer `changes` together, by halves when Envoy refuses; return those it took."""
        if not changes:
            return []
        fault = await offer(changes)
        if fault is None:
            return list(changes)
        if len(changes) > 1:
            middle = len(changes) // 2
            first = await self._sift(changes[:middle], offer)
            return first + await self._sift(changes[middle:], offer)
        _log.error("Envoy refused the route of %s: %s", changes[0].deployment, fault)
        last_good = self._book.refuse(changes[0], fault, now_s=time.monotonic())
        self._on_verdict()
        if last_good:
            await offer([last_good])
        return []

    async def _offer(self, changes: Sequence[Change]) -> str | None:
        """Make before break: clusters and their endpoints, then the scopes."""
        fault = await self._offer_clusters(changes)
        return await self._push_scopes(changes) if fault is None else fault

    async def _offer_clusters(self, changes: Sequence[Change]) -> str | None:
        """Send new and changed clusters and endpoints and wait until both are in use.

        Envoy acknowledges clusters only once they are warm, and a changed cluster is warm only
        once its endpoints, changed or not, have come again. Endpoints of a new cluster are
        answered when Envoy subscribes to them.
        """
        self._book.offer(changes)
        clusters = self._not_offered(CLUSTER, (c for change in changes for c in change.clusters))
        endpoints = [e for change in changes for e in change.endpoints]
        for name in {c.name for c in clusters} & self._subscribed[ENDPOINTS]:
            self._offered[ENDPOINTS].pop(name, None)
            self._held[ENDPOINTS].pop(name, None)
        await self._send(CLUSTER, clusters)
        subscribed = (e for e in endpoints if e.name in self._subscribed[ENDPOINTS])
        await self._send(ENDPOINTS, self._not_offered(ENDPOINTS, subscribed))
        return await self._settle({CLUSTER: clusters, ENDPOINTS: endpoints})

    async def _push_scopes(self, changes: Sequence[Change]) -> str | None:
        wanted = [change.route.scope for change in changes if change.route]
        gone = [c.scope_name for c in changes if not c.route and c.scope_name in self._held[SCOPE]]
        await self._send(SCOPE, self._not_offered(SCOPE, wanted), gone)
        return await self._settle({SCOPE: wanted}, ((SCOPE, name) for name in gone))

    async def _remove_retired(self) -> None:
        names = self._book.take_retired(now_s=time.monotonic())
        held = [name for name in names if name in self._held[CLUSTER]]
        await self._send(CLUSTER, (), held)
        fault = await self._settle({}, ((CLUSTER, name) for name in held))
        if fault:
            _log.warning("Envoy kept retired clusters: %s", fault)

    # The wire

    def _not_offered(self, kind: str, resources: Iterable[XdsResource]) -> list[XdsResource]:
        offered = self._offered[kind]
        return [r for r in resources if offered.get(r.name) != r.version]

    async def _send(
        self,
        kind: str,
        resources: Sequence[XdsResource],
        removed: Sequence[str] = (),
        *,
        always: bool = False,
    ) -> None:
        """Send one response; nothing when there is nothing to say, unless `always`."""
        if not (resources or removed or always):
            return
        versions = {resource.name: resource.version for resource in resources}
        for name in (*versions, *removed):
            self._faults.pop((kind, name), None)
            self._offered[kind].pop(name, None)
        self._offered[kind].update(versions)
        nonce = next(self._nonces)
        self._sent[nonce] = _Sent(kind, versions, tuple(removed))
        response = discovery_pb2.DeltaDiscoveryResponse(
            type_url=kind,
            nonce=nonce,
            resources=[
                discovery_pb2.Resource(name=r.name, version=r.version, resource=r.packed)
                for r in resources
            ],
            removed_resources=removed,
        )
        async with self._write_lock:
            await self._write(response)

    async def _settle(
        self, wanted: Mapping[str, Iterable[XdsResource]], gone: Iterable[tuple[str, str]] = ()
    ) -> str | None:
        """Wait until Envoy holds what is `wanted` by type and no longer what is `gone`.

        Returns the text of a refusal as soon as there is one.
        """
        self._awaited = {
            (kind, r.name): r.version
            for kind, some in wanted.items()
            for r in some
            if self._held[kind].get(r.name) != r.version
        }
        self._awaited.update({key: None for key in gone if key[1] in self._held[key[0]]})
        faults = (self._faults[key] for key in self._awaited if key in self._faults)
        self._fault = next(faults, None)
        try:
            async with asyncio.timeout(_ANSWER_TIMEOUT_S), self._news:
                await self._news.wait_for(lambda: self._fault or not self._awaited)
        except TimeoutError:
            left = sorted(f"{kind.rpartition('.')[2]} {name}" for kind, name in self._awaited)
            raise StreamStuck(
                f"Envoy did not acknowledge {left[:3]} within {_ANSWER_TIMEOUT_S:g} s"
            ) from None
        return self._fault

    async def _until_begun(self, kind: str) -> None:
        async with self._news:
            await self._news.wait_for(lambda: kind in self._begun)
