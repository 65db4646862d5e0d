"""Counts and latencies per variant: what Envoy counts, and how its counters are read.

Pure. `listener` installs the access loggers that `request_logs` and `attempt_logs` describe;
they count inside Envoy, so that no message is sent per request. `envoy` reads the counters and
`read_counts` makes a `TrafficReading` of them.

A variant fails a request when its first attempt does not give the client a good answer: the
client saw a 5xx or no answer, another attempt was needed, or another variant's replica
answered. The rule is the same for stable and candidate, or their comparison would be biased.

A request that its client gave up counts only when it had waited for `PATIENCE_S`: then it is a
request that got no answer, or a variant that hangs would hide behind impatient clients.

How many counters there are is bounded: by the clusters and rules that were, the codes and flags
of Envoy, and the values that slices declare; nothing that a client sends becomes part of a name.
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
from modelplane.adapters.proxy.limits import SHED_FLAG, SHED_HEADER, SHED_VALUE
from modelplane.adapters.proxy.script import MAX_SLICE_NAMES, USER_NAMESPACE, slice_name
from modelplane.adapters.proxy.shadows import COPY_HEADER
from modelplane.adapters.proxy.xds import pack
from modelplane.decisions.routing import count_key
from modelplane.ports.proxy import LatencyBin, SliceCounts, TrafficReading, VariantCounts

# Names of deployments and replicas may hold dots; none may hold a bar.
_SEPARATOR = ".|"
_ASSIGNED, _RULE, _SERVED, _REPLICA = "a", "u", "s", "r"
_CODE, _FLAGS, _TRIES, _SLICE, _SHED = "c", "f", "n", "p", "o"
_HOST = "%METADATA(UPSTREAM_HOST:mp:{})%"
_ABSENT = ("", "-")
_VARIANT = [(_ASSIGNED, "%UPSTREAM_CLUSTER%"), (_RULE, "%ROUTE_NAME%")]
_OUTCOME = [
    (_SERVED, _HOST.format("cluster")),
    (_CODE, "%RESPONSE_CODE%"),
    (_FLAGS, "%RESPONSE_FLAGS%"),
    (_TRIES, "%UPSTREAM_REQUEST_ATTEMPT_COUNT%"),
]
_SHED_TAG = (_SHED, f"%RESP({SHED_HEADER})%")

PATIENCE_S = 1
"""How long a client must have waited before giving up counts as a request without an answer."""

_ABORTED_BY_CLIENT, _NO_ROUTE = "DC", "NR"
_NO_FLAG = frozenset({"-"})
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
    slices = [
        (_SLICE, f"%DYNAMIC_METADATA({USER_NAMESPACE}:slice{n + 1})%")
        for n in range(MAX_SLICE_NAMES)
    ]
    duration = {
        "stat": {"name": "us", "tags": _tags(*_VARIANT, *_OUTCOME, _SHED_TAG)},
        "unit": "Microseconds",
        "value_format": "%COMMON_DURATION(DS_RX_END:DS_TX_END:us)%",
    }
    # A request that its client gave up has no code and no duration, which Envoy would log.
    answered = {"status_code_filter": _at_least(100, "mp.answered")}
    waited = {"duration_filter": _at_least(1000 * PATIENCE_S, "mp.patience")}
    given_up = {"response_flag_filter": {"flags": [_ABORTED_BY_CLIENT]}}
    sliced = {
        "metadata_filter": {
            "matcher": {
                "filter": USER_NAMESPACE,
                "path": [{"key": "sliced"}],
                "value": {"bool_match": True},
            },
            "match_if_key_not_found": {"value": False},
        }
    }
    return [
        _counting("counts", _counter("rq", *_VARIANT, *_OUTCOME, _SHED_TAG)),
        _counting(
            "slices",
            *(_counter("part", *_VARIANT, *_OUTCOME, _SHED_TAG, part) for part in slices),
            only=sliced,
        ),
        _counting(
            "given up",
            _counter("gone", *_VARIANT, _OUTCOME[-1]),
            only={"and_filter": {"filters": [given_up, waited]}},
        ),
        _counting(
            "slices given up",
            *(_counter("gone_part", *_VARIANT, _OUTCOME[-1], part) for part in slices),
            only={"and_filter": {"filters": [given_up, waited, sliced]}},
        ),
        {
            "name": "durations",
            "filter": answered,
            "typed_config": _logger(stats_pb2.Config(histograms=[duration])),
        },
    ]


def attempt_logs() -> list[dict[str, Any]]:
    """Return the access loggers that count attempts at replicas, and copies of requests.

    A copy, which has no other log, is told by its header; its one attempt is all of it.
    """
    replica = (_REPLICA, _HOST.format("replica"))
    copied = [_VARIANT[0], (_RULE, f"%REQ({COPY_HEADER})%")]
    duration = {
        "stat": {"name": "copy_us", "tags": _tags(*copied)},
        "unit": "Microseconds",
        "value_format": "%COMMON_DURATION(US_TX_BEG:US_RX_END:us)%",
    }
    is_copy = _has_copy_header(True)
    answered = {"status_code_filter": _at_least(100, "mp.answered")}
    return [
        _counting(
            "attempts",
            _counter("try", *_VARIANT, *_OUTCOME[:-1], replica),
            only=_has_copy_header(False),
        ),
        _counting("copies", _counter("copy", *copied, *_OUTCOME[:-1], replica), only=is_copy),
        {
            "name": "durations of copies",
            "filter": {"and_filter": {"filters": [is_copy, answered]}},
            "typed_config": _logger(stats_pb2.Config(histograms=[duration])),
        },
    ]


def _has_copy_header(wanted: bool) -> dict[str, Any]:
    return {
        "header_filter": {
            "header": {"name": COPY_HEADER, "present_match": True, "invert_match": not wanted}
        }
    }


def _counting(name: str, *counters: dict[str, Any], only: Any = None) -> dict[str, Any]:
    log = {"name": name, "typed_config": _logger(stats_pb2.Config(counters=counters))}
    return log if only is None else {**log, "filter": only}


def _counter(name: str, *tags: tuple[str, str]) -> dict[str, Any]:
    return {"stat": {"name": name, "tags": _tags(*tags)}, "value_fixed": {"value": 1}}


def _tags(*tags: tuple[str, str]) -> list[dict[str, str]]:
    return [{"name": f"|{name}", "value_format": value} for name, value in tags]


def _at_least(value: int, runtime_key: str) -> dict[str, Any]:
    bound = {"default_value": value, "runtime_key": runtime_key}
    return {"comparison": {"op": "GE", "value": bound}}


def _logger(config: Any) -> Any:
    packed = pack(config)
    return any_pb2.Any(type_url=packed.type_url, value=packed.value + _STATS_SCOPE)


@dataclass(slots=True)
class _Tally:
    requests: int = 0
    failures: int = 0
    client_failures: int = 0
    latency: dict[float, LatencyBin] = field(default_factory=dict)
    replica_attempts: dict[str, int] = field(default_factory=lambda: defaultdict(int))
    replica_failures: dict[str, int] = field(default_factory=lambda: defaultdict(int))
    slices: dict[str, list[int]] = field(default_factory=lambda: defaultdict(lambda: [0, 0]))


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
        if name.endswith(_ACTIVE_SUFFIX):
            active[name[len(_CLUSTER_PREFIX) : -len(_ACTIVE_SUFFIX)]] = stat["value"]
        elif name.startswith(f"{STATS_PREFIX}."):
            unrouted += _count(tallies, name, stat["value"])
        elif "histograms" in stat:
            for histogram in stat["histograms"]["details"]:
                tags = _tags_of(histogram["name"])
                if tags[_ASSIGNED] and not _turned_away(tags):
                    _add_bins(tallies[_variant(tags)].latency, histogram["totals"])
    active.pop(CONTROL_PLANE_CLUSTER, None)
    variants = {key: _counts(tally) for key, tally in tallies.items()}
    return TrafficReading(boot_id, variants, active, unrouted)


def _tags_of(name: str) -> dict[str, str]:
    """Return the tags in a name such as ``mp.rq.|a.fraud.1f3a.|u.default.|c.200``."""
    return {part[0]: part[2:] for part in name.split(_SEPARATOR)[1:]}


def _variant(tags: Mapping[str, str]) -> str:
    return count_key(tags[_ASSIGNED], tags[_RULE])


def _count(tallies: Mapping[str, _Tally], name: str, count: int) -> int:
    """Add one counter to its variant; return how many requests had none and should have had."""
    tags = _tags_of(name)
    kind = name.split(_SEPARATOR, 1)[0].removeprefix(f"{STATS_PREFIX}.")
    if not tags[_ASSIGNED]:
        return count if kind == "rq" and _should_have_been_routed(tags) else 0
    if kind == "rq":
        _count_request(tallies, tags, count)
    elif kind == "part":
        _count_slice(tallies, tags, count)
    elif kind == "gone" and int(tags[_TRIES]) > 0:  # else it was still being sent
        tally = tallies[_variant(tags)]
        tally.requests += count
        tally.failures += count
        tally.client_failures += count
    elif kind == "gone_part" and int(tags[_TRIES]) > 0 and tags[_SLICE] not in _ABSENT:
        part = tallies[_variant(tags)].slices[slice_name(tags[_SLICE])]
        part[0] += count
        part[1] += count
    elif kind == "try":
        _count_attempt(tallies, tags, count)
    elif kind == "copy":
        _count_copy(tallies, tags, count)
    return 0


def _should_have_been_routed(tags: Mapping[str, str]) -> bool:
    flags = set(tags[_FLAGS].split(","))
    if _ABORTED_BY_CLIENT in flags:
        return False
    return int(tags[_CODE]) >= 500 or _NO_ROUTE in flags


def _count_request(tallies: Mapping[str, _Tally], tags: Mapping[str, str], count: int) -> None:
    counts, seen, failed = _outcome(tags)
    if not counts:
        return
    tally = tallies[_variant(tags)]
    tally.requests += count
    tally.client_failures += count if seen else 0
    tally.failures += count if failed else 0


def _count_slice(tallies: Mapping[str, _Tally], tags: Mapping[str, str], count: int) -> None:
    counts, _, failed = _outcome(tags)
    if not counts or tags[_SLICE] in _ABSENT:
        return
    part = tallies[_variant(tags)].slices[slice_name(tags[_SLICE])]
    part[0] += count
    part[1] += count if failed else 0


def _outcome(tags: Mapping[str, str]) -> tuple[bool, bool, bool]:
    """Return whether a request counts, whether its client saw a failure, whether it was one."""
    if _turned_away(tags):
        return False, False, False
    code, flags = int(tags[_CODE]), set(tags[_FLAGS].split(","))
    seen = _failed(code, flags)
    elsewhere = int(tags[_TRIES]) > 1 or tags[_SERVED] != tags[_ASSIGNED]
    return _ABORTED_BY_CLIENT not in flags, seen, seen or elsewhere


def _count_attempt(tallies: Mapping[str, _Tally], tags: Mapping[str, str], count: int) -> None:
    """Add attempts to the replica, when it is one of the variant the request was assigned to."""
    if tags[_SERVED] != tags[_ASSIGNED] or not tags[_REPLICA]:
        return
    code, flags = int(tags[_CODE]), set(tags[_FLAGS].split(","))
    if SHED_FLAG in flags:
        return  # it was not sent
    if code == 0 and flags == _NO_FLAG:
        return  # no answer and no fault: the client gave it up
    tally = tallies[_variant(tags)]
    tally.replica_attempts[tags[_REPLICA]] += count
    if _failed(code, flags):
        tally.replica_failures[tags[_REPLICA]] += count


def _count_copy(tallies: Mapping[str, _Tally], tags: Mapping[str, str], count: int) -> None:
    """Add copies to the shadow, but those that were not sent because too many were under way."""
    code, flags = int(tags[_CODE]), set(tags[_FLAGS].split(","))
    if SHED_FLAG in flags:
        return
    tally = tallies[_variant(tags)]
    tally.requests += count
    if _failed(code, flags):
        tally.failures += count
    _count_attempt(tallies, tags, count)


def _failed(code: int, flags: Set[str]) -> bool:
    """Whether an answer is none, an error of the server, or broke off after its beginning."""
    return code == 0 or code >= 500 or bool(flags & _BROKE_OFF)


def _turned_away(tags: Mapping[str, str]) -> bool:
    """Whether the gateway refused a request by itself, which says nothing of the variant.

    A limit was reached, the request was too large, or its token was none. Envoy's flag for the
    first does not serve here: a failed attempt that may not be repeated has it as well.
    """
    if tags.get(_SHED) == SHED_VALUE:
        return int(tags[_TRIES]) <= 1
    return not tags.get(_SERVED) and 400 <= int(tags.get(_CODE, 0)) < 500


def _add_bins(bins: dict[float, LatencyBin], totals: Iterable[Mapping[str, float]]) -> None:
    for total in totals:
        lower_us, count = round(total["lower_bound"], 3), int(total["count"])
        if lower_us in bins:
            count += bins[lower_us].count
        bins[lower_us] = LatencyBin(lower_us, total["width"], count)


def _counts(tally: _Tally) -> VariantCounts:
    return VariantCounts(
        requests=tally.requests,
        failures=tally.failures,
        client_failures=tally.client_failures,
        latency=tuple(tally.latency[lower_us] for lower_us in sorted(tally.latency)),
        replica_attempts=dict(tally.replica_attempts),
        replica_failures=dict(tally.replica_failures),
        slices={name: SliceCounts(*part) for name, part in tally.slices.items()},
    )
