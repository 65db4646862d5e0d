"""From Envoy's statistics to counts: what is a request, what is a failure, whose it is."""

from __future__ import annotations

import json
from typing import Any

import pytest

from modelplane.adapters.proxy.traffic import read_counts
from modelplane.ports.proxy import LatencyBin, TrafficReading, VariantCounts


def reading(*stats: tuple[str, int], histograms: dict[str, Any] | None = None) -> TrafficReading:
    rows: list[dict[str, Any]] = [{"name": name, "value": value} for name, value in stats]
    details = [{"name": name, "totals": bins} for name, bins in (histograms or {}).items()]
    rows.append({"histograms": {"details": details}})
    return read_counts(json.dumps({"stats": rows}).encode(), boot_id="boot")


def rq(assigned: str, served: str, code: int, flags: str = "-", attempts: int = 1) -> str:
    return f"mp.rq.|a.{assigned}.|s.{served}.|c.{code}.|f.{flags}.|n.{attempts}"


@pytest.mark.parametrize(
    ("served", "code", "flags", "attempts", "failures", "client_failures"),
    [
        ("d.b", 200, "-", 1, 0, 0),  # served as assigned
        ("d.b", 404, "-", 1, 0, 0),  # the client's own fault
        ("d.b", 400, "-", 1, 0, 0),
        ("d.b", 500, "-", 1, 1, 1),  # the client saw it
        ("d.b", 503, "URX,UF", 3, 1, 1),
        ("", 503, "UH", 1, 1, 1),  # no replica at all
        ("d.b", 0, "-", 1, 1, 1),  # no answer
        ("d.b", 200, "UPE", 1, 1, 1),  # began well and broke off
        ("d.b", 200, "UC", 1, 1, 1),
        ("d.a", 200, "-", 2, 1, 0),  # stable answered what the candidate failed
        ("d.a", 200, "-", 1, 1, 0),  # stable answered because the candidate rests
        ("d.a", 400, "-", 2, 1, 0),
        ("d.b", 200, "-", 3, 1, 0),  # answered in the end, but not at once
        ("d.a", 500, "URX", 3, 1, 1),
    ],
)
def test_what_counts_as_a_failure(
    served: str, code: int, flags: str, attempts: int, failures: int, client_failures: int
) -> None:
    counts = reading((rq("d.b", served, code, flags, attempts), 7)).variants["d.b"]
    assert counts == VariantCounts(
        requests=7, failures=7 * failures, client_failures=7 * client_failures
    )


def test_a_failure_of_stable_counts_by_the_same_rule() -> None:
    counts = reading((rq("d.a", "d.a", 200, "-", 2), 3)).variants["d.a"]
    assert (counts.failures, counts.client_failures) == (3, 0)


@pytest.mark.parametrize("code", [0, 200])
def test_a_request_that_its_client_gave_up_is_not_counted(code: int) -> None:
    found = reading((rq("d.a", "d.a", 200), 2), (rq("d.a", "d.a", code, "DC"), 5))
    assert found.variants["d.a"].requests == 2


def test_requests_without_a_variant_are_unrouted_unless_the_gateway_answered_them() -> None:
    found = reading(
        (rq("", "", 404, "NR", 0), 3),
        (rq("", "", 503, "-", 0), 2),
        (rq("", "", 200, "-", 0), 100),  # health
        (rq("", "", 401, "-", 0), 100),
        (rq("", "", 413, "-", 0), 100),
    )
    assert found.unrouted == 5
    assert not found.variants


def test_attempts_count_for_the_replicas_of_the_assigned_variant() -> None:
    found = reading(
        ("mp.try.|a.d.b.|s.d.b.|r.d.b.0.|c.200.|f.-", 10),
        ("mp.try.|a.d.b.|s.d.b.|r.d.b.0.|c.500.|f.-", 2),
        ("mp.try.|a.d.b.|s.d.b.|r.d.b.1.|c.0.|f.UT", 3),
        ("mp.try.|a.d.b.|s.d.a.|r.d.a.0.|c.200.|f.-", 5),  # stable helping out
        ("mp.try.|a.d.b.|s..|r..|c.0.|f.-", 1),  # no replica was chosen
        (rq("d.b", "d.b", 200), 10),
    )
    counts = found.variants["d.b"]
    assert counts.replica_attempts == {"d.b.0": 12, "d.b.1": 3}
    assert counts.replica_failures == {"d.b.0": 2, "d.b.1": 3}
    assert "d.a" not in found.variants


def test_latency_bins_and_active_requests() -> None:
    bins = [
        {"lower_bound": 409.99999999999994, "width": 10, "count": 3},
        {"lower_bound": 1000, "width": 100, "count": 1},
    ]
    found = reading(
        (rq("team.fraud_2.b", "team.fraud_2.b", 200), 4),
        ("cluster.team.fraud_2.b.upstream_rq_active", 2),
        ("cluster.control_plane.upstream_rq_active", 1),
        histograms={"mp.us.|a.team.fraud_2.b": bins, "mp.us.|a.": bins},
    )
    assert found == TrafficReading(
        "boot",
        {
            "team.fraud_2.b": VariantCounts(
                requests=4, latency=(LatencyBin(410.0, 10, 3), LatencyBin(1000, 100, 1))
            )
        },
        {"team.fraud_2.b": 2},
        0,
    )
