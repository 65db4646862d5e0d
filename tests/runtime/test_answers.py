"""Answers are kept for whoever compares them: when asked for, bounded, read once."""

from __future__ import annotations

import asyncio
import json
import shutil
import tempfile
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from hypothesis import given
from hypothesis import strategies as st

from modelplane.adapters.runtime.servers import RuntimeServers
from modelplane.decisions.comparison import KeptAnswer
from modelplane.ports.servers import AnswerPage
from modelplane_runtime.answers import ANSWERS_PATH, MAX_ANSWER_BYTES, AnswerLog
from modelplane_runtime.app import RuntimeApp
from modelplane_runtime.models.loading import load_model

from .test_routes import IDENTITY, INFER, columns_body, make_client

MARK = "x-modelplane-compare"


async def pages(client: httpx.AsyncClient, after: int = 0) -> dict[str, Any]:
    answer = await client.get(ANSWERS_PATH, params={"after": after})
    assert answer.status_code == 200
    document: dict[str, Any] = answer.json()
    return document


async def test_an_answer_is_kept_when_its_request_asks_for_it(artifacts: Path) -> None:
    app = RuntimeApp(IDENTITY)
    app.serve(load_model("skops", artifacts / "columns.skops"))
    async with await make_client(app) as client:
        await client.post(INFER, json=columns_body(1.0))
        first = await client.post(INFER, json=columns_body(1.0), headers={MARK: "default/1"})
        refused = await client.post(INFER, json={"inputs": []}, headers={MARK: "default/2"})
        page = await pages(client)
        kept = [(one["name"], one["status"], one["answer"]) for one in page["answers"]]
        assert refused.status_code == 400
        assert kept == [("default/1", 200, first.json()), ("default/2", 400, None)]
        assert all(one["seconds"] > 0 for one in page["answers"])
        assert (await pages(client, page["next"]))["answers"] == []
        # What was read is forgotten, whoever asks.
        assert (await pages(client))["answers"] == []


async def test_the_answers_are_no_part_of_what_a_gateway_routes(artifacts: Path) -> None:
    app = RuntimeApp(IDENTITY)
    app.serve(load_model("skops", artifacts / "columns.skops"))
    async with await make_client(app) as client:
        await client.post(INFER, json=columns_body(1.0), headers={MARK: "default/1"})
        for path in (f"/v2/models/flights{ANSWERS_PATH}", f"/v2{ANSWERS_PATH}"):
            assert (await client.get(path)).status_code == 404
        assert (await client.post(ANSWERS_PATH)).status_code == 405
        assert len((await pages(client))["answers"]) == 1


def test_a_name_that_is_no_name_is_not_kept() -> None:
    log = AnswerLog()
    for name in (b"x" * 129, b"a b", "ä".encode(), b'"\n'):
        log.add(name, 200, 0.1, b"{}")
    assert json.loads(log.page(0))["answers"] == []


def test_an_answer_that_is_too_large_is_dropped_and_counted() -> None:
    log = AnswerLog()
    log.add(b"large", 200, 0.1, b"1" * (MAX_ANSWER_BYTES + 1))
    page = json.loads(log.page(0))
    assert (page["answers"], page["dropped"]) == ([], 1)


def test_a_number_of_another_servers_life_begins_anew() -> None:
    log = AnswerLog()
    log.add(b"one", 200, 0.1, b"{}")
    assert [one["name"] for one in json.loads(log.page(700))["answers"]] == ["one"]


@given(
    sizes=st.lists(st.integers(2, 400), max_size=60),
    reads=st.sets(st.integers(0, 60)),
    bound=st.integers(1, 20),
)
def test_what_is_kept_is_bounded_and_read_at_most_once_in_order(
    sizes: list[int], reads: set[int], bound: int
) -> None:
    log = AnswerLog(max_answers=bound, max_bytes=2000)
    seen: list[int] = []
    after = 0
    for number, size in enumerate(sizes):
        body = json.dumps("x" * (size - 2)).encode()
        log.add(str(number).encode(), 200, 0.0, body)
        if number in reads:
            page = json.loads(log.page(after))
            after = page["next"]
            assert sum(len(one["answer"]) for one in page["answers"]) <= 2000
            assert len(page["answers"]) <= bound
            seen += [int(one["name"]) for one in page["answers"]]
    page = json.loads(log.page(after))
    seen += [int(one["name"]) for one in page["answers"]]
    assert seen == sorted(set(seen))
    assert len(seen) + page["dropped"] == len(sizes)


@given(sizes=st.lists(st.integers(2, 900_000), min_size=1, max_size=12))
def test_pages_go_on_until_all_is_read(sizes: list[int]) -> None:
    log = AnswerLog(max_bytes=12_000_000)
    for number, size in enumerate(sizes):
        log.add(str(number).encode(), 200, 0.0, b'"%s"' % (b"x" * (size - 2)))
    seen, after, more = [], 0, True
    while more:
        page = json.loads(log.page(after))
        after, more = page["next"], page["more"]
        seen += [int(one["name"]) for one in page["answers"]]
    assert seen == list(range(len(sizes)))


@pytest.fixture
async def folder() -> AsyncIterator[Path]:
    made = Path(tempfile.mkdtemp(prefix="mp-"))
    yield made
    shutil.rmtree(made)


async def serve(path: Path, answer: bytes) -> asyncio.Server:
    async def talk(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(answer)
        await writer.drain()
        writer.close()

    return await asyncio.start_unix_server(talk, path)


def http(body: bytes, status: str = "200 OK") -> bytes:
    return f"HTTP/1.1 {status}\r\ncontent-length: {len(body)}\r\n\r\n".encode() + body


async def test_the_agent_reads_what_the_server_wrote(folder: Path) -> None:
    log = AnswerLog()
    log.add(b"default/1", 200, 0.1, b'{"outputs": []}')
    log.add(b"default/2", 404, 0.1, b"not JSON")
    servers = RuntimeServers(folder, reuse_interpreter=True, max_body_bytes=1)
    async with await serve(folder / "s", http(log.page(0))):
        page = await servers.read_answers(folder / "s", 0)
    assert page == AnswerPage(
        (KeptAnswer("default/1", 200, {"outputs": []}), KeptAnswer("default/2", 404)), 2
    )


@pytest.mark.parametrize(
    "answer",
    [
        http(b"{}", "404 Not Found"),
        http(b"no JSON"),
        http(b"[1]"),
        http(b'{"answers": [{"name": "x"}], "next": 1, "more": false}'),
        http(b" " * (5 * 2**20)),
        b"not HTTP\r\n\r\n",
        b"",
    ],
)
async def test_a_server_that_says_something_else_keeps_none(folder: Path, answer: bytes) -> None:
    servers = RuntimeServers(folder, reuse_interpreter=True, max_body_bytes=1)
    async with await serve(folder / "s", answer):
        assert await servers.read_answers(folder / "s", 0) is None
    assert await servers.read_answers(folder / "nobody", 0) is None
