"""An alert's life: `for` means what it says, flapping pages once, nothing is lost in between."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from itertools import pairwise

from hypothesis import given, settings
from hypothesis import strategies as st

from modelplane.decisions.alerts import (
    FLAPPING_CHANGES,
    FLAPPING_WINDOW,
    REST,
    Observation,
    alert_name,
    close_for_rule,
    decide_alert,
    fingerprint,
    kept_until,
)
from modelplane.resources.alerting import MAX_HISTORY, AlertRule, AlertStatus

START = datetime(2026, 1, 5, 9, 0, tzinfo=UTC)


def at(seconds: float) -> datetime:
    return START + timedelta(seconds=seconds)


def rule(for_s: float = 0, keep_firing_for_s: float = 0) -> AlertRule:
    return AlertRule(alert="X", expr="up == 0", for_s=for_s, keep_firing_for_s=keep_firing_for_s)


def see(
    status: AlertStatus | None, of: AlertRule, seconds: float, value: float | None
) -> AlertStatus | None:
    seen = Observation(at(seconds), value, {"summary": f"value {value}"})
    after = decide_alert(status, of, seen)
    # What is stored is what is decided by: a restart of the control plane changes nothing.
    return None if after is None else AlertStatus.model_validate(after.to_dict())


def phase(status: AlertStatus | None) -> str:
    return status.phase if status is not None else ""


def follow(of: AlertRule, seen: list[tuple[float, float | None]]) -> list[str]:
    status, phases = None, []
    for seconds, value in seen:
        status = see(status, of, seconds, value)
        phases.append(phase(status))
    return phases


def test_two_minutes_are_two_minutes_of_evaluations_without_a_gap() -> None:
    seconds = range(0, 125)
    phases = follow(rule(for_s=120), [(s, 1.0) for s in seconds])
    assert phases[119] == "Pending"
    assert phases[120] == "Firing"


def test_a_gap_begins_the_two_minutes_anew() -> None:
    seen: list[tuple[float, float | None]] = [(s, None if s == 100 else 1.0) for s in range(0, 225)]
    phases = follow(rule(for_s=120), seen)
    assert phases[99:102] == ["Pending", "Resolved", "Pending"]
    assert "Firing" not in phases[:221]
    assert phases[221] == "Firing"


def test_an_evaluation_that_was_not_made_is_no_gap() -> None:
    phases = follow(rule(for_s=120), [(0, 1.0), (1, 1.0), (90, 1.0), (120, 1.0)])
    assert phases == ["Pending", "Pending", "Pending", "Firing"]


def test_without_for_it_fires_at_once_and_ends_at_once() -> None:
    status = see(None, rule(), 0, 3.0)
    assert status is not None
    assert (status.phase, status.value, status.active_at, status.fired_at) == (
        "Firing", 3.0, at(0), at(0),
    )  # fmt: skip
    assert status.annotations == {"summary": "value 3.0"}
    over = see(status, rule(), 1, None)
    assert over is not None
    assert (over.phase, over.resolved_at) == ("Resolved", at(1))
    assert [change.phase for change in over.history] == ["Pending", "Firing", "Resolved"]


def test_it_fires_on_for_as_long_as_the_rule_says() -> None:
    of = rule(keep_firing_for_s=60)
    status = see(None, of, 0, 1.0)
    status = see(status, of, 10, None)
    assert phase(status) == "Firing"
    status = see(status, of, 69, None)
    assert phase(status) == "Firing"
    back = see(status, of, 69.5, 1.0)
    assert back is not None
    assert back.missing_since is None
    assert phase(see(status, of, 70, None)) == "Resolved"
    assert phase(see(back, of, 70, None)) == "Firing"


def test_the_next_time_is_another_episode_of_the_same_alert() -> None:
    status = see(None, rule(), 0, 1.0)
    status = see(status, rule(), 1, None)
    again = see(status, rule(), 4000, 1.0)
    assert again is not None
    assert (again.episode, again.fired_at, again.resolved_at) == (2, at(4000), None)
    assert len(again.history) == 5


def test_what_never_held_is_nothing() -> None:
    assert see(None, rule(), 0, None) is None


def flap(seconds_each: float, times: int) -> list[tuple[float, float | None]]:
    return [(i * seconds_each, None if i % 2 else 1.0) for i in range(times)]


def test_what_comes_and_goes_too_often_fires_on_until_it_rests() -> None:
    of, status = rule(), None
    for seconds, value in flap(30, 5):
        status = see(status, of, seconds, value)
    assert status is not None
    assert status.flapping, "the fifth change is one too many"
    for seconds, value in flap(30, 40)[5:]:
        status = see(status, of, seconds, value)
        assert phase(status) == "Firing"
    last = 39 * 30.0
    assert phase(see(status, of, last + REST.total_seconds() - 1, None)) == "Firing"
    rested = see(status, of, last + REST.total_seconds(), None)
    assert rested is not None
    assert (rested.phase, rested.flapping) == ("Resolved", False)


def test_what_flapped_and_then_stays_wrong_simply_fires() -> None:
    of, status = rule(), None
    for seconds, value in flap(30, 7):
        status = see(status, of, seconds, value)
    last = 6 * 30.0
    status = see(status, of, last + REST.total_seconds(), 1.0)
    assert status is not None
    assert (status.phase, status.flapping) == ("Firing", False)


def test_slow_comings_and_goings_are_no_flapping() -> None:
    each = FLAPPING_WINDOW.total_seconds() / FLAPPING_CHANGES + 1
    phases = follow(rule(), flap(each, 20))
    assert phases == ["Firing", "Resolved"] * 10


def test_an_alert_without_a_rule_is_closed_and_one_that_is_over_stays_so() -> None:
    firing = see(None, rule(), 0, 1.0)
    assert firing is not None
    closed = close_for_rule(firing, at(5), "its rule is gone")
    assert (closed.phase, closed.history[-1].message) == ("Resolved", "its rule is gone")
    assert close_for_rule(closed, at(9), "again") == closed


def test_what_never_fired_is_soon_forgotten() -> None:
    pending = see(see(None, rule(for_s=60), 0, 1.0), rule(for_s=60), 1, None)
    fired = see(see(None, rule(), 0, 1.0), rule(), 1, None)
    assert pending is not None
    assert fired is not None
    soon, late = kept_until(pending), kept_until(fired)
    assert soon is not None
    assert late is not None
    assert soon - at(1) < timedelta(hours=1) < timedelta(days=7) < late - at(1)


walks = st.lists(
    st.tuples(st.floats(0.5, 400, allow_nan=False), st.booleans()), min_size=1, max_size=80
)


@settings(max_examples=200)
@given(walk=walks, for_s=st.sampled_from([0, 60, 120]), keep_s=st.sampled_from([0, 30]))
def test_whatever_happens_the_promises_hold(
    walk: list[tuple[float, bool]], for_s: float, keep_s: float
) -> None:
    of = rule(for_s, keep_s)
    status: AlertStatus | None = None
    now_s, held_since = 0.0, None
    told: list[float] = []
    for step_s, holds in walk:
        now_s += step_s
        held_since = (held_since if held_since is not None else now_s) if holds else None
        before = status
        status = see(status, of, now_s, 1.0 if holds else None)
        if status is None:
            assert not holds
            continue
        assert len(status.history) <= MAX_HISTORY
        if phase(before) != "Firing" and status.phase == "Firing":
            assert held_since is not None
            assert now_s - held_since >= for_s - 1e-3, "it fires only after `for` without a gap"
        if holds and held_since is not None and now_s - held_since > for_s + 1e-3:
            assert status.phase == "Firing", "what held for so long fires"
        if before is not None and before.phase != status.phase:
            told += [now_s] * (status.phase == "Firing" or before.phase == "Firing")
        if status.phase == "Resolved":
            assert not status.flapping
    window_s = FLAPPING_WINDOW.total_seconds()
    for start in told:
        inside = [moment for moment in told if start <= moment < start + window_s]
        assert len(inside) <= FLAPPING_CHANGES + 2, "people are not told more often"


@given(labels=st.dictionaries(st.text(min_size=1, max_size=8), st.text(max_size=8), max_size=4))
def test_the_fingerprint_goes_by_the_labels_and_not_by_their_order(labels: dict[str, str]) -> None:
    backwards = dict(reversed(list(labels.items())))
    assert fingerprint(labels) == fingerprint(backwards)
    assert len(fingerprint(labels)) == 16


def test_the_fingerprint_is_that_of_prometheus() -> None:
    # From prometheus/common, model/signature_test.go: labelSetToFingerprint.
    labels = {"name": "garland, briggs", "fear": "love is not enough"}
    assert int(fingerprint(labels), 16) == 5799056148416392346


def test_names_tell_alerts_apart() -> None:
    names = [
        alert_name(name, labels)
        for name in ("High latency", "High-latency", "Höhe", "H" * 300)
        for labels in ({}, {"a": "b"})
    ]
    assert len(set(names)) == len(names)
    assert all(len(name) <= 128 for name in names)
    assert all(before != after for before, after in pairwise(names))
