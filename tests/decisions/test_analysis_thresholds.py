"""Latency thresholds follow stable: a warm-up unlike the rest does not blind the tests."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

from modelplane.decisions.analysis import (
    LATENCY,
    AnalysisSettings,
    EvidenceState,
    MetricSettings,
    Tick,
    VersionCounts,
    absorb,
    start_evidence,
)

START = datetime(2026, 3, 1, 12, 0, tzinfo=UTC)


def settings(margin: float | None = None) -> AnalysisSettings:
    return AnalysisSettings(metrics=(MetricSettings("errors"), MetricSettings(LATENCY, margin)))


def seconds_of(
    state: EvidenceState, first: int, last: int, stable_us: int, rules: AnalysisSettings
) -> EvidenceState:
    """Seconds in which stable answers 100 requests, 90 of them at `stable_us`, ten at thrice it."""
    for second in range(first, last):
        stable = VersionCounts(requests=100, latency={stable_us: 90, 3 * stable_us: 10})
        tick = Tick(
            proxy="production/local", boot_id="boot", sequence=second + 1,
            at=START + timedelta(seconds=second), step_id=None, stable=stable,
            candidate=VersionCounts(),
        )  # fmt: skip
        state = absorb(state, [tick], rules)
    return state


def thresholds_us(state: EvidenceState) -> list[tuple[int, int]]:
    metric = state.metric(LATENCY)
    assert metric is not None
    return [(t.stable_us, t.candidate_us) for t in metric.thresholds]


def test_after_a_slow_warm_up_they_come_down_to_what_is_ordinary() -> None:
    warm = seconds_of(start_evidence("r", settings()), 0, 15, 100_000, settings())
    assert thresholds_us(warm)[0][0] == 100_000
    later = seconds_of(warm, 15, 60, 10_000, settings())
    assert thresholds_us(later)[0] == (10_000, 12_000)
    assert thresholds_us(later)[1][0] == 30_000


def test_they_stay_between_two_renewals() -> None:
    warm = seconds_of(start_evidence("r", settings()), 0, 15, 100_000, settings())
    soon = seconds_of(warm, 15, 20, 10_000, settings())
    assert thresholds_us(soon) == thresholds_us(warm)


def test_a_declared_margin_is_the_slowdown_allowed() -> None:
    rules = settings(margin=1.0)
    state = seconds_of(start_evidence("r", rules), 0, 60, 10_000, rules)
    assert thresholds_us(state)[0] == (10_000, 20_000)


def test_they_survive_being_stored() -> None:
    state = seconds_of(start_evidence("r", settings()), 0, 40, 10_000, settings())
    again = EvidenceState.from_dict(state.to_dict())
    assert thresholds_us(seconds_of(again, 40, 70, 20_000, settings())) == thresholds_us(
        seconds_of(state, 40, 70, 20_000, settings())
    )
