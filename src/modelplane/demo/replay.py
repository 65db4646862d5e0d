"""The demo's live traffic: flights from after the training, as requests, at a steady rate.

Called by ``demo.run``. Knows a gateway's URL and nothing else of the control plane, as any client
would; it judges nothing, it only counts what a client sees.

The replay starts on 26 July 2013 and follows the year to its end, every flight that arrived, in
the order of scheduled departure; then it starts over. Nothing is drawn, sorted or thinned: the
day alone was chosen. Over the year 13 % of the flights lack a weather value (11.5 % the pressure),
but in clusters: whole days have none, some over 70 %. From this day on the gaps are as steady as
they get. The first one is the 87th flight; of the first 1,000 flights 10 % are incomplete, of
the first 2,000 11 %, 5,000 10 %, 20,000 12 %; the longest run without one among the first 40,000
is 1,922 flights, ten seconds at 200 a second.

The client is written here on ``asyncio.Protocol`` and ``httptools`` because it shares two cores
with all that it loads: a request costs it a fifth of what httpx takes.
"""

from __future__ import annotations

import asyncio
import json
from collections import Counter, deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import date
from time import perf_counter
from typing import Any, cast
from urllib.parse import urlsplit

import httptools
import numpy as np

from modelplane.demo.flights import FlightRequest, Flights, build_request
from modelplane.errors import Conflict, InvalidResource

REPLAY_FIRST, REPLAY_LAST = date(2013, 7, 26), date(2013, 12, 31)

UNKNOWN = "unknown"
"""The version of an answer that names none, such as one the proxy gave by itself."""

LATE_AFTER_S = 0.05
MAX_BACKLOG_S = 1.0
MAX_FAILURE_EXAMPLES = 5
LATENCIES_KEPT = 10_000


def select_replay(flights: Flights) -> Flights:
    """Return the flights to replay, in order: see the module's docstring for where and why."""
    return flights.between(REPLAY_FIRST, REPLAY_LAST)


@dataclass(frozen=True, slots=True)
class Quality:
    """Predictions against what then happened, in [0, 1]; None where nothing could be counted.

    ``precision`` is the share of flights called late that were, ``recall`` the share of late
    flights that were called so.
    """

    labelled: int
    accuracy: float | None
    precision: float | None
    recall: float | None


def _judge(outcomes: Counter[tuple[bool, bool]]) -> Quality:
    """Reduce counts of (predicted late, was late)."""
    hits, labelled = outcomes[True, True], outcomes.total()
    right = hits + outcomes[False, False]
    return Quality(
        labelled=labelled,
        accuracy=_ratio(right, labelled),
        precision=_ratio(hits, hits + outcomes[True, False]),
        recall=_ratio(hits, hits + outcomes[False, True]),
    )


def _ratio(part: int, whole: int) -> float | None:
    return part / whole if whole else None


@dataclass(frozen=True, slots=True)
class FailedRequest:
    """A request that a client saw fail, kept as an example."""

    row: int
    user_id: str
    version: str
    cause: str


@dataclass(frozen=True, slots=True)
class VersionSnapshot:
    """What clients saw of one version.

    Attributes
    ----------
    served
        Answers that this version gave.
    assigned
        Answers to requests that the split had assigned to it.
    shielded
        Of those assigned, answered well by another version after this one had failed.
    statuses
        Count of its answers by HTTP status.
    latency_ms
        ``p50``, ``p95`` and ``p99`` in milliseconds of its last `LATENCIES_KEPT` answers, from
        send to last byte; empty before the first.
    quality
        Its predictions against the labels.
    """

    served: int
    assigned: int
    shielded: int
    statuses: Mapping[int, int]
    latency_ms: Mapping[str, float]
    quality: Quality


