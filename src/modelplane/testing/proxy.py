"""A gateway in memory: implements `ports.proxy.Proxy`, serves nobody, says what it was told.

For tests of what uses a gateway. Acknowledgements come at once while the proxy runs; counts are
what the test scripts with `count`. Passes the contract suite that the real Envoy passes.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Iterable, Mapping
from dataclasses import replace
from types import MappingProxyType

from modelplane.decisions.routing import RoutePlan, count_key
from modelplane.errors import TransientError
from modelplane.expressions.predicates import compile_predicate
from modelplane.ports.identity import Credentials
from modelplane.ports.proxy import (
    LatencyBin,
    RouteAck,
    SliceCounts,
    TrafficReading,
    VariantCounts,
)
from modelplane.resources.traffic_split import DEFAULT_RULE


def accept_all(plan: RoutePlan) -> str | None:
    """Refuse nothing."""
    return None


def _fault_of_predicates(plan: RoutePlan) -> str | None:
    for rule in plan.rules:
        compiled = compile_predicate(rule.predicate, plan.input_types) if rule.predicate else None
        if isinstance(compiled, tuple):
            return f"rule {rule.name}: {compiled[0]}"
    return None


class FakeProxy:
    """One gateway that is not there.

    Parameters
    ----------
    plans
        What it served when the agent last ran.
    refuse
        Returns why a plan is refused, or None to accept it.

    Attributes
    ----------
    served
        The accepted plans by deployment: what traffic would meet.
    published
        Every plan that was published, in order.
    credentials
        What it speaks mutual TLS with.
    running
        Whether the proxy process runs; see `kill` and `restart`.
    active
        Requests in flight per cluster; a test sets it.
    """

    def __init__(
        self,
        plans: Iterable[RoutePlan] = (),
        *,
        refuse: Callable[[RoutePlan], str | None] = accept_all,
    ) -> None:
        self.served: dict[str, RoutePlan] = {}
        self.published: list[RoutePlan] = []
        self.refuse = refuse
        self.credentials: Credentials | None = None
        self.running = True
        self.draining = False
        self.active: dict[str, int] = {}
        self._boots = 1
        self._counts: dict[str, VariantCounts] = {}
        self._unrouted = 0
        self._waiting: dict[str, tuple[int, RoutePlan | None]] = {
            plan.deployment: (plan.generation, plan) for plan in plans
        }
        self._generations = {name: generation for name, (generation, _) in self._waiting.items()}
        self._acks: dict[str, RouteAck] = {}
        self._news = asyncio.Event()
        self._settle()

    async def present(self, credentials: Credentials) -> None:
        """Note whom it speaks as."""
        self.credentials = credentials

    async def publish(self, plan: RoutePlan) -> None:
        """Serve `plan` if it is not refused; while the proxy is down, keep it."""
        self.published.append(plan)
        self._generations[plan.deployment] = plan.generation
        self._waiting[plan.deployment] = (plan.generation, plan)
        self._settle()

    async def withdraw(self, deployment: str) -> None:
        """Stop serving `deployment`; unknown names change nothing."""
        generation = self._generations.pop(deployment, None)
        if generation is not None:
            self._waiting[deployment] = (generation, None)
            self._settle()

    async def acks(self) -> AsyncIterator[RouteAck]:
        """Yield verdicts; of several for one deployment at least the last."""
        while True:
            await self._news.wait()
            self._news.clear()
            while self._acks:
                yield self._acks.pop(next(iter(self._acks)))

    async def read_traffic(self) -> TrafficReading:
        """Return what was scripted; raises `TransientError` while the proxy is down."""
        if not self.running:
            raise TransientError("the fake proxy is down", hint="call restart()")
        return TrafficReading(
            f"boot-{self._boots}", dict(self._counts), dict(self.active), self._unrouted
        )

    async def is_ready(self) -> bool:
        """Whether the proxy runs."""
        return self.running

    async def drain(self, timeout_s: float) -> None:
        """Note that the proxy is draining; nothing is ever in flight for long."""
        self.draining = True

    def count(
        self,
        cluster: str,
        requests: int,
        *,
        failures: int = 0,
        client_failures: int = 0,
        latency_us: Mapping[float, int] | None = None,
        replica: str = "",
        rule: str = DEFAULT_RULE,
        slices: Mapping[str, SliceCounts] = MappingProxyType({}),
    ) -> None:
        """Add traffic to a variant.

        Parameters
        ----------
        cluster, rule
            The variant's cluster, and the name of the rule it was chosen under.
        requests, failures, client_failures
            How many to add.
        latency_us
            Requests by lower bound of their bin, microseconds; bins are one tenth wide.
        replica
            When given, the requests and failures are counted for it as attempts, too.
        slices
            Of the requests, those of parts of the users.
        """
        key = count_key(cluster, rule)
        before = self._counts.get(key, VariantCounts())
        attempts, failed = dict(before.replica_attempts), dict(before.replica_failures)
        if replica:
            attempts[replica] = attempts.get(replica, 0) + requests
            failed[replica] = failed.get(replica, 0) + failures
        bins = {(part.lower_us, part.width_us): part.count for part in before.latency}
        for lower_us, number in (latency_us or {}).items():
            place = (lower_us, lower_us / 10)
            bins[place] = bins.get(place, 0) + number
        parts = dict(before.slices)
        for name, part in slices.items():
            old = parts.get(name, SliceCounts())
            parts[name] = SliceCounts(old.requests + part.requests, old.failures + part.failures)
        self._counts[key] = replace(
            before,
            requests=before.requests + requests,
            failures=before.failures + failures,
            client_failures=before.client_failures + client_failures,
            latency=tuple(LatencyBin(*place, bins[place]) for place in sorted(bins)),
            replica_attempts=attempts,
            replica_failures={name: number for name, number in failed.items() if number},
            slices=parts,
        )

    def count_unrouted(self, requests: int) -> None:
        """Add requests that no route matched."""
        self._unrouted += requests

    def kill(self) -> None:
        """End the proxy process."""
        self.running = False

    def restart(self) -> None:
        """Start the proxy anew: another boot id, counts at zero, plans as before."""
        self.running, self.draining = True, False
        self._boots += 1
        self._counts, self._unrouted = {}, 0
        self._settle()

    def _settle(self) -> None:
        """Judge what waits, when there is a proxy to judge it."""
        if not self.running:
            return
        for deployment, (generation, plan) in self._waiting.items():
            reason = (plan and (self.refuse(plan) or _fault_of_predicates(plan))) or ""
            if plan is None:
                self.served.pop(deployment, None)
            elif not reason:
                self.served[deployment] = plan
            self._ack(RouteAck(deployment, generation, accepted=not reason, message=reason))
        self._waiting.clear()

    def _ack(self, ack: RouteAck) -> None:
        self._acks.pop(ack.deployment, None)
        self._acks[ack.deployment] = ack
        self._news.set()
