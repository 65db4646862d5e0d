"""The store against a dict: whatever is done to it, in whatever order, both tell the same."""

from __future__ import annotations

import asyncio
import shutil
import tempfile
from pathlib import Path

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from modelplane.adapters.store.sqlite import SqliteStore
from modelplane.errors import Conflict
from modelplane.ports.store import Change, Lease, Transaction
from modelplane.resources.model import Model
from modelplane.testing.clock import ManualClock
from tests.store.stores import ADA, model, open_store

pytestmark = pytest.mark.slow

NAMES = ["a", "b", "c", "d"]
names = st.sampled_from(NAMES)
texts = st.sampled_from(["", "one", "two"])
KEEP = 15


class StoreMachine(RuleBasedStateMachine):
    """Commits, conflicts, leases, time, pruning and restarts, checked after each step."""

    def __init__(self) -> None:
        super().__init__()
        self.loop = asyncio.new_event_loop()
        self.folder = Path(tempfile.mkdtemp(prefix="mp-store-", dir="/tmp"))
        self.clock = ManualClock()
        self.models: dict[str, Model] = {}
        self.seen: list[Model] = []
        self.changes: list[tuple[int, str, str]] = []
        self.records = 0
        self.pruned_through = 0
        self.lease: Lease | None = None
        self.stale_lease: Lease | None = None

    @initialize()
    def open(self) -> None:
        self.context = open_store(self.folder, clock=self.clock, keep_changes=KEEP)
        self.store: SqliteStore = self.loop.run_until_complete(self.context.__aenter__())

    def teardown(self) -> None:
        if hasattr(self, "context"):
            self.loop.run_until_complete(self.context.__aexit__(None, None, None))
        self.loop.close()
        shutil.rmtree(self.folder)

    @property
    def version(self) -> int:
        return self.changes[-1][0] if self.changes else 0

    def commit(self, change: Transaction) -> list[Model] | None:
        """Commit; None on a conflict."""
        try:
            written = self.loop.run_until_complete(self.store.commit(change))
        except Conflict:
            return None
        return [one for one in written if isinstance(one, Model)]

    def note(self, type_: str, name: str) -> None:
        self.changes.append((self.version + 1, type_, name))
        self.records += 1

    @rule(chosen=st.sets(names, min_size=1), text=texts)
    def create(self, chosen: set[str], text: str) -> None:
        change = Transaction(ADA)
        for name in sorted(chosen):
            change.create(model(name, text))
        written = self.commit(change)
        if chosen & self.models.keys():
            assert written is None
            return
        assert written is not None
        for one in written:
            self.note("put", one.metadata.name)
            self.models[one.metadata.name] = one
            assert one.metadata.resource_version == self.version
        self.seen.extend(written)

    @precondition(lambda self: self.seen)
    @rule(data=st.data(), text=texts, fenced=st.sampled_from(["no", "held", "stale"]))
    def update(self, data: st.DataObject, text: str, fenced: str) -> None:
        old = data.draw(st.sampled_from(self.seen))
        lease = {"no": None, "held": self.lease, "stale": self.stale_lease}[fenced]
        change = Transaction(ADA, fence=lease)
        change.update(old.with_spec(description=text))
        name = old.metadata.name
        written = self.commit(change)
        may_act = lease is None or (lease == self.lease and lease.expires_at > self.clock.now())
        if not may_act or self.models.get(name) != old:
            assert written is None
            return
        assert written is not None
        (new,) = written
        if old.spec.description == text:
            assert new == old
            return
        self.note("put", name)
        assert new.metadata.generation == old.metadata.generation + 1
        self.models[name] = new
        self.seen.append(new)

    @precondition(lambda self: self.seen)
    @rule(data=st.data())
    def delete(self, data: st.DataObject) -> None:
        old = data.draw(st.sampled_from(self.seen))
        change = Transaction(ADA)
        change.delete(old)
        written = self.commit(change)
        if self.models.get(old.metadata.name) != old:
            assert written is None
            return
        self.note("delete", old.metadata.name)
        del self.models[old.metadata.name]

    @rule(holder=st.sampled_from(["one", "two"]))
    def claim(self, holder: str) -> None:
        found = self.loop.run_until_complete(self.store.claim("lease", holder, 10))
        valid = self.lease is not None and self.lease.expires_at > self.clock.now()
        if self.lease is not None and valid and self.lease.holder != holder:
            assert found is None
            return
        assert found is not None
        if self.lease is not None and not valid:
            assert found.epoch > self.lease.epoch
            self.stale_lease = self.lease
        self.lease = found

    @rule(seconds=st.integers(1, 8))
    def wait(self, seconds: int) -> None:
        self.clock.step(seconds)

    @rule()
    def prune(self) -> None:
        self.pruned_through = max(self.version - KEEP, self.pruned_through, 0)
        assert self.loop.run_until_complete(self.store.prune()) == self.pruned_through

    @rule()
    def restart(self) -> None:
        self.loop.run_until_complete(self.context.__aexit__(None, None, None))
        self.open()

    @precondition(lambda self: self.changes)
    @rule(data=st.data())
    def watch(self, data: st.DataObject) -> None:
        since = data.draw(st.integers(self.pruned_through, self.version))
        expected = [change for change in self.changes if change[0] > since]

        async def follow() -> list[tuple[int, str, str]]:
            found: list[Change] = []
            watch = self.store.watch(since, [Model])
            while len(found) < len(expected):
                found.append(await anext(watch))
            return [(one.resource_version, one.type, one.resource.metadata.name) for one in found]

        assert self.loop.run_until_complete(follow()) == expected

    @invariant()
    def tells_the_same(self) -> None:
        if not hasattr(self, "store"):
            return
        found, version = self.loop.run_until_complete(self.store.list(Model))
        assert list(found) == [self.models[name] for name in sorted(self.models)]
        assert version == self.version
        report = self.loop.run_until_complete(self.store.verify_audit())
        assert report.ok
        assert report.records == self.records


TestStore = StoreMachine.TestCase
TestStore.settings = settings(max_examples=8, stateful_step_count=25, deadline=None)
