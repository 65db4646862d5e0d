"""The predictions that this server remembers until somebody fetches them.

Used by ``app``, on the event loop's thread. Off until it is told what to keep: on the command
line, and by whoever fetches, with each page (``POST`` to `PREDICTIONS_PATH`), so that a change
needs no restart. Only requests that came through a gateway, which names their routing rule in
`RULE_HEADER`, are kept, and of those only the answered ones.

Bounded in number and bytes. Nobody need ever fetch: the oldest go, and the rows in them are
counted. A page is written for a millisecond at a time, with pauses that are longer.
"""

from __future__ import annotations

import asyncio
import json
import logging
import secrets
import time
from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass, replace
from hashlib import blake2b
from itertools import islice
from typing import Any

from modelplane_runtime.prediction_events import (
    MAX_BODY_BYTES,
    EventWriter,
    Exchange,
    LogSettings,
    parse_settings,
)

logger = logging.getLogger(__name__)

RULE_HEADER = b"x-modelplane-rule"
"""Its value names the routing rule of the request. Gateways set it; clients cannot."""

COPY_HEADER = b"x-modelplane-copy"
"""On copies of requests only, whose answers nobody gets."""

PREDICTIONS_PATH = "/modelplane/predictions"
"""Where pages are fetched: ``POST {"after": CURSOR, "log": SETTINGS or null}``."""

MAX_REQUESTS = 20_000
MAX_BYTES = 16 * 1024 * 1024
PAGE_BYTES = 1024 * 1024
MAX_EVENTS_BYTES = 2 * 1024 * 1024
MAX_QUESTION_BYTES = 256 * 1024
_PAGE_REQUESTS = 2000
_BURST_S = 0.001
_PAUSE_S = 0.002
_ENTRY_BYTES = 1024  # what an entry takes beside its bodies, about
_LARGE_BYTES = 16 * 1024
_MAX_HEADER_CHARS = 200
_MAX_CURSOR_CHARS = 64


@dataclass(frozen=True, slots=True)
class Question:
    """What somebody who fetches says."""

    after: str
    settings: LogSettings | None


def parse_question(body: bytes) -> Question:
    """Read what a page is asked for with; raises ValueError when it is something else."""
    document = json.loads(body)
    if not isinstance(document, dict) or not isinstance(document.get("after"), str):
        raise ValueError('expected {"after": CURSOR, "log": SETTINGS or null}')
    log = document.get("log")
    return Question(document["after"], None if log is None else parse_settings(log))


