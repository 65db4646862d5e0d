"""Counts of the gateways, once a second, to the control plane; kept while it is away.

Each gateway has a `Meter`, which turns cumulative readings into intervals, and an `Outbox`, which
holds what the control plane has not confirmed. Nothing is counted twice: the first reading of an
agent's life is a start and no count, and a batch has one name however often it is sent.
"""

from __future__ import annotations

import asyncio
import secrets
from collections import deque
from collections.abc import Callable, Mapping
from datetime import datetime

import structlog

from modelplane.agent.comparing import Comparisons, add_comparisons
from modelplane.agent.control_plane import ControlPlane
from modelplane.agent.gateway import Gateway
from modelplane.agent.gateways import Gateways
from modelplane.agent.node import Node
from modelplane.decisions.agent_routing import split_cluster_name
from modelplane.decisions.routing import split_count_key
from modelplane.errors import InvalidResource, ModelplaneError, TransientError
from modelplane.ports.proxy import SliceCounts, TrafficReading, VariantCounts
from modelplane.resources.telemetry import (
    ReplicaSample,
    ScrapedMetrics,
    SliceSample,
    TelemetryBatch,
    TelemetryReceipt,
    VariantSample,
)
from modelplane.resources.traffic_split import DEFAULT_RULE, TrafficSplit

log = structlog.get_logger(__name__)

MAX_KEPT_BATCHES = 900
_NOTHING = VariantCounts()


def difference(before: VariantCounts, after: VariantCounts, key: str) -> VariantSample | None:
    """Return what happened to a variant between two readings; None when nothing did.

    `key` is its `count_key`. A count that went back can only come of a proxy that started anew
    under the same name; what it says now is then all new.
    """
    if after.requests < before.requests:
        before = _NOTHING
    cluster, rule = split_count_key(key)
    deployment, revision = split_cluster_name(cluster)
    counted = {(part.lower_us, part.width_us): part.count for part in before.latency}
    latency = [
        (part.lower_us, part.width_us, part.count - counted.get((part.lower_us, part.width_us), 0))
        for part in after.latency
    ]
    replicas = {
        name: ReplicaSample(
            attempts=max(0, attempts - before.replica_attempts.get(name, 0)),
            failures=max(
                0, after.replica_failures.get(name, 0) - before.replica_failures.get(name, 0)
            ),
        )
        for name, attempts in after.replica_attempts.items()
    }
    slices = {name: _slice(before.slices.get(name), now) for name, now in after.slices.items()}
    sample = VariantSample(
        deployment=deployment,
        revision=revision,
        rule="" if rule == DEFAULT_RULE else rule,
        requests=after.requests - before.requests,
        failures=max(0, after.failures - before.failures),
        client_failures=max(0, after.client_failures - before.client_failures),
        latency=tuple(part for part in latency if part[2] > 0),
        replicas={n: s for n, s in replicas.items() if s.attempts or s.failures},
        slices={name: part for name, part in slices.items() if part.requests},
    )
    counts = (sample.requests, sample.failures, sample.client_failures, len(sample.latency))
    return sample if any(counts) or sample.replicas else None


def _slice(before: SliceCounts | None, after: SliceCounts) -> SliceSample:
    if before is None or after.requests < before.requests:
        before = SliceCounts()
    return SliceSample(
        requests=after.requests - before.requests,
        failures=max(0, after.failures - before.failures),
    )


class Meter:
    """Turns one gateway's readings into batches.

    Parameters
    ----------
    environment, proxy
        Names in the batches.
    nonce
        Of this agent's life: a new agent counts in a sequence of its own.
    """

    def __init__(self, environment: str, proxy: str, nonce: str) -> None:
        self._environment = environment
        self._proxy = proxy
        self._nonce = nonce
        self._before: TrafficReading | None = None
        self._before_at_s = 0.0
        self._in_force: dict[str, dict[str, int]] = {}
        self._sequence = 0

    def measure(
        self,
        reading: TrafficReading,
        accepted: Mapping[str, TrafficSplit],
        *,
        now: datetime,
        now_s: float,
    ) -> TelemetryBatch | None:
        """Return the interval since the last reading; None for the first one.

        Parameters
        ----------
        reading
            The counts now.
        accepted
            The splits that the gateway has acknowledged by now, by deployment. The batch
            carries those of the interval's beginning: a new weight's first second counts as
            the old one's.
        now, now_s
            The time, and a clock that never goes back.
        """
        before, in_force = self._before, self._in_force
        seconds = now_s - self._before_at_s
        if before is not None and seconds <= 0:
            return None
        self._before, self._before_at_s = reading, now_s
        self._in_force = {
            name: split.spec.steps for name, split in accepted.items() if split.spec.steps
        }
        if before is None:
            return None
        if before.boot_id != reading.boot_id:
            # The proxy started anew and counts from zero: all that it says is new.
            before = TrafficReading(reading.boot_id, {}, {})
            self._sequence = 0
        self._sequence += 1
        samples = (
            difference(before.variants.get(key, _NOTHING), counts, key)
            for key, counts in sorted(reading.variants.items())
        )
        return TelemetryBatch(
            environment=self._environment,
            proxy=self._proxy,
            boot_id=f"{reading.boot_id}.{self._nonce}",
            sequence=self._sequence,
            at=now,
            seconds=seconds,
            samples=tuple(sample for sample in samples if sample is not None),
            steps=in_force,
            unrouted=max(0, reading.unrouted - before.unrouted),
        )


