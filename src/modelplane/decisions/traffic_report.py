"""What each live version of a deployment gets and does: the figures behind ``traffic show``.

Called by `api.traffic_report`; the client reads what it returns. Pure: split, telemetry and
judgements in, one report out.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime

from pydantic import Field

from modelplane.decisions.rollout import policy_of
from modelplane.decisions.routing import TOTAL_WEIGHT
from modelplane.resources.meta import Part
from modelplane.resources.model_deployment import ModelDeployment
from modelplane.resources.rollout import Judgement, Rollout
from modelplane.resources.telemetry import TelemetryBatch, VariantSample
from modelplane.resources.traffic_split import DEFAULT_RULE, SplitRule, TrafficSplit

RETRIES_AT_A_TIME = 1024
"""What the shield may do at once where no `retryBudget` is declared."""

REVISION_CHARS = 10
"""Length of the short digest by which telemetry names a revision."""


class Counts(Part):
    """Requests of one version, as far as telemetry is kept. Latencies in microseconds."""

    requests: int = 0
    failures: int = Field(default=0, description="The version failed them, seen or not.")
    client_failures: int = Field(default=0, description="Failures that clients saw.")
    saved: int = Field(default=0, description="Failed ones that stable answered instead.")
    p50_us: float | None = None
    p99_us: float | None = None


class RuleCounts(Part):
    """One version under one rule."""

    rule: str
    share_pct: float = Field(description="Of the users under the rule.")
    mirror_pct: float = Field(default=0.0, description="Share of the requests copied to it.")
    counts: Counts


class SinceBegan(Part):
    """A running rollout's counts since its candidate first met a request."""

    rollout: str
    phase: str
    policy: str = Field(default="", description="The traffic policy it belongs to.")
    started_at: datetime | None = None
    requests: int = 0
    failures: int = 0
    saved: int = 0


class VersionReport(Part):
    """One live version, or one that was live within the window."""

    version: str | None = None
    revision: str = Field(description="Short digest.")
    role: str | None = Field(default=None, description="Absent: it is live no more.")
    counts: Counts
    rules: tuple[RuleCounts, ...] = ()
    rollout: SinceBegan | None = None


class RuleReport(Part):
    """Who is under a rule, and which versions they get, in percent."""

    name: str
    predicate: str = ""
    shares: dict[str, float] = Field(default_factory=dict, description="By version.")
    mirrors: dict[str, float] = Field(default_factory=dict, description="By version.")


class GatewayReport(Part):
    """Whether the gateway does what is declared."""

    generation: int = 0
    accepted_generation: int = 0
    accepted_at: datetime | None = None
    refusal: str = Field(default="", description="Its words when it refused the newest routes.")


class ShieldReport(Part):
    """What answers instead of a version that fails, and how much of that it may do."""

    on: bool
    saved: int = Field(default=0, description="Requests, within the window.")
    retries_at_a_time: int | None = Field(default=None, description="Absent: `retryBudgetPct`.")
    retry_budget_pct: float | None = Field(
        default=None, description="Retries at a time as a share of the requests in flight."
    )


class TrafficReport(Part):
    """The traffic of one deployment."""

    deployment: str
    environment: str
    seconds: int = Field(description="How far back the counts go.")
    last_seen: datetime | None = Field(default=None, description="End of the newest counts.")
    gateway: GatewayReport
    shield: ShieldReport
    rules: tuple[RuleReport, ...] = ()
    versions: tuple[VersionReport, ...] = ()


@dataclass(slots=True)
class _Sum:
    requests: int = 0
    failures: int = 0
    client_failures: int = 0
    bins: dict[tuple[float, float], int] = field(default_factory=dict)

    def add(self, sample: VariantSample) -> None:
        self.requests += sample.requests
        self.failures += sample.failures
        self.client_failures += sample.client_failures
        for lower_us, width_us, count in sample.latency:
            key = (lower_us, width_us)
            self.bins[key] = self.bins.get(key, 0) + count

    def counts(self) -> Counts:
        return Counts(
            requests=self.requests,
            failures=self.failures,
            client_failures=self.client_failures,
            saved=max(0, self.failures - self.client_failures),
            p50_us=compute_quantile(self.bins, 0.5),
            p99_us=compute_quantile(self.bins, 0.99),
        )


def compute_quantile(bins: Mapping[tuple[float, float], int], q: float) -> float | None:
    """Return the `q`-quantile of counts by ``(lower, width)``, linear in a bin; None if empty.

    Examples
    --------
    >>> compute_quantile({(0.0, 100.0): 1, (100.0, 100.0): 1}, 0.75)
    150.0
    """
    wanted, seen = q * sum(bins.values()), 0
    for (lower, width), count in sorted(bins.items()):
        if count and seen + count >= wanted:
            return lower + width * (wanted - seen) / count
        seen += count
    return None


