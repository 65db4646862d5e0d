"""Requests and responses that come separately, in either order, brought together. Pure.

KServe's logger posts each half alone. Called by the API; bounded in number, bytes and time, so
that a half that never comes costs little.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass

from modelplane.decisions.prediction_events import REQUEST_TYPE, PredictionEvent

Pair = tuple[PredictionEvent | None, PredictionEvent]
"""A request, if it came, and its response."""


@dataclass(frozen=True, slots=True)
class Paired:
    """What came of some events.

    Attributes
    ----------
    pairs
        Answered requests; a response whose request did not come in time stands alone.
    lost
        Requests whose response did not come in time.
    """

    pairs: Sequence[Pair]
    lost: Sequence[PredictionEvent]


class PairBuffer:
    """Holds halves until the other one comes.

    Parameters
    ----------
    max_halves, max_bytes
        How many, and of what size; the oldest are given up for newer ones.
    max_age_s
        How long, seconds.
    """

    def __init__(
        self,
        max_halves: int = 5_000,
        max_age_s: float = 30.0,
        max_bytes: int = 64 * 2**20,
    ) -> None:
        self._max_halves = max_halves
        self._max_age_s = max_age_s
        self._max_bytes = max_bytes
        self._bytes = 0
        self._halves: OrderedDict[tuple[object, ...], _Half] = OrderedDict()

    def __len__(self) -> int:
        """Return how many halves wait."""
        return len(self._halves)

    def put(
        self, events: Sequence[PredictionEvent], now_s: float, *, size_bytes: int = 0
    ) -> Paired:
        """Take events in; return what is complete, and what waited for too long.

        Parameters
        ----------
        now_s
            Seconds that never go back.
        size_bytes
            Of the events together, as they were sent.
        """
        pairs: list[Pair] = []
        share = size_bytes // max(1, len(events))
        for event in events:
            key = event.pair_key
            waiting = self._halves.get(key)
            if waiting is None:
                self._halves[key] = _Half(now_s, event, share)
                self._bytes += share
            elif waiting.event.type != event.type:  # the same again changes nothing
                self._forget(key)
                other = waiting.event
                pairs.append((event, other) if event.type == REQUEST_TYPE else (other, event))
        lost: list[PredictionEvent] = []
        while self._halves:
            key, oldest = next(iter(self._halves.items()))
            has_room = len(self._halves) <= self._max_halves and self._bytes <= self._max_bytes
            if has_room and now_s - oldest.since_s < self._max_age_s:
                break
            self._forget(key)
            if oldest.event.type == REQUEST_TYPE:
                lost.append(oldest.event)
            else:
                pairs.append((None, oldest.event))
        return Paired(pairs, lost)

    def _forget(self, key: tuple[object, ...]) -> None:
        self._bytes -= self._halves.pop(key).size_bytes


@dataclass(frozen=True, slots=True)
class _Half:
    since_s: float
    event: PredictionEvent
    size_bytes: int
