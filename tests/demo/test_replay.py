"""The replay: real flights in their order, at a steady rate, counted as a client sees them."""

from __future__ import annotations

import asyncio
import json
import socket
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

import numpy as np
import pytest

from modelplane.demo.flights import Flights, load_flights
from modelplane.demo.replay import (
    MAX_FAILURE_EXAMPLES,
    UNKNOWN,
    Replay,
    ReplaySnapshot,
    select_replay,
)
from modelplane.errors import Conflict, InvalidResource

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def replayed() -> Flights:
    return select_replay(load_flights())


@pytest.fixture
def few(replayed: Flights) -> Flights:
    """Forty flights in a row, the last ones with gaps."""
    return replayed.select(slice(60, 100))


@dataclass
class Gateway:
    """A server that answers each request with the bytes that `respond` gives; None hangs up."""

    respond: Callable[[int], Awaitable[bytes | None]]
    port: int = 0
    user_ids: list[str] = field(default_factory=list)
    bodies: list[bytes] = field(default_factory=list)
    connections: int = 0

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}/v2/models/flights/infer"

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        try:
            while True:
                head = (await reader.readuntil(b"\r\n\r\n")).decode()
                lines = dict(line.split(": ", 1) for line in head.splitlines()[1:] if line)
                number = len(self.user_ids)
                self.user_ids.append(lines["x-user-id"])
                self.bodies.append(await reader.readexactly(int(lines["content-length"])))
                answer = await self.respond(number)
                if answer is None:
                    return
                writer.write(answer)
        except (asyncio.IncompleteReadError, ConnectionError):
            pass
        finally:
            writer.close()


@asynccontextmanager
async def gateway(respond: Callable[[int], Awaitable[bytes | None]]) -> AsyncIterator[Gateway]:
    served = Gateway(respond)
    server = await asyncio.start_server(served.serve, "127.0.0.1", 0)
    served.port = server.sockets[0].getsockname()[1]
    try:
        yield served
    finally:
        server.close()


def answer(
    prediction: int | None = 0,
    *,
    status: int = 200,
    version: str | None = "1.0.0",
    assigned: str | None = None,
    headers: str = "",
) -> bytes:
    outputs = [] if prediction is None else [{"name": "predictions", "data": [prediction]}]
    body = json.dumps({"outputs": outputs}).encode()
    head = f"HTTP/1.1 {status} Whatever\r\n{headers}content-length: {len(body)}\r\n"
    if version:
        head += f"X-Modelplane-Version: {version}\r\n"
        head += f"X-Modelplane-Assigned: {assigned or version}\r\n"
    return head.encode() + b"\r\n" + body


def chunked(*parts: bytes) -> bytes:
    chunks = b"".join(b"%x\r\n%s\r\n" % (len(part), part) for part in (*parts, b""))
    return b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n" + chunks


def always(reply: bytes | None) -> Callable[[int], Awaitable[bytes | None]]:
    async def respond(_: int) -> bytes | None:
        return reply

    return respond


async def run_until_completed(replay: Replay, count: int) -> ReplaySnapshot:
    await replay.start()
    await until(lambda: replay.snapshot().completed >= count)
    await replay.stop()
    return replay.snapshot()


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(20):
        while not condition():  # noqa: ASYNC110 - the replay offers counts, not events
            await asyncio.sleep(0.002)


def longest_run(flags: list[bool]) -> int:
    longest = current = 0
    for flag in flags:
        current = current + 1 if flag else 0
        longest = max(longest, current)
    return longest


def test_gaps_come_early_and_go_on_at_the_years_rate(replayed: Flights) -> None:
    incomplete = replayed.incomplete
    assert int(np.argmax(incomplete)) == 86
    for first in (1_000, 2_000, 5_000, 20_000):
        assert 0.09 < incomplete[:first].mean() < 0.13
    assert longest_run((~incomplete[:40_000]).tolist()) == 1_922


def test_the_replay_is_consecutive_and_follows_the_training(replayed: Flights) -> None:
    days = np.unique(replayed.days)
    assert days[0] == np.datetime64("2013-07-26")
    assert (np.diff(days) == np.timedelta64(1, "D")).all()
    assert len(np.unique(replayed.user_ids)) > 3_000


