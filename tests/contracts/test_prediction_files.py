"""What the store of predictions that is on the disk promises besides."""

from __future__ import annotations

import asyncio
import tempfile
from datetime import timedelta
from pathlib import Path
from typing import Any

import duckdb
import pandas
import pytest

from modelplane.errors import TransientError
from modelplane.ports.predictions import Label
from modelplane.testing.clock import ManualClock
from tests.contracts.predictions import CANDIDATE, FRAUD, SHADOW, prediction, sqlite_store


@pytest.fixture
def clock() -> ManualClock:
    return ManualClock()


async def test_nothing_that_was_confirmed_is_lost_by_a_crash_at_any_moment(
    clock: ManualClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    at = clock.now()
    with tempfile.TemporaryDirectory() as folder:
        made = [prediction(f"r-{n}", at=at, inputs={"x": n}) for n in range(3)]
        window: dict[str, Any] = {"since": at, "until": at + timedelta(hours=1)}
        async with sqlite_store(clock, Path(folder)) as store:
            await store.add(made)
            write = store._files.write

            def crash_after(path: str, rows: Any) -> None:
                write(path, rows)
                raise TransientError("power cut")

            monkeypatch.setattr(store._files, "write", crash_after)
            with pytest.raises(TransientError):
                await store.flush()  # the file is there, the index does not know it
            assert await store.rows(*FRAUD, **window, limit=9) == made
        async with sqlite_store(clock, Path(folder)) as store:
            assert await store.rows(*FRAUD, **window, limit=9) == made
            await store.flush()
            assert await store.rows(*FRAUD, **window, limit=9) == made
            assert await store.add(made) == 0
        assert len(list(Path(folder).rglob("*.parquet"))) == 1
        assert not list(Path(folder).rglob("*.new"))


async def test_rows_come_back_from_files_as_they_were(clock: ManualClock) -> None:
    at = clock.now()
    values: list[Any] = [1, 1.5, True, "text", None, [1, "a"], {"a": None}, 2**60, "ü"]
    made = [
        prediction(f"r-{n}", at=at + timedelta(hours=n), predicted=n, inputs={"x": v, "y": n})
        for n, v in enumerate(values)
    ]
    made += [
        prediction(f"s-{n}", at=at, place=SHADOW, inputs={"x": v}) for n, v in enumerate((1, 2.5))
    ]
    async with sqlite_store(clock) as store:
        await store.add(made)
        await store.flush()
        window: dict[str, Any] = {"since": at, "until": at + timedelta(days=2)}
        found = await store.rows(*FRAUD, **window, limit=99)
        assert found == sorted(made, key=lambda row: (row.at, row.request_id))
        assert [type(row.inputs["x"]) for row in found[:1]] == [int]
        assert await store.rows(*FRAUD, **window, limit=3) == found[:3]


async def test_pandas_and_duckdb_read_the_folder(clock: ManualClock) -> None:
    at = clock.now()
    with tempfile.TemporaryDirectory() as folder:
        async with sqlite_store(clock, Path(folder)) as store:
            await store.add([prediction(f"r-{n}", at=at, inputs={"x": n}) for n in range(3)])
            await store.flush()
            tomorrow = at + timedelta(days=1)
            await store.add(
                [prediction("r-9", place=CANDIDATE, at=tomorrow, inputs={"x": 0.5, "new": "a"})]
            )
            await store.flush()
        rows = f"{folder}/rows"
        frame = pandas.read_parquet(rows)
        assert sorted(frame["input.x"]) == [0, 0.5, 1, 2]
        assert set(frame["version"].astype(str)) == {"1.0.0", "2.0.0"}
        answer = duckdb.sql(
            'select version, date, count(*), sum("input.x") from read_parquet('
            f"'{rows}/**/*.parquet', hive_partitioning=true, union_by_name=true)"
            "where environment = 'production' group by all order by version"
        )
        assert answer is not None
        found = answer.fetchall()
        assert [(str(v), str(d), n, x) for v, d, n, x in found] == [
            ("1.0.0", at.date().isoformat(), 3, 3.0),
            ("2.0.0", tomorrow.date().isoformat(), 1, 0.5),
        ]


async def test_retention_deletes_files(clock: ManualClock) -> None:
    at = clock.now()
    with tempfile.TemporaryDirectory() as folder:
        async with sqlite_store(clock, Path(folder)) as store:
            await store.add([prediction("r-1", at=at, inputs={"x": 1})])
            await store.flush()
            await store.expire(*FRAUD, at + timedelta(days=1))
            assert not list(Path(folder).rglob("*.parquet"))
            assert await store.deployments() == []


async def test_files_that_could_not_be_deleted_are_not_forgotten(
    clock: ManualClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    at = clock.now()
    with tempfile.TemporaryDirectory() as folder:
        async with sqlite_store(clock, Path(folder)) as store:
            await store.add([prediction("r-1", at=at, inputs={"x": 1})])
            await store.flush()

            def refuse(path: str) -> None:
                raise TransientError("the storage does not answer")

            with monkeypatch.context() as context:
                context.setattr(store._files, "delete", refuse)
                with pytest.raises(TransientError):
                    await store.expire(*FRAUD, at + timedelta(days=1))
            assert await store.deployments() == [FRAUD]
            await store.expire(*FRAUD, at + timedelta(days=1))
            assert not list(Path(folder).rglob("*.parquet"))
            assert await store.deployments() == []


async def test_who_reads_on_misses_nothing_when_all_has_expired_meanwhile(
    clock: ManualClock,
) -> None:
    at = clock.now()
    with tempfile.TemporaryDirectory() as folder:
        async with sqlite_store(clock, Path(folder)) as store:
            await store.add([prediction(f"r-{n}", at=at) for n in range(5)])
            await store.label(*FRAUD, [Label(f"r-{n}", label=1) for n in range(5)])
            last = (await store.outcomes(*FRAUD))[-1].sequence
            clock.step(86_400)
            assert await store.expire(*FRAUD, clock.now()) == 5
        async with sqlite_store(clock, Path(folder)) as store:
            assert await store.outcomes(*FRAUD) == []
            await store.add([prediction("new", at=clock.now(), predicted=0)])
            await store.label(*FRAUD, [Label("new", label=1)])
            (outcome,) = await store.outcomes(*FRAUD, after=last)
            assert (outcome.predicted, outcome.label) == (0, 1)


async def test_a_key_of_very_many_predictions_holds_up_nobody(clock: ManualClock) -> None:
    at = clock.now()
    async with sqlite_store(clock) as store:
        await store.add([prediction(f"r-{n}", at=at, key="k", parts=()) for n in range(20_000)])
        async with asyncio.timeout(10):  # comparing each with each takes minutes
            assert await store.label(*FRAUD, [Label("k", label=1)]) == ["joined"]
        (total,) = await store.totals(*FRAUD)
        assert total.labelled == 20_000


async def test_without_parquet_the_index_keeps_on_taking(
    clock: ManualClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("modelplane.adapters.predictions.parquet.is_available", lambda: False)
    async with sqlite_store(clock, max_pending_rows=2) as store:
        made = [prediction(f"r-{n}", at=clock.now(), inputs={"x": n}) for n in range(5)]
        assert await store.add(made) == 5


async def test_a_file_that_cannot_be_made_does_not_end_the_control_plane(
    clock: ManualClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with sqlite_store(clock) as store:
        await store.add([prediction("r-1", at=clock.now(), inputs={"x": 1})])

        def surprise(path: str, rows: Any) -> None:
            raise ValueError("a surprise")

        monkeypatch.setattr(store._files, "write", surprise)
        running = asyncio.create_task(store.run())
        for _ in range(100):
            clock.step(30)
            await asyncio.sleep(0.01)
        assert not running.done()
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)


async def test_who_cannot_write_is_told_to_come_again(
    clock: ManualClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    at = clock.now()
    async with sqlite_store(clock, max_pending_rows=2) as store:
        assert (
            await store.add([prediction(f"r-{n}", at=at, inputs={"x": n}) for n in range(2)]) == 2
        )
        with pytest.raises(TransientError, match="wait to be written as Parquet"):
            await store.add([prediction("r-9", at=at, inputs={"x": 1})])
        await store.flush()
        assert await store.add([prediction("r-9", at=at, inputs={"x": 1})]) == 1


async def test_the_queue_is_bounded_and_the_rest_goes_on(clock: ManualClock) -> None:
    at = clock.now()
    async with sqlite_store(clock, max_queued=1) as store:
        batches = [[prediction(f"r-{n}", at=at)] for n in range(50)]
        results = await asyncio.gather(*map(store.add, batches), return_exceptions=True)
        refused = [r for r in results if isinstance(r, BaseException)]
        assert all(isinstance(error, TransientError) for error in refused)
        assert refused
        (tally,) = await store.totals(*FRAUD)
        assert tally.predictions == 50 - len(refused)
