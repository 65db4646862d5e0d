"""Recent values of everything that is measured, for alert rules, playbooks and `/metrics`.

`controllers.measuring` writes one set of samples at a time; rules are evaluated over the last
hour. Lost with the process: rules whose ranges reach further back wait until they are filled.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Protocol

from modelplane.decisions.series import Sample


@dataclass(frozen=True, slots=True)
class Points:
    """One series, oldest point first; times are seconds since 1970."""

    labels: Mapping[str, str]
    times_s: Sequence[float]
    values: Sequence[float]


class SeriesRing(Protocol):
    """A bounded ring of samples."""

    def record(self, at: datetime, samples: Sequence[Sample]) -> None:
        """Keep one set. A series that is not in it is absent from then on."""

    def latest(self) -> tuple[datetime | None, Sequence[Sample]]:
        """Return the newest set and when it was taken."""

    def oldest(self) -> datetime | None:
        """Return when the oldest set was taken that is still there; None while there is none."""

    def newest(self, until: datetime) -> datetime | None:
        """Return when the newest set was taken that is not after `until`; None: there is none."""

    def points(
        self,
        name: str,
        matches: Callable[[Mapping[str, str]], bool],
        *,
        since: datetime,
        until: datetime,
    ) -> Sequence[Points]:
        """Return the points of all series of a name whose labels match: those after `since`, and
        not after `until`. A series without any is left out."""
