"""What the evidence says of a candidate, in numbers and in sentences that people read.

Made by :mod:`modelplane.decisions.analysis_verdict`. Only data and its wording.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from modelplane.decisions.analysis_inputs import LABEL_METRICS, LATENCY, LOSS

MetricVerdictName = Literal["harm", "pass", "undecided", "unavailable"]


@dataclass(frozen=True, slots=True)
class MetricVerdict:
    """One metric's part of a verdict.

    Attributes
    ----------
    stable, candidate, difference
        Rates from 0 to 1; for latency the judged percentile (the 95th of several) in
        microseconds. None while unknown.
        What needs labels is told in its own units: a precision, a mean reward.
    lower, upper
        Bounds of the difference that hold at every look; None for latency.
    margin
        Greatest difference that passes; None while warming up.
    e_value
        Evidence of harm, 1 at the start, finite.
    requests_still_needed
        Requests to the candidate until it passes if it is as good as stable; None if that
        cannot be said.
    candidate_trials, candidate_failures
        What ``candidate`` is the rate of; for latency failures are not counted.
    percentile
        Of latency, where one alone is judged.
    """

    name: str
    verdict: MetricVerdictName
    stable: float | None = None
    candidate: float | None = None
    difference: float | None = None
    lower: float | None = None
    upper: float | None = None
    margin: float | None = None
    e_value: float = 1.0
    requests_still_needed: int | None = None
    candidate_trials: int = 0
    candidate_failures: int = 0
    percentile: int | None = None

    @property
    def sentence(self) -> str:
        """What people read about this metric."""
        is_label = self.name in LABEL_METRICS
        if self.verdict == "unavailable":
            missing = "no label for it has come" if is_label else "no counts of it have arrived"
            return f"{self.name} cannot be measured: {missing}"
        if self.stable is None or self.candidate is None:
            what = "labels of both versions" if is_label else "requests"
            return f"{self.name}: no {what} to compare yet"
        if self.name == LATENCY:
            text = self._latency_text()
        else:
            text = self._label_text() if is_label else self._outcome_text()
        if self.requests_still_needed is None:
            return text
        what = "labels of" if is_label else "requests to"
        return f"{text}; about {self.requests_still_needed:,} more {what} the candidate"

    def _label_text(self) -> str:
        """In natural units; bounds are of the candidate's value minus stable's."""
        values = (
            f"{self.name}: {self.candidate:.4g} by {self.candidate_trials:,} labels of the "
            f"candidate against {self.stable:.4g} of stable"
        )
        if self.verdict == "harm":
            return f"{values}, evidence {_odds(self.e_value)} to 1"
        if self.margin is None or self.lower is None or self.upper is None:
            return f"{values}, still learning what is normal"
        worse, better, direction = -self.lower, self.lower, "lower"
        if self.name == LOSS:
            worse, better, direction = self.upper, -self.upper, "higher"
        if better > 0:
            return f"{values}, better by at least {better:.4g}"
        if self.verdict == "pass":
            return f"{values}, at most {worse:.4g} {direction}, margin {self.margin:.4g}"
        return f"{values}, at most {worse:.4g} {direction} so far, margin {self.margin:.4g}"

    def _outcome_text(self) -> str:
        rates = (
            f"{self.name}: {self.candidate_failures:,} of {self.candidate_trials:,} candidate "
            f"requests ({self.candidate:.2%}) against {self.stable:.2%} of stable's"
        )
        if self.verdict == "harm":
            return f"{rates}, evidence {_odds(self.e_value)} to 1"
        if self.margin is None:
            return f"{rates}, still learning what is normal"
        if self.verdict == "pass":
            return f"{rates}, at most {self.upper:.2%} more, within the margin of {self.margin:.2%}"
        return f"{rates}, at most {self.upper:.2%} more so far, margin {self.margin:.2%}"

    def _latency_text(self) -> str:
        assert self.stable is not None
        assert self.candidate is not None
        times = (
            f"latency: p{self.percentile or 95} {self.candidate / 1000:.3g} ms against "
            f"{self.stable / 1000:.3g} ms of stable"
        )
        if self.verdict == "harm":
            return f"{times}, more often slow than stable with the margin added"
        if self.verdict == "pass":
            where = f"p{self.percentile}" if self.percentile else "p95 and p99"
            return f"{times}, within the margin at {where}"
        return times if self.margin is not None else f"{times}, still learning what is normal"


@dataclass(frozen=True, slots=True)
class SliceVerdict:
    """Errors in one part of the users.

    Attributes
    ----------
    stable, candidate
        Failure rates; None while unknown.
    candidate_trials, candidate_failures
        What ``candidate`` is the rate of.
    e_value
        Evidence of harm to this part, 1 at the start, finite.
    harm
        Named: of the parts named, at most a share alpha is unharmed on average.
    """

    name: str
    stable: float | None
    candidate: float | None
    candidate_trials: int
    candidate_failures: int
    e_value: float
    harm: bool

    @property
    def sentence(self) -> str:
        """What people read about this part."""
        return (
            f"{self.name}: {self.candidate_failures:,} of {self.candidate_trials:,} candidate "
            f"requests failed ({self.candidate or 0:.2%}) against {self.stable or 0:.2%} of "
            f"stable's, evidence {_odds(self.e_value)} to 1"
        )


def _odds(e_value: float) -> str:
    return f"{e_value:,.0f}" if e_value < 1e6 else "more than a million"


@dataclass(frozen=True, slots=True)
class AnalysisVerdict:
    """What the evidence says of a candidate.

    Attributes
    ----------
    harm
        The candidate is worse: roll back.
    harm_metrics
        Where it is worse; empty without harm.
    bad_replica
        A replica whose failures alone would show harm: do not grow, replace it.
    passes
        Every metric is within its margin and the counts are fresh.
    fresh
        Requests of the present step met the candidate a short while ago.
    warm
        Errors and latency, where judged, have seen enough of stable.
    ucb
        Upper bound of the candidate's excess failure rate, 1 before anything is known.
    stable_rate
        Stable's failure rate.
    phi
        How much stable's failures scatter, as errors are judged; at least 1.
    e_value
        Weighted sum of the metrics' e-values; ``1/alpha`` shows harm once there are enough
        failures.
    unavailable
        Metrics that cannot be measured.
    requests_still_needed
        The most that any metric still needs; None if that cannot be said.
    stable_requests
        Seen in the whole rollout.
    slices
        The declared parts of the users.
    compared, different
        Of a shadow: pairs of answers compared, and those that differ.
    different_lower
        Lower bound of the share that differs, valid at every look; None without pairs.
    """

    harm: bool
    harm_metrics: tuple[str, ...]
    bad_replica: str | None
    passes: bool
    fresh: bool
    warm: bool
    ucb: float
    stable_rate: float
    phi: float
    e_value: float
    unavailable: tuple[str, ...]
    metrics: tuple[MetricVerdict, ...]
    requests_still_needed: int | None
    stable_requests: int
    slices: tuple[SliceVerdict, ...] = ()
    compared: int = 0
    different: int = 0
    different_lower: float | None = None

    @property
    def reason(self) -> str:
        """The verdict in one sentence."""
        if self.harm:
            worse = [metric.sentence for metric in self.metrics if metric.verdict == "harm"]
            if "errors" in self.harm_metrics:
                worse += self._harmed_parts()
            return f"the candidate is worse: {'; '.join(worse)}"
        if self.bad_replica is not None:
            return f"replica {self.bad_replica} fails and the others do not: replace it"
        if self.passes:
            names = " and ".join(metric.name for metric in self.metrics)
            return f"the candidate is within the margin in {names}"
        if not self.warm:
            return f"learning what is normal for stable: {self.stable_requests:,} requests seen"
        if not self.fresh:
            return "no request of this step has met the candidate lately"
        open_ = [metric.sentence for metric in self.metrics if metric.verdict != "pass"]
        return "; ".join([*self._harmed_parts(), *open_])

    def _harmed_parts(self) -> list[str]:
        return [part.sentence for part in self.slices if part.harm]
