"""Ranges of users: every version has its share, and a growing one takes from stable only."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from modelplane.decisions.routing import TOTAL_WEIGHT
from modelplane.decisions.segments import Ranges, allocate

NAMES = ("b", "c", "d", "e")


def users(ranges: Ranges) -> list[str]:
    """Return the revision of each of the 10,000 places."""
    return [name for name, width in ranges for _ in range(width)]


shares = st.dictionaries(st.sampled_from(NAMES), st.integers(1, TOTAL_WEIGHT // len(NAMES)))


@given(st.lists(shares, max_size=6))
def test_each_has_its_share_whatever_came_before(course: list[dict[str, int]]) -> None:
    ranges: Ranges = ()
    for wanted in course:
        ranges = allocate(ranges, wanted, "a")
        held = users(ranges)
        assert len(held) == TOTAL_WEIGHT
        assert {name: held.count(name) for name in wanted} == wanted
        assert set(held) <= {"a", *wanted}


@given(st.lists(shares, min_size=1, max_size=6))
def test_only_as_many_leave_a_version_as_it_shrinks_by(course: list[dict[str, int]]) -> None:
    before: list[str] = []
    ranges: Ranges = ()
    for wanted in course:
        ranges = allocate(ranges, wanted, "a")
        now = users(ranges)
        for name in wanted:
            left = sum(was == name != is_ for was, is_ in zip(before, now, strict=False))
            assert left == max(0, before.count(name) - now.count(name))
        before = now


@given(shares, st.lists(st.tuples(st.sampled_from(NAMES), st.integers(0, 500)), max_size=12))
def test_a_ramp_only_ever_adds_users(begin: dict[str, int], growth: list[tuple[str, int]]) -> None:
    wanted = dict(begin)
    ranges = allocate((), wanted, "a")
    for name, more in growth:
        before = users(ranges)
        room = TOTAL_WEIGHT - sum(wanted.values())
        wanted[name] = wanted.get(name, 0) + min(more, room)
        ranges = allocate(ranges, {n: s for n, s in wanted.items() if s}, "a")
        for was, is_ in zip(before, users(ranges), strict=True):
            assert was == "a" or is_ == was


def test_a_new_stable_takes_what_the_old_one_had() -> None:
    assert allocate((("b", 1000), ("a", 9000)), {"b": 1000}, "c") == (("b", 1000), ("c", 9000))
    assert allocate((("b", 5000), ("a", 5000)), {}, "b") == (("b", TOTAL_WEIGHT),)


def test_the_ranges_stay_few() -> None:
    ranges: Ranges = ()
    for step in range(1, 26):
        ranges = allocate(ranges, dict.fromkeys(NAMES, step * 100), "a")
    assert len(ranges) <= 3 * len(NAMES)
