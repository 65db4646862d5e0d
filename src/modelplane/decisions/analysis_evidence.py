"""What live analysis knows of one rollout: the evidence and its written form.

Used by the other ``analysis`` modules of this package and, through
:mod:`modelplane.decisions.analysis`, by the analysis controller, which stores the evidence. Only
data and its written form; nothing here draws a conclusion.

Evidence cannot be rebuilt from totals, since wealth depends on the blocks it was built from. So
all of it is written, exactly, with the last sequence of each gateway in the same record.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from modelplane.decisions.analysis_inputs import (
    ERRORS,
    LATENCY,
    NOTHING,
    AnalysisSettings,
    Outcomes,
    VersionCounts,
)
from modelplane.errors import InvalidResource
from modelplane.resources.traffic_split import DEFAULT_RULE
from modelplane.stats.dispersion import (
    DispersionState,
    dispersion_row_from_dict,
    dispersion_row_to_dict,
    new_dispersion,
    stack_dispersion,
)
from modelplane.stats.latency import (
    QUANTILES,
    Histogram,
    LatencyThreshold,
    subtract_histogram,
)
from modelplane.stats.rewards import MeanState
from modelplane.stats.sequential import (
    COMPARISON,
    EXCEEDANCE,
    HARM_ONLY,
    SequentialState,
    new_state,
)
from modelplane.stats.sequential_rows import row_from_dict, row_to_dict, stack

EVIDENCE_FORMAT = 3
_READABLE_FORMATS = (1, 2, 3)
"""In the first one there were no slices and no compared answers, in the second no numbers."""
MAX_REPLICAS = 32
"""Candidate replicas told apart; later ones are never left out."""
MAX_SEQUENCES = 64
"""Gateway boots remembered; one more and the boot that was heard longest ago is forgotten."""


@dataclass(frozen=True, slots=True)
class VersionTotals:
    """Sums over the whole rollout."""

    requests: int = 0
    failures: int = 0
    client_failures: int = 0

    def plus(self, counts: VersionCounts) -> VersionTotals:
        """Return the sum."""
        return VersionTotals(
            self.requests + counts.requests,
            self.failures + counts.failures,
            self.client_failures + counts.client_failures,
        )


@dataclass(frozen=True, slots=True, eq=False)
class MetricEvidence:
    """What is known of one metric.

    Attributes
    ----------
    margin
        Fixed at the end of the warm-up; None before, and for latency.
    thresholds
        Of latency, fixed at the end of the warm-up; empty otherwise.
    stable, candidate
        Trials and failures so far; for latency trials alone.
    tests
        One row, or one for each of the latency quantiles.
    dispersion
        Scatter of stable's failures, row by row.
    stable_latency, candidate_latency
        Histograms of the whole rollout; empty for other metrics.
    settled_latency, settled_requests
        The part of stable's latencies, and of its requests, that the present thresholds have used
        up; the next ones come from the others.
    renewed_at
        When the thresholds were last fixed.
    means
        Of a metric that is judged by numbers or by pairs, which `tests` then know nothing of.
    """

    name: str
    margin: float | None
    thresholds: tuple[LatencyThreshold, ...]
    stable: Outcomes
    candidate: Outcomes
    tests: SequentialState
    dispersion: DispersionState
    stable_latency: Histogram
    candidate_latency: Histogram
    settled_latency: Histogram = field(default_factory=dict)
    settled_requests: int = 0
    renewed_at: datetime | None = None
    means: MeanState | None = None

    @property
    def recent_requests(self) -> int:
        """How many requests to stable the next thresholds would come from."""
        return self.stable.trials - self.settled_requests

    @property
    def recent_latency(self) -> dict[int, int]:
        """Their latencies."""
        return subtract_histogram(self.stable_latency, self.settled_latency)

    @property
    def armed(self) -> bool:
        """Whether the warm-up of this metric is over."""
        return self.margin is not None or bool(self.thresholds)

    @property
    def available(self) -> bool:
        """Whether it can be measured: always for errors and latency, else once seen."""
        return self.name in (ERRORS, LATENCY) or self.stable.trials + self.candidate.trials > 0


@dataclass(frozen=True, slots=True)
class ReplicaEvidence:
    """Attempts of one candidate replica so far.

    Attributes
    ----------
    last_at
        End of the newest interval with any; None while unknown.
    """

    name: str
    attempts: Outcomes = NOTHING
    last_at: datetime | None = None


@dataclass(frozen=True, slots=True)
class SliceEvidence:
    """Requests of one part of the users so far."""

    name: str
    stable: Outcomes = NOTHING
    candidate: Outcomes = NOTHING


@dataclass(frozen=True, slots=True, eq=False)
class EvidenceState:
    """Everything analysis keeps of one rollout.

    Attributes
    ----------
    step_id
        The newest step that counts have arrived for.
    sequences
        Last sequence absorbed by (proxy, boot id), the one heard last at the end.
    first_at, last_at
        Ends of the first and of the newest interval.
    step_at
        End of the newest interval of the step `step_id`; only these let the weight grow.
    step_stable_requests, step_candidate_requests
        Requests in that step.
    recent_requests, recent_s
        Decaying sums for the request rate.
    replicas, leave_one_out
        Candidate replicas and the harm test of errors without each, row by row.
    slices, slice_tests
        Declared parts of the users and the harm test of errors in each, row by row.
    compared
        Of a shadow: pairs of answers compared, and those that differ.
    rule
        The routing rule that both versions were counted under.
    """

    rollout_uid: str
    step_id: int
    metrics: tuple[MetricEvidence, ...]
    sequences: Mapping[tuple[str, str], int] = field(default_factory=dict)
    first_at: datetime | None = None
    last_at: datetime | None = None
    step_at: datetime | None = None
    step_stable_requests: int = 0
    step_candidate_requests: int = 0
    recent_requests: float = 0.0
    recent_s: float = 0.0
    stable: VersionTotals = VersionTotals()
    candidate: VersionTotals = VersionTotals()
    replicas: tuple[ReplicaEvidence, ...] = ()
    leave_one_out: SequentialState = field(default_factory=lambda: new_state(HARM_ONLY, 0))
    slices: tuple[SliceEvidence, ...] = ()
    slice_tests: SequentialState = field(default_factory=lambda: new_state(HARM_ONLY, 0))
    compared: Outcomes = NOTHING
    rule: str = DEFAULT_RULE

    @property
    def request_rate_rps(self) -> float:
        """Requests per second to both versions, over about the last half minute."""
        return self.recent_requests / self.recent_s if self.recent_s > 0 else 0.0

    def metric(self, name: str) -> MetricEvidence | None:
        """Return the evidence of a metric, or None when it is not tracked."""
        return next((metric for metric in self.metrics if metric.name == name), None)

    def to_dict(self) -> dict[str, Any]:
        """Return plain JSON types; :meth:`from_dict` reads them back exactly."""
        return {
            "format": EVIDENCE_FORMAT,
            "rollout_uid": self.rollout_uid,
            "step_id": self.step_id,
            "rule": self.rule,
            "sequences": [[*position, last] for position, last in self.sequences.items()],
            "first_at": _time_to_text(self.first_at),
            "last_at": _time_to_text(self.last_at),
            "step_at": _time_to_text(self.step_at),
            "step_stable_requests": self.step_stable_requests,
            "step_candidate_requests": self.step_candidate_requests,
            "recent_requests": self.recent_requests,
            "recent_s": self.recent_s,
            "stable": _totals_to_list(self.stable),
            "candidate": _totals_to_list(self.candidate),
            "metrics": [_metric_to_dict(metric) for metric in self.metrics],
            "replicas": [
                {
                    "name": replica.name,
                    "attempts": [replica.attempts.trials, replica.attempts.failures],
                    "last_at": _time_to_text(replica.last_at),
                    "tests": row_to_dict(self.leave_one_out, row),
                }
                for row, replica in enumerate(self.replicas)
            ],
            "slices": [
                {
                    "name": part.name,
                    "stable": [part.stable.trials, part.stable.failures],
                    "candidate": [part.candidate.trials, part.candidate.failures],
                    "tests": row_to_dict(self.slice_tests, row),
                }
                for row, part in enumerate(self.slices)
            ],
            "compared": [self.compared.trials, self.compared.failures],
        }

    @staticmethod
    def from_dict(record: Mapping[str, Any]) -> EvidenceState:
        """Return the state that :meth:`to_dict` wrote.

        Raises
        ------
        InvalidResource
            When a later modelplane wrote the record.
        """
        if record.get("format") not in _READABLE_FORMATS:
            raise InvalidResource(
                f"evidence of rollout {record.get('rollout_uid')!r} has format "
                f"{record.get('format')!r}, this modelplane reads {EVIDENCE_FORMAT}",
                hint="run the modelplane that wrote it, or start the rollout again",
            )
        replicas, slices = record["replicas"], record.get("slices", [])
        return EvidenceState(
            rollout_uid=record["rollout_uid"],
            step_id=record["step_id"],
            rule=record.get("rule", DEFAULT_RULE),
            sequences={(proxy, boot): last for proxy, boot, last in record["sequences"]},
            first_at=_time_from_text(record["first_at"]),
            last_at=_time_from_text(record["last_at"]),
            step_at=_time_from_text(record["step_at"]),
            step_stable_requests=record["step_stable_requests"],
            step_candidate_requests=record["step_candidate_requests"],
            recent_requests=record["recent_requests"],
            recent_s=record["recent_s"],
            stable=VersionTotals(*record["stable"]),
            candidate=VersionTotals(*record["candidate"]),
            metrics=tuple(_metric_from_dict(metric) for metric in record["metrics"]),
            replicas=tuple(
                ReplicaEvidence(
                    replica["name"],
                    Outcomes(*replica["attempts"]),
                    _time_from_text(replica.get("last_at")),
                )
                for replica in replicas
            ),
            leave_one_out=_harm_tests(replicas),
            slices=tuple(
                SliceEvidence(part["name"], Outcomes(*part["stable"]), Outcomes(*part["candidate"]))
                for part in slices
            ),
            slice_tests=_harm_tests(slices),
            compared=Outcomes(*record.get("compared", (0, 0))),
        )


def start_evidence(
    rollout_uid: str, settings: AnalysisSettings, history: EvidenceState | None = None
) -> EvidenceState:
    """Evidence of a rollout that has seen nothing yet.

    Parameters
    ----------
    rollout_uid
        Whose it is.
    settings
        Say which metrics are tracked.
    history
        Evidence of the same deployment from before, a rollout's or one that only followed
        stable: its measure of how stable's failures scatter is taken over, which needs half an
        hour to become sharp.
    """
    return EvidenceState(
        rollout_uid=rollout_uid,
        step_id=-1,
        metrics=tuple(
            start_metric(metric.name, history.metric(metric.name) if history else None)
            for metric in settings.judged_metrics()
        ),
    )


def start_metric(name: str, history: MetricEvidence | None = None) -> MetricEvidence:
    """Evidence of a metric that was not seen yet."""
    rows = len(QUANTILES) if name == LATENCY else 1
    return MetricEvidence(
        name=name,
        margin=None,
        thresholds=(),
        stable=Outcomes(),
        candidate=Outcomes(),
        tests=new_state(EXCEEDANCE if name == LATENCY else COMPARISON, rows),
        dispersion=history.dispersion if history else new_dispersion(rows),
        stable_latency={},
        candidate_latency={},
    )


def _metric_to_dict(metric: MetricEvidence) -> dict[str, Any]:
    rows = range(len(metric.dispersion.totals))
    return {
        "name": metric.name,
        "margin": metric.margin,
        "thresholds": [[t.quantile, t.stable_us, t.candidate_us] for t in metric.thresholds],
        "stable": [metric.stable.trials, metric.stable.failures],
        "candidate": [metric.candidate.trials, metric.candidate.failures],
        "tests": [row_to_dict(metric.tests, row) for row in rows],
        "dispersion": [dispersion_row_to_dict(metric.dispersion, row) for row in rows],
        "stable_latency": [list(pair) for pair in metric.stable_latency.items()],
        "candidate_latency": [list(pair) for pair in metric.candidate_latency.items()],
        "recent_latency": [list(pair) for pair in metric.recent_latency.items()],
        "renewed_at": _time_to_text(metric.renewed_at),
        "means": metric.means.to_dict() if metric.means is not None else None,
    }


def _metric_from_dict(record: Mapping[str, Any]) -> MetricEvidence:
    stable, stable_latency = Outcomes(*record["stable"]), dict(record["stable_latency"])
    recent = dict(record["recent_latency"])
    return MetricEvidence(
        name=record["name"],
        margin=record["margin"],
        thresholds=tuple(LatencyThreshold(*threshold) for threshold in record["thresholds"]),
        stable=stable,
        candidate=Outcomes(*record["candidate"]),
        tests=stack([row_from_dict(row) for row in record["tests"]]),
        dispersion=stack_dispersion([dispersion_row_from_dict(r) for r in record["dispersion"]]),
        stable_latency=stable_latency,
        candidate_latency=dict(record["candidate_latency"]),
        settled_latency=subtract_histogram(stable_latency, recent),
        settled_requests=stable.trials - sum(recent.values()),
        renewed_at=_time_from_text(record["renewed_at"]),
        means=MeanState.from_dict(record["means"]) if record.get("means") else None,
    )


def _harm_tests(records: Sequence[Mapping[str, Any]]) -> SequentialState:
    rows = [row_from_dict(record["tests"]) for record in records]
    return stack(rows) if rows else new_state(HARM_ONLY, 0)


def _totals_to_list(totals: VersionTotals) -> list[int]:
    return [totals.requests, totals.failures, totals.client_failures]


def _time_to_text(at: datetime | None) -> str | None:
    return None if at is None else at.isoformat()


def _time_from_text(text: str | None) -> datetime | None:
    return None if text is None else datetime.fromisoformat(text)
