"""What every ring of telemetry promises."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from modelplane.adapters.metrics import ring
from modelplane.adapters.metrics.ring import MetricsRing
from modelplane.ports.metrics import Metrics
from modelplane.resources.telemetry import (
    ReplicaSample,
    ScrapedMetrics,
    TelemetryBatch,
    VariantSample,
)

START = datetime(2026, 1, 5, 9, 0, tzinfo=UTC)


@pytest.fixture(params=[MetricsRing])
def metrics(request: pytest.FixtureRequest) -> Metrics:
    made: Metrics = request.param()
    return made


def sample(
    requests: int = 10, *, deployment: str = "fraud", revision: str = "stable", failures: int = 1
) -> VariantSample:
    return VariantSample(
        deployment=deployment,
        revision=revision,
        requests=requests,
        failures=failures,
        latency=((100.0, 10.0, requests),),
        replicas={"r-0": ReplicaSample(attempts=requests, failures=failures)},
    )


def batch(
    sequence: int,
    *samples: VariantSample,
    second: float | None = None,
    boot_id: str = "boot",
    proxy: str = "production/local",
    environment: str = "production",
) -> TelemetryBatch:
    """A batch of one second; unless told otherwise its sequence is the second it ends."""
    return TelemetryBatch(
        environment=environment,
        proxy=proxy,
        boot_id=boot_id,
        sequence=sequence,
        at=START + timedelta(seconds=sequence if second is None else second),
        seconds=1.0,
        samples=samples,
    )


def scrape(second: float, *, replica: str = "r-0", deployment: str = "fraud") -> ScrapedMetrics:
    return ScrapedMetrics(
        deployment=deployment,
        revision="stable",
        replica=replica,
        at=START + timedelta(seconds=second),
        samples={"rows_total": second},
    )


def sequences(found: object) -> list[int]:
    assert isinstance(found, list | tuple)
    return [one.sequence for one in found]


class TestBatches:
    def test_oldest_first_and_only_of_the_deployment(self, metrics: Metrics) -> None:
        other = sample(5, deployment="other")
        metrics.record(batch(1, sample(1), other))
        metrics.record(batch(2, other))
        metrics.record(batch(3, sample(3), sample(4, revision="candidate")))
        found = metrics.batches("production", "fraud")
        assert sequences(found) == [1, 3]
        assert found[0].samples == (sample(1),)
        assert found[1].samples == (sample(3), sample(4, revision="candidate"))
        assert metrics.batches("staging", "fraud") == []
        assert metrics.batches("production", "nothing") == []

    def test_a_split_alone_is_told_too(self, metrics: Metrics) -> None:
        steps = {"fraud": {"u": 1}, "other": {"v": 2}}
        metrics.record(batch(1).with_(steps=steps))
        (found,) = metrics.batches("production", "fraud")
        assert found.samples == ()
        assert found.steps == {"fraud": {"u": 1}}

    def test_a_repeated_batch_changes_nothing(self, metrics: Metrics) -> None:
        for one in (batch(1, sample(1)), batch(2, sample(2)), batch(2, sample(9)), batch(1)):
            metrics.record(one)
        assert [one.samples[0].requests for one in metrics.batches("production", "fraud")] == [1, 2]
        totals = metrics.totals("production", "fraud", since=START)
        assert totals["stable"].requests == 3

    def test_since_and_after(self, metrics: Metrics) -> None:
        for sequence in range(1, 8):
            metrics.record(batch(sequence, sample()))
        metrics.record(batch(1, sample(), second=10, boot_id="again"))
        metrics.record(batch(3, sample(), second=3, proxy="production/two"))

        since = START + timedelta(seconds=6)
        assert sequences(metrics.batches("production", "fraud", since=since)) == [6, 7, 1]
        after = {("production/local", "boot"): 5, ("production/two", "boot"): 3}
        assert sequences(metrics.batches("production", "fraud", after=after)) == [6, 7, 1]
        known = {**after, ("production/local", "again"): 1}
        assert sequences(metrics.batches("production", "fraud", after=known, since=since)) == [6, 7]

    def test_boots_count_apart(self, metrics: Metrics) -> None:
        metrics.record(batch(5, sample(1)))
        metrics.record(batch(1, sample(2), second=6, boot_id="again"))
        assert sequences(metrics.batches("production", "fraud")) == [5, 1]
        assert metrics.positions() == {
            ("production/local", "boot"): 5,
            ("production/local", "again"): 1,
        }


class TestConfirming:
    def test_receipts_tell_what_is_durable(self, metrics: Metrics) -> None:
        assert metrics.record(batch(1)).confirmed_sequence == 0
        metrics.confirm("production/local", "boot", 1)
        assert metrics.record(batch(2)).confirmed_sequence == 1
        assert metrics.record(batch(2)).confirmed_sequence == 1
        metrics.confirm("production/local", "boot", 2)
        metrics.confirm("production/local", "boot", 1)
        assert metrics.record(batch(3)).confirmed_sequence == 2, "it never goes back"
        assert metrics.record(batch(1, boot_id="other")).confirmed_sequence == 0


class TestSeen:
    def test_the_newest_end(self, metrics: Metrics) -> None:
        assert metrics.last_seen("production") is None
        metrics.record(batch(1, second=5))
        metrics.record(batch(1, second=3, proxy="production/two"))
        assert metrics.last_seen("production") == START + timedelta(seconds=5)
        assert metrics.last_seen("staging") is None


class TestTotals:
    def test_sums_by_revision(self, metrics: Metrics) -> None:
        for sequence in (1, 2, 3):
            metrics.record(batch(sequence, sample(10), sample(5, revision="candidate", failures=0)))
        metrics.record(batch(1, sample(7), proxy="production/two", second=3))
        totals = metrics.totals("production", "fraud", since=START + timedelta(seconds=1))
        assert set(totals) == {"stable", "candidate"}
        stable = totals["stable"]
        assert (stable.requests, stable.failures) == (27, 3)
        assert stable.latency == ((100.0, 10.0, 27),)
        assert stable.replicas == {"r-0": ReplicaSample(attempts=27, failures=3)}
        assert totals["candidate"].requests == 10
        assert metrics.totals("production", "other", since=START) == {}

    def test_sums_reach_back_a_day(self, metrics: Metrics) -> None:
        seconds = 3 * 3600
        for sequence in range(1, seconds + 1, 5):
            metrics.record(batch(sequence, sample(1)))
        count = len(range(1, seconds + 1, 5))
        assert metrics.totals("production", "fraud", since=START)["stable"].requests == count
        since = START + timedelta(hours=1)
        expected = sum(1 for sequence in range(1, seconds + 1, 5) if sequence > 3600)
        assert metrics.totals("production", "fraud", since=since)["stable"].requests == expected
        full = metrics.batches("production", "fraud")
        newest = metrics.last_seen("production")
        assert newest is not None
        assert full[0].at >= newest - ring.FULL_RESOLUTION

    @given(
        st.lists(st.integers(1, 400), min_size=1, max_size=60),
        st.integers(0, 4 * 3600),
    )
    def test_totals_are_exact_up_to_the_minute(self, gaps: list[int], since_s: int) -> None:
        metrics = MetricsRing()
        ends: list[int] = []
        for sequence, gap in enumerate(gaps, start=1):
            ends.append((ends[-1] if ends else 0) + gap)
            metrics.record(batch(sequence, sample(1, failures=0), second=ends[-1]))
        since = START + timedelta(seconds=since_s)
        totals = metrics.totals("production", "fraud", since=since)
        found = totals["stable"].requests if totals else 0
        exact = sum(end > since_s for end in ends)
        next_minute = -(-since_s // 60) * 60
        least = sum(end > next_minute for end in ends)
        assert least <= found <= exact
        if since_s >= ends[-1] - 1700 or since_s % 60 == 0:
            assert found == exact


class TestScraped:
    def test_the_last_scrape_of_each_replica_is_kept(self, metrics: Metrics) -> None:
        other = scrape(1, deployment="other")
        metrics.record(batch(1).with_(scraped=(scrape(1, replica="r-1"), scrape(1), other)))
        metrics.record(batch(2, sample(1)))
        metrics.record(batch(3).with_(scraped=(scrape(3),)))
        assert metrics.scraped("production", "fraud") == [scrape(3), scrape(1, replica="r-1")]
        assert metrics.scraped("production", "other") == [other]
        assert metrics.scraped("staging", "fraud") == []
        assert all(not one.scraped for one in metrics.batches("production", "fraud"))

    def test_what_comes_late_or_again_changes_nothing(self, metrics: Metrics) -> None:
        for one, at in ((batch(5), 5), (batch(5), 9), (batch(1, boot_id="before"), 1)):
            metrics.record(one.with_(scraped=(scrape(at),)))
        assert metrics.scraped("production", "fraud") == [scrape(5)]

    def test_a_replica_that_is_scraped_no_more_is_shown_no_more(self, metrics: Metrics) -> None:
        metrics.record(batch(1).with_(scraped=(scrape(1), scrape(1, replica="r-1"))))
        later = 2 + ring.SCRAPE_KEPT.total_seconds()
        metrics.record(batch(2, second=later).with_(scraped=(scrape(later),)))
        assert metrics.scraped("production", "fraud") == [scrape(later)]

    def test_replicas_are_bounded(self, metrics: Metrics, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(ring, "MAX_REPLICAS", 2)
        for second in (1, 2, 3):
            metrics.record(batch(second).with_(scraped=(scrape(second, replica=f"r-{second}"),)))
        assert [one.replica for one in metrics.scraped("production", "fraud")] == ["r-2", "r-3"]


class TestBounds:
    def test_full_resolution_is_bounded(self, metrics: Metrics) -> None:
        for sequence in range(1, ring.MAX_BATCHES + 500):
            metrics.record(batch(sequence, sample(1), second=sequence / 100))
        found = metrics.batches("production", "fraud")
        assert len(found) == ring.MAX_BATCHES
        assert found[-1].sequence == ring.MAX_BATCHES + 499
        totals = metrics.totals("production", "fraud", since=START - ring.MINUTE)
        assert totals["stable"].requests == ring.MAX_BATCHES + 499

    def test_deployments_and_boots_are_bounded(
        self, metrics: Metrics, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(ring, "MAX_DEPLOYMENTS", 10)
        for sequence in range(1, 31):
            one = sample(deployment=f"d{sequence}")
            metrics.record(batch(sequence, one, boot_id=f"boot-{sequence}"))
        kept = [n for n in range(1, 31) if metrics.batches("production", f"d{n}")]
        assert kept == list(range(21, 31))
        for sequence in range(1, 400):
            metrics.record(batch(1, boot_id=f"b-{sequence}"))
        assert len(metrics.positions()) == ring.MAX_POSITIONS

    def test_what_is_held_in_all_is_bounded(
        self, metrics: Metrics, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(ring, "MAX_CELLS", 300)
        for sequence in range(1, 500):
            metrics.record(batch(sequence, sample(1), sample(1, deployment="other")))
        held = len(metrics.batches("production", "fraud"))
        held += len(metrics.batches("production", "other"))
        assert 50 <= held <= 100
        assert metrics.totals("production", "fraud", since=START)["stable"].requests == 499

    def test_a_deployment_that_went_away_is_forgotten(self, metrics: Metrics) -> None:
        metrics.record(batch(1, sample(deployment="gone")))
        for day in (1, 2):
            metrics.record(batch(day + 1, sample(), second=day * 86_400.0))
        assert metrics.batches("production", "gone") == []
        assert metrics.totals("production", "gone", since=START) == {}