@dataclass(frozen=True, slots=True)
class ReplaySnapshot:
    """All counts since the replay was made.

    Attributes
    ----------
    sent, completed, in_flight
        Requests; ``sent`` is the number of flights replayed, over all rounds.
    incomplete_sent
        Requests sent with a weather value missing.
    late_sends
        Requests sent more than `LATE_AFTER_S` after they were due: this process was too slow, or
        as many as allowed were in flight.
    failures
        Requests that a client saw fail: no answer, a status other than 200, or no prediction.
    failure_examples
        The first `MAX_FAILURE_EXAMPLES` of them.
    position, rounds
        Next row to be sent, and how often the data came to its end.
    versions
        By the version that the answers named, `UNKNOWN` included if it occurred.
    """

    sent: int
    completed: int
    in_flight: int
    incomplete_sent: int
    late_sends: int
    failures: int
    failure_examples: tuple[FailedRequest, ...]
    position: int
    rounds: int
    versions: Mapping[str, VersionSnapshot]


@dataclass(slots=True)
class _VersionTally:
    served: int = 0
    assigned: int = 0
    shielded: int = 0
    statuses: Counter[int] = field(default_factory=Counter)
    latencies_s: deque[float] = field(default_factory=lambda: deque(maxlen=LATENCIES_KEPT))
    outcomes: Counter[tuple[bool, bool]] = field(default_factory=Counter)

    def snapshot(self) -> VersionSnapshot:
        latency_ms: dict[str, float] = {}
        if self.latencies_s:
            quantiles_s = np.percentile(self.latencies_s, [50, 95, 99])
            latency_ms = dict(zip(("p50", "p95", "p99"), (quantiles_s * 1e3).tolist(), strict=True))
        return VersionSnapshot(
            served=self.served,
            assigned=self.assigned,
            shielded=self.shielded,
            statuses=dict(self.statuses),
            latency_ms=latency_ms,
            quality=_judge(self.outcomes),
        )


