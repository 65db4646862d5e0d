"""The judgement that lies beside a rollout's evidence: made, read, shown as part of its status.

The analysis controller stores it, the rollout controller decides by it, and the API shows it with
a running rollout: the stored status changes only with a decision, while evidence moves every
second. Pure.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pydantic import ValidationError

from modelplane.decisions.analysis import AnalysisVerdict, EvidenceState
from modelplane.resources.rollout import Judgement, MetricReport, Rollout, SliceReport


def read_judgement(evidence: Mapping[str, Any] | None) -> Judgement | None:
    """Return the judgement stored beside the evidence, or None when there is none.

    One that another release wrote counts as none: it is judged anew at the next tick.
    """
    if not evidence or "judgement" not in evidence:
        return None
    try:
        return Judgement.model_validate(evidence["judgement"])
    except ValidationError:
        return None


def show_judgement(rollout: Rollout, judgement: Judgement | None) -> Rollout:
    """Return a running rollout with what is known now; a finished one as it is."""
    if judgement is None or rollout.finished:
        return rollout
    return rollout.with_status(
        metrics=judgement.metrics,
        slices=judgement.slices,
        compared=judgement.compared,
        different=judgement.different,
        candidate_requests=judgement.candidate_requests,
        failed_requests=judgement.failed_requests,
        requests_needed=judgement.requests_needed,
        saved_requests=judgement.saved_requests,
        judged_at=judgement.at,
    )


def judge_evidence(
    state: EvidenceState, verdict: AnalysisVerdict, allowed_weight_pct: float
) -> Judgement | None:
    """Return what to store beside the evidence; None before any counts have arrived.

    Parameters
    ----------
    state, verdict
        What is known, and what it says.
    allowed_weight_pct
        The largest weight that the risk budget allows.
    """
    if state.last_at is None:
        return None
    return Judgement(
        # Counts of a step say something of the candidate only once a request has met it there.
        step_id=state.step_id if state.step_candidate_requests > 0 else -1,
        at=state.step_at or state.last_at,
        warm=verdict.warm,
        harm=verdict.harm,
        passes=verdict.passes,
        unavailable=verdict.unavailable,
        bad_replica=verdict.bad_replica,
        allowed_weight_pct=allowed_weight_pct,
        stable_rps=state.request_rate_rps,
        requests_needed=verdict.requests_still_needed,
        candidate_requests=state.candidate.requests,
        failed_requests=state.candidate.failures,
        saved_requests=state.candidate.failures - state.candidate.client_failures,
        dispersion=verdict.phi,
        metrics=tuple(
            MetricReport(
                name=metric.name,
                verdict=metric.verdict,
                stable=metric.stable,
                candidate=metric.candidate,
                difference=metric.difference,
                lower=metric.lower,
                upper=metric.upper,
                margin=metric.margin,
                e_value=metric.e_value,
                requests_needed=metric.requests_still_needed,
                sentence=metric.sentence,
            )
            for metric in verdict.metrics
        ),
        slices=tuple(
            SliceReport(
                name=part.name,
                requests=part.candidate_trials,
                stable=part.stable,
                candidate=part.candidate,
                e_value=part.e_value,
                harm=part.harm,
            )
            for part in verdict.slices
        ),
        compared=verdict.compared,
        different=verdict.different,
        different_lower=verdict.different_lower,
        sentence=verdict.reason,
    )
