"""The last answers of this server that somebody wants to compare with another version's.

Used by ``app``, on the event loop's thread only. A request that carries `COMPARE_HEADER` asks
for its answer to be kept; whoever compares reads them on this server's own socket at
`ANSWERS_PATH`. Holds a bounded number of answers and bytes and forgets what was read; an answer
that nobody reads in time is lost, which costs a comparison and nothing else.
"""

from __future__ import annotations

import json
from collections import deque
from dataclasses import dataclass

COMPARE_HEADER = b"x-modelplane-compare"
"""Its value names the request; the copy of a request has the same one."""

ANSWERS_PATH = "/modelplane/answers"
"""Where the answers are read: ``GET /modelplane/answers?after=SEQUENCE``."""

MAX_ANSWERS = 512
MAX_BYTES = 8 * 1024 * 1024
MAX_ANSWER_BYTES = 1024 * 1024
PAGE_BYTES = 1024 * 1024
_MAX_NAME_CHARS = 128


@dataclass(frozen=True, slots=True)
class _Kept:
    sequence: int
    name: str
    status: int
    seconds: float
    body: bytes


class AnswerLog:
    """A queue of answers that forgets the oldest.

    Attributes
    ----------
    dropped
        Answers that went unread, because too many came or one was too large.
    """

    def __init__(self, max_answers: int = MAX_ANSWERS, max_bytes: int = MAX_BYTES) -> None:
        self._max_answers = max_answers
        self._max_bytes = max_bytes
        self._answers: deque[_Kept] = deque()
        self._bytes = 0
        self._last = 0
        self._given = 0
        self.dropped = 0

    def add(self, name: bytes, status: int, seconds: float, body: bytes) -> None:
        """Keep one answer.

        Parameters
        ----------
        name
            The value of `COMPARE_HEADER`; one that is not short printable ASCII is not kept.
        status
            HTTP status; only the body of a 200 is kept.
        seconds
            From the request's head to its answer.
        body
            The answer, JSON.
        """
        text = name.decode("ascii", "replace")
        if (
            len(text) > _MAX_NAME_CHARS
            or " " in text
            or not (name.isascii() and text.isprintable())
        ):
            return
        if status != 200:
            body = b"null"
        if len(body) > MAX_ANSWER_BYTES:
            self.dropped += 1
            return
        self._last += 1
        self._answers.append(_Kept(self._last, text, status, seconds, body))
        self._bytes += len(body)
        while len(self._answers) > self._max_answers or self._bytes > self._max_bytes:
            self.dropped += self._answers[0].sequence > self._given
            self._forget_oldest()

    def page(self, after: int) -> bytes:
        """Return what came after a sequence number as JSON, and forget what came before.

        The answer's ``next`` is the number to ask with next time. A number that was never given
        is one of another server's life, and counts as 0.
        """
        if after > self._last:
            after = 0
        while self._answers and self._answers[0].sequence <= after:
            self._forget_oldest()
        parts: list[bytes] = []
        size = 0
        for kept in self._answers:
            if parts and size + len(kept.body) > PAGE_BYTES:
                break
            parts.append(_written(kept))
            size += len(kept.body)
            after = kept.sequence
        self._given = max(self._given, after)
        more = bool(self._answers) and after < self._last
        head = json.dumps({"next": after, "more": more, "dropped": self.dropped})
        return b'%s, "answers": [%s]}' % (head[:-1].encode(), b",".join(parts))

    def _forget_oldest(self) -> None:
        self._bytes -= len(self._answers.popleft().body)


def _written(kept: _Kept) -> bytes:
    fields = {"name": kept.name, "status": kept.status, "seconds": round(kept.seconds, 6)}
    # The body is JSON already; it is not parsed only to be written again.
    return b'%s, "answer": %s}' % (json.dumps(fields)[:-1].encode(), kept.body)


def read_after(query: bytes) -> int:
    """Return the number in ``after=NUMBER``; 0 when there is none.

    Examples
    --------
    >>> read_after(b"after=12"), read_after(b""), read_after(b"after=x")
    (12, 0, 0)
    """
    for part in query.split(b"&"):
        name, _, value = part.partition(b"=")
        if name == b"after" and value.isdigit() and len(value) < 20:
            return int(value)
    return 0