class Replay:
    """Sends flights to a gateway at a steady rate and counts what comes back.

    Open loop: a request is sent when it is due, whether or not earlier ones were answered, up to
    `max_in_flight`; then sends wait and count as late. A backlog of more than `MAX_BACKLOG_S` is
    forgiven: the schedule moves, no flight is left out. Nothing is retried.

    Parameters
    ----------
    url
        ``http://HOST:PORT/v2/models/DEPLOYMENT/infer``.
    flights
        What to send, from `select_replay`; over and over.
    rate_per_s
        Requests a second.
    max_in_flight
        Also the most connections.
    timeout_s
        For one request, connecting included.
    headers
        Sent with each request, such as ``authorization``.
    on_answer
        Told of each request that got a prediction.

    Raises
    ------
    InvalidResource
        The URL is not plain HTTP, there are no flights, or the rate is not positive.
    """

    def __init__(
        self,
        url: str,
        flights: Flights,
        *,
        rate_per_s: float = 200.0,
        max_in_flight: int = 200,
        timeout_s: float = 10.0,
        headers: Mapping[str, str] | None = None,
        on_answer: Callable[[FlightRequest], None] | None = None,
    ) -> None:
        if len(flights) == 0 or rate_per_s <= 0 or max_in_flight < 1:
            raise InvalidResource("a replay needs flights, a rate above 0 and room in flight")
        self._flights = flights
        self._period_s = 1 / rate_per_s
        self._timeout_s = timeout_s
        self._connections = _ConnectionPool(url, headers or {})
        self._on_answer = on_answer
        self._room = asyncio.Semaphore(max_in_flight)
        self._pacer: asyncio.Task[None] | None = None
        self._tasks: set[asyncio.Task[None]] = set()
        self._crash: BaseException | None = None
        self._sent = self._completed = self._incomplete_sent = self._late_sends = 0
        self._failures = 0
        self._failure_examples: list[FailedRequest] = []
        self._versions: dict[str, _VersionTally] = {}

    async def start(self) -> None:
        """Begin to send; after a `stop`, go on with the next flight.

        Raises
        ------
        Conflict
            It runs already.
        """
        if self._pacer is not None:
            raise Conflict("the replay runs already", hint="stop it before you start it again")
        self._pacer = asyncio.create_task(self._pace(), name="replay pacer")

    async def stop(self) -> None:
        """Stop sending, wait for what is in flight (at most the time-out), close connections."""
        if self._pacer is None:
            return
        self._pacer.cancel()
        pacer, self._pacer = self._pacer, None
        await asyncio.gather(pacer, *self._tasks, return_exceptions=True)
        self._connections.close()
        if not pacer.cancelled():
            self._crash = self._crash or pacer.exception()
        if self._crash is not None:
            raise self._crash

    def snapshot(self) -> ReplaySnapshot:
        """Return the counts up to now."""
        rounds, position = divmod(self._sent, len(self._flights))
        return ReplaySnapshot(
            sent=self._sent,
            completed=self._completed,
            in_flight=self._sent - self._completed,
            incomplete_sent=self._incomplete_sent,
            late_sends=self._late_sends,
            failures=self._failures,
            failure_examples=tuple(self._failure_examples),
            position=position,
            rounds=rounds,
            versions={name: tally.snapshot() for name, tally in self._versions.items()},
        )

    async def _pace(self) -> None:
        due = perf_counter()
        while True:
            if (wait_s := due - perf_counter()) > 0:
                await asyncio.sleep(wait_s)
            await self._room.acquire()
            self._late_sends += perf_counter() - due > LATE_AFTER_S
            request = build_request(self._flights, self._sent % len(self._flights))
            self._sent += 1
            self._incomplete_sent += request.incomplete
            task = asyncio.create_task(self._send(request))
            self._tasks.add(task)
            task.add_done_callback(self._settle)
            due = max(due + self._period_s, perf_counter() - MAX_BACKLOG_S)

    def _settle(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        self._room.release()
        self._completed += 1
        # What a request may meet is counted in _send: anything else is a fault of this module.
        if not task.cancelled() and (crash := task.exception()) and self._crash is None:
            self._crash = crash
            if self._pacer is not None:
                self._pacer.cancel()

    async def _send(self, request: FlightRequest) -> None:
        started = perf_counter()  # the clock of uvloop's loop counts whole milliseconds
        try:
            async with asyncio.timeout(self._timeout_s):
                answer = await self._connections.send(request)
        except TimeoutError:
            self._record_failure(request, UNKNOWN, f"no answer within {self._timeout_s:g} s")
        except (OSError, httptools.HttpParserError) as error:
            self._record_failure(request, UNKNOWN, f"{type(error).__name__}: {error}")
        else:
            self._record_answer(request, answer, perf_counter() - started)

    def _record_answer(self, request: FlightRequest, answer: _Answer, latency_s: float) -> None:
        version = answer.headers.get("x-modelplane-version", UNKNOWN)
        assigned = answer.headers.get("x-modelplane-assigned", version)
        tally = self._tally(version)
        tally.served += 1
        tally.statuses[answer.status] += 1
        tally.latencies_s.append(latency_s)
        self._tally(assigned).assigned += 1
        if answer.status != 200:
            said = answer.body[:200].decode(errors="replace")
            self._record_failure(request, version, f"status {answer.status}: {said}")
            return
        predicted = _read_prediction(answer.body)
        if predicted is None:
            self._record_failure(request, version, "status 200 without a prediction")
            return
        self._tally(assigned).shielded += assigned != version
        tally.outcomes[predicted, request.late] += 1
        if self._on_answer is not None:
            self._on_answer(request)

    def _record_failure(self, request: FlightRequest, version: str, cause: str) -> None:
        self._failures += 1
        if len(self._failure_examples) < MAX_FAILURE_EXAMPLES:
            example = FailedRequest(request.row, request.user_id, version, cause)
            self._failure_examples.append(example)

    def _tally(self, version: str) -> _VersionTally:
        return self._versions.setdefault(version, _VersionTally())


def _read_prediction(body: bytes) -> bool | None:
    try:
        outputs = json.loads(body)["outputs"]
        label = next(tensor["data"][0] for tensor in outputs if tensor["name"] == "predictions")
    except (ValueError, LookupError, TypeError, StopIteration):
        return None
    return bool(label)


@dataclass(slots=True)
class _Answer:
    status: int = 0
    headers: dict[str, str] = field(default_factory=dict)
    body: bytes = b""


class _ConnectionPool:
    """Keep-alive connections to one host; as many as there are requests at once."""

    def __init__(self, url: str, headers: Mapping[str, str]) -> None:
        parts = urlsplit(url)
        if parts.scheme != "http" or not parts.hostname:
            raise InvalidResource(f"the replay sends to http://HOST:PORT/…, not to {url!r}")
        self._host, self._port = parts.hostname, parts.port or 80
        target = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
        lines = [f"POST {target} HTTP/1.1", f"host: {parts.netloc}"]
        lines += ["content-type: application/json"]
        lines += [f"{name}: {value}" for name, value in headers.items()]
        self._head = "\r\n".join(lines)
        self._idle: list[_Connection] = []

    async def send(self, request: FlightRequest) -> _Answer:
        """Send on an idle connection, or on a new one.

        Raises
        ------
        OSError
            The connection was refused, reset or closed before the answer was whole.
        httptools.HttpParserError
            The answer is not HTTP.
        """
        connection = self._take_idle() or await self._connect()
        head = (
            f"{self._head}\r\nx-user-id: {request.user_id}\r\n"
            f"content-length: {len(request.body)}\r\n\r\n"
        )
        try:
            answer = await connection.exchange(head.encode() + request.body)
        except BaseException:
            connection.close()  # an answer may still be under way: not to be used again
            raise
        self._idle.append(connection)
        return answer

    def _take_idle(self) -> _Connection | None:
        while self._idle:
            connection = self._idle.pop()  # the last one used is the least likely to be stale
            if connection.is_usable:
                return connection
            connection.close()
        return None

    async def _connect(self) -> _Connection:
        loop = asyncio.get_running_loop()
        _, connection = await loop.create_connection(_Connection, self._host, self._port)
        return connection

    def close(self) -> None:
        """Close the idle connections; none is in use when the replay has stopped."""
        for connection in self._idle:
            connection.close()
        self._idle.clear()


class _Connection(asyncio.Protocol):
    """One HTTP/1.1 connection, one exchange at a time; also the parser's callbacks."""

    def __init__(self) -> None:
        self._transport: asyncio.Transport | None = None
        self._parser: Any = None
        self._answer = _Answer()
        self._waiter: asyncio.Future[_Answer] | None = None
        self.is_usable = True

    async def exchange(self, message: bytes) -> _Answer:
        """Send a whole request and return the whole answer."""
        if self._transport is None or not self.is_usable:
            raise ConnectionResetError("the connection was closed")
        self._answer = _Answer()
        self._parser = httptools.HttpResponseParser(self)
        self._waiter = asyncio.get_running_loop().create_future()
        self._transport.write(message)
        return await self._waiter

    def close(self) -> None:
        self.is_usable = False
        if self._transport is not None:
            self._transport.close()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)  # uvloop's is no subclass of it

    def connection_lost(self, exc: Exception | None) -> None:
        self._fail(exc or ConnectionResetError("the connection was closed before the answer"))

    def data_received(self, data: bytes) -> None:
        if self._parser is None:
            self._fail(ConnectionResetError("bytes came that nobody asked for"))
            return
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserError as error:
            self._fail(error)

    def _fail(self, error: Exception) -> None:
        self.close()
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_exception(error)

    def on_header(self, name: bytes, value: bytes) -> None:
        self._answer.headers[name.decode("latin-1").lower()] = value.decode("latin-1")

    def on_body(self, body: bytes) -> None:
        self._answer.body += body

    def on_message_complete(self) -> None:
        self._answer.status = self._parser.get_status_code()
        self.is_usable = self.is_usable and self._parser.should_keep_alive()
        self._parser = None  # whatever comes now belongs to no request
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(self._answer)
