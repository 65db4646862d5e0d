"""Everything measured of the last hour in memory: `ports.series` as a bounded ring.

Made by `wiring`, filled by `controllers.measuring`, read by `/metrics` and by rules through
`querying`. No clock of its own: time is what the sets say.
"""

from __future__ import annotations

from array import array
from bisect import bisect_right
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime

from modelplane.decisions.promql_reading import REMEMBERED_S
from modelplane.decisions.series import Sample
from modelplane.ports.series import Points

MARGIN_S = 60.0
"""Kept beyond the hour, so that a range of an hour is whole."""

MAX_POINTS = 8_000_000
"""Points held in all, some 130 MB; beyond it the oldest tenth of each series goes early."""

MAX_SERIES = 50_000
"""Series of one set; what is beyond it is left out."""

_Key = tuple[tuple[str, str], ...]


@dataclass(slots=True)
class _Track:
    """One series; times in seconds since 1970, rising."""

    labels: Mapping[str, str]
    times_s: array[float] = field(default_factory=lambda: array("d"))
    values: array[float] = field(default_factory=lambda: array("d"))

    def drop(self, count: int) -> int:
        """Let go of the oldest points; return how many."""
        del self.times_s[:count], self.values[:count]
        return count


class MemorySeriesRing:
    """Implements `ports.series.SeriesRing`."""

    def __init__(self, *, max_points: int = MAX_POINTS, max_series: int = MAX_SERIES) -> None:
        self._tracks: dict[str, dict[_Key, _Track]] = {}
        self._sets_s: array[float] = array("d")
        self._latest: tuple[datetime | None, Sequence[Sample]] = (None, ())
        self._points = 0
        self._swept_s = 0.0
        self._max_points = max_points
        self._max_series = max_series

    def record(self, at: datetime, samples: Sequence[Sample]) -> None:
        """Keep one set; one that is not newer than the last is passed over.

        One that is far older says that the clock was set back: then everything begins anew, for
        otherwise nothing would be kept until the clock is where it was.
        """
        at_s = at.timestamp()
        if self._sets_s and at_s <= self._sets_s[-1]:
            if at_s > self._sets_s[-1] - MARGIN_S:
                return
            self._begin_anew()
        kept: list[Sample] = []
        for sample in samples[: self._max_series]:
            tracks = self._tracks.setdefault(sample.name, {})
            key = tuple(sorted(sample.labels.items()))
            track = tracks.get(key)
            if track is None:
                track = tracks[key] = _Track(dict(sample.labels))
            elif track.times_s[-1] == at_s:
                continue  # the same series twice in one set: the first counts
            kept.append(sample)
            track.times_s.append(at_s)
            track.values.append(sample.value)
            self._points += 1
        self._sets_s.append(at_s)
        self._latest = (at, tuple(kept))
        if at_s - self._swept_s >= MARGIN_S / 2:
            self._sweep(at_s)
        while self._points > self._max_points:
            self._thin()

    def latest(self) -> tuple[datetime | None, Sequence[Sample]]:
        """Return the newest set and when it was taken."""
        return self._latest

    def oldest(self) -> datetime | None:
        """Return when the oldest set was taken that is still there."""
        return datetime.fromtimestamp(self._sets_s[0], UTC) if self._sets_s else None

    def newest(self, until: datetime) -> datetime | None:
        """Return when the newest set was taken that is not after `until`."""
        index = bisect_right(self._sets_s, until.timestamp())
        return datetime.fromtimestamp(self._sets_s[index - 1], UTC) if index else None

    def points(
        self,
        name: str,
        matches: Callable[[Mapping[str, str]], bool],
        *,
        since: datetime,
        until: datetime,
    ) -> Sequence[Points]:
        """Return the points of all series of a name whose labels match."""
        found = []
        for track in self._tracks.get(name, {}).values():
            if not matches(track.labels):
                continue
            first = bisect_right(track.times_s, since.timestamp())
            last = bisect_right(track.times_s, until.timestamp())
            if first < last:
                times_s, values = track.times_s[first:last], track.values[first:last]
                found.append(Points(track.labels, times_s, values))
        return found

    def _begin_anew(self) -> None:
        self._tracks.clear()
        del self._sets_s[:]
        self._points, self._swept_s = 0, 0.0

    def _sweep(self, at_s: float) -> None:
        """Let go of what is too old."""
        self._swept_s = at_s
        before_s = at_s - REMEMBERED_S - MARGIN_S
        del self._sets_s[: bisect_right(self._sets_s, before_s)]
        for track in self._all():
            self._points -= track.drop(bisect_right(track.times_s, before_s))
        self._forget_empty()

    def _thin(self) -> None:
        for track in self._all():
            self._points -= track.drop(len(track.times_s) // 10 + 1)
        del self._sets_s[: len(self._sets_s) // 10 + 1]
        self._forget_empty()

    def _all(self) -> list[_Track]:
        return [track for tracks in self._tracks.values() for track in tracks.values()]

    def _forget_empty(self) -> None:
        for name, tracks in list(self._tracks.items()):
            for key in [key for key, track in tracks.items() if not track.times_s]:
                del tracks[key]
            if not tracks:
                del self._tracks[name]