def report_traffic(
    deployment: ModelDeployment,
    split: TrafficSplit | None,
    batches: Iterable[TelemetryBatch],
    running: Sequence[tuple[Rollout, Judgement | None]],
    *,
    seconds: int,
    last_seen: datetime | None,
) -> TrafficReport:
    """Return the report.

    Parameters
    ----------
    deployment, split
        As stored; None before anything serves.
    batches
        Those of the window, with samples of this deployment alone.
    running
        Its unfinished rollouts with what is known of each.
    seconds, last_seen
        The window, and where the newest counts end.
    """
    of_version: dict[str, _Sum] = {}
    of_rule: dict[tuple[str, str], _Sum] = {}
    for batch in batches:
        for sample in batch.samples:
            of_version.setdefault(sample.revision, _Sum()).add(sample)
            key = (sample.revision, sample.rule or DEFAULT_RULE)
            of_rule.setdefault(key, _Sum()).add(sample)
    rules = _all_rules(split)
    variants = {v.revision[:REVISION_CHARS]: v for v in split.spec.variants} if split else {}
    rollouts = {r.spec.candidate.digest[:REVISION_CHARS]: (r, j) for r, j in running}
    versions = []
    for revision in dict.fromkeys([*variants, *of_version]):
        variant = variants.get(revision)
        began = rollouts.get(revision)
        named = rules if variant is not None else ()
        versions.append(
            VersionReport(
                version=variant.version if variant is not None else None,
                revision=revision,
                role=variant.role if variant is not None else None,
                counts=of_version.get(revision, _Sum()).counts(),
                rules=_rules_of(revision, named, of_rule),
                rollout=_since_began(*began) if began is not None else None,
            )
        )
    limits = deployment.spec.limits
    budget = limits.retry_budget
    return TrafficReport(
        deployment=deployment.metadata.name,
        environment=deployment.metadata.environment or "",
        seconds=seconds,
        last_seen=last_seen,
        gateway=_gateway(split),
        shield=ShieldReport(
            on=deployment.spec.idempotent,
            saved=sum(version.counts.saved for version in versions),
            retries_at_a_time=RETRIES_AT_A_TIME if budget is None else None,
            retry_budget_pct=budget,
        ),
        rules=tuple(_describe(rule, split) for rule in rules),
        versions=tuple(versions),
    )


def _all_rules(split: TrafficSplit | None) -> tuple[SplitRule, ...]:
    """Return the rules of a split; of one that names none, one by the variants' weights."""
    if split is None or split.spec.rules:
        return split.spec.rules if split is not None else ()
    weights = [
        {"revision": v.revision, "width": round(v.weight_pct * TOTAL_WEIGHT / 100)}
        for v in split.spec.variants
        if v.weight_pct
    ]
    return (SplitRule.model_validate({"name": DEFAULT_RULE, "segments": weights}),)


def _rules_of(
    revision: str, rules: Sequence[SplitRule], counted: Mapping[tuple[str, str], _Sum]
) -> tuple[RuleCounts, ...]:
    """Return a version under each rule that gives it users or under which it was counted."""
    by_name = {rule.name: rule for rule in rules}
    seen = [name for of, name in counted if of == revision]
    found = []
    for name in dict.fromkeys([*by_name, *seen]):
        rule = by_name.get(name)
        share_pct = mirror_pct = 0.0
        if rule is not None:
            own = [s.width for s in rule.segments if s.revision.startswith(revision)]
            share_pct = sum(own) * 100 / TOTAL_WEIGHT
            mirror_pct = sum(m.percentage for m in rule.mirrors if m.revision.startswith(revision))
        counts = counted.get((revision, name))
        if share_pct or mirror_pct or counts is not None:
            found.append(
                RuleCounts(
                    rule=name,
                    share_pct=share_pct,
                    mirror_pct=mirror_pct,
                    counts=(counts or _Sum()).counts(),
                )
            )
    return tuple(found)


def _since_began(rollout: Rollout, judgement: Judgement | None) -> SinceBegan:
    known = judgement if judgement is not None else rollout.status
    return SinceBegan(
        rollout=rollout.metadata.name,
        phase=rollout.status.phase,
        policy=policy_of(rollout.spec.lane),
        started_at=rollout.status.ramp_started_at,
        requests=known.candidate_requests,
        failures=known.failed_requests,
        saved=known.saved_requests,
    )


def _gateway(split: TrafficSplit | None) -> GatewayReport:
    if split is None:
        return GatewayReport()
    status, generation = split.status, split.metadata.generation
    return GatewayReport(
        generation=generation,
        accepted_generation=status.accepted_generation,
        accepted_at=status.accepted_at,
        refusal=status.message if status.refused_generation == generation else "",
    )


def _describe(rule: SplitRule, split: TrafficSplit | None) -> RuleReport:
    variants = split.spec.variants if split is not None else ()
    versions = {variant.revision: variant.version for variant in variants}
    shares: dict[str, float] = {}
    for segment in rule.segments:
        version = versions.get(segment.revision, segment.revision)
        shares[version] = shares.get(version, 0.0) + segment.width * 100 / TOTAL_WEIGHT
    mirrors = {versions.get(m.revision, m.revision): m.percentage for m in rule.mirrors}
    return RuleReport(name=rule.name, predicate=rule.predicate, shares=shares, mirrors=mirrors)
