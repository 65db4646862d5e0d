"""Freeze windows: whether now is a time in which nothing new begins, and until when.

Called by `promotion_guards` and `policy_replay`. Pure. Weekly windows are meant in local time, so
they keep their hours when clocks change: where a local time comes twice or not at all, the
window is the longer of the two it could be.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime, time, timedelta
from functools import lru_cache
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

from modelplane.resources.promotion_policy import FreezeWindow

_DAYS = ("mon", "tue", "wed", "thu", "fri", "sat", "sun")
_LOOK_AHEAD = timedelta(days=400)


@dataclass(frozen=True, slots=True)
class Freeze:
    """A freeze that holds now.

    Attributes
    ----------
    window
        The one that holds now.
    until
        When the first moment without any freeze comes, UTC; windows that follow without a gap
        are one. None when there is none within a year.
    """

    window: FreezeWindow
    until: datetime | None

    def describe(self) -> str:
        """Return it in one sentence."""
        end = f"until {self.until:%Y-%m-%d %H:%M} UTC" if self.until else "without an end"
        reason = f": {self.window.reason}" if self.window.reason else ""
        return f"frozen {end}{reason}"


def load_zone(name: str) -> ZoneInfo | None:
    """Return a time zone by its IANA name; None when there is none of that name."""
    try:
        return _zone(name)
    except (ZoneInfoNotFoundError, ValueError, OSError):
        return None


def find_freeze(windows: Sequence[FreezeWindow], now: datetime) -> Freeze | None:
    """Return the freeze that holds at `now`, with its end; None when nothing is frozen.

    Parameters
    ----------
    windows
        Of all policies that count. One whose time zone is not known freezes until it is.
    now
        With a time zone.

    Examples
    --------
    >>> weekend = FreezeWindow(days=("sat", "sun"), timezone="Europe/Berlin")
    >>> find_freeze([weekend], datetime(2026, 3, 28, 12, tzinfo=UTC)).until.isoformat()
    '2026-03-29T22:00:00+00:00'
    """
    now = now.astimezone(UTC)
    first = next((window for window in windows if _end_of(window, now) is not None), None)
    if first is None:
        return None
    until, last = now, now + _LOOK_AHEAD
    while until < last:
        ends = [end for window in windows if (end := _end_of(window, until)) is not None]
        if not ends:
            return Freeze(first, until)
        until = max(ends)
    return Freeze(first, None)


def _end_of(window: FreezeWindow, now: datetime) -> datetime | None:
    """Return when the window that holds at `now` ends, UTC; None when it does not hold."""
    if window.starts_at is not None and window.ends_at is not None:
        holds = window.starts_at <= now < window.ends_at
        return window.ends_at.astimezone(UTC) if holds else None
    zone = load_zone(window.timezone)
    if zone is None:
        return now + _LOOK_AHEAD
    today = now.astimezone(zone).date()
    # A window may begin yesterday in local time and reach over midnight.
    spans = (_span(window, today + timedelta(days=shift), zone) for shift in (-1, 0, 1))
    ends = [span[1] for span in spans if span is not None and span[0] <= now < span[1]]
    return max(ends, default=None)


def _span(window: FreezeWindow, day: date, zone: ZoneInfo) -> tuple[datetime, datetime] | None:
    """Return begin and end of the window that begins on a local day, UTC."""
    if _DAYS[day.weekday()] not in window.days:
        return None
    start, end = _minutes(window.start or "00:00"), _minutes(window.end or "24:00")
    if end <= start:
        end += 24 * 60
    return min(_instants(day, start, zone)), max(_instants(day, end, zone))


def _instants(day: date, minutes: int, zone: ZoneInfo) -> tuple[datetime, datetime]:
    """Return both readings of a local time, which differ only around a change of clocks."""
    local = datetime.combine(day + timedelta(days=minutes // 1440), time(0))
    local = local.replace(hour=minutes % 1440 // 60, minute=minutes % 60, tzinfo=zone)
    return local.replace(fold=0).astimezone(UTC), local.replace(fold=1).astimezone(UTC)


def _minutes(clock: str) -> int:
    hours, minutes = clock.split(":")
    return int(hours) * 60 + int(minutes)


@lru_cache(maxsize=64)
def _zone(name: str) -> ZoneInfo:
    return ZoneInfo(name)