class Outbox:
    """Batches in order, until the control plane has confirmed them.

    Attributes
    ----------
    dropped
        Batches that never arrived: too many waited, or the control plane refused them.
    """

    def __init__(self, control_plane: ControlPlane) -> None:
        self._control_plane = control_plane
        self._unsent: deque[TelemetryBatch] = deque()
        self._unconfirmed: deque[TelemetryBatch] = deque()
        self.dropped = 0

    def add(self, batch: TelemetryBatch) -> None:
        """Keep a batch to be sent; beyond the bound the oldest goes."""
        self._unsent.append(batch)
        while len(self._unsent) + len(self._unconfirmed) > MAX_KEPT_BATCHES:
            if self._unconfirmed:
                self._unconfirmed.popleft()
            else:
                self._unsent.popleft()
                self.dropped += 1

    async def send(self) -> None:
        """Send what waits, oldest first; what was sent and not confirmed waits on.

        Raises `TransientError` when the control plane does not answer. It may have lost what
        it had not confirmed, so all of that is sent again with the next call.
        """
        while self._unsent:
            batch = self._unsent[0]
            try:
                receipt = await self._control_plane.post_telemetry(batch)
            except TransientError:
                self._unsent = deque((*self._unconfirmed, *self._unsent))
                self._unconfirmed.clear()
                raise
            except InvalidResource:
                self._unsent.popleft()  # would be refused for ever, and hold up what follows
                self.dropped += 1
                raise
            if self._unsent and self._unsent[0] is batch:
                self._unsent.popleft()
                self._unconfirmed.append(batch)
            self._confirm(batch, receipt)

    def _confirm(self, sent: TelemetryBatch, receipt: TelemetryReceipt) -> None:
        self._unconfirmed = deque(
            batch
            for batch in self._unconfirmed
            if batch.boot_id != sent.boot_id or batch.sequence > receipt.confirmed_sequence
        )


class Telemetry:
    """Reads every gateway once an interval and sends what it counted.

    Parameters
    ----------
    node, gateways, control_plane
        What is read, and where it goes.
    take_scraped, take_compared
        Return what model servers told of themselves, and how their answers to copied requests
        compare, in an environment since they were last called.
    """

    def __init__(
        self,
        node: Node,
        gateways: Gateways,
        control_plane: ControlPlane,
        take_scraped: Callable[[str], tuple[ScrapedMetrics, ...]],
        take_compared: Callable[[str], Comparisons],
    ) -> None:
        self._node = node
        self._gateways = gateways
        self._control_plane = control_plane
        self._take_scraped = take_scraped
        self._take_compared = take_compared
        self._nonce = secrets.token_hex(4)
        self._meters: dict[str, Meter] = {}
        self._outboxes: dict[str, Outbox] = {}
        self._sending: dict[str, asyncio.Task[None]] = {}

    async def run(self) -> None:
        """Read and send for ever."""
        try:
            while True:
                await self._node.clock.sleep(self._node.options.telemetry_interval_s)
                await self.tick()
        finally:
            for task in self._sending.values():
                task.cancel()
            await asyncio.gather(*self._sending.values(), return_exceptions=True)

    async def tick(self) -> None:
        """Read each gateway once; sending goes on in the background."""
        gateways = dict(self._gateways.running)
        await asyncio.gather(*(self._read(name, gateway) for name, gateway in gateways.items()))
        for name, outbox in self._outboxes.items():
            task = self._sending.get(name)
            if task is None or task.done():
                self._sending[name] = asyncio.create_task(self._send(name, outbox))

    async def _read(self, name: str, gateway: Gateway) -> None:
        try:
            reading = await gateway.read_traffic()
        except TransientError as error:
            log.debug("gateway_not_read", environment=name, error=str(error))
            return
        if name not in self._meters:
            self._meters[name] = Meter(name, f"{name}/{self._node.name}", self._nonce)
            self._outboxes[name] = Outbox(self._control_plane)
        clock = self._node.clock
        batch = self._meters[name].measure(
            reading, gateway.accepted, now=clock.now(), now_s=clock.monotonic_s()
        )
        if batch is not None:
            batch = batch.with_(
                samples=add_comparisons(batch.samples, self._take_compared(name)),
                scraped=self._take_scraped(name),
            )
            self._outboxes[name].add(batch)

    async def _send(self, name: str, outbox: Outbox) -> None:
        try:
            await outbox.send()
        except TransientError as error:
            log.warning("telemetry_waits", environment=name, error=str(error))
        except ModelplaneError as error:
            log.error("telemetry_refused", environment=name, error=str(error))
