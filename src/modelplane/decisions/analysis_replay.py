"""What other analysis settings would have said of rollouts that are over. Pure.

Called by the API for ``policy replay``. Counts were gathered at the weights that the rollout had;
other settings would have led to other weights, so times are those of the recorded traffic. What
a rollback ended was recorded up to it: settings that need longer are said to have found nothing
in the recording, which is not the same as never.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from statistics import median
from typing import Literal

from modelplane.decisions.analysis import (
    AnalysisSettings,
    Tick,
    absorb,
    judge,
    settings_of,
    start_evidence,
)
from modelplane.decisions.rollout import Reason
from modelplane.resources.meta import Part
from modelplane.resources.rollout import Rollout
from modelplane.resources.strategy import Analysis

Truth = Literal["healthy", "harmful", "unknown"]
Said = Literal["rollback", "promote", "nothing"]

_HARMFUL = {Reason.HARM, Reason.CLAWED_BACK, Reason.ROLLBACK_REQUESTED}


@dataclass(frozen=True, slots=True)
class RecordedRollout:
    """One finished rollout with its recording.

    Attributes
    ----------
    truth
        What the candidate turned out to be; see `judge_truth`.
    ticks
        In order of time, those before the rollout (stable alone) included.
    """

    rollout: Rollout
    truth: Truth
    ticks: tuple[Tick, ...]


class Replay(Part):
    """What settings say of one rollout."""

    said: Said
    after_s: float | None = None
    candidate_requests: int = 0
    failed_requests: int = 0


class RolloutReplay(Part):
    """One rollout under the settings it had, and under the proposed ones."""

    environment: str
    rollout: str
    version: str
    truth: Truth
    present: Replay
    proposed: Replay

    @property
    def flips(self) -> bool:
        """Whether the proposed settings say something else."""
        return self.present.said != self.proposed.said


class ReplaySummary(Part):
    """One kind of settings over all rollouts."""

    false_rollbacks: int = 0
    missed_regressions: int = 0
    detected: int = 0
    median_time_to_detect_s: float | None = None
    median_failed_requests: float | None = None


class AnalysisReplay(Part):
    """Present and proposed settings over the recorded rollouts.

    `healthy` and `harmful` say how many of each there are: without any, a rate means nothing.
    """

    rollouts: tuple[RolloutReplay, ...] = ()
    healthy: int = 0
    harmful: int = 0
    unknown: int = 0
    present: ReplaySummary = ReplaySummary()
    proposed: ReplaySummary = ReplaySummary()


def judge_truth(rollout: Rollout, after: Rollout | None) -> Truth:
    """Return what a finished rollout's candidate turned out to be.

    Parameters
    ----------
    rollout
        Finished.
    after
        The deployment's next rollout, if any.

    Returns
    -------
    Truth
        ``harmful``: rolled back for harm or by a person, or promoted and undone next.
        ``healthy``: promoted, and not undone next. ``unknown``: everything else.
    """
    status = rollout.status
    if status.phase == "RolledBack":
        return "harmful" if status.reason in _HARMFUL else "unknown"
    if status.phase != "Promoted":
        return "unknown"
    stable = rollout.spec.stable
    undone = (
        after is not None and stable is not None and after.spec.candidate.digest == stable.digest
    )
    return "harmful" if undone else "healthy"


def replay(ticks: Sequence[Tick], settings: AnalysisSettings, uid: str) -> Replay:
    """Judge a recording second by second, as it was judged live.

    Parameters
    ----------
    ticks
        In order of time.
    settings
        How to judge.
    uid
        Of the rollout.
    """
    state = start_evidence(uid, settings)
    first = next((i for i, tick in enumerate(ticks) if tick.step_id is not None), len(ticks))
    if first:
        state = absorb(state, ticks[:first], settings)
    began: datetime | None = None
    for tick in ticks[first:]:
        state = absorb(state, [tick], settings)
        if began is None and tick.candidate.requests:
            began = tick.at
        verdict = judge(state, settings, tick.at)
        said: Said = "rollback" if verdict.harm else "promote" if verdict.passes else "nothing"
        if said != "nothing" and began is not None:
            return Replay(
                said=said,
                after_s=(tick.at - began).total_seconds(),
                candidate_requests=state.candidate.requests,
                failed_requests=state.candidate.failures,
            )
    return Replay(
        said="nothing",
        candidate_requests=state.candidate.requests,
        failed_requests=state.candidate.failures,
    )


def replay_all(recorded: Sequence[RecordedRollout], proposed: Analysis) -> AnalysisReplay:
    """Judge recorded rollouts under the settings they had, and under `proposed`."""
    new = settings_of(proposed)
    rows = []
    for one in recorded:
        strategy = one.rollout.status.strategy
        analysis = strategy.analysis if strategy else None
        if analysis is None:
            continue
        uid = one.rollout.metadata.uid
        rows.append(
            RolloutReplay(
                environment=one.rollout.metadata.environment or "",
                rollout=one.rollout.metadata.name,
                version=one.rollout.spec.candidate.version,
                truth=one.truth,
                present=replay(one.ticks, settings_of(analysis), uid),
                proposed=replay(one.ticks, new, uid),
            )
        )
    truths = [row.truth for row in rows]
    return AnalysisReplay(
        rollouts=tuple(rows),
        healthy=truths.count("healthy"),
        harmful=truths.count("harmful"),
        unknown=truths.count("unknown"),
        present=_summarize([(row.truth, row.present) for row in rows]),
        proposed=_summarize([(row.truth, row.proposed) for row in rows]),
    )


def _summarize(rows: Sequence[tuple[Truth, Replay]]) -> ReplaySummary:
    found = [r for truth, r in rows if truth == "harmful" and r.said == "rollback"]
    times = [r.after_s for r in found if r.after_s is not None]
    return ReplaySummary(
        false_rollbacks=sum(truth == "healthy" and r.said == "rollback" for truth, r in rows),
        missed_regressions=sum(truth == "harmful" and r.said != "rollback" for truth, r in rows),
        detected=len(found),
        median_time_to_detect_s=median(times) if times else None,
        median_failed_requests=median(r.failed_requests for r in found) if found else None,
    )
