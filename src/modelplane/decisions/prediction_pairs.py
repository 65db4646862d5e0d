"""Requests and responses that come separately, in either order, brought together. Pure.

KServe's logger posts each half alone. Called by the API; bounded in number and in time, so that a
half that never comes costs nothing.
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
    max_halves
        How many; the oldest are given up for newer ones.
    max_age_s
        How long, seconds.
    """

    def __init__(self, max_halves: int = 5_000, max_age_s: float = 30.0) -> None:
        self._max_halves = max_halves
        self._max_age_s = max_age_s
        self._halves: OrderedDict[tuple[object, ...], tuple[float, PredictionEvent]] = OrderedDict()

    def __len__(self) -> int:
        """Return how many halves wait."""
        return len(self._halves)

    def put(self, events: Sequence[PredictionEvent], now_s: float) -> Paired:
        """Take events in; return what is complete, and what waited for too long.

        Parameters
        ----------
        now_s
            Seconds that never go back.
        """
        pairs: list[Pair] = []
        for event in events:
            key = event.pair_key
            waiting = self._halves.get(key)
            if waiting is None or waiting[1].type == event.type:
                self._halves.setdefault(key, (now_s, event))  # the same again changes nothing
                continue
            del self._halves[key]
            other = waiting[1]
            pairs.append((event, other) if event.type == REQUEST_TYPE else (other, event))
        lost: list[PredictionEvent] = []
        while self._halves:
            since_s, event = next(iter(self._halves.values()))
            if len(self._halves) <= self._max_halves and now_s - since_s < self._max_age_s:
                break
            self._halves.popitem(last=False)
            if event.type == REQUEST_TYPE:
                lost.append(event)
            else:
                pairs.append((None, event))
        return Paired(pairs, lost)
