"""What every store promises, whatever it is built on."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import aclosing
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from modelplane.decisions.audit_chain import verify
from modelplane.errors import Conflict, InvalidResource, NotFound
from modelplane.ports.store import Change, Store, Transaction
from modelplane.resources.environment import Environment, EnvironmentSpec, Gateway
from modelplane.resources.meta import Metadata, ResourceKey, Subject
from modelplane.resources.model import Model
from modelplane.resources.traffic_split import TrafficSplit, TrafficSplitSpec
from modelplane.testing.clock import ManualClock
from tests.store.stores import ADA, creation, model, open_store, transaction


@pytest.fixture
def clock() -> ManualClock:
    return ManualClock()


@pytest.fixture(params=["sqlite"])
async def store(tmp_path: Path, clock: ManualClock) -> AsyncIterator[Store]:
    async with open_store(tmp_path, clock=clock) as opened:
        yield opened


def split(name: str, environment: str, cookie: str = "") -> TrafficSplit:
    return TrafficSplit(
        metadata=Metadata(name=name, environment=environment),
        spec=TrafficSplitSpec(deployment=name, variants=(), user_cookie=cookie),
    )


async def take(store: Store, since: int, count: int, *kinds: type[Model]) -> Sequence[Change]:
    found: list[Change] = []
    async with asyncio.timeout(10), aclosing(store.watch(since, kinds)) as watch:  # type: ignore[type-var]
        async for change in watch:
            found.append(change)
            if len(found) == count:
                break
    return found


async def rename(store: Store, name: str, description: str) -> Model:
    found = await store.get(Model, name)
    change = transaction()
    change.update(found.with_spec(description=description))
    (written,) = await store.commit(change)
    assert isinstance(written, Model)
    return written


class TestResources:
    async def test_a_created_resource_is_filled_in_and_read_back(
        self, store: Store, clock: ManualClock
    ) -> None:
        (written,) = await store.commit(creation(model("fraud", "finds fraud", tier="one")))
        metadata = written.metadata
        assert metadata.uid
        assert (metadata.generation, metadata.resource_version) == (1, 1)
        assert metadata.created_at == metadata.updated_at == clock.now()
        assert await store.get(Model, "fraud") == written
        assert await store.find(Model, "fraud") == written

    async def test_what_does_not_exist(self, store: Store) -> None:
        assert await store.find(Model, "nothing") is None
        with pytest.raises(NotFound, match="Model nothing does not exist"):
            await store.get(Model, "nothing")
        assert await store.list(Model) == ([], 0)

    async def test_an_update_keeps_uid_and_creation_and_counts_the_spec(
        self, store: Store, clock: ManualClock
    ) -> None:
        (first,) = await store.commit(creation(model("fraud")))
        clock.step(60)
        second = await rename(store, "fraud", "new")
        assert second.metadata.uid == first.metadata.uid
        assert second.metadata.created_at == first.metadata.created_at
        assert second.metadata.updated_at == clock.now()
        assert second.metadata.generation == 2
        assert second.metadata.resource_version > first.metadata.resource_version

    async def test_labels_and_status_leave_the_generation(self, store: Store) -> None:
        (made,) = await store.commit(creation(model("fraud")))
        change = transaction()
        change.update(made.with_(metadata=made.metadata.with_(labels={"team": "risk"})))
        (written,) = await store.commit(change)
        assert written.metadata.generation == 1
        assert written.metadata.labels == {"team": "risk"}

        both = transaction()
        both.create(split("fraud", "production"))
        (before,) = await store.commit(both)
        report = transaction()
        report.update(before.with_status(accepted_generation=1))
        (after,) = await store.commit(report)
        assert after.metadata.generation == 1
        assert after.status.accepted_generation == 1

    async def test_an_update_that_changes_nothing_is_dropped(
        self, store: Store, clock: ManualClock
    ) -> None:
        (made,) = await store.commit(creation(model("fraud", "x", a="1", b="2")))
        clock.step(5)
        again = made.with_(metadata=made.metadata.with_(labels={"b": "2", "a": "1"}))
        change = transaction()
        change.update(again)
        (answer,) = await store.commit(change)
        assert answer == made
        assert len(await store.audit()) == 1
        assert (await store.list(Model))[1] == made.metadata.resource_version

    async def test_creating_twice_conflicts(self, store: Store) -> None:
        await store.commit(creation(model("fraud")))
        with pytest.raises(Conflict, match="exists already"):
            await store.commit(creation(model("fraud")))

    async def test_a_version_that_has_passed_conflicts_and_writes_nothing(
        self, store: Store
    ) -> None:
        (stale,) = await store.commit(creation(model("fraud")))
        fresh = await rename(store, "fraud", "fresh")
        change = transaction()
        change.create(model("other"))
        change.update(stale.with_spec(description="stale"))
        with pytest.raises(Conflict, match="has changed"):
            await store.commit(change)
        assert await store.list(Model) == ([fresh], fresh.metadata.resource_version)
        assert len(await store.audit()) == 2

    async def test_deleting(self, store: Store) -> None:
        (made,) = await store.commit(creation(model("fraud")))
        change = transaction("not used")
        change.delete(made)
        assert await store.commit(change) == []
        assert await store.find(Model, "fraud") is None
        with pytest.raises(Conflict, match="does not exist any more"):
            await store.commit(change)
        (again,) = await store.commit(creation(model("fraud")))
        assert again.metadata.uid != made.metadata.uid
        assert again.metadata.resource_version > made.metadata.resource_version

    async def test_unconditional_changes(self, store: Store) -> None:
        change = transaction()
        change.puts.append((model("fraud", "one"), None, "import"))
        change.deletes.append((ResourceKey("Model", None, "nothing"), None, "delete"))
        (first,) = await store.commit(change)
        again = transaction()
        again.puts.append((model("fraud", "two"), None, "import"))
        (second,) = await store.commit(again)
        assert second.metadata.uid == first.metadata.uid
        assert second.metadata.generation == 2

    async def test_a_value_that_does_not_fit_is_never_written(self, store: Store) -> None:
        broken = model("fraud").with_spec(description="x" * 20_000)
        with pytest.raises(InvalidResource) as caught:
            await store.commit(creation(broken))
        assert caught.value.fields[0].path == "spec.description"
        assert await store.find(Model, "fraud") is None

    async def test_what_the_caller_does_with_its_copy_does_not_matter(self, store: Store) -> None:
        given = model("fraud", team="risk")
        (written,) = await store.commit(creation(given))
        given.metadata.labels["team"] = "other"
        assert written.metadata.labels == {"team": "risk"}
        assert (await store.get(Model, "fraud")).metadata.labels == {"team": "risk"}


class TestLists:
    async def test_names_in_order_by_kind_environment_and_labels(self, store: Store) -> None:
        gateway = Gateway(port=7081)
        change = creation(model("b", team="risk"), model("a", team="risk", tier="1"), model("c"))
        change.create(
            Environment(
                metadata=Metadata(name="staging"),
                spec=EnvironmentSpec(stage="staging", gateway=gateway),
            )
        )
        for name, environment in [("a", "staging"), ("b", "production"), ("a", "production")]:
            change.create(split(name, environment))
        await store.commit(change)

        def names(found: Sequence[Model | TrafficSplit]) -> list[tuple[str | None, str]]:
            return [(one.metadata.environment, one.metadata.name) for one in found]

        models, version = await store.list(Model)
        assert names(models) == [(None, "a"), (None, "b"), (None, "c")]
        assert version == 7
        assert names((await store.list(Model, labels={"team": "risk"}))[0]) == names(models[:2])
        assert names((await store.list(Model, labels={"team": "risk", "tier": "1"}))[0]) == [
            (None, "a")
        ]
        assert names((await store.list(TrafficSplit))[0]) == [
            ("production", "a"),
            ("staging", "a"),
            ("production", "b"),
        ]
        assert names((await store.list(TrafficSplit, "staging"))[0]) == [("staging", "a")]

    async def test_a_list_shows_changes(self, store: Store) -> None:
        await store.commit(creation(model("fraud")))
        await store.list(Model)
        changed = await rename(store, "fraud", "new")
        assert await store.list(Model) == ([changed], changed.metadata.resource_version)


class TestAudit:
    async def test_every_change_has_its_record(self, store: Store, clock: ManualClock) -> None:
        (made,) = await store.commit(creation(model("fraud", "secret words")))
        await rename(store, "fraud", "other words")
        last = transaction("retired")
        last.delete(await store.get(Model, "fraud"), action="retire")
        last.note("token-used", ResourceKey("Token", None, "ci"), count=2)
        await store.commit(last)
        records = await store.audit()
        assert [(one.sequence, one.action, one.kind, one.name) for one in records] == [
            (1, "create", "Model", "fraud"),
            (2, "update", "Model", "fraud"),
            (3, "retire", "Model", "fraud"),
            (4, "token-used", "Token", "ci"),
        ]
        assert [one.resource_version for one in records] == [1, 2, 3, 0]
        assert {one.subject for one in records} == {"ada"}
        assert {one.at for one in records} == {clock.now()}
        assert {one.uid for one in records[:3]} == {made.metadata.uid}
        assert records[1].details["changed"] == ["description"]
        assert records[1].details["generation"] == 2
        assert records[2].reason == "retired"
        assert records[3].details == {"count": 2}
        assert "words" not in str(records), "digests and names, never values"
        assert verify(records).ok

    async def test_pages_and_what_they_are_of(self, store: Store) -> None:
        await store.commit(creation(model("a"), model("b")))
        change = transaction()
        for environment in ("staging", "production"):
            change.create(split("a", environment))
        await store.commit(change)
        assert [one.sequence for one in await store.audit(1, 2)] == [2, 3]

        async def found(**wanted: Any) -> list[int]:
            return [one.sequence for one in await store.audit(**wanted)]

        assert await found(kind="TrafficSplit", environment="staging", name="a") == [3]
        assert await found(kind="Model", name="a") == [1]
        assert await found(kind=("Model", "TrafficSplit")) == [1, 2, 3, 4]
        assert await found(kind=["Model"], after=1) == [2]
        assert await found(name="a") == [1, 3, 4]
        assert await found(environment="production") == [4]
        assert await found(name="a", after=1, limit=1) == [3]
        assert await found(name="nobody") == []

    async def test_the_newest_come_in_order(self, store: Store) -> None:
        await store.commit(creation(model("a"), model("b"), model("c")))
        await rename(store, "a", "other words")

        async def found(last: int, **wanted: Any) -> list[int]:
            return [one.sequence for one in await store.audit(last=last, **wanted)]

        assert await found(2) == [3, 4]
        assert await found(100) == [1, 2, 3, 4]
        assert await found(1, name="a") == [4]
        assert await found(3, kind="Model", name="a") == [1, 4]
        assert await found(3, kind="TrafficSplit") == []

    async def test_evidence_is_data_without_records(self, store: Store) -> None:
        change = transaction()
        change.put_evidence("one", {"wealth": [0.25, float("-inf")], "sequence": 7})
        change.put_evidence("two", {"sequence": 1})
        await store.commit(change)
        found = await store.evidence(["one", "two", "three"])
        assert found == {
            "one": {"wealth": [0.25, float("-inf")], "sequence": 7},
            "two": {"sequence": 1},
        }
        change = transaction()
        change.put_evidence("one", None)
        change.put_evidence("two", {"sequence": 2})
        await store.commit(change)
        assert await store.evidence(["one", "two"]) == {"two": {"sequence": 2}}
        assert await store.audit() == []
        assert (await store.list(Model))[1] == 0


class TestLeases:
    async def test_one_holder_at_a_time(self, store: Store, clock: ManualClock) -> None:
        lease = await store.claim("controllers", "one", ttl_s=10)
        assert lease is not None
        assert lease.epoch == 1
        assert lease.expires_at == clock.now() + timedelta(seconds=10)
        assert await store.claim("controllers", "two", ttl_s=10) is None
        assert await store.claim("others", "two", ttl_s=10) is not None

    async def test_renewing_and_losing(self, store: Store, clock: ManualClock) -> None:
        lease = await store.claim("controllers", "one", ttl_s=10)
        assert lease is not None
        clock.step(6)
        renewed = await store.renew(lease, ttl_s=10)
        assert renewed is not None
        assert renewed.epoch == lease.epoch
        clock.step(6)
        assert await store.claim("controllers", "two", ttl_s=10) is None
        clock.step(6)
        other = await store.claim("controllers", "two", ttl_s=10)
        assert other is not None
        assert other.epoch > lease.epoch
        assert await store.renew(renewed, ttl_s=10) is None

    async def test_claiming_again(self, store: Store, clock: ManualClock) -> None:
        first = await store.claim("controllers", "one", ttl_s=10)
        again = await store.claim("controllers", "one", ttl_s=10)
        assert first == again
        clock.step(11)
        lapsed = await store.claim("controllers", "one", ttl_s=10)
        assert first is not None
        assert lapsed is not None
        assert lapsed.epoch > first.epoch, "what was begun before the lapse may be stale"
        assert await store.renew(first, ttl_s=10) is None

    @pytest.mark.parametrize("how", ["expired", "taken over", "never held"])
    async def test_a_fence_that_has_passed_stops_everything(
        self, store: Store, clock: ManualClock, how: str
    ) -> None:
        lease = await store.claim("controllers", "one", ttl_s=10)
        assert lease is not None
        fenced = Transaction(ADA, fence=lease)
        fenced.create(model("first"))
        fenced.put_evidence("uid", {"sequence": 1})
        await store.commit(fenced)

        if how == "never held":
            fence = lease.__class__("unknown", "one", 1, lease.expires_at)
        else:
            fence = lease
            clock.step(10)
        if how == "taken over":
            await store.claim("controllers", "two", ttl_s=10)
        late = Transaction(ADA, fence=fence)
        late.create(model("second"))
        late.put_evidence("uid", {"sequence": 2})
        with pytest.raises(Conflict, match="may not act"):
            await store.commit(late)
        assert await store.find(Model, "second") is None
        assert await store.evidence(["uid"]) == {"uid": {"sequence": 1}}


class TestWatch:
    async def test_changes_in_order_from_a_list(self, store: Store) -> None:
        (made,) = await store.commit(creation(model("a")))
        _, version = await store.list(Model)
        changed = await rename(store, "a", "x")
        change = transaction()
        change.delete(changed)
        await store.commit(change)
        found = await take(store, version, 2)
        assert found == [Change(2, "put", changed), Change(3, "delete", changed)]
        assert await take(store, 0, 1) == [Change(1, "put", made)]

    async def test_only_the_kinds_asked_for(self, store: Store) -> None:
        change = transaction()
        change.create(split("a", "staging"))
        change.create(model("a"))
        await store.commit(change)
        (found,) = await take(store, 0, 1, Model)
        assert (found.resource_version, found.resource.kind) == (2, "Model")

    async def test_a_watch_waits_for_what_comes(self, store: Store) -> None:
        watching = asyncio.create_task(take(store, 0, 3))
        await asyncio.sleep(0)
        for name in "abc":
            await store.commit(creation(model(name)))
        assert [change.resource.metadata.name for change in await watching] == ["a", "b", "c"]

    async def test_nothing_is_missed_under_concurrent_commits(self, store: Store) -> None:
        async def write(writer: int) -> None:
            for count in range(30):
                await store.commit(creation(model(f"m{writer}-{count}")))

        watches = [asyncio.create_task(take(store, 0, 240)) for _ in range(3)]
        await asyncio.gather(*(write(writer) for writer in range(8)))
        for found in await asyncio.gather(*watches):
            assert [change.resource_version for change in found] == list(range(1, 241))
            assert len({change.resource.metadata.name for change in found}) == 240
        _, version = await store.list(Model)
        assert version == 240

    async def test_a_version_from_the_future_has_expired(self, store: Store) -> None:
        await store.commit(creation(model("a")))
        with pytest.raises(Conflict) as caught:
            await take(store, 5, 1)
        assert caught.value.code == "expired"


class TestConcurrency:
    async def test_two_writers_never_both_win_a_version(self, store: Store) -> None:
        (current,) = await store.commit(creation(model("fraud")))
        for turn in range(10):

            async def write(writer: int, seen: object = current, turn: int = turn) -> bool:
                assert isinstance(seen, Model)
                change = Transaction(Subject(name=f"writer-{writer}"))
                change.update(seen.with_spec(description=f"{turn} by {writer}"))
                try:
                    await store.commit(change)
                except Conflict:
                    return False
                return True

            assert sum(await asyncio.gather(*(write(writer) for writer in range(8)))) == 1
            current = await store.get(Model, "fraud")
        assert current.metadata.generation == 11
        assert len(await store.audit()) == 11

    async def test_one_that_conflicts_does_not_hurt_the_others(self, store: Store) -> None:
        await store.commit(creation(model("taken")))
        outcomes = await asyncio.gather(
            *(
                store.commit(creation(model("taken" if turn % 3 == 0 else f"free-{turn}")))
                for turn in range(30)
            ),
            return_exceptions=True,
        )
        conflicts = [isinstance(outcome, Conflict) for outcome in outcomes]
        assert conflicts == [turn % 3 == 0 for turn in range(30)]
        assert len((await store.list(Model))[0]) == 21
        records = await store.audit()
        assert verify(records).ok
        assert len(records) == 21

    async def test_only_one_of_many_claims_a_lease(self, store: Store) -> None:
        leases = await asyncio.gather(
            *(store.claim("controllers", f"holder-{number}", ttl_s=10) for number in range(10))
        )
        assert sum(lease is not None for lease in leases) == 1
