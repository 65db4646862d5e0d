"""Freeze windows: once or weekly, in local time, over midnight and over changes of clocks."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from modelplane.decisions.freezes import find_freeze, load_zone
from modelplane.resources.promotion_policy import FreezeWindow

DAYS = ("mon", "tue", "wed", "thu", "fri", "sat", "sun")


def window(**fields: Any) -> FreezeWindow:
    return FreezeWindow.model_validate(fields)


def at(text: str) -> datetime:
    return datetime.fromisoformat(text).replace(tzinfo=UTC)


def until(windows: list[FreezeWindow], now: str) -> str | None:
    freeze = find_freeze(windows, at(now))
    if freeze is None:
        return "free"
    return freeze.until.strftime("%Y-%m-%d %H:%M") if freeze.until else "for ever"


HOLIDAYS = window(**{"from": at("2026-12-20 00:00"), "to": at("2027-01-02 00:00")}, reason="rest")
WEEKEND = window(days=("sat", "sun"))
FRIDAY_NIGHT = window(days=("fri",), start="20:00", end="06:00", timezone="Europe/Berlin")
NIGHTS = window(days=DAYS, start="22:00", end="06:00", timezone="Europe/Berlin")


@pytest.mark.parametrize(
    ("windows", "now", "expected"),
    [
        ([HOLIDAYS], "2026-12-19 23:59", "free"),
        ([HOLIDAYS], "2026-12-20 00:00", "2027-01-02 00:00"),
        ([HOLIDAYS], "2027-01-02 00:00", "free"),
        ([WEEKEND], "2026-03-06 23:59", "free"),
        ([WEEKEND], "2026-03-07 00:00", "2026-03-09 00:00"),
        ([WEEKEND], "2026-03-08 12:00", "2026-03-09 00:00"),
        ([FRIDAY_NIGHT], "2026-03-06 18:59", "free"),
        ([FRIDAY_NIGHT], "2026-03-06 19:00", "2026-03-07 05:00"),
        ([FRIDAY_NIGHT], "2026-03-07 04:59", "2026-03-07 05:00"),
        ([FRIDAY_NIGHT], "2026-03-08 04:00", "free"),
        # Clocks go forward on 29 March 2026 at 01:00 UTC, back on 25 October.
        ([NIGHTS], "2026-03-29 00:30", "2026-03-29 04:00"),
        ([NIGHTS], "2026-10-25 00:30", "2026-10-25 05:00"),
        ([WEEKEND, window(days=("mon",), end="09:00")], "2026-03-07 10:00", "2026-03-09 09:00"),
        ([window(days=DAYS)], "2026-03-07 10:00", "for ever"),
        ([window(days=("sat",), start="09:00", end="09:00")], "2026-03-07 09:00",
         "2026-03-08 09:00"),
        ([], "2026-03-07 10:00", "free"),
    ],
)  # fmt: skip
def test_whether_and_until_when(windows: list[FreezeWindow], now: str, expected: str) -> None:
    assert until(windows, now) == expected


def test_a_local_time_that_comes_twice_or_not_at_all_freezes_longer() -> None:
    twice = window(days=("sun",), start="00:00", end="02:30", timezone="Europe/Berlin")
    assert until([twice], "2026-10-25 01:15") == "2026-10-25 01:30"
    missing = window(days=("sun",), start="02:30", end="04:00", timezone="Europe/Berlin")
    assert until([missing], "2026-03-29 00:45") == "2026-03-29 02:00"


def test_an_unknown_zone_freezes_rather_than_not() -> None:
    assert (
        until([window(days=("sat",), timezone="Europe/Atlantis")], "2026-03-04 10:00") is not None
    )
    assert load_zone("Europe/Atlantis") is None
    assert load_zone("../etc/passwd") is None


@pytest.mark.parametrize(
    "fields",
    [
        {},
        {"from": at("2026-01-01 00:00")},
        {"from": at("2026-01-02 00:00"), "to": at("2026-01-01 00:00")},
        {"from": at("2026-01-01 00:00"), "to": at("2026-01-02 00:00"), "days": ["sat"]},
        {"from": datetime(2026, 1, 1), "to": datetime(2026, 1, 2)},
        {"days": ["sat"], "start": "25:00"},
    ],
)
def test_a_window_is_either_once_or_weekly(fields: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        window(**fields)


_CLOCKS = st.builds(lambda h, m: f"{h:02}:{m:02}", st.integers(0, 23), st.integers(0, 59))
_ZONES = st.sampled_from(
    ["UTC", "Europe/Berlin", "America/New_York", "Asia/Kolkata", "Pacific/Apia"]
)
_WEEKLY = st.builds(
    lambda days, start, end, zone: window(days=tuple(days), start=start, end=end, timezone=zone),
    st.lists(st.sampled_from(DAYS), min_size=1, max_size=3, unique=True), _CLOCKS, _CLOCKS, _ZONES,
)  # fmt: skip
_ONCE = st.builds(
    lambda begin, hours: window(
        **{"from": at("2026-03-20 00:00") + timedelta(hours=begin),
           "to": at("2026-03-20 00:00") + timedelta(hours=begin + hours)}
    ),
    st.integers(0, 400), st.integers(1, 100),
)  # fmt: skip
_WINDOWS = st.lists(_WEEKLY | _ONCE, max_size=3)
_NOWS = st.integers(0, 20 * 24 * 60).map(lambda m: at("2026-03-20 00:00") + timedelta(minutes=m))


@given(_WINDOWS, _NOWS)
def test_until_is_the_first_free_moment(windows: list[FreezeWindow], now: datetime) -> None:
    freeze = find_freeze(windows, now)
    if freeze is None:
        return
    assert freeze.window in windows
    if freeze.until is None:
        return
    assert freeze.until > now
    assert find_freeze(windows, freeze.until) is None
    half = now + (freeze.until - now) / 2
    between = find_freeze(windows, half)
    assert between is not None
    assert between.until == freeze.until


@given(_WEEKLY, _NOWS)
def test_a_weekly_window_freezes_the_local_hours_it_names(
    weekly: FreezeWindow, now: datetime
) -> None:
    local = now.astimezone(ZoneInfo(weekly.timezone))
    if local.date() in _CHANGES:
        return
    clock, start, end = local.strftime("%H:%M"), weekly.start or "", weekly.end or ""
    today, yesterday = DAYS[local.weekday()], DAYS[local.weekday() - 1]
    over_midnight = end <= start
    frozen = today in weekly.days and clock >= start and (over_midnight or clock < end)
    frozen = frozen or (over_midnight and yesterday in weekly.days and clock < end)
    assert (find_freeze([weekly], now) is not None) == frozen


_CHANGES = [datetime(2026, month, day).date() for month, day in ((3, 28), (3, 29), (3, 30), (4, 5))]
