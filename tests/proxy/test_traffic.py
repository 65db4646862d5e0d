"""From Envoy's statistics to counts: what is a request, what is a failure, whose it is."""

from __future__ import annotations

import json
from typing import Any

import pytest

from modelplane.adapters.proxy.traffic import read_counts
from modelplane.ports.proxy import LatencyBin, SliceCounts, TrafficReading, VariantCounts


def reading(*stats: tuple[str, int], histograms: dict[str, Any] | None = None) -> TrafficReading:
    rows: list[dict[str, Any]] = [{"name": name, "value": value} for name, value in stats]
    details = [{"name": name, "totals": bins} for name, bins in (histograms or {}).items()]
    rows.append({"histograms": {"details": details}})
    return read_counts(json.dumps({"stats": rows}).encode(), boot_id="boot")


def rq(
    assigned: str,
    served: str,
    code: int,
    flags: str = "-",
    attempts: int = 1,
    *,
    rule: str = "default",
    part: str = "",
) -> str:
    outcome = f"|a.{assigned}.|u.{rule}.|s.{served}.|c.{code}.|f.{flags}.|n.{attempts}"
    return f"mp.part.{outcome}.|p.{part}" if part else f"mp.rq.{outcome}"


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
        ("mp.try.|a.d.b.|u.default.|s.d.b.|r.d.b.0.|c.200.|f.-", 10),
        ("mp.try.|a.d.b.|u.default.|s.d.b.|r.d.b.0.|c.500.|f.-", 2),
        ("mp.try.|a.d.b.|u.default.|s.d.b.|r.d.b.1.|c.0.|f.UT", 3),
        ("mp.try.|a.d.b.|u.default.|s.d.b.|r.d.b.1.|c.0.|f.-", 4),  # given up by the client
        ("mp.try.|a.d.b.|u.default.|s.d.a.|r.d.a.0.|c.200.|f.-", 5),  # stable helping out
        ("mp.try.|a.d.b.|u.default.|s..|r..|c.0.|f.-", 1),  # no replica was chosen
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
        histograms={"mp.us.|a.team.fraud_2.b.|u.default": bins, "mp.us.|a..|u.gateway": bins},
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


def test_each_rule_of_a_variant_is_counted_by_itself() -> None:
    found = reading(
        (rq("d.b", "d.b", 200), 4),
        (rq("d.b", "d.b", 500, rule="rule-1f"), 3),
        (rq("d.b", "d.b", 200, rule="override"), 2),
        ("mp.try.|a.d.b.|u.rule-1f.|s.d.b.|c.500.|f.-.|r.d.b.0", 3),
        histograms={"mp.us.|a.d.b.|u.rule-1f": [{"lower_bound": 1, "width": 1, "count": 3}]},
    )
    assert found.variants == {
        "d.b": VariantCounts(requests=4),
        "d.b|rule-1f": VariantCounts(
            requests=3,
            failures=3,
            client_failures=3,
            latency=(LatencyBin(1, 1, 3),),
            replica_attempts={"d.b.0": 3},
            replica_failures={"d.b.0": 3},
        ),
        "d.b|override": VariantCounts(requests=2),
    }


def test_slices_are_counted_beside_the_requests_they_are_part_of() -> None:
    found = reading(
        (rq("d.b", "d.b", 200), 9),
        (rq("d.b", "d.b", 200, part="user%2Eregion=west"), 4),
        (rq("d.b", "d.a", 200, attempts=2, part="user%2Eregion=west"), 2),
        (rq("d.b", "d.b", 0, "DC", part="user%2Eregion=west"), 2),
        (rq("d.b", "d.b", 200, part="user%2Eplan=caf%C3%A9%7C%2E"), 1),
        (rq("d.b", "d.b", 200, part="-"), 3),
        (rq("d.b", "d.b", 200).replace("mp.rq", "mp.part") + ".|p.", 3),
    )
    assert found.variants["d.b"].requests == 9
    assert found.variants["d.b"].slices == {
        "user.region=west": SliceCounts(6, 2),
        "user.plan=café|.": SliceCounts(1, 0),
    }


def test_a_client_that_gave_up_after_waiting_was_failed() -> None:
    found = reading(
        (rq("d.b", "d.b", 200), 5),
        (rq("d.b", "d.b", 0, "DC"), 3),
        ("mp.gone.|a.d.b.|u.default.|n.1", 2),
        ("mp.gone.|a.d.b.|u.default.|n.0", 4),  # the client was still sending
        ("mp.gone.|a..|u..|n.0", 7),
        ("mp.gone_part.|a.d.b.|u.default.|n.1.|p.user%2Eregion=west", 1),
        ("mp.gone_part.|a.d.b.|u.default.|n.1.|p.-", 1),
        ("mp.gone_part.|a.d.b.|u.default.|n.0.|p.user%2Eregion=west", 4),
        ("mp.gone_part.|a..|u..|n.0.|p.user%2Eregion=west", 7),
    )
    slices = {"user.region=west": SliceCounts(1, 1)}
    assert found.variants == {
        "d.b": VariantCounts(requests=7, failures=2, client_failures=2, slices=slices)
    }
    assert found.unrouted == 0


@pytest.mark.parametrize(
    ("name", "counts"),
    [
        (rq("d.b", "d.b", 503, "UO") + ".|o.1", (0, 0)),  # it has too many requests in flight
        (rq("d.b", "d.b", 503, "UO", 2) + ".|o.1", (7, 7)),  # the second attempt had no room
        (rq("d.b", "d.b", 503, "UO"), (7, 7)),  # it failed, and no second attempt was allowed
        (rq("d.b", "d.b", 500, "UO"), (7, 7)),
        (rq("d.b", "", 429, "RL", 0), (0, 0)),  # the client's rate
        (rq("d.b", "", 413, "-", 0), (0, 0)),
        (rq("d.b", "", 401, "-", 0), (0, 0)),
    ],
)
def test_what_the_gateway_turns_away_says_nothing_of_a_version(
    name: str, counts: tuple[int, int]
) -> None:
    found = reading((name, 7)).variants.get("d.b", VariantCounts())
    assert (found.requests, found.failures) == counts
