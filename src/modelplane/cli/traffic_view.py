"""The traffic of a deployment as people see it. Pure: a report in, text out.

Called by ``traffic show``; tested with snapshots.
"""

from __future__ import annotations

from collections.abc import Iterator
from datetime import datetime

from modelplane.cli import words
from modelplane.cli.tables import format_table
from modelplane.decisions.traffic_report import (
    Counts,
    RuleReport,
    TrafficReport,
    VersionReport,
)

_RULE_HEADERS = ("RULE", "WHO", "GETS")
_VERSION_HEADERS = (
    "VERSION", "ROLE", "RULE", "SHARE", "REQUESTS", "FAILED", "SEEN", "SAVED", "P50", "P99",
)  # fmt: skip


def format_report(report: TrafficReport, now: datetime, width: int | None) -> str:
    """Return a report as lines of text; `width` is the terminal's, None cuts nothing."""
    lines = [_head(report, now), _shield(report), ""]
    if report.rules:
        rows = [[rule.name, rule.predicate or "everybody", _gets(rule)] for rule in report.rules]
        lines += [format_table(_RULE_HEADERS, rows, width), ""]
    if report.versions:
        version_rows = [row for version in report.versions for row in _rows(version)]
        lines += [format_table(_VERSION_HEADERS, version_rows, width), ""]
    lines += list(_saved(report))
    return "\n".join(lines).rstrip()


def _head(report: TrafficReport, now: datetime) -> str:
    gateway, place = report.gateway, f"{report.deployment} in {report.environment}"
    counted = f"the last {words.duration(report.seconds)}"
    if not gateway.generation:
        return f"{place}: nothing serves yet"
    if gateway.refusal:
        return (
            f"{place}: the gateway refused split {gateway.generation} and goes on with "
            f"{gateway.accepted_generation}: {gateway.refusal}"
        )
    if gateway.accepted_generation != gateway.generation:
        return f"{place}: split {gateway.generation}, not yet in force; {counted}"
    since = words.age(gateway.accepted_at, now)
    return f"{place}: split {gateway.generation}, in force for {since}; {counted}"


def _shield(report: TrafficReport) -> str:
    shield = report.shield
    if not shield.on:
        return "shield off: requests are not idempotent, so none is tried again"
    if shield.retry_budget_pct is not None:
        budget = f"{words.percent(shield.retry_budget_pct)} of the requests in flight"
    else:
        budget = f"{shield.retries_at_a_time:,} requests"
    return f"shield on: tries again at most {budget} at a time"


def _gets(rule: RuleReport) -> str:
    shares = [f"{version} {words.percent(pct)}" for version, pct in rule.shares.items()]
    shares += [f"copies of {words.percent(pct)} to {v}" for v, pct in rule.mirrors.items()]
    return ", ".join(shares)


def _rows(version: VersionReport) -> Iterator[list[str]]:
    name = version.version or version.revision
    role = version.role or "gone"
    if not version.rules:
        yield [name, role, words.NOTHING, words.NOTHING, *_cells(version.counts)]
    for rule in version.rules:
        share = words.percent(rule.share_pct)
        if rule.mirror_pct:
            share = f"copies {words.percent(rule.mirror_pct)}"
        yield [name, role, rule.rule, share, *_cells(rule.counts)]


def _cells(counts: Counts) -> list[str]:
    numbers = (counts.requests, counts.failures, counts.client_failures, counts.saved)
    latencies = (counts.p50_us, counts.p99_us)
    return [
        *(f"{number:,}" for number in numbers),
        *(words.NOTHING if us is None else f"{us / 1000:.3g} ms" for us in latencies),
    ]


def _saved(report: TrafficReport) -> Iterator[str]:
    """Say what the shield saved, for which version, also of a rollout as a whole."""
    for version in report.versions:
        name = version.version or version.revision
        if version.counts.saved:
            yield f"saved {_requests(version.counts.saved)} of {name}"
        began = version.rollout
        if began is None:
            continue
        policy = f" of policy {began.policy}" if began.policy else ""
        yield (
            f"{name}: rollout {began.rollout}{policy}, {began.phase}: "
            f"{_requests(began.requests)} since it began, {began.failures:,} failed, "
            f"{began.saved:,} of them saved"
        )


def _requests(count: int) -> str:
    return f"{count:,} request" + ("s" if count != 1 else "")
