"""The answer to who meets which version, on plans alone; `tests/proxy` asks Envoy too."""

from __future__ import annotations

from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from modelplane.decisions.assignment import assign, bucket_of, find_user
from modelplane.decisions.routing import (
    TOTAL_WEIGHT,
    Endpoint,
    Mirror,
    RoutePlan,
    Rule,
    Segment,
    Variant,
)
from modelplane.decisions.segments import allocate
from modelplane.expressions.predicates import RequestFacts


def variant(version: str, role: str = "candidate") -> Variant:
    name = f"fraud.{version}"
    return Variant(name, version, role, 0, (Endpoint(name, "unix:/x"),))  # type: ignore[arg-type]


STABLE, SECOND, THIRD = variant("1.0.0", "stable"), variant("2.0.0"), variant("3.0.0")
WEST = Rule(
    "rule-1f",
    "user.region == 'west'",
    "s1",
    (Segment(SECOND.cluster, 1000), Segment(STABLE.cluster, 9000)),
)
RICH = Rule("rule-2a", "input.amount > 200", "s2", (Segment(THIRD.cluster, TOTAL_WEIGHT),))
DEFAULT = Rule("default", "", "s0", (Segment(STABLE.cluster, TOTAL_WEIGHT),))
IN_WEST = {"x-user-region": "west"}


def plan(*rules: Rule, **settings: object) -> RoutePlan:
    return RoutePlan("fraud", 3, (STABLE, SECOND, THIRD), rules=rules, **settings)  # type: ignore[arg-type]


def test_the_first_rule_that_holds_and_the_range_of_the_hash_decide() -> None:
    facts = RequestFacts(headers={**IN_WEST, "x-user-id": "alice"}, inputs={"amount": 300.0})
    found = assign(plan(WEST, RICH, DEFAULT), facts)
    bucket = bucket_of("alice", "s1")
    assert (found.rule, found.bucket, found.reason) == ("rule-1f", bucket, "user")
    assert found.version == ("2.0.0" if bucket < 1000 else "1.0.0")
    assert found.why[0] == "predicate of rule-1f holds: user.region is 'west'"
    assert f"bucket {bucket} of 10000 lies in" in found.why[1]


def test_what_no_predicate_takes_is_under_the_last_rule() -> None:
    found = assign(plan(WEST, RICH, DEFAULT), RequestFacts(headers={"x-user-id": "a"}))
    assert (found.rule, found.version, found.reason) == ("default", "1.0.0", "only-version")
    assert found.why == (
        "predicate of rule-1f does not hold: user.region is missing",
        "predicate of rule-2a does not hold: input.amount is missing",
        "default is for everybody else",
        "everybody under default meets 1.0.0",
    )


def test_without_a_user_the_answer_is_the_shares() -> None:
    found = assign(plan(WEST, DEFAULT), RequestFacts(headers=IN_WEST))
    assert (found.version, found.bucket, found.reason) == (None, None, "random")
    assert [(share.version, share.percentage) for share in found.shares] == [
        ("2.0.0", 10.0),
        ("1.0.0", 90.0),
    ]
    assert "names no user (header x-user-id)" in found.why[1]


def test_one_version_is_known_without_a_user() -> None:
    found = assign(plan(RICH, DEFAULT), RequestFacts(inputs={"amount": 201}))
    assert (found.rule, found.version, found.cluster) == ("rule-2a", "3.0.0", THIRD.cluster)


@pytest.mark.parametrize(
    ("allowed", "header", "version", "reason"),
    [
        (True, "3.0.0", "3.0.0", "header"),
        (True, "9.9.9", None, "refused"),
        (True, "", None, "refused"),
        (False, "3.0.0", "1.0.0", "only-version"),
    ],
)
def test_a_header_chooses_a_live_version_where_that_is_allowed(
    allowed: bool, header: str, version: str | None, reason: str
) -> None:
    facts = RequestFacts(headers={"x-modelplane-version": header})
    found = assign(plan(DEFAULT, allow_override=allowed), facts)
    assert (found.version, found.reason) == (version, reason)


def test_mirrors_are_told() -> None:
    shadowed = Rule(
        "default", "", "", (Segment(STABLE.cluster, TOTAL_WEIGHT),), (Mirror(SECOND.cluster, 2500),)
    )
    found = assign(plan(shadowed), RequestFacts())
    assert [(mirror.version, mirror.percentage) for mirror in found.mirrors] == [("2.0.0", 25.0)]
    assert found.why[-1].startswith("25 % are copied to 2.0.0")


@pytest.mark.parametrize(
    ("cookie", "user"),
    [
        ("uid=ana\u00a0; other=1", "ana\u00a0"),
        ("uid=a", "a"),
        ("x=1; uid=a b ; uid=c", "a b"),
        ("uid=; uid=c", "c"),
        (f"uid={'x' * 257}; uid=c", "c"),
        ("uid", None),
        ("UID=a", None),
        ("", None),
    ],
)
def test_a_cookie_tells_users_apart(cookie: str, user: str | None) -> None:
    facts = RequestFacts(headers={"cookie": cookie, "x-user-id": "other"})
    assert find_user(plan(DEFAULT, sticky_cookie="uid"), facts) == user


def test_a_predicate_that_is_not_valid_takes_nobody() -> None:
    broken = Rule("rule-9", "user.region ==", "", DEFAULT.segments)
    found = assign(plan(broken, DEFAULT), RequestFacts(headers=IN_WEST))
    assert found.rule == "default"
    assert "rule-9 is not valid: line 1" in found.why[0]


@given(st.text(max_size=20), st.lists(st.integers(0, 3000), min_size=2, max_size=6))
def test_a_user_leaves_no_version_but_stable_while_versions_grow(
    user: str, shares: list[int]
) -> None:
    before, ranges = None, allocate((), {}, "a")
    for share in sorted(shares):
        ranges = allocate(ranges, {"b": share, "c": share // 2}, "a")
        clusters = {"a": STABLE.cluster, "b": SECOND.cluster, "c": THIRD.cluster}
        segments = tuple(Segment(clusters[name], width) for name, width in ranges)
        found = assign(plan(Rule("default", "", "salt", segments)), RequestFacts(), user)
        assert before in {None, "1.0.0", found.version}
        before = found.version


def test_users_fall_on_versions_as_their_shares_say() -> None:
    facts = RequestFacts(headers=IN_WEST)
    found = Counter(assign(plan(WEST, DEFAULT), facts, f"u{i}").version for i in range(5000))
    assert 420 < found["2.0.0"] < 580
    assert found["1.0.0"] + found["2.0.0"] == 5000
