"""modelplane asks itself: `ports.alerting.Querier` over the ring of what it measures.

Made by `wiring` where no Prometheus is configured, asked by alert rules and playbooks. Evaluates
the subset of PromQL that `decisions.promql_reading` knows; everything else it refuses with the
reason.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from datetime import UTC, datetime, timedelta
from functools import lru_cache

from modelplane.decisions.promql import (
    EvaluationError,
    Expression,
    Labels,
    LabelTest,
    evaluate,
    reach_s,
)
from modelplane.decisions.promql_reading import NeedsPrometheus, read_promql
from modelplane.errors import TransientError
from modelplane.ports.alerting import QueryRefused, Result
from modelplane.ports.series import SeriesRing

LOOKBACK = timedelta(minutes=5)
"""A set older than this says nothing of now; the same as in Prometheus."""

_MOMENT = timedelta(microseconds=1)


class RingQuerier:
    """Implements `ports.alerting.Querier` over a `SeriesRing`.

    Parameters
    ----------
    ring
        What is known.

    Attributes
    ----------
    recorded
        Returns the names of the series that rules record: whoever evaluates them sets it.
    """

    def __init__(self, ring: SeriesRing) -> None:
        self._ring = ring
        self.recorded: Callable[[], Collection[str]] = frozenset
        self._read = lru_cache(maxsize=4096)(_read)

    async def query(self, expression: str) -> Sequence[Result] | QueryRefused:
        """Evaluate at the newest set. Raises `TransientError` before there is one."""
        at, _ = self._ring.latest()
        if at is None:
            raise TransientError("nothing has been measured yet", hint="try again in a second")
        return self.query_at(expression, at)

    def query_at(self, expression: str, at: datetime) -> Sequence[Result] | QueryRefused:
        """Evaluate at one moment.

        Raises
        ------
        TransientError
            The expression reaches further back than modelplane has been measuring.
        """
        read = self._read(expression, frozenset(self.recorded()))
        if isinstance(read, QueryRefused):
            return read
        self._check_reach(read, at)
        try:
            elements = evaluate(read, _RingSource(self._ring), at.timestamp())
        except EvaluationError as error:
            return QueryRefused(str(error))
        return [Result(element.labels, element.value) for element in elements]

    def _check_reach(self, expression: Expression, at: datetime) -> None:
        reach = timedelta(seconds=reach_s(expression))
        oldest = self._ring.oldest()
        if oldest is None or at - reach < oldest:
            begun = oldest or at
            wait_s = max(1.0, (begun + reach - at).total_seconds())
            raise TransientError(
                f"the expression reaches {reach.total_seconds():g} s back, and modelplane has "
                f"measured for {max(0.0, (at - begun).total_seconds()):.0f} s",
                retry_after_s=wait_s,
                hint="it is evaluated as soon as that is filled",
            )


def _read(expression: str, recorded: frozenset[str]) -> Expression | QueryRefused:
    try:
        read = read_promql(expression, recorded)
    except ValueError as error:
        return QueryRefused(str(error))
    if isinstance(read, NeedsPrometheus):
        return QueryRefused(f"it needs a Prometheus: {read.reason}")
    return read


class _RingSource:
    """Implements `decisions.promql.PointSource`: a series is there while it is in the sets."""

    def __init__(self, ring: SeriesRing) -> None:
        self._ring = ring

    def instant(self, name: str, test: LabelTest, at_s: float) -> Sequence[tuple[Labels, float]]:
        at = datetime.fromtimestamp(at_s, UTC)
        taken = self._ring.newest(at)
        if taken is None or at - taken > LOOKBACK:
            return []
        found = self._ring.points(name, test, since=taken - _MOMENT, until=taken)
        return [(points.labels, points.values[-1]) for points in found]

    def window(
        self, name: str, test: LabelTest, since_s: float, until_s: float
    ) -> Sequence[tuple[Labels, Sequence[float], Sequence[float]]]:
        since, until = (datetime.fromtimestamp(s, UTC) for s in (since_s, until_s))
        found = self._ring.points(name, test, since=since, until=until)
        return [(points.labels, points.times_s, points.values) for points in found]
