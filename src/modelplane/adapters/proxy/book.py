"""What the gateway should have: every deployment's route, and which of them Envoy accepted.

`envoy` writes what is wanted; `ads` takes the changes, offers them to Envoy and notes the
verdict. One entry per deployment, so that a burst of publications costs no memory and only the
last of them is offered. Does no I/O and reads no clock; time is an argument. The last good
route of a deployment stays until a better one is accepted: that is what a restarted Envoy gets.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

from modelplane.adapters.proxy.snapshot import RouteResources, compile_route, scope_name
from modelplane.adapters.proxy.xds import (
    CLUSTER,
    ENDPOINTS,
    EXTENSION,
    LISTENER,
    SCOPE,
    SECRET,
    XdsResource,
)
from modelplane.decisions.routing import RoutePlan
from modelplane.ports.proxy import RouteAck

_LINGER_MARGIN_S = 1.0


@dataclass(frozen=True, slots=True, eq=False)
class Change:
    """What is wanted of one deployment, compared by identity.

    Attributes
    ----------
    deployment, generation
        Those of the plan; for a withdrawal the generation last published.
    route
        None to withdraw the deployment.
    """

    deployment: str
    generation: int
    route: RouteResources | None

    @property
    def clusters(self) -> tuple[XdsResource, ...]:
        """Clusters it needs."""
        return self.route.clusters if self.route else ()

    @property
    def endpoints(self) -> tuple[XdsResource, ...]:
        """Endpoints it needs."""
        return self.route.endpoints if self.route else ()

    @property
    def scope_name(self) -> str:
        """Name of the scope it sets or removes."""
        return scope_name(self.deployment)

    @property
    def linger_s(self) -> float:
        """How long its clusters may still have requests once no route names them, seconds."""
        return (self.route.plan.timeout_s if self.route else 0.0) + _LINGER_MARGIN_S


@dataclass(slots=True)
class _Entry:
    served: Change | None = None
    wanted: Change | None = None
    refused: tuple[tuple[str, ...], str] | None = None
    generation: int = 0


@dataclass(slots=True)
class RouteBook:
    """The wanted and the served routes of one gateway.

    Attributes
    ----------
    tables
        By resource type and name: clusters and their endpoints that are served, offered or
        linger; the scopes of the gateway itself, which never change; its listeners, secrets
        and filters, which `fix` may replace at any time.
    retired
        Clusters that no route names any more, with the moment they may go.
    acks
        Verdicts not yet collected, one per deployment.
    """

    tables: dict[str, dict[str, XdsResource]] = field(
        default_factory=lambda: {
            kind: {} for kind in (CLUSTER, ENDPOINTS, LISTENER, SCOPE, SECRET, EXTENSION)
        }
    )
    retired: dict[str, float] = field(default_factory=dict)
    acks: dict[str, RouteAck] = field(default_factory=dict)
    _entries: dict[str, _Entry] = field(default_factory=dict)
    _dirty: dict[str, None] = field(default_factory=dict)

    def fix(self, resource_type: str, resources: Iterable[XdsResource]) -> None:
        """Add or replace resources that belong to the gateway itself."""
        self.tables[resource_type].update({resource.name: resource for resource in resources})

    def want(self, plan: RoutePlan) -> None:
        """Note that `plan` should be served.

        A plan that cannot be compiled is refused without being offered, and so is one that Envoy
        refused before.
        """
        entry = self._entries.setdefault(plan.deployment, _Entry())
        entry.generation = plan.generation
        try:
            route = compile_route(plan)
        except ValueError as error:
            self._ack(plan.deployment, plan.generation, str(error))
            return
        if entry.refused and entry.refused[0] == route.versions:
            self._ack(plan.deployment, plan.generation, entry.refused[1])
            return
        entry.wanted = Change(plan.deployment, plan.generation, route)
        self._dirty[plan.deployment] = None

    def want_gone(self, deployment: str) -> bool:
        """Note that `deployment` should not be served; False when it is not known."""
        entry = self._entries.get(deployment)
        if entry is None or (entry.wanted and not entry.wanted.route):
            return False
        if entry.wanted or entry.served:
            entry.wanted = Change(deployment, entry.generation, None)
            self._dirty[deployment] = None
        else:  # all it ever had was refused: nothing to take from Envoy
            del self._entries[deployment]
            self._ack(deployment, entry.generation, "")
        return True

    def begin(self) -> list[Change]:
        """Return what a newly connected Envoy gets first: last good routes, else wanted ones.

        What is wanted and differs from the last good route stays to be taken after.
        """
        entries = self._entries.values()
        for entry in entries:
            entry.refused = None  # another Envoy may judge otherwise
        first = [entry.served or entry.wanted for entry in entries]
        self._dirty = {
            name: None
            for name, entry in self._entries.items()
            if entry.wanted and (entry.served or not entry.wanted.route)
        }
        # Offers that a lost connection left without a verdict may since have been superseded.
        live = {
            cluster.name
            for entry in entries
            for change in (entry.served, entry.wanted)
            if change
            for cluster in change.clusters
        }
        for name in self.tables[CLUSTER].keys() - live - self.retired.keys():
            del self.tables[CLUSTER][name], self.tables[ENDPOINTS][name]
        return [change for change in first if change and change.route]

    def take(self, limit: int) -> list[Change]:
        """Return changes to offer, oldest first; they stay wanted until there is a verdict."""
        names = list(self._dirty)[:limit]
        for name in names:
            del self._dirty[name]
        entries = (self._entries[name] for name in names if name in self._entries)
        return [entry.wanted for entry in entries if entry.wanted]

    def offer(self, changes: Sequence[Change]) -> None:
        """Put the clusters and endpoints of `changes` where a subscription finds them."""
        for change in changes:
            for cluster, endpoints in zip(change.clusters, change.endpoints, strict=True):
                self.tables[CLUSTER][cluster.name] = cluster
                self.tables[ENDPOINTS][endpoints.name] = endpoints
                self.retired.pop(cluster.name, None)

    def accept(self, change: Change, *, now_s: float) -> None:
        """Note that Envoy serves `change`; clusters of the route before it begin to linger."""
        entry = self._entries[change.deployment]
        before = entry.served
        entry.served, entry.refused = change, None
        if entry.wanted is change:
            entry.wanted = None
        if change.route is None:
            entry.served = None
            if entry.wanted is None:
                del self._entries[change.deployment]
        if before:
            self._retire(before, entry, until_s=now_s + before.linger_s)
        if before is not change:
            self._ack(change.deployment, change.generation, "")

    def refuse(self, change: Change, message: str, *, now_s: float) -> Change | None:
        """Note that Envoy refused `change`; return the last good change, to be offered again."""
        entry = self._entries[change.deployment]
        if change.route:
            entry.refused = (change.route.versions, message)
        if entry.wanted is change:
            entry.wanted = None
        if entry.served is change:
            entry.served = None
        self._retire(change, entry, until_s=now_s)
        self._ack(change.deployment, change.generation, message or "refused without a reason")
        return entry.served

    def retire_unknown(self, clusters: Iterable[str], *, until_s: float) -> None:
        """Let clusters that Envoy has from an earlier configuration linger until `until_s`."""
        for name in clusters:
            if name not in self.tables[CLUSTER]:
                self.retired[name] = until_s

    def take_retired(self, *, now_s: float) -> list[str]:
        """Forget the clusters whose time is over and return their names."""
        over = [name for name, until_s in self.retired.items() if until_s <= now_s]
        for name in over:
            del self.retired[name]
            self.tables[CLUSTER].pop(name, None)
            self.tables[ENDPOINTS].pop(name, None)
        return over

    def _retire(self, change: Change, entry: _Entry, *, until_s: float) -> None:
        kept = {
            cluster.name
            for other in (entry.served, entry.wanted)
            if other
            for cluster in other.clusters
        }
        for cluster in change.clusters:
            if cluster.name not in kept:
                self.retired[cluster.name] = until_s

    def _ack(self, deployment: str, generation: int, fault: str) -> None:
        self.acks.pop(deployment, None)
        self.acks[deployment] = RouteAck(deployment, generation, not fault, fault)
