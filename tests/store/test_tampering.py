"""What somebody with the database file, but not the key, does to the audit log is found."""

from __future__ import annotations

import json
import shutil
import sqlite3
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import pytest

from modelplane.adapters.store.sqlite import SqliteStore
from modelplane.decisions.audit_chain import link
from modelplane.ports.store import AuditRecord
from tests.store.stores import creation, model, open_store

RECORDS = 12


async def write_log(folder: Path) -> None:
    async with open_store(folder) as store:
        for count in range(RECORDS):
            await store.commit(creation(model(f"m{count}")))


def tamper(folder: Path, *statements: str) -> None:
    with closing(sqlite3.connect(folder / "store.db")) as connection, connection:
        for statement in statements:
            connection.execute(statement)


async def found(store: SqliteStore) -> list[tuple[int, str]]:
    return [(fault.sequence, fault.kind) for fault in (await store.verify_audit()).faults]


def forge(folder: Path) -> None:
    """Append a record that is linked as well as anybody without the key can."""
    with closing(sqlite3.connect(folder / "store.db")) as connection, connection:
        columns = "sequence, at, subject, action, kind, environment, name, uid"
        columns += ", resource_version, reason, details, previous_hash, hash"
        last = connection.execute(
            f"SELECT {columns} FROM audit ORDER BY sequence DESC LIMIT 1"
        ).fetchone()
        fields = dict(zip(columns.split(", "), last, strict=True))
        record = AuditRecord(**{**fields, "details": json.loads(fields["details"])})
        forged = link(record.hash, record.with_(sequence=record.sequence + 1, subject="mallory"))
        values = {**fields, "sequence": forged.sequence, "subject": "mallory"}
        values |= {"previous_hash": forged.previous_hash, "hash": forged.hash}
        marks = ", ".join(f":{name}" for name in values)
        connection.execute(f"INSERT INTO audit ({columns}) VALUES ({marks})", values)


@pytest.mark.parametrize(
    ("statements", "faults"),
    [
        (["UPDATE audit SET subject = 'mallory' WHERE sequence = 5"], [(5, "altered")]),
        (["UPDATE audit SET reason = 'because' WHERE sequence = 12"], [(12, "altered")]),
        (["UPDATE audit SET details = 'no json' WHERE sequence = 7"], [(7, "altered")]),
        (["UPDATE audit SET at = 'never' WHERE sequence = 7"], [(7, "altered")]),
        (["DELETE FROM audit WHERE sequence = 5"], [(5, "removed")]),
        (["DELETE FROM audit WHERE sequence = 1"], [(1, "removed")]),
        (["DELETE FROM audit WHERE sequence BETWEEN 5 AND 8"], [(5, "removed")]),
        (
            [
                "UPDATE audit SET sequence = 99 WHERE sequence = 5",
                "UPDATE audit SET sequence = 5 WHERE sequence = 6",
                "UPDATE audit SET sequence = 6 WHERE sequence = 99",
            ],
            [(5, "reordered")],
        ),
        (["DELETE FROM audit WHERE sequence > 9"], [(10, "truncated")]),
        (["DELETE FROM audit"], [(1, "truncated")]),
    ],
    ids=lambda value: value[0][:50] if value and isinstance(value[0], str) else "",
)
@pytest.mark.parametrize("when", ["while it runs", "while it is down"])
async def test_each_kind_of_tampering_is_named(
    tmp_path: Path, statements: list[str], faults: list[tuple[int, str]], when: str
) -> None:
    await write_log(tmp_path)
    if when == "while it is down":
        tamper(tmp_path, *statements)
    async with open_store(tmp_path) as store:
        if when == "while it runs":
            assert (await store.verify_audit()).ok
            tamper(tmp_path, *statements)
        assert set(await found(store)) >= set(faults)
        if when == "while it runs":
            assert {kind for _, kind in await found(store)} == {kind for _, kind in faults}


async def test_a_forged_record_at_the_end_is_named_and_stays_named(tmp_path: Path) -> None:
    await write_log(tmp_path)
    forge(tmp_path)
    async with open_store(tmp_path) as store:
        assert await found(store) == [(RECORDS + 1, "added")]
        await store.commit(creation(model("later")))
        assert await found(store) == [(RECORDS + 1, "added")], "going on does not whitewash it"
        last = (await store.audit(RECORDS))[-2:]
        assert [record.action for record in last] == ["audit-fault", "create"]
    async with open_store(tmp_path) as store:
        assert await found(store) == [(RECORDS + 1, "added")]


