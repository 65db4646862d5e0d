"""The figures of a deployment's traffic."""

from __future__ import annotations

from typing import Any

from modelplane.decisions.traffic_report import compute_quantile, report_traffic
from modelplane.resources.rollout import Judgement
from modelplane.resources.telemetry import TelemetryBatch
from modelplane.resources.traffic_split import TrafficSplit
from tests.decisions.worlds import NOW, V1, V2, deployment, metadata, rollout

WEST = "user.region == 'west'"


def sample(revision: str, rule: str = "", **fields: Any) -> dict[str, Any]:
    counts = {"requests": 100, "failures": 0, "clientFailures": 0}
    return {"deployment": "delay", "revision": revision[:10], "rule": rule, **counts, **fields}


def batch(*samples: dict[str, Any], sequence: int = 1) -> TelemetryBatch:
    head = {"environment": "production", "proxy": "production/n", "bootId": "b", "at": NOW}
    fields = {**head, "sequence": sequence, "seconds": 1, "samples": samples}
    return TelemetryBatch.model_validate(fields)


SPLIT = TrafficSplit.model_validate(
    {
        "metadata": metadata("delay", generation=7).to_dict(),
        "spec": {
            "deployment": "delay",
            "variants": [
                {"revision": V1.digest, "version": "1.0.0", "role": "stable", "weightPct": 100},
                {"revision": V2.digest, "version": "2.0.0", "role": "candidate", "weightPct": 10},
            ],
            "rules": [
                {
                    "name": "rule-1",
                    "predicate": WEST,
                    "segments": [
                        {"revision": V2.digest, "width": 600},
                        {"revision": V1.digest, "width": 9000},
                        {"revision": V2.digest, "width": 400},
                    ],
                },
                {"name": "default", "segments": [{"revision": V1.digest, "width": 10_000}]},
            ],
        },
        "status": {"acceptedGeneration": 7, "acceptedAt": NOW.isoformat()},
    }
)


def test_counts_are_told_by_version_and_rule_and_what_the_shield_saved() -> None:
    judgement = Judgement(
        step_id=1, at=NOW, candidate_requests=900, failed_requests=40, saved_requests=37
    )
    latency = [(1000.0, 1000.0, 100)]
    report = report_traffic(
        deployment(),
        SPLIT,
        [
            batch(
                sample(V1.digest, latency=latency),
                sample(V1.digest, "rule-1"),
                sample(V2.digest, "rule-1", requests=10, failures=5, clientFailures=1),
            ),
            batch(sample(V2.digest, "rule-1", requests=10, failures=3), sequence=2),
        ],
        [(rollout(lane="west/2.0.0"), judgement)],
        seconds=300,
        last_seen=NOW,
    )
    stable, candidate = report.versions
    assert (stable.version, stable.counts.requests, stable.counts.p50_us) == ("1.0.0", 200, 1500)
    assert [(r.rule, r.share_pct, r.counts.requests) for r in stable.rules] == [
        ("rule-1", 90, 100),
        ("default", 100, 100),
    ]
    counts = candidate.counts
    assert (counts.requests, counts.failures, counts.client_failures, counts.saved) == (20, 8, 1, 7)
    assert [(r.rule, r.share_pct) for r in candidate.rules] == [("rule-1", 10)]
    assert candidate.rollout is not None
    assert (candidate.rollout.policy, candidate.rollout.saved) == ("west", 37)
    assert [(rule.predicate, rule.shares) for rule in report.rules] == [
        (WEST, {"2.0.0": 10, "1.0.0": 90}),
        ("", {"1.0.0": 100}),
    ]
    shield = report.shield
    assert (shield.on, shield.saved, shield.retries_at_a_time) == (True, 7, 1024)
    assert (report.gateway.generation, report.gateway.refusal) == (7, "")


def test_a_version_that_was_live_and_is_gone_is_still_told() -> None:
    report = report_traffic(
        deployment(), SPLIT, [batch(sample("0123456789"))], [], seconds=60, last_seen=NOW
    )
    gone = report.versions[-1]
    assert (gone.version, gone.role, gone.revision) == (None, None, "0123456789")


def test_a_refusal_of_the_gateway_is_told_in_its_words() -> None:
    refused = SPLIT.with_status(accepted_generation=6, refused_generation=7, message="no cluster")
    report = report_traffic(deployment(), refused, [], [], seconds=60, last_seen=None)
    assert (report.gateway.accepted_generation, report.gateway.refusal) == (6, "no cluster")


def test_before_anything_serves_there_is_nothing_to_tell() -> None:
    report = report_traffic(deployment(None), None, [], [], seconds=60, last_seen=None)
    assert (report.versions, report.rules, report.gateway.generation) == ((), (), 0)


def test_no_counts_have_no_quantile() -> None:
    assert compute_quantile({}, 0.5) is None
