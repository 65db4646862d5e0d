"""Moments as people say them: ``2026-11-17 14:02``, ``tuesday 14:02``, ``2h ago``. Pure.

Called by the commands that look back. Times without a zone are local.
"""

from __future__ import annotations

import re
from datetime import datetime, timedelta

from modelplane.errors import InvalidResource

_DAYS = ("monday", "tuesday", "wednesday", "thursday", "friday", "saturday", "sunday")
_TIME = re.compile(r"(\d{1,2}):(\d{2})(?::(\d{2}))?")
_AMOUNT = re.compile(r"(\d{1,6})\s*([a-z]+)")
_UNITS_S = {
    "s": 1, "sec": 1, "second": 1, "m": 60, "min": 60, "minute": 60, "h": 3600, "hour": 3600,
    "d": 86400, "day": 86400, "w": 604800, "week": 604800,
}  # fmt: skip
_HINT = "write it like '2026-11-17 14:02', 'tuesday 14:02', 'yesterday 9:30', '14:02' or '2h ago'"


def parse_moment(text: str, now: datetime) -> datetime:
    """Return the moment that `text` names, with the local time zone unless it has its own.

    Parameters
    ----------
    text
        An ISO 8601 date or time; a weekday, ``today`` or ``yesterday``, each with or without a
        time; a time; how long ago; ``now``. A weekday or a time alone is the last one that is
        not in the future. A day alone means its beginning.
    now
        The present, with a time zone.

    Raises
    ------
    InvalidResource
        It is none of these.
    """
    words = " ".join(text.lower().split())
    try:
        if words == "now":
            return now.astimezone()
        if words.endswith(" ago"):
            return (now - _parse_length(words.removesuffix(" ago"))).astimezone()
        return _parse_iso(text) or _parse_day_and_time(words.removeprefix("last "), now)
    except (ValueError, OverflowError):
        raise InvalidResource(f"not a time: {text[:80]!r}", hint=_HINT) from None


def show_moment(moment: datetime) -> str:
    """Return a moment in local time with the name of its zone.

    Two moments a year may have the same numbers; the zone (``CET``, ``CEST``) tells them apart.
    """
    return f"{moment.astimezone():%Y-%m-%d %H:%M:%S %Z}".strip()


def _parse_iso(text: str) -> datetime | None:
    try:
        given = datetime.fromisoformat(text.strip())
    except ValueError:
        return None
    return given.astimezone()


def _parse_length(words: str) -> timedelta:
    """Return ``2h``, ``3 days`` or ``1h 30m`` as a length of time."""
    rest = words.strip()
    if not rest:
        raise ValueError("no length of time")
    seconds = 0
    while rest:
        match = _AMOUNT.match(rest)
        if match is None:
            raise ValueError("not a length of time")
        unit = match[2] if match[2] in _UNITS_S else match[2].removesuffix("s")
        if unit not in _UNITS_S:
            raise ValueError("not a unit of time")
        seconds += int(match[1]) * _UNITS_S[unit]
        rest = rest[match.end() :].strip()
    return timedelta(seconds=seconds)


def _parse_day_and_time(words: str, now: datetime) -> datetime:
    day, _, time = words.partition(" ")
    if _TIME.fullmatch(day) and not time:
        day, time = "", day
    hour, minute, second = _parse_time(time) if time else (0, 0, 0)
    # Naive on purpose: the zone of that day, which may not be today's, is added at the end.
    local = now.astimezone().replace(tzinfo=None)
    wanted = local.replace(hour=hour, minute=minute, second=second, microsecond=0)
    if day == "yesterday":
        wanted -= timedelta(days=1)
    elif day in _DAYS or day in {name[:3] for name in _DAYS}:
        number = next(i for i, name in enumerate(_DAYS) if name.startswith(day))
        wanted -= timedelta(days=(local.weekday() - number) % 7)
        if wanted > local:
            wanted -= timedelta(days=7)
    elif time and not day:
        if wanted > local:
            wanted -= timedelta(days=1)
    elif day != "today":
        raise ValueError("not a day")
    return wanted.astimezone()


def _parse_time(text: str) -> tuple[int, int, int]:
    match = _TIME.fullmatch(text)
    if match is None:
        raise ValueError("not a time of day")
    return int(match[1]), int(match[2]), int(match[3] or 0)
