"""The book of routes, driven through every order of events an agent and an Envoy can produce."""

from __future__ import annotations

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from modelplane.adapters.proxy.book import Change, RouteBook
from modelplane.adapters.proxy.xds import CLUSTER, ENDPOINTS
from modelplane.decisions.routing import Endpoint
from modelplane.ports.proxy import RouteAck
from tests.proxy.plans import split_plan

pytestmark = pytest.mark.slow

_DEPLOYMENTS = st.sampled_from(["one", "two"])
_REPLICA = (Endpoint("r", "unix:/r"),)


class Books(RuleBasedStateMachine):
    """An agent that publishes and an Envoy that takes, refuses, hangs up."""

    def __init__(self) -> None:
        super().__init__()
        self.book = RouteBook()
        self.now_s = 0.0
        self.generation = 0
        self.offered: list[Change] = []
        self.serving: dict[str, tuple[str, ...]] = {}
        self.last_wanted: dict[str, int] = {}
        self.answered: dict[str, RouteAck] = {}

    def plan_clusters(self, change: Change) -> tuple[str, ...]:
        return tuple(cluster.name for cluster in change.clusters)

    @rule(deployment=_DEPLOYMENTS, revisions=st.sampled_from(["ab", "bc", "ca", "ba"]))
    def publish(self, deployment: str, revisions: str) -> None:
        self.generation += 1
        self.last_wanted[deployment] = self.generation
        plan = split_plan(
            deployment,
            self.generation,
            stable=_REPLICA,
            candidate=_REPLICA,
            weight=self.generation,
            names=(revisions[0], revisions[1]),
            timeout_s=5.0,
        )
        self.book.want(plan)

    @rule(deployment=_DEPLOYMENTS)
    def withdraw(self, deployment: str) -> None:
        self.book.want_gone(deployment)

    @precondition(lambda self: not self.offered)
    @rule()
    def connect(self) -> None:
        """A new connection: Envoy takes everything it is given first."""
        self.serving = {}
        first = self.book.begin()
        self.book.offer(first)
        for change in first:
            self._accept(change)

    @precondition(lambda self: not self.offered)
    @rule(limit=st.integers(1, 2))
    def offer(self, limit: int) -> None:
        self.offered = self.book.take(limit)
        self.book.offer(self.offered)

    @precondition(lambda self: self.offered)
    @rule()
    def accept(self) -> None:
        self._accept(self.offered.pop(0))

    @precondition(lambda self: self.offered)
    @rule()
    def refuse(self) -> None:
        change = self.offered.pop(0)
        last_good = self.book.refuse(change, "no", now_s=self.now_s)
        assert (last_good is not None) == (change.deployment in self.serving)
        if last_good:
            self.book.offer([last_good])
        self._collect()
        assert not self.answered[change.deployment].accepted

    @precondition(lambda self: self.offered)
    @rule()
    def hang_up(self) -> None:
        """The connection is lost; nothing that was offered is lost with it."""
        self.offered = []
        self.connect()

    @rule(seconds=st.floats(0.5, 4.0))
    def wait(self, seconds: float) -> None:
        self.now_s += seconds
        removed = self.book.take_retired(now_s=self.now_s)
        named = {name for names in self.serving.values() for name in names}
        assert not named & set(removed)

    def _accept(self, change: Change) -> None:
        self.book.accept(change, now_s=self.now_s)
        if change.route:
            self.serving[change.deployment] = self.plan_clusters(change)
        else:
            self.serving.pop(change.deployment, None)
        self._collect()

    def _collect(self) -> None:
        self.answered.update(self.book.acks)
        self.book.acks.clear()

    @invariant()
    def what_is_served_has_its_clusters_and_they_stay(self) -> None:
        for names in self.serving.values():
            for name in names:
                assert name in self.book.tables[CLUSTER]
                assert name in self.book.tables[ENDPOINTS]
                assert name not in self.book.retired

    @invariant()
    def memory_is_bounded_by_deployments_and_revisions(self) -> None:
        assert len(self.book.tables[CLUSTER]) <= 2 * 3
        assert self.book.tables[CLUSTER].keys() == self.book.tables[ENDPOINTS].keys()
        assert len(self.book.acks) <= 2

    def teardown(self) -> None:
        """When Envoy takes everything at last, every last wish has been answered."""
        self.offered = []
        self.connect()
        while changes := self.book.take(10):
            self.book.offer(changes)
            for change in changes:
                self._accept(change)
        for deployment, generation in self.last_wanted.items():
            assert self.answered[deployment].generation == generation
        self.now_s += 1_000
        self.book.take_retired(now_s=self.now_s)
        named = {name for names in self.serving.values() for name in names}
        assert self.book.tables[CLUSTER].keys() == named


TestBooks = Books.TestCase
TestBooks.settings = settings(max_examples=150, stateful_step_count=30, deadline=None)


def test_a_refused_plan_is_refused_again_without_being_offered() -> None:
    book = RouteBook()
    book.want(split_plan("d", 1, stable=_REPLICA))
    (change,) = book.take(10)
    book.refuse(change, "bad", now_s=0.0)
    book.acks.clear()
    book.want(split_plan("d", 2, stable=_REPLICA))
    assert book.acks == {"d": RouteAck("d", 2, accepted=False, message="bad")}
    assert book.take(10) == []
    book.want(split_plan("d", 3, stable=_REPLICA, salt="other"))
    assert [c.generation for c in book.take(10)] == [3]


def test_clusters_linger_as_long_as_a_request_may_take() -> None:
    book = RouteBook()
    for generation, revision in ((1, "old"), (2, "new")):
        book.want(
            split_plan("d", generation, stable=_REPLICA, names=(revision, ""), timeout_s=30.0)
        )
        (change,) = book.take(1)
        book.offer([change])
        book.accept(change, now_s=100.0)
    assert book.take_retired(now_s=130.0) == []
    assert book.take_retired(now_s=131.0) == ["d.old"]