class PredictionLog:
    """A queue of answered requests that forgets the oldest.

    Attributes
    ----------
    settings
        What is kept; None: nothing.
    dropped
        Rows that were lost, in all.
    """

    def __init__(
        self,
        settings: LogSettings | None = None,
        *,
        max_requests: int = MAX_REQUESTS,
        max_bytes: int = MAX_BYTES,
    ) -> None:
        self.settings = settings
        self.dropped = 0
        self._max_requests = max_requests
        self._max_bytes = max_bytes
        self._life = secrets.token_hex(4)
        self._kept: deque[Exchange] = deque()
        self._bytes = 0
        self._first = 1  # sequence of the oldest that is kept
        self._given = 0
        self._doubtful: deque[tuple[int, int]] = deque()  # given and forgotten: sequence, rows
        self._dropped_told = 0

    def __len__(self) -> int:
        """Return how many requests wait to be fetched."""
        return len(self._kept)

    def configure(self, settings: LogSettings | None) -> None:
        """Keep this from now on; None stops the log and forgets what it holds.

        What either the settings of its time or these do not want kept is not told.
        """
        if settings is None:
            self._first += len(self._kept)
            self._kept.clear()
            self._bytes = 0
        elif settings != self.settings:
            self._kept = deque(
                replace(kept, settings=settings.stricter(kept.settings)) for kept in self._kept
            )
        self.settings = settings

    def add(
        self,
        headers: Mapping[bytes, bytes],
        request: bytes,
        response: bytes,
        *,
        request_id: str,
        body_id: str | None,
        rows: int,
        latency_s: float,
    ) -> None:
        """Keep one answered request, unless it is not wanted.

        Parameters
        ----------
        headers
            Of the request, by lower-case name.
        request, response
            The bodies.
        request_id
            As the client is told; whether the request is in the sample hangs on it alone, so that
            each server decides alike.
        body_id
            The ``id`` in the body.
        rows
            Rows predicted.
        latency_s
            From the request's head to its answer.
        """
        settings, rule = self.settings, headers.get(RULE_HEADER)
        if settings is None or rule is None or not is_sampled(request_id, settings.sampling):
            return
        exchange = Exchange(
            request_id=request_id,
            body_id=body_id,
            at_s=time.time() - latency_s,
            latency_s=latency_s,
            request=request if len(request) <= MAX_BODY_BYTES else None,
            response=response if len(response) <= MAX_BODY_BYTES else None,
            rows=rows,
            rule=_text(rule),
            mirrored=COPY_HEADER in headers,
            headers={
                name: _text(value)
                for name in settings.headers
                if (value := headers.get(name.encode())) is not None
            },
            settings=settings,
        )
        self._kept.append(exchange)
        self._bytes += exchange.size_bytes + _ENTRY_BYTES
        while len(self._kept) > self._max_requests or self._bytes > self._max_bytes:
            if self._first > self._given:
                self.dropped += self._kept[0].rows
            else:  # has it arrived? The next question tells.
                self._doubtful.append((self._first, self._kept[0].rows))
            self._forget_oldest()

    async def write_page(self, after: str, writer: EventWriter) -> bytes:
        """Return what came after a cursor as JSON, and forget what came before.

        A cursor of another server's life, or none, is the beginning of what is kept. Other
        requests are served meanwhile.

        Returns
        -------
        bytes
            ``events``, and the ``rows`` that they tell of; ``next``: the cursor to ask with, which
            says that these have arrived; ``more``: whether there is more already; ``dropped``:
            rows lost since the last page that arrived.
        """
        self._acknowledge(after)
        parts: list[bytes] = []
        rows, size, sequence = 0, 0, self._first - 1
        burst_began_s = time.perf_counter()
        for exchange in list(islice(self._kept, _PAGE_REQUESTS)):
            if size >= PAGE_BYTES:
                break
            if time.perf_counter() - burst_began_s > _BURST_S:
                # A pause, not only a turn: prediction threads need the interpreter to themselves.
                await asyncio.sleep(_PAUSE_S)
                burst_began_s = time.perf_counter()
            sequence += 1
            if sequence < self._first:  # forgotten, and counted, while those before were written
                continue
            self._given = sequence
            try:
                written = await _write(writer, exchange)
            except Exception:
                # One that cannot be told of must not hold up those behind it.
                logger.exception("a prediction could not be logged")
                self.dropped += exchange.rows
                continue
            parts += written
            rows += exchange.rows
            size += sum(map(len, written))
        head: dict[str, Any] = {
            "next": f"{self._life}.{sequence}.{self.dropped}",
            "more": sequence < self._first + len(self._kept) - 1,
            "dropped": self.dropped - self._dropped_told,
            "rows": rows,
        }
        return b'%s,"events":[%s]}' % (json.dumps(head)[:-1].encode(), b",".join(parts))

    def _acknowledge(self, after: str) -> None:
        life, _, rest = after[:_MAX_CURSOR_CHARS].partition(".")
        sequence, _, dropped = rest.partition(".")
        arrived = 0
        if life == self._life and sequence.isdecimal() and dropped.isdecimal():
            arrived = int(sequence)
            self._dropped_told = min(int(dropped), self.dropped)
            while self._kept and self._first <= arrived:
                self._forget_oldest()
        while self._doubtful:
            number, rows = self._doubtful.popleft()
            self.dropped += rows if number > arrived else 0

    def _forget_oldest(self) -> None:
        self._bytes -= self._kept.popleft().size_bytes + _ENTRY_BYTES
        self._first += 1


async def _write(writer: EventWriter, exchange: Exchange) -> list[bytes]:
    if exchange.size_bytes <= _LARGE_BYTES:
        return writer.write(exchange)
    written = await asyncio.to_thread(writer.write, exchange)
    if sum(map(len, written)) <= MAX_EVENTS_BYTES:
        return written
    # A matrix of very many named columns takes far more room as columns than as a matrix.
    return writer.write(replace(exchange, request=None))


def is_sampled(request_id: str, sampling: float) -> bool:
    """Tell whether a request is in the sample; the same on every server.

    Parameters
    ----------
    request_id
        Its id.
    sampling
        Share of the requests, percent.

    Examples
    --------
    >>> is_sampled("a", 100.0), is_sampled("a", 0.0)
    (True, False)
    """
    if sampling >= 100.0:
        return True
    digest = blake2b(request_id.encode(), digest_size=8).digest()
    return int.from_bytes(digest, "big") * 100.0 < sampling * 2.0**64


def _text(value: bytes) -> str:
    return value.decode("ascii", "replace")[: _MAX_HEADER_CHARS + 1]