def rolled_back_copy(folder: Path) -> None:
    """Put an older, complete and well-signed database in the place of the present one."""
    for file in (folder / "old").iterdir():
        shutil.copyfile(file, folder / file.name)


async def test_an_older_database_in_its_place_is_named_and_stays_named(tmp_path: Path) -> None:
    await write_log(tmp_path)
    (tmp_path / "old").mkdir()
    shutil.copyfile(tmp_path / "store.db", tmp_path / "old/store.db")
    async with open_store(tmp_path) as store:
        await store.commit(creation(model("inconvenient"), model("very")))
    rolled_back_copy(tmp_path)
    async with open_store(tmp_path) as store:
        assert (RECORDS + 1, "truncated") in await found(store)
        for count in range(5):
            await store.commit(creation(model(f"later-{count}")))
        assert not (await store.verify_audit()).ok
    async with open_store(tmp_path) as store:
        assert not (await store.verify_audit()).ok, "the old head stays a witness"


def spoil(change: Callable[[dict[str, object]], object]) -> Callable[[Path], None]:
    def act(folder: Path) -> None:
        file = folder / "audit/head.json"
        head = json.loads(file.read_text())
        change(head)
        file.write_text(json.dumps(head))

    return act


@pytest.mark.parametrize(
    "act",
    [
        lambda folder: (folder / "audit/head.json").unlink(),
        lambda folder: (folder / "audit/head.json").write_text("{"),
        spoil(lambda head: head.update(sequence=3)),
        spoil(lambda head: head.update(signature="00")),
        spoil(lambda head: head.update(signature="no hex")),
    ],
    ids=["missing", "unreadable", "another sequence", "another signature", "no signature"],
)
async def test_a_head_that_was_tampered_with_is_a_fault(
    tmp_path: Path, act: Callable[[Path], None]
) -> None:
    await write_log(tmp_path)
    act(tmp_path)
    async with open_store(tmp_path) as store:
        assert not (await store.verify_audit()).ok
        await store.commit(creation(model("later")))
        assert not (await store.verify_audit()).ok
    async with open_store(tmp_path) as store:
        assert not (await store.verify_audit()).ok


async def test_the_head_in_the_database_cannot_be_exchanged(tmp_path: Path) -> None:
    await write_log(tmp_path)
    forge(tmp_path)
    with closing(sqlite3.connect(tmp_path / "store.db")) as connection, connection:
        (text,) = connection.execute("SELECT value FROM meta WHERE name = 'audit_head'").fetchone()
        (hash_,) = connection.execute("SELECT hash FROM audit WHERE sequence = 13").fetchone()
        forged = json.dumps({**json.loads(text), "sequence": 13, "hash": hash_})
        connection.execute("UPDATE meta SET value = ? WHERE name = 'audit_head'", (forged,))
    async with open_store(tmp_path) as store:
        assert (13, "added") in await found(store)
        assert (13, "altered") in await found(store)


async def test_a_lost_key_is_replaced_and_the_old_signatures_hold(tmp_path: Path) -> None:
    await write_log(tmp_path)
    (tmp_path / "audit/key.pem").unlink()
    async with open_store(tmp_path) as store:
        assert (await store.verify_audit()).ok
        await store.commit(creation(model("later")))
        assert (await store.verify_audit()).ok
    async with open_store(tmp_path) as store:
        assert (await store.verify_audit()).ok


async def test_a_head_file_that_lags_after_a_crash_is_no_fault(tmp_path: Path) -> None:
    await write_log(tmp_path)
    old = (tmp_path / "audit/head.json").read_bytes()
    async with open_store(tmp_path) as store:
        await store.commit(creation(model("later")))
    (tmp_path / "audit/head.json").write_bytes(old)
    async with open_store(tmp_path) as store:
        assert (await store.verify_audit()).ok


async def test_the_head_file_follows_within_a_moment(tmp_path: Path) -> None:
    await write_log(tmp_path)
    head = json.loads((tmp_path / "audit/head.json").read_text())
    assert head["sequence"] == RECORDS
