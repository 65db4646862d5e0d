"""Counts and latencies per variant: what Envoy counts, and how its counters are read.

Pure. `listener` installs the access loggers that `request_logs` and `attempt_logs` describe;
they count inside Envoy, so that no message is sent per request. `envoy` reads the counters and
`read_counts` makes a `TrafficReading` of them.

A variant fails a request when its first attempt does not give the client a good answer: the
client saw a 5xx or no answer, another attempt was needed, or another variant's replica
answered. The rule is the same for stable and candidate, or their comparison would be biased.
"""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Iterable, Mapping, Set
from dataclasses import dataclass, field
from typing import Any

from envoy.extensions.access_loggers.stats.v3 import stats_pb2
from google.protobuf import any_pb2

from modelplane.adapters.proxy.bootstrap import CONTROL_PLANE_CLUSTER, STATS_PREFIX
from modelplane.adapters.proxy.xds import pack
from modelplane.ports.proxy import LatencyBin, TrafficReading, VariantCounts

# Names of deployments and replicas may hold dots; none may hold a bar.
_SEPARATOR = ".|"
_ASSIGNED, _SERVED, _REPLICA, _CODE, _FLAGS, _TRIES = "a", "s", "r", "c", "f", "n"
_HOST = "%METADATA(UPSTREAM_HOST:mp:{})%"

_ABORTED_BY_CLIENT, _NO_ROUTE = "DC", "NR"
_BROKE_OFF = frozenset({"UC", "UPE", "UR", "UT", "LR", "SI"})
"""Envoy's flags for an answer that began well and did not end."""

# Field 6 of the logger's Config, `stats_scope{prefix: "mp"}`, which the published Python
# messages lack while Envoy no longer takes the field before it.
_STATS_SCOPE = bytes([0x32, 2 + len(STATS_PREFIX), 0x2A, len(STATS_PREFIX)]) + STATS_PREFIX.encode()

_CLUSTER_PREFIX, _ACTIVE_SUFFIX = "cluster.", ".upstream_rq_active"

STATS_FILTER = rf"^({STATS_PREFIX}\.|cluster\..*\.upstream_rq_active$)"
"""Regular expression for Envoy's admin interface: the statistics `read_counts` understands."""


def request_logs() -> list[dict[str, Any]]:
    """Return the access loggers that count finished requests and measure the answered ones."""
    assigned = _tag(_ASSIGNED, "%UPSTREAM_CLUSTER%")
    outcome = [
        assigned,
        _tag(_SERVED, _HOST.format("cluster")),
        _tag(_CODE, "%RESPONSE_CODE%"),
        _tag(_FLAGS, "%RESPONSE_FLAGS%"),
        _tag(_TRIES, "%UPSTREAM_REQUEST_ATTEMPT_COUNT%"),
    ]
    count = {"stat": {"name": "rq", "tags": outcome}, "value_fixed": {"value": 1}}
    duration = {
        "stat": {"name": "us", "tags": [assigned]},
        "unit": "Microseconds",
        "value_format": "%COMMON_DURATION(DS_RX_END:DS_TX_END:us)%",
    }
    # A request that its client gave up has no code and no duration, which Envoy would log.
    answered = {
        "comparison": {"op": "GE", "value": {"default_value": 100, "runtime_key": "mp.answered"}}
    }
    return [
        {"name": "counts", "typed_config": _logger(stats_pb2.Config(counters=[count]))},
        {
            "name": "durations",
            "filter": {"status_code_filter": answered},
            "typed_config": _logger(stats_pb2.Config(histograms=[duration])),
        },
    ]


def attempt_logs() -> list[dict[str, Any]]:
    """Return the access logger that counts attempts at replicas."""
    tags = [
        _tag(_ASSIGNED, "%UPSTREAM_CLUSTER%"),
        _tag(_SERVED, _HOST.format("cluster")),
        _tag(_REPLICA, _HOST.format("replica")),
        _tag(_CODE, "%RESPONSE_CODE%"),
        _tag(_FLAGS, "%RESPONSE_FLAGS%"),
    ]
    count = {"stat": {"name": "try", "tags": tags}, "value_fixed": {"value": 1}}
    return [{"name": "attempts", "typed_config": _logger(stats_pb2.Config(counters=[count]))}]


