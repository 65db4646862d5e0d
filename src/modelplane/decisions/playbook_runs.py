"""Runs of playbooks beside each other: which is in the way, whose turn it is, which are kept. Pure.

Used by `playbook_starts`, by the API, and by `controllers.playbooks`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime, timedelta

from modelplane.resources.alerting import Alert
from modelplane.resources.playbook import PlaybookRun

KEPT_RUNS = 100
"""Finished runs of one playbook that are kept; of dry ones as many."""

_HOUR = timedelta(hours=1)


def find_busy(
    playbook: str, labels: Mapping[str, str], runs: Sequence[PlaybookRun]
) -> PlaybookRun | None:
    """Return an unfinished run of the playbook, or of any about the same deployment."""
    for run in runs:
        same = run.spec.playbook == playbook or (
            _target(labels) is not None and _target(run.spec.labels) == _target(labels)
        )
        if same and not run.finished and not run.spec.dry_run:
            return run
    return None


def find_first(run: PlaybookRun, runs: Sequence[PlaybookRun]) -> PlaybookRun | None:
    """Return the run that a run which has not begun waits for; None when it is its turn.

    Two who begin runs about one deployment at once do not see each other: the runs do.
    """
    if run.spec.dry_run:
        return None
    earlier = [
        other
        for other in runs
        if other.metadata.name != run.metadata.name and _turn(other) < _turn(run)
    ]
    return find_busy(run.spec.playbook, run.spec.labels, earlier)


def surplus(
    playbook: str, runs: Sequence[PlaybookRun], alerts: Sequence[Alert], now: datetime
) -> tuple[PlaybookRun, ...]:
    """Return the finished runs of a playbook that are too old to be kept.

    What limits, or the decision about an alert that is not over, still depend on is kept.
    """
    open_ = {
        (alert.metadata.name, alert.status.episode)
        for alert in alerts
        if alert.status.phase != "Resolved"
    }

    def counts(run: PlaybookRun) -> bool:
        window = max(_HOUR, timedelta(seconds=run.spec.loop_window_s))
        is_recent = now - (run.status.finished_at or now) <= window
        return is_recent or (run.spec.alert, run.spec.episode) in open_

    own = sorted((r for r in runs if r.spec.playbook == playbook and r.finished), key=number_of)
    dry = [run for run in own if run.spec.dry_run]
    real = [run for run in own if not run.spec.dry_run]
    return (*dry[:-KEPT_RUNS], *(run for run in real[:-KEPT_RUNS] if not counts(run)))


def number_of(run: PlaybookRun) -> int:
    """Return the number in a run's name."""
    number = run.metadata.name.rpartition("-")[2]
    return int(number) if number.isdecimal() else 0


def _turn(run: PlaybookRun) -> tuple[bool, float, str]:
    created_at = run.metadata.created_at
    is_waiting = run.status.phase == "Pending"
    return is_waiting, created_at.timestamp() if created_at else 0.0, run.metadata.name


def _target(labels: Mapping[str, str]) -> tuple[str, str] | None:
    if not labels.get("deployment"):
        return None
    return labels.get("environment", ""), labels["deployment"]
