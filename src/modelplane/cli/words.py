"""Values in words: ages, sizes, shares, splits, latencies. Pure.

Called by everything that prints for people.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime

from modelplane.resources.meta import Condition
from modelplane.resources.rollout import MetricReport, Rollout, RolloutStatus
from modelplane.resources.strategy import Strategy

NOTHING = "-"
_AGE_UNITS = (("d", 86400), ("h", 3600), ("m", 60))
_GOOD = frozenset({"Available", "Ready"})
_MINUS = "−"

MOVING = frozenset({"Ramping", "Paused"})
"""Phases in which the candidate has a share that says something."""


def age(since: datetime | None, now: datetime) -> str:
    """Return how long ago something was, in its largest unit: ``3d``, ``5h``, ``12m``, ``40s``."""
    if since is None:
        return NOTHING
    seconds = max(0, int((now - since).total_seconds()))
    for unit, size in _AGE_UNITS:
        if seconds >= size:
            return f"{seconds // size}{unit}"
    return f"{seconds}s"


def duration(seconds: float) -> str:
    """Return a length of time in its two largest units.

    Examples
    --------
    >>> duration(4), duration(75), duration(3700)
    ('4s', '1m15s', '1h01m')
    """
    whole = max(0, int(seconds))
    if whole < 60:
        return f"{whole}s"
    if whole < 3600:
        return f"{whole // 60}m{whole % 60:02d}s"
    return f"{whole // 3600}h{whole % 3600 // 60:02d}m"


def size(size_bytes: int) -> str:
    """Return bytes in three digits: ``1.2 MiB``."""
    amount = float(size_bytes)
    for unit in ("B", "KiB", "MiB", "GiB"):
        if amount < 1000 or unit == "GiB":
            return f"{amount:.3g} {unit}"
        amount /= 1024
    raise AssertionError("unreachable")


def percent(weight_pct: float) -> str:
    """Return a share of traffic: ``5 %``, ``0.5 %``."""
    return f"{weight_pct:g} %"


def labels(pairs: Mapping[str, str]) -> str:
    """Return labels as they are selected: ``team=risk,tier=1``."""
    return ",".join(f"{key}={value}" for key, value in pairs.items()) or NOTHING


def trouble(condition: Condition) -> str:
    """Return what a condition says is wrong; empty when it says that nothing is.

    Conditions named after something good (`Available`) are trouble when they are not true, all
    others (`MetricUnavailable`) when they are.
    """
    is_wrong = condition.status != "True" if condition.type in _GOOD else condition.status == "True"
    return f"{condition.type}: {condition.message or condition.reason}" if is_wrong else ""


def strategy(declared: Strategy | None) -> str:
    """Return a strategy in a word or two; ``default`` when the environment decides."""
    if declared is None:
        return "default"
    if declared.shadow is not None:
        return f"shadow {declared.shadow.percentage:g}"
    if declared.canary is None:
        return declared.type
    steps = declared.canary.steps
    shown = steps if isinstance(steps, str) else ",".join(f"{step:g}" for step in steps)
    return f"canary {shown}"


def share(status: RolloutStatus) -> str:
    """Return what the candidate gets: ``5 %``, or ``copies of 30 %`` for a shadow."""
    if status.mirror_pct > 0:
        return f"copies of {percent(status.mirror_pct)}"
    return percent(status.weight_pct)


def moment(at: datetime, now: datetime) -> str:
    """Return a time to come and how far it is: ``12:30:00 UTC (in 5m00s)``."""
    day = "" if at.date() == now.date() else f"{at:%Y-%m-%d} "
    return f"{day}{at:%H:%M:%S} UTC (in {duration((at - now).total_seconds())})"


_PLAIN = frozenset({"loss", "reward"})


def is_latency(metric: MetricReport) -> bool:
    """Whether a metric's values are microseconds and not rates."""
    return metric.name == "latency"


def metric_value(metric: MetricReport, value: float | None) -> str:
    """Return one version's value: ``0.52 %``, ``12.4 ms``, or a mean reward as it is."""
    if value is None:
        return NOTHING
    if metric.name in _PLAIN:
        return f"{value:.4g}"
    return f"{value / 1000:.3g} ms" if is_latency(metric) else f"{value * 100:.3g} %"


def metric_difference(metric: MetricReport, value: float | None, *, unit: bool = True) -> str:
    """Return a signed difference: ``+0.11 pp`` or ``−0.3 ms``."""
    if value is None:
        return NOTHING
    if metric.name in _PLAIN:
        return f"{_MINUS if value < 0 else '+'}{abs(value):.3g}"
    scaled, name = (value / 1000, " ms") if is_latency(metric) else (value * 100, " pp")
    sign = _MINUS if scaled < 0 else "+"
    amount = (
        f"{abs(scaled):.0f}" if abs(scaled) >= 10 else f"{abs(scaled):.2f}".rstrip("0").rstrip(".")
    )
    return f"{sign}{amount}{name if unit else ''}"


def metric_interval(metric: MetricReport) -> str:
    """Return the bounds that the difference keeps to at every look; open ends as ``…``."""
    if metric.lower is None and metric.upper is None:
        return NOTHING
    low, high = (
        "…" if bound is None else metric_difference(metric, bound, unit=False)
        for bound in (metric.lower, metric.upper)
    )
    return f"{low} to {high}"


def versions(rollout: Rollout) -> str:
    """Return what is rolled out over what: ``1.0.0 → 1.1.0``, or ``1.0.0`` for a first one."""
    stable, candidate = rollout.spec.stable, rollout.spec.candidate
    if stable is None:
        return candidate.version
    if stable.version == candidate.version:
        return f"{stable.version} ({stable.short} → {candidate.short})"
    return f"{stable.version} → {candidate.version}"


def describe_change(rollout: Rollout) -> str:
    """Return one line for a log: phase, weight and why.

    Examples
    --------
    ``flights-2  1.0.0 → 1.1.0  Ramping 25 %  every metric is within its margin``
    """
    status = rollout.status
    part = f" {share(status)}" if status.phase in MOVING else ""
    what = f"{rollout.metadata.name}  {versions(rollout)}  {status.phase}{part}"
    return f"{what}  {status.message or status.reason}".rstrip()
