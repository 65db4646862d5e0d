"""The database file: its format, its permissions, other processes, backups, pruning."""

from __future__ import annotations

import asyncio
import hashlib
import json
import sqlite3
import stat
from collections.abc import AsyncIterator
from contextlib import aclosing
from pathlib import Path

import pytest

from modelplane.adapters.store.backup import restore_backup
from modelplane.decisions.audit_chain import verify
from modelplane.errors import Conflict, NotFound, TerminalError, TransientError
from modelplane.ports.store import AnyResource, Change
from modelplane.resources.meta import Metadata
from modelplane.resources.model import Model
from modelplane.resources.token import Token, TokenSpec
from tests.store.stores import creation, model, open_store, transaction


def edit(path: Path, statement: str, *values: object) -> None:
    """Change the database behind the store's back."""
    connection = sqlite3.connect(path)
    with connection:
        connection.execute(statement, values)
    connection.close()


async def take_one(watch: AsyncIterator[Change]) -> Change:
    return await anext(watch)


def fingerprint(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


class TestOpening:
    async def test_what_was_written_is_there_after_reopening(self, tmp_path: Path) -> None:
        async with open_store(tmp_path) as store:
            (made,) = await store.commit(creation(model("fraud", "finds fraud", team="risk")))
            lease = await store.claim("controllers", "one", ttl_s=60)
        async with open_store(tmp_path) as store:
            assert await store.get(Model, "fraud") == made
            assert lease is not None
            assert await store.claim("controllers", "two", ttl_s=60) is None
            (later,) = await store.commit(creation(model("other")))
            assert later.metadata.resource_version == 2
            assert (await store.verify_audit()).ok

    async def test_only_the_owner_may_read_it(self, tmp_path: Path) -> None:
        async with open_store(tmp_path) as store:
            await store.commit(creation(model("fraud")))
            private = [*tmp_path.glob("store.db*"), tmp_path / "audit/key.pem"]
            assert len(private) >= 3
            assert {stat.S_IMODE(file.stat().st_mode) for file in private} == {0o600}

    async def test_a_newer_format_is_refused_and_left_alone(self, tmp_path: Path) -> None:
        async with open_store(tmp_path):
            pass
        path = tmp_path / "store.db"
        edit(path, "UPDATE meta SET value = '7' WHERE name = 'format_version'")
        before = fingerprint(path)
        with pytest.raises(TerminalError, match=r"format 7.*reads format 1"):
            async with open_store(tmp_path):
                pass
        assert fingerprint(path) == before

    async def test_somebody_elses_database_is_refused_and_left_alone(self, tmp_path: Path) -> None:
        path = tmp_path / "store.db"
        edit(path, "CREATE TABLE theirs (a)")
        before = fingerprint(path)
        with pytest.raises(TerminalError, match="not one of modelplane"):
            async with open_store(tmp_path):
                pass
        assert fingerprint(path) == before

    async def test_a_damaged_file_is_refused(self, tmp_path: Path) -> None:
        (tmp_path / "store.db").write_bytes(b"this is no database" * 500)
        with pytest.raises(TerminalError, match="damaged or no database"):
            async with open_store(tmp_path):
                pass

    async def test_a_folder_that_cannot_be_made(self, tmp_path: Path) -> None:
        (tmp_path / "file").write_text("")
        with pytest.raises(TerminalError, match="cannot be used"):
            async with open_store(tmp_path / "file"):
                pass

    async def test_a_locked_file_says_so_and_is_usable_afterwards(self, tmp_path: Path) -> None:
        async with open_store(tmp_path, busy_timeout_s=0.1) as store:
            other = sqlite3.connect(tmp_path / "store.db", isolation_level=None)
            other.execute("BEGIN IMMEDIATE")
            with pytest.raises(TransientError, match="locked by another process"):
                await store.commit(creation(model("fraud")))
            assert await store.find(Model, "fraud") is None
            other.execute("ROLLBACK")
            other.close()
            await store.commit(creation(model("fraud")))

    async def test_a_closed_store_says_so(self, tmp_path: Path) -> None:
        async with open_store(tmp_path) as store:
            watch = aiter(store.watch(0))
            waiting = asyncio.create_task(take_one(watch))
            await asyncio.sleep(0.05)
        with pytest.raises(TransientError, match="closed"):
            await waiting
        with pytest.raises(TransientError, match="closed"):
            await store.commit(creation(model("fraud")))
        with pytest.raises(TransientError, match="closed"):
            await store.find(Model, "fraud")
        await store.close()


class TestLoad:
    async def test_what_waits_is_bounded(self, tmp_path: Path) -> None:
        async with open_store(tmp_path, max_queued=8, busy_timeout_s=30) as store:
            other = sqlite3.connect(tmp_path / "store.db", isolation_level=None)
            other.execute("BEGIN IMMEDIATE")
            first = asyncio.create_task(store.commit(creation(model("first"))))
            assert store._opened is not None
            waiting = store._opened.writer._queue
            async with asyncio.timeout(10):
                while not waiting.empty():  # noqa: ASYNC110 - a thread takes it
                    await asyncio.sleep(0.01)
            await asyncio.sleep(0.1)  # it has taken all that there was, and waits for the lock
            commits = [
                asyncio.create_task(store.commit(creation(model(f"m{count}"))))
                for count in range(20)
            ]
            done, _ = await asyncio.wait(commits, timeout=0.5)
            other.execute("ROLLBACK")
            other.close()
            await first
            outcomes = await asyncio.gather(*commits, return_exceptions=True)
            refused = [one for one in outcomes if isinstance(one, TransientError)]
            assert len(refused) == len(done) == 12
            assert "busy" in str(refused[0])
            assert len((await store.list(Model))[0]) == 9

    async def test_closing_writes_what_waits(self, tmp_path: Path) -> None:
        async with open_store(tmp_path) as store:
            commits = [
                asyncio.create_task(store.commit(creation(model(f"m{count}"))))
                for count in range(50)
            ]
            await asyncio.sleep(0)
        await asyncio.gather(*commits)
        async with open_store(tmp_path) as store:
            assert len((await store.list(Model))[0]) == 50

    async def test_a_cancelled_caller_hurts_nobody(self, tmp_path: Path) -> None:
        async with open_store(tmp_path) as store:
            gone = asyncio.create_task(store.commit(creation(model("gone"))))
            await asyncio.sleep(0)
            gone.cancel()
            await store.commit(creation(model("fraud")))
            assert (await store.verify_audit()).ok


class TestOtherProcesses:
    async def test_their_commits_are_seen_and_linked(self, tmp_path: Path) -> None:
        async with open_store(tmp_path) as store, open_store(tmp_path) as other:
            async with asyncio.timeout(10), aclosing(store.watch(0)) as watch:  # type: ignore[type-var]
                waiting = asyncio.create_task(take_one(watch))
                await asyncio.sleep(0.02)
                (made,) = await other.commit(creation(model("theirs")))
                assert (await waiting).resource == made
            await store.commit(creation(model("ours")))
            with pytest.raises(Conflict):
                await other.commit(creation(model("ours")))
            assert (await store.verify_audit()).ok
            assert [one.sequence for one in await other.audit()] == [1, 2]

    async def test_a_watch_of_some_kinds_misses_none_of_theirs_and_ours(
        self, tmp_path: Path
    ) -> None:
        async with open_store(tmp_path) as store, open_store(tmp_path) as other:
            both = [store, other]

            async def follow(kind: type[AnyResource]) -> list[str]:
                found: list[str] = []
                async with asyncio.timeout(20), aclosing(store.watch(0, [kind])) as watch:  # type: ignore[type-var]
                    async for change in watch:
                        found.append(change.resource.metadata.name)
                        if change.resource.metadata.name == "last":
                            return found
                return found

            watches = [asyncio.create_task(follow(kind)) for kind in (Model, Token)]
            expected: dict[str, list[str]] = {"Model": [], "Token": []}
            for turn in range(40):
                change = transaction()
                name = "last" if turn >= 38 else f"n{turn}"
                if turn % 4 in {0, 3}:
                    change.create(model(name))
                else:
                    spec = TokenSpec(digest="0" * 64)
                    change.create(Token(metadata=Metadata(name=name), spec=spec))
                expected[change.puts[0][0].kind].append(name)
                await both[turn * 7 // 3 % 2].commit(change)
                if turn % 5 == 0:
                    await asyncio.sleep(0.02)
            assert await asyncio.gather(*watches) == [expected["Model"], expected["Token"]]


class TestPruning:
    async def test_old_changes_go_and_old_watches_are_told(self, tmp_path: Path) -> None:
        async with open_store(tmp_path, keep_changes=10) as store:
            for count in range(30):
                await store.commit(creation(model(f"m{count}")))
            assert await store.prune() == 20
            assert await store.prune() == 20
            for since in (0, 19):
                with pytest.raises(Conflict, match="list again") as caught:
                    await anext(aiter(store.watch(since)))
                assert caught.value.code == "expired"
            async with aclosing(store.watch(20)) as watch:  # type: ignore[type-var]
                assert (await anext(watch)).resource_version == 21
            assert len((await store.list(Model))[0]) == 30
            assert len(await store.audit()) == 30
        async with open_store(tmp_path, keep_changes=10) as store:
            with pytest.raises(Conflict):
                await anext(aiter(store.watch(5)))

    async def test_versions_are_never_given_twice(self, tmp_path: Path) -> None:
        async with open_store(tmp_path, keep_changes=0) as store:
            (made,) = await store.commit(creation(model("fraud")))
            change = transaction()
            change.delete(made)
            await store.commit(change)
            await store.prune()
        async with open_store(tmp_path) as store:
            (again,) = await store.commit(creation(model("fraud")))
            assert again.metadata.resource_version == 3

    async def test_the_log_is_pruned_by_itself(self, tmp_path: Path) -> None:
        async with open_store(tmp_path, keep_changes=100) as store:
            for turn in range(12):
                await store.commit(creation(*(model(f"m{turn}-{one}") for one in range(100))))
            with pytest.raises(Conflict):
                await anext(aiter(store.watch(0)))
            assert len((await store.list(Model))[0]) == 1200
        connection = sqlite3.connect(tmp_path / "store.db")
        ((count,),) = connection.execute("SELECT count(*) FROM changes").fetchall()
        connection.close()
        assert 100 <= count <= 1200


class TestBackups:
    async def test_a_backup_is_whole_and_restores(self, tmp_path: Path) -> None:
        state, copy = tmp_path / "state", tmp_path / "copy"
        async with open_store(state) as store:
            await store.commit(creation(model("before")))
            writes = [
                asyncio.create_task(store.commit(creation(model(f"during-{count}"))))
                for count in range(20)
            ]
            await store.backup(copy)
            await asyncio.gather(*writes)
            await store.commit(creation(model("after")))
        assert sorted(file.name for file in copy.iterdir()) == ["head.json", "key.pub", "store.db"]

        restore_backup(copy, state / "store.db", state / "audit")
        async with open_store(state) as store:
            assert await store.find(Model, "before") is not None
            assert await store.find(Model, "after") is None
            assert (await store.verify_audit()).ok, "a restored log is no tampered one"
            await store.commit(creation(model("new")))
            assert (await store.verify_audit()).ok
            head = json.loads((copy / "head.json").read_text())
            assert len(await store.audit()) == head["sequence"] + 1

    async def test_a_backup_restores_on_another_machine(self, tmp_path: Path) -> None:
        async with open_store(tmp_path / "one") as store:
            await store.commit(creation(model("fraud")))
            await store.backup(tmp_path / "copy")
        two = tmp_path / "two"
        restore_backup(tmp_path / "copy", two / "store.db", two / "audit")
        async with open_store(two) as store:
            await store.commit(creation(model("new")))
            assert (await store.verify_audit()).ok
            assert verify(await store.audit()).ok

    async def test_a_backup_replaces_nothing(self, tmp_path: Path) -> None:
        async with open_store(tmp_path) as store:
            (tmp_path / "copy").mkdir()
            with pytest.raises(Conflict, match="exists already"):
                await store.backup(tmp_path / "copy")
        with pytest.raises(NotFound, match="no backup"):
            restore_backup(tmp_path / "copy", tmp_path / "store.db", tmp_path / "audit")
        assert (tmp_path / "store.db").exists()