def _tag(name: str, value_format: str) -> dict[str, str]:
    return {"name": f"|{name}", "value_format": value_format}


def _logger(config: Any) -> Any:
    packed = pack(config)
    return any_pb2.Any(type_url=packed.type_url, value=packed.value + _STATS_SCOPE)


@dataclass(slots=True)
class _Tally:
    requests: int = 0
    failures: int = 0
    client_failures: int = 0
    latency: tuple[LatencyBin, ...] = ()
    replica_attempts: dict[str, int] = field(default_factory=lambda: defaultdict(int))
    replica_failures: dict[str, int] = field(default_factory=lambda: defaultdict(int))


def read_counts(body: bytes, *, boot_id: str) -> TrafficReading:
    """Return the reading that Envoy's statistics in JSON amount to.

    Parameters
    ----------
    body
        Answer to ``/stats?format=json&histogram_buckets=detailed`` with `STATS_FILTER`.
    boot_id
        Id of the process that answered.
    """
    tallies: dict[str, _Tally] = defaultdict(_Tally)
    active: dict[str, int] = {}
    unrouted = 0
    for stat in json.loads(body)["stats"]:
        name = stat.get("name", "")
        if name.startswith("mp.rq."):
            unrouted += _count_request(tallies, _tags(name), stat["value"])
        elif name.startswith("mp.try."):
            _count_attempt(tallies, _tags(name), stat["value"])
        elif name.endswith(_ACTIVE_SUFFIX):
            active[name[len(_CLUSTER_PREFIX) : -len(_ACTIVE_SUFFIX)]] = stat["value"]
        elif "histograms" in stat:
            for histogram in stat["histograms"]["details"]:
                assigned = _tags(histogram["name"])[_ASSIGNED]
                if assigned:
                    tallies[assigned].latency = _bins(histogram["totals"])
    active.pop(CONTROL_PLANE_CLUSTER, None)
    variants = {cluster: _counts(tally) for cluster, tally in tallies.items()}
    return TrafficReading(boot_id, variants, active, unrouted)


def _tags(name: str) -> dict[str, str]:
    """Return the tags in a name such as ``mp.rq.|a.fraud.1f3a.|c.200``."""
    return {part[0]: part[2:] for part in name.split(_SEPARATOR)[1:]}


def _count_request(tallies: Mapping[str, _Tally], tags: Mapping[str, str], count: int) -> int:
    """Add finished requests to their variant; return how many had none and should have had."""
    code, flags = int(tags[_CODE]), set(tags[_FLAGS].split(","))
    if _ABORTED_BY_CLIENT in flags:
        return 0
    if not tags[_ASSIGNED]:
        return count if code >= 500 or _NO_ROUTE in flags else 0
    tally = tallies[tags[_ASSIGNED]]
    seen = _failed(code, flags)
    tally.requests += count
    if seen:
        tally.client_failures += count
    if seen or int(tags[_TRIES]) > 1 or tags[_SERVED] != tags[_ASSIGNED]:
        tally.failures += count
    return 0


def _count_attempt(tallies: Mapping[str, _Tally], tags: Mapping[str, str], count: int) -> None:
    """Add attempts to the replica, when it is one of the variant the request was assigned to."""
    if tags[_SERVED] != tags[_ASSIGNED] or not tags[_REPLICA]:
        return
    code, flags = int(tags[_CODE]), set(tags[_FLAGS].split(","))
    tally = tallies[tags[_ASSIGNED]]
    tally.replica_attempts[tags[_REPLICA]] += count
    if _failed(code, flags):
        tally.replica_failures[tags[_REPLICA]] += count


def _failed(code: int, flags: Set[str]) -> bool:
    """Whether an answer is none, an error of the server, or broke off after its beginning."""
    return code == 0 or code >= 500 or bool(flags & _BROKE_OFF)


def _bins(totals: Iterable[Mapping[str, float]]) -> tuple[LatencyBin, ...]:
    return tuple(
        LatencyBin(round(b["lower_bound"], 3), b["width"], int(b["count"])) for b in totals
    )


def _counts(tally: _Tally) -> VariantCounts:
    return VariantCounts(
        requests=tally.requests,
        failures=tally.failures,
        client_failures=tally.client_failures,
        latency=tally.latency,
        replica_attempts=dict(tally.replica_attempts),
        replica_failures=dict(tally.replica_failures),
    )
