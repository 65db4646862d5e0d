"""Data on disk and in an object store: taken whole when it has settled, never by halves."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import fsspec
import pandas as pd
import pytest
from deltalake import write_deltalake

from modelplane.adapters.blobs.watched_data import WatchedPlaces
from modelplane.controllers.training_data import DataLook
from modelplane.errors import TransientError
from modelplane.resources.training import WatchedData

pytestmark = pytest.mark.slow


@pytest.fixture
def places() -> Iterator[WatchedPlaces]:
    opened = WatchedPlaces()
    yield opened
    opened.close()


def look_at(uri: str | Path, **fields: Any) -> DataLook:
    return DataLook(WatchedData(uri=str(uri), **fields))


def digest_of(look: DataLook) -> str:
    assert look.sighting is not None
    assert look.sighting.reference is not None, look.sighting.fault
    return look.sighting.reference.digest


async def test_a_file_that_grows_at_each_look_is_not_taken(
    places: WatchedPlaces, tmp_path: Path
) -> None:
    file = tmp_path / "may.csv"
    look = look_at(file)
    assert await look.look(places), "nothing is there, which is certain at once"
    with file.open("a") as stream:
        for line in ("a,b", "1,2", "3,4"):
            print(line, file=stream, flush=True)
            assert not await look.look(places)
    assert await look.look(places)
    assert look.sighting is not None
    assert look.sighting.reference is not None
    assert look.sighting.reference.rows == 2
    assert not await look.look(places), "told once"


async def test_data_that_is_written_to_while_it_is_read_is_not_taken(
    places: WatchedPlaces, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "may.csv"
    file.write_text("a\n1\n")
    describe = places.describe

    async def write_meanwhile(data: WatchedData) -> Any:
        found = await describe(data)
        file.write_text("a\n1\n2\n")
        return found

    look = look_at(file)
    await look.look(places)
    monkeypatch.setattr(places, "describe", write_meanwhile)
    assert not await look.look(places)
    monkeypatch.undo()
    await look.look(places)
    assert await look.look(places)


async def test_a_delta_table_is_its_version(places: WatchedPlaces, tmp_path: Path) -> None:
    table = tmp_path / "flights"
    write_deltalake(str(table), pd.DataFrame({"a": [1, 2]}))
    look = look_at(table, format="delta")
    await look.look(places)
    assert await look.look(places)
    first = digest_of(look)
    (table / "stray.tmp").write_text("left by somebody")
    assert not await look.look(places)
    write_deltalake(str(table), pd.DataFrame({"a": [3]}), mode="append")
    await look.look(places)
    assert await look.look(places)
    assert digest_of(look) != first
    assert look.sighting is not None
    assert look.sighting.reference is not None
    assert look.sighting.reference.version == "1"


async def test_a_dvc_file_is_what_it_names(places: WatchedPlaces, tmp_path: Path) -> None:
    file = tmp_path / "data.csv.dvc"
    file.write_text("outs:\n- md5: 0123456789abcdef0123456789abcdef\n  path: data.csv\n")
    look = look_at(file)
    await look.look(places)
    assert await look.look(places)
    assert digest_of(look) == "md5:0123456789abcdef0123456789abcdef"


async def test_a_bucket_is_its_listing(places: WatchedPlaces) -> None:
    files = fsspec.filesystem("memory")
    root = "/watched-bucket/flights"
    files.pipe(f"{root}/april.parquet", b"1")
    try:
        look = look_at(f"memory:/{root}/", format="parquet")
        await look.look(places)
        assert await look.look(places)
        first = digest_of(look)
        assert not await look.look(places)
        files.pipe(f"{root}/may.parquet", b"22")
        await look.look(places)
        assert await look.look(places)
        assert digest_of(look) != first
        assert look.sighting is not None
        assert look.sighting.reference is not None
        assert (look.sighting.reference.files, look.sighting.reference.size_bytes) == (2, 3)
    finally:
        files.rm("/watched-bucket", recursive=True)


async def test_what_cannot_be_read_is_told_once_and_passes(
    places: WatchedPlaces, tmp_path: Path
) -> None:
    look = look_at(tmp_path / "table", format="delta")
    (tmp_path / "table").mkdir()
    (tmp_path / "table" / "part").write_text("no table")
    assert not await look.look(places)
    assert await look.look(places)
    assert look.sighting is not None
    assert "delta" in look.sighting.fault
    assert not await look.look(places)
    assert not await look.look(places)


async def test_a_place_that_hangs_is_not_asked_by_a_second_thread(
    places: WatchedPlaces, monkeypatch: pytest.MonkeyPatch
) -> None:
    go_on = threading.Event()
    monkeypatch.setattr(
        "modelplane.adapters.blobs.watched_data._fingerprint", lambda data: go_on.wait(20)
    )
    monkeypatch.setattr("modelplane.adapters.blobs.watched_data._LOOK_TIMEOUT_S", 0.05)
    data = WatchedData(uri="/nfs/gone")
    try:
        for words in ("did not answer", "has not answered since"):
            with pytest.raises(TransientError, match=words):
                await places.fingerprint(data)
    finally:
        go_on.set()


async def test_two_triggers_that_watch_the_same_both_see_it(
    places: WatchedPlaces, tmp_path: Path
) -> None:
    file = tmp_path / "may.csv"
    file.write_text("a\n1\n")
    looks = [look_at(file), look_at(file)]
    for _ in range(2):
        await asyncio.gather(*(look.look(places) for look in looks))
    assert digest_of(looks[0]) == digest_of(looks[1])


async def test_a_link_that_leads_nowhere_hides_no_change(
    places: WatchedPlaces, tmp_path: Path
) -> None:
    for number in range(20):
        (tmp_path / f"{number}.csv").write_text("a\n1\n")
    (tmp_path / "gone.csv").symlink_to(tmp_path / "nowhere")
    data = WatchedData(uri=str(tmp_path))
    seen = {await places.fingerprint(data)}
    for number in range(20):
        (tmp_path / f"{number}.csv").write_text("a\n1\n2\n")
        seen.add(await places.fingerprint(data))
    assert len(seen) == 21
