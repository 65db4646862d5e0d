"""The judgement that lies beside a rollout's evidence: read, and shown as part of its status.

The rollout controller decides by it; the API shows it with a running rollout, because the stored
status changes only with a decision while evidence moves every second. Pure.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pydantic import ValidationError

from modelplane.resources.rollout import Judgement, Rollout


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
