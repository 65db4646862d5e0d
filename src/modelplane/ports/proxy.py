"""The gateway: publishes routes, reports acknowledgements and counts.

Called by the agent only. An implementation configures one running proxy process; it does not
start or stop it.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass, field
from typing import Protocol

from modelplane.decisions.routing import RoutePlan


@dataclass(frozen=True, slots=True)
class RouteAck:
    """What the proxy said to one published plan.

    Attributes
    ----------
    deployment, generation
        Those of the `RoutePlan`; for a withdrawal the last published generation.
    accepted
        False when the proxy refused the plan; it then serves the plan before it.
    message
        The proxy's reason for a refusal, empty otherwise.
    """

    deployment: str
    generation: int
    accepted: bool
    message: str = ""


@dataclass(frozen=True, slots=True)
class LatencyBin:
    """Requests whose duration fell in ``[lower_us, lower_us + width_us)``."""

    lower_us: float
    width_us: float
    count: int


@dataclass(frozen=True, slots=True)
class SliceCounts:
    """Requests of one part of the users, and those that the variant failed."""

    requests: int = 0
    failures: int = 0


@dataclass(frozen=True, slots=True)
class VariantCounts:
    """What one revision of one deployment did since the proxy started (cumulative).

    Of a shadow: the copies that it was sent, which no client waits for.

    Attributes
    ----------
    requests
        Requests assigned to the variant that ended. One that its client gave up is counted, as
        failed, when it had waited for a second; in no slice.
    failures
        Of those, the ones the variant failed, whether the client saw it or stable answered.
    client_failures
        Of those, the ones the client saw (5xx or no answer).
    latency
        Durations of the assigned requests as the gateway saw them, bins in order.
    replica_attempts, replica_failures
        Per replica name: attempts sent to it and the failed ones among them.
    slices
        By ``user.region=west``; who is in none of the plan's slices is in no entry.
    """

    requests: int = 0
    failures: int = 0
    client_failures: int = 0
    latency: tuple[LatencyBin, ...] = ()
    replica_attempts: Mapping[str, int] = field(default_factory=dict)
    replica_failures: Mapping[str, int] = field(default_factory=dict)
    slices: Mapping[str, SliceCounts] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class TrafficReading:
    """Cumulative counts of a proxy at one moment.

    Attributes
    ----------
    boot_id
        Changes whenever the proxy starts anew; counts then begin at zero.
    variants
        Keyed by `decisions.routing.count_key` of cluster and rule.
    active_requests
        Requests in flight, per cluster.
    unrouted
        Requests that no route matched or that the proxy itself failed (no healthy upstream with
        no variant to blame).
    """

    boot_id: str
    variants: Mapping[str, VariantCounts]
    active_requests: Mapping[str, int]
    unrouted: int = 0


class Proxy(Protocol):
    """One gateway."""

    async def publish(self, plan: RoutePlan) -> None:
        """Make the gateway serve `plan`, replacing the deployment's plan before it.

        Returns when the plan is queued; the outcome arrives on `acks`. Publishing the plan that
        is already served acknowledges it again and changes nothing. No request fails because
        of a publication: what is new is warm before it gets a request, what is old goes last.
        """

    async def withdraw(self, deployment: str) -> None:
        """Stop serving `deployment`; unknown names change nothing."""

    def acks(self) -> AsyncIterator[RouteAck]:
        """Acknowledgements as they arrive, for one consumer."""

    async def read_traffic(self) -> TrafficReading:
        """Read the counts; raises `TransientError` when the proxy does not answer."""

    async def is_ready(self) -> bool:
        """Whether the proxy process answers and has its configuration."""

    async def drain(self, timeout_s: float) -> None:
        """Refuse new connections and wait until requests in flight end, `timeout_s` at most."""
