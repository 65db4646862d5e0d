"""Recordings: what was counted is read back exactly, and judged anew as it was judged live."""

from __future__ import annotations

import random
from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from modelplane.decisions.analysis import Outcomes, Tick, VersionCounts, settings_of
from modelplane.decisions.analysis_replay import (
    RecordedRollout,
    judge_truth,
    replay,
    replay_all,
)
from modelplane.decisions.recordings import Recording, decode_ticks, encode_ticks, read_chunk
from modelplane.errors import InvalidResource
from modelplane.resources.meta import Metadata
from modelplane.resources.revision import Artifact, RuntimeSpec, make_revision
from modelplane.resources.rollout import Rollout, RolloutSpec
from modelplane.resources.strategy import Analysis, CanaryStrategy, MetricRule, Strategy

AT = datetime(2026, 1, 1, tzinfo=UTC)
ERRORS_ONLY = Analysis(metrics=(MetricRule(name="errors", margin=0.01),))
STRICT = Analysis(metrics=(MetricRule(name="errors", margin=0.01),), alpha=1e-12)

_counts = st.integers(0, 10**6)
_outcomes = st.dictionaries(
    st.text(min_size=1, max_size=8), st.builds(Outcomes, _counts, _counts), max_size=3
)
_versions = st.builds(
    VersionCounts,
    requests=_counts,
    failures=_counts,
    client_failures=_counts,
    latency=st.dictionaries(_counts, _counts, max_size=5),
    replicas=_outcomes,
    outcomes=_outcomes,
)
_ticks = st.builds(
    Tick,
    proxy=st.text(max_size=20),
    boot_id=st.text(max_size=20),
    sequence=_counts,
    at=st.datetimes(timezones=st.just(UTC)),
    step_id=st.none() | st.integers(0, 100),
    stable=_versions,
    candidate=_versions,
    seconds=st.floats(0.1, 100),
)


@given(st.lists(_ticks, max_size=5))
def test_ticks_are_read_back_exactly(ticks: list[Tick]) -> None:
    assert list(decode_ticks(encode_ticks(ticks))) == ticks


@given(st.lists(st.lists(_ticks, min_size=1, max_size=7), max_size=8))
def test_chunks_together_hold_every_tick_once(batches: list[list[Tick]]) -> None:
    recording, stored = Recording(), {}
    for batch in batches:
        chunk = recording.add(batch)
        stored[recording.index] = chunk
    read = [tick for index in sorted(stored) for tick in read_chunk(stored[index])]
    assert read == [tick for batch in batches for tick in batch]


def test_a_recording_of_a_later_release_is_refused() -> None:
    with pytest.raises(InvalidResource, match="format 4"):
        read_chunk({"format": 4, "ticks": ""})


def _record(candidate_rate: float, seconds: int, *, seed: int = 7) -> tuple[Tick, ...]:
    """Thirty seconds of stable alone, then both at 50 requests a second each."""
    random_ = random.Random(seed)
    ticks = []
    for second in range(30 + seconds):
        rolled = second >= 30
        candidate = sum(random_.random() < candidate_rate for _ in range(50)) if rolled else 0
        ticks.append(
            Tick(
                proxy="production/local",
                boot_id="boot",
                sequence=second + 1,
                at=AT + timedelta(seconds=second),
                step_id=0 if rolled else None,
                stable=VersionCounts(
                    requests=50, failures=sum(random_.random() < 0.01 for _ in range(50))
                ),
                candidate=VersionCounts(requests=50 if rolled else 0, failures=candidate),
            )
        )
    return tuple(ticks)


def _revision(version: str):  # type: ignore[no-untyped-def]
    artifact = Artifact(format="skops", digest=f"sha256:{version}")
    return make_revision("delay", version, artifact, RuntimeSpec())


def _rollout(ordinal: int, phase: str, reason: str, *, stable: str = "1.0.0") -> Rollout:
    rollout = Rollout(
        metadata=Metadata(name=f"delay-{ordinal}", environment="production", uid=f"uid-{ordinal}"),
        spec=RolloutSpec(
            deployment="delay",
            promotion="p",
            ordinal=ordinal,
            stable=_revision(stable),
            candidate=_revision(f"{ordinal}.0.0"),
        ),
    )
    strategy = Strategy(canary=CanaryStrategy(analysis=ERRORS_ONLY))
    return rollout.with_status(phase=phase, reason=reason, strategy=strategy)


def test_a_bad_candidate_is_found_and_a_healthy_one_is_promoted() -> None:
    settings = settings_of(ERRORS_ONLY)
    bad = replay(_record(0.3, 60), settings, "uid")
    assert bad.said == "rollback"
    assert bad.after_s is not None
    assert bad.after_s < 10
    assert 3 <= bad.failed_requests < 150
    good = replay(_record(0.01, 900), settings, "uid")
    assert good.said == "promote"


def test_settings_that_ask_for_more_evidence_need_longer_and_are_said_to_miss() -> None:
    harmful = RecordedRollout(_rollout(2, "RolledBack", "Harm"), "harmful", _record(0.08, 12))
    healthy = RecordedRollout(_rollout(3, "Promoted", "WithinMargins"), "healthy", _record(0.01, 9))
    found = replay_all([harmful, healthy], STRICT)
    assert (found.harmful, found.healthy) == (1, 1)
    assert found.present.detected == 1
    assert found.present.missed_regressions == 0
    assert found.proposed.missed_regressions == 1
    assert found.present.false_rollbacks == found.proposed.false_rollbacks == 0
    (flipped,) = [row for row in found.rollouts if row.flips]
    assert (flipped.rollout, flipped.present.said, flipped.proposed.said) == (
        "delay-2", "rollback", "nothing",
    )  # fmt: skip


@pytest.mark.parametrize(
    ("phase", "reason", "undone", "truth"),
    [
        ("RolledBack", "Harm", False, "harmful"),
        ("RolledBack", "RollbackRequested", False, "harmful"),
        ("RolledBack", "DeadlineRollback", False, "unknown"),
        ("Promoted", "WithinMargins", False, "healthy"),
        ("Promoted", "WithinMargins", True, "harmful"),
        ("Failed", "StartFailed", False, "unknown"),
        ("Superseded", "Superseded", False, "unknown"),
    ],
)
def test_what_a_candidate_turned_out_to_be(
    phase: str, reason: str, undone: bool, truth: str
) -> None:
    rollout = _rollout(2, phase, reason)
    after = _rollout(3, "Promoted", "WithinMargins")
    if undone:
        after = after.with_spec(candidate=rollout.spec.stable)
    assert judge_truth(rollout, after) == truth