async def test_flights_are_sent_in_order_and_start_over_at_the_end(few: Flights) -> None:
    async with gateway(always(answer())) as served:
        replay = Replay(served.url, few, rate_per_s=2_000, max_in_flight=1)
        snapshot = await run_until_completed(replay, 100)
    assert served.user_ids[:100] == (few.user_ids.tolist() * 3)[:100]
    assert served.bodies[:40] == served.bodies[40:80]
    assert snapshot.rounds * len(few) + snapshot.position == snapshot.sent == snapshot.completed
    assert snapshot.incomplete_sent == sum(b"null" in body for body in served.bodies) > 0
    assert served.connections == 1
    assert snapshot.failures == 0


async def test_after_a_stop_it_goes_on_with_the_next_flight(few: Flights) -> None:
    async with gateway(always(answer())) as served:
        replay = Replay(served.url, few, rate_per_s=1_000, max_in_flight=1)
        before = await run_until_completed(replay, 5)
        await replay.stop()  # a second stop does nothing
        await run_until_completed(replay, before.sent + 5)
    sent = replay.snapshot().sent
    assert served.user_ids == (few.user_ids.tolist() * (sent // len(few) + 1))[:sent]


async def test_it_cannot_be_started_twice(few: Flights) -> None:
    async with gateway(always(answer())) as served:
        replay = Replay(served.url, few, rate_per_s=100)
        await replay.start()
        with pytest.raises(Conflict, match="runs already"):
            await replay.start()
        await replay.stop()


async def test_predictions_are_judged_by_the_labels(few: Flights) -> None:
    async def call_every_other_late(number: int) -> bytes:
        return answer(number % 2)

    async with gateway(call_every_other_late) as served:
        replay = Replay(served.url, few, rate_per_s=2_000, max_in_flight=1)
        snapshot = await run_until_completed(replay, 40)
    sent = snapshot.sent
    late = [bool(few.late[row % len(few)]) for row in range(sent)]
    called = [row % 2 == 1 for row in range(sent)]
    hits = sum(a and b for a, b in zip(called, late, strict=True))
    quality = snapshot.versions["1.0.0"].quality
    assert quality.labelled == sent
    assert quality.accuracy == sum(a == b for a, b in zip(called, late, strict=True)) / sent
    assert quality.precision == hits / sum(called)
    assert quality.recall == hits / sum(late)


async def test_a_shielded_answer_counts_for_both_versions_and_is_no_failure(few: Flights) -> None:
    async def candidate_fails_every_fourth(number: int) -> bytes:
        if number % 4 == 0:
            return answer(version="1.0.0", assigned="2.0.0")
        return answer(version="2.0.0")

    async with gateway(candidate_fails_every_fourth) as served:
        replay = Replay(served.url, few, rate_per_s=2_000, max_in_flight=1)
        snapshot = await run_until_completed(replay, 40)
    stable, candidate = snapshot.versions["1.0.0"], snapshot.versions["2.0.0"]
    shielded = (snapshot.sent + 3) // 4
    assert (stable.served, stable.assigned, stable.shielded) == (shielded, 0, 0)
    assert candidate.assigned == snapshot.sent
    assert candidate.served == snapshot.sent - shielded
    assert candidate.shielded == shielded
    assert snapshot.failures == 0
    assert sorted(candidate.latency_ms) == ["p50", "p95", "p99"]


@pytest.mark.parametrize(
    ("reply", "version", "cause"),
    [
        (answer(status=500), "1.0.0", "status 500"),
        (answer(status=503, version=None), UNKNOWN, "status 503"),
        (answer(status=404, version=None), UNKNOWN, "status 404"),
        (answer(None), "1.0.0", "without a prediction"),
        (None, UNKNOWN, "ConnectionResetError"),
        (b"what?\r\n\r\n", UNKNOWN, "HttpParser"),
    ],
    ids=["500", "proxy-503", "no-route", "no-prediction", "hang-up", "not-http"],
)
async def test_whatever_a_client_would_call_a_failure_is_one(
    few: Flights, reply: bytes | None, version: str, cause: str
) -> None:
    async with gateway(always(reply)) as served:
        replay = Replay(served.url, few, rate_per_s=1_000)
        snapshot = await run_until_completed(replay, 20)
    assert snapshot.failures == snapshot.completed == snapshot.sent
    assert len(snapshot.failure_examples) == MAX_FAILURE_EXAMPLES
    first = snapshot.failure_examples[0]
    assert first.version == version
    assert cause in first.cause or (cause == "HttpParser" and "Parser" in first.cause)
    assert first.user_id in few.user_ids


async def test_a_refused_connection_is_a_failure_and_the_replay_goes_on(few: Flights) -> None:
    with socket.socket() as silent:  # holds the port and does not listen: it refuses
        silent.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{silent.getsockname()[1]}/v2/models/flights/infer"
        replay = Replay(url, few, rate_per_s=1_000)
        snapshot = await run_until_completed(replay, 20)
    assert snapshot.failures == snapshot.sent >= 20
    assert "ConnectionRefusedError" in snapshot.failure_examples[0].cause


async def test_no_answer_in_time_is_a_failure_and_stop_does_not_hang(few: Flights) -> None:
    async def never(_: int) -> bytes:
        await asyncio.Event().wait()
        return b""

    async with gateway(never) as served:
        replay = Replay(served.url, few, rate_per_s=500, timeout_s=0.05)
        snapshot = await run_until_completed(replay, 3)
    assert snapshot.in_flight == 0
    assert snapshot.failures == snapshot.sent
    assert snapshot.failure_examples[0].cause == "no answer within 0.05 s"


async def test_one_connection_lost_costs_one_request(few: Flights) -> None:
    async def hang_up_once(number: int) -> bytes | None:
        return None if number == 7 else answer()

    async with gateway(hang_up_once) as served:
        replay = Replay(served.url, few, rate_per_s=2_000, max_in_flight=1)
        snapshot = await run_until_completed(replay, 30)
    assert snapshot.failures == 1
    assert served.connections == 2


@pytest.mark.parametrize(
    "reply",
    [
        answer(headers="Connection: close\r\n"),
        chunked(b'{"outputs": [{"name": "predic', b'tions", "data": [1]}', b"]}"),
    ],
    ids=["closing", "chunked"],
)
async def test_http_as_a_proxy_may_speak_it(few: Flights, reply: bytes) -> None:
    async with gateway(always(reply)) as served:
        replay = Replay(served.url, few, rate_per_s=1_000, max_in_flight=2)
        snapshot = await run_until_completed(replay, 20)
    assert snapshot.failure_examples == ()
    assert sum(version.quality.labelled for version in snapshot.versions.values()) == snapshot.sent


async def test_what_is_in_flight_is_bounded_and_waiting_sends_count_as_late(few: Flights) -> None:
    opened = asyncio.Event()

    async def when_opened(_: int) -> bytes:
        await opened.wait()
        return answer()

    async with gateway(when_opened) as served:
        replay = Replay(served.url, few, rate_per_s=2_000, max_in_flight=5)
        await replay.start()
        await until(lambda: len(served.user_ids) == 5)
        await asyncio.sleep(0.1)  # time for 200 more, which must not leave
        held = replay.snapshot()
        opened.set()
        await until(lambda: replay.snapshot().completed >= 20)
        await replay.stop()
    assert (held.sent, held.in_flight, held.completed) == (5, 5, 0)
    after = replay.snapshot()
    assert after.late_sends > 0
    assert after.failures == 0
    assert served.connections == 5


async def test_headers_are_sent_and_users_keep_their_ids(few: Flights) -> None:
    seen: list[str] = []

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        seen.append((await reader.readuntil(b"\r\n\r\n")).decode())
        writer.write(answer(headers="Connection: close\r\n"))
        writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/v2/models/flights/infer?a=b"
    replay = Replay(url, few, max_in_flight=1, headers={"authorization": "Bearer something"})
    await run_until_completed(replay, 2)
    server.close()
    lines = seen[0].split("\r\n")
    assert lines[0] == "POST /v2/models/flights/infer?a=b HTTP/1.1"
    assert "authorization: Bearer something" in lines
    assert f"x-user-id: {few.user_ids[0]}" in lines


def test_arguments_that_cannot_work_are_refused(few: Flights) -> None:
    for url in ("https://127.0.0.1/infer", "/v2/models/flights/infer", "http:///infer"):
        with pytest.raises(InvalidResource, match="http://HOST:PORT"):
            Replay(url, few)
    with pytest.raises(InvalidResource, match="rate"):
        Replay("http://127.0.0.1:1/", few, rate_per_s=0)
    with pytest.raises(InvalidResource, match="flights"):
        Replay("http://127.0.0.1:1/", few.select(slice(0, 0)))
