"""What the demo reports, as ``--report`` writes it.

Filled by ``demo.run`` (first act) and ``demo.loop`` (second act), printed by ``cli.demonstration``.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, field
from pathlib import Path


@dataclass(frozen=True, slots=True)
class RolloutOutcome:
    """One rollout as the report tells it."""

    version: str
    environment: str
    verdict: str
    reason: str
    candidate_requests: int
    failed_requests: int
    seconds: float


@dataclass(slots=True)
class LoopOutcome:
    """What the second act showed; None where it did not come to it.

    Attributes
    ----------
    drift_detected_after_requests, precision_alert_after_requests
        Requests that had been sent when the alert fired.
    drift_detected_in, precision_alert_in
        The month that was replayed then, such as ``2013-06``.
    drifted
        Inputs that had drifted when the act ended.
    retrained_version
        What the training that the playbook began registered.
    gates, verdict
        What became of it: phase of its gate run; ``promoted``, ``rolled_back`` or other.
    quality_metric
        ``precision``, by labels over the horizon.
    quality_before
        Of the first version when the alert fired.
    quality_beside
        Of the first version at the end of the rollout of the retrained one: the same flights
        fell to both by lot, so this is what to compare with `quality_candidate`.
    quality_candidate
        Of the retrained version, at the same moment.
    quality_after
        Of the retrained version when the act ended; other flights than at the alert.
    alert_closed
        Whether the alert of precision was resolved when the act ended.
    alert_message
        What was done, or why it stays.
    """

    drift_detected_after_requests: int | None = None
    drift_detected_in: str | None = None
    drifted: list[str] = field(default_factory=list)
    precision_alert_after_requests: int | None = None
    precision_alert_in: str | None = None
    retrained_version: str | None = None
    training_s: float | None = None
    gates: str | None = None
    verdict: str | None = None
    quality_metric: str = "precision"
    quality_before: float | None = None
    quality_beside: float | None = None
    quality_candidate: float | None = None
    quality_after: float | None = None
    intervals: dict[str, tuple[float, float]] = field(default_factory=dict)
    alert_closed: bool = False
    alert_message: str = ""
    labels: int = 0


@dataclass(slots=True)
class Report:
    """What ``--report`` writes."""

    rollouts: list[RolloutOutcome] = field(default_factory=list)
    client_failures: int = 0
    platform_failures: int = 0
    audit_verified: bool = False
    seconds: float = 0.0
    loop: LoopOutcome | None = None


def write_report(report: Report, file: Path) -> None:
    """Write the report as JSON, whole or not at all."""
    temporary = file.with_name(file.name + ".new")
    temporary.write_text(json.dumps(asdict(report), indent=2) + "\n")
    temporary.rename(file)
