"""Predictions of this node's model servers: fetched each second, spooled, sent.

Run by `agent.Agent`. Tells each server with every question what its deployment wants kept, so
that a change takes effect with the next one. What a server says of its own requests is taken;
whose they are is not for it to say, and is written here. What cannot be fetched or sent costs
predictions, which are counted, and never a request.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping, Sequence
from datetime import datetime
from typing import Any
from uuid import uuid4

import structlog
from pydantic_core import to_json

from modelplane.agent.control_plane import ControlPlane
from modelplane.agent.node import Node
from modelplane.agent.prediction_spool import Batch, Origin, Spool
from modelplane.decisions.comparison import keeps_answers
from modelplane.errors import (
    Forbidden,
    InvalidResource,
    ModelplaneError,
    NotFound,
    TransientError,
    Unauthenticated,
)
from modelplane.ports.servers import PredictionPage
from modelplane.resources.replica import Replica
from modelplane_runtime.prediction_events import DROPPED_TYPE, REQUEST_TYPE, RESPONSE_TYPE

log = structlog.get_logger(__name__)

_AT_ONCE = 4
_PAGES = 16
_SENT_AT_ONCE = 64
_TRIES = 20
_WAIT_S = 3.0
_TYPES = (REQUEST_TYPE, RESPONSE_TYPE)
_TOLD = (
    "id", "type", "time", "datacontenttype", "data", "rule", "mirrored", "truncated", "rows",
    "latencyus", "key", "keys", "parts", "rowparts",
)  # fmt: skip


class PredictionCollector:
    """Brings predictions from the model servers of this node to the control plane.

    Parameters
    ----------
    node, control_plane
        Where they come from, and where they go.
    """

    def __init__(self, node: Node, control_plane: ControlPlane) -> None:
        self._node = node
        self._control_plane = control_plane
        self._spool = Spool(node.places.agent_dir / "predictions")
        self._free = asyncio.Semaphore(_AT_ONCE)
        self._cursors: dict[str, str] = {}
        self._locks: dict[str, asyncio.Lock] = {}
        self._off: dict[str, int | None] = {}
        self._silent: set[str] = set()
        self._sending: asyncio.Task[None] | None = None
        self._not_before_s = 0.0
        self._failed: tuple[str, int] = ("", 0)

    async def run(self, serving: Callable[[], Sequence[Replica]]) -> None:
        """Fetch from the replicas that are `serving`, and send, again and again, for ever."""
        try:
            while True:
                await self._node.clock.sleep(self._node.options.telemetry_interval_s)
                try:
                    await self.tick(serving())
                except Exception:
                    # A log of what was served must not end what serves.
                    log.exception("predictions_failed")
                if self._sending is None or self._sending.done():
                    self._sending = asyncio.create_task(self._send())
        finally:
            if self._sending is not None:
                self._sending.cancel()
                await asyncio.gather(self._sending, return_exceptions=True)

    async def tick(self, serving: Sequence[Replica]) -> None:
        """Fetch from each server once."""
        replicas = [one for one in serving if _is_ours(one)]
        uids = {one.metadata.uid for one in replicas}
        self._cursors = {uid: self._cursors[uid] for uid in uids if uid in self._cursors}
        self._locks = {uid: self._locks[uid] for uid in uids if uid in self._locks}
        self._off = {uid: self._off[uid] for uid in uids if uid in self._off}
        self._silent &= uids
        await asyncio.gather(*map(self.fetch, replicas))
        await self._spool_losses()

    async def fetch(self, replica: Replica) -> None:
        """Bring what one server remembers into the spool, and tell it what to remember."""
        uid = replica.metadata.uid
        if not _is_ours(replica) or self._is_known_off(replica):
            return
        async with self._locks.setdefault(uid, asyncio.Lock()), self._free:
            try:
                await self._fetch(replica)
            except Exception:
                log.exception("predictions_not_fetched", replica=str(replica.key))

    async def _fetch(self, replica: Replica) -> None:
        uid, wanted = replica.metadata.uid, replica.spec.predictions
        for _ in range(_PAGES):
            page = await self._node.servers.read_predictions(
                self._node.socket(uid), self._cursors.get(uid, ""), wanted
            )
            if page is None:
                if uid not in self._silent:
                    self._silent.add(uid)
                    log.warning("predictions_not_told", replica=str(replica.key))
                return
            self._silent.discard(uid)
            if wanted is None:
                self._off[uid] = replica.status.pid
                return
            self._off.pop(uid, None)
            await self._keep(replica, page)
            # Only now, so that what could not be spooled is fetched again.
            self._cursors[uid] = page.next
            if not page.more:
                return

    async def _keep(self, replica: Replica, page: PredictionPage) -> None:
        origin = _origin(replica)
        if page.events:
            # Not on the event loop: a page is a megabyte.
            await asyncio.to_thread(self._put, origin, page)
        if page.dropped:
            self._spool.add_lost(origin, page.dropped)

    def _put(self, origin: Origin, page: PredictionPage) -> None:
        events = [stamped(event, origin) for event in page.events if event.get("type") in _TYPES]
        self._spool.put(Batch(origin, page.rows, to_json(events, inf_nan_mode="null")))

    async def _spool_losses(self) -> None:
        """Have it told what was lost; that is kept as predictions are."""
        for origin, rows in self._spool.take_lost().items():
            log.warning("predictions_dropped", rows=rows, deployment=origin.deployment)
            body = to_json([dropped_event(origin, rows, self._node.clock.now())])
            try:
                await asyncio.to_thread(self._spool.put, Batch(origin, rows, body, is_loss=True))
            except OSError as error:
                self._spool.add_lost(origin, rows)
                log.warning("predictions_not_spooled", error=str(error))

    def _is_known_off(self, replica: Replica) -> bool:
        """Whether nothing is wanted of the server, and this very process has been told so."""
        uid = replica.metadata.uid
        known = uid in self._off and self._off[uid] == replica.status.pid
        return replica.spec.predictions is None and known

    async def _send(self) -> None:
        """Send what waits, oldest first, as far as the control plane takes it."""
        if self._node.clock.monotonic_s() < self._not_before_s:
            return
        for _ in range(_SENT_AT_ONCE):
            found = await asyncio.to_thread(self._spool.oldest) if len(self._spool) else None
            if found is None:
                return
            name, batch = found
            try:
                await self._control_plane.post_predictions(batch.body)
            except TransientError as error:
                self._not_before_s = self._node.clock.monotonic_s() + error.retry_after_s
                log.warning("predictions_wait", batches=len(self._spool), error=str(error))
                return
            except (Unauthenticated, Forbidden) as error:
                log.error("predictions_wait", batches=len(self._spool), error=str(error))
                return
            except ModelplaneError as error:
                if not self._is_given_up(name, error):
                    return
                where = f"{batch.origin.environment}/{batch.origin.deployment}"
                log.error("predictions_refused", of=where, rows=batch.rows, error=str(error))
                # Not of a deployment that is gone, nor of a loss that was told in vain.
                if not isinstance(error, NotFound) and not batch.is_loss:
                    self._spool.add_lost(batch.origin, batch.rows)
            await asyncio.to_thread(self._spool.remove, name)

    def _is_given_up(self, name: str, error: ModelplaneError) -> bool:
        """Whether a batch would be refused for ever, and hold up what follows.

        What failed over there, or did not get there whole, is worth some more tries.
        """
        if isinstance(error, InvalidResource | NotFound):
            return True
        tries = self._failed[1] + 1 if self._failed[0] == name else 1
        self._failed = (name, tries)
        self._not_before_s = self._node.clock.monotonic_s() + _WAIT_S
        if tries < _TRIES:
            log.warning("predictions_wait", batches=len(self._spool), error=str(error))
        return tries >= _TRIES


def stamped(event: Mapping[str, Any], origin: Origin) -> dict[str, Any]:
    """Return an event with whose prediction it is, whatever its server says about that."""
    told = {name: event[name] for name in _TOLD if name in event}
    return told | _attributes(origin)


def dropped_event(origin: Origin, rows: int, now: datetime) -> dict[str, Any]:
    """Return the event that tells how many rows were lost."""
    return {
        **_attributes(origin),
        "id": uuid4().hex,
        "type": DROPPED_TYPE,
        "time": now.isoformat().replace("+00:00", "Z"),
        "datacontenttype": "application/json",
        "data": {"rows": rows},
    }


def _attributes(origin: Origin) -> dict[str, str]:
    return {
        "specversion": "1.0",
        "source": f"/environments/{origin.environment}/replicas/{origin.replica}",
        "component": "predictor",
        "namespace": origin.environment,
        "inferenceservicename": origin.deployment,
        "endpoint": origin.revision,
        "modelversion": origin.version,
    }


def _origin(replica: Replica) -> Origin:
    spec = replica.spec
    return Origin(
        environment=replica.metadata.environment or "",
        deployment=spec.deployment,
        version=spec.revision.version,
        revision=spec.revision.short,
        replica=replica.metadata.name,
    )


def _is_ours(replica: Replica) -> bool:
    """Whether its server is `modelplane_runtime`, which has a log."""
    return keeps_answers(replica.spec.revision.artifact.format)
