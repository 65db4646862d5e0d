"""The alert rules that modelplane ships, about what it measures of itself. Pure data.

Stored as the AlertRules `modelplane` by `wiring.state`, where people may change them; every rule is
one that modelplane evaluates without a Prometheus. `docs/prometheus/alerts.yml` holds the same.
"""

from __future__ import annotations

import hashlib
import json
from typing import Any

from modelplane.resources.alerting import AlertRules, AlertRulesSpec
from modelplane.resources.meta import Metadata

NAME = "modelplane"
ANNOTATION = "modelplane.dev/shipped"
"""Digest of the spec as it was shipped: rules that people changed are left alone."""

_VERSION = "environment, deployment, version"


def _rule(alert: str, expr: str, severity: str, *texts: str, wait: str = "0s") -> dict[str, Any]:
    """Return a rule; the texts are what is wrong, and what to do."""
    return {
        "alert": alert,
        "expr": expr,
        "for": wait,
        "labels": {"severity": severity},
        "annotations": dict(zip(("summary", "description"), texts, strict=True)),
    }


_ABOUT_VERSION = "{{ $labels.deployment }} {{ $labels.version }} in {{ $labels.environment }}"
_SERVING = [
    _rule(
        "GatewayDown",
        "modelplane_gateway_up == 0",
        "critical",
        "The gateway {{ $labels.proxy }} reports nothing.",
        "Look at `modelplane status` and at the log of the agent.",
        wait="15s",
    ),
    _rule(
        "ReplicaDown",
        "modelplane_replica_up == 0",
        "warning",
        f"A model server of {_ABOUT_VERSION} is down: {{{{ $labels.replica }}}}.",
        "Its agent starts it again; `modelplane logs {{ $labels.replica }}` says why it ended.",
        wait="30s",
    ),
    _rule(
        "ModelFailures",
        f"sum by ({_VERSION}) (rate(modelplane_client_failures_total[5m])) "
        f"/ sum by ({_VERSION}) (rate(modelplane_requests_total[5m])) > 0.05",
        "critical",
        f"{_ABOUT_VERSION} fails {{{{ $value | humanizePercentage }}}} of its requests.",
        "`modelplane rollout undo {{ $labels.deployment }}` takes back what was promoted last.",
        wait="1m",
    ),
]
_LEARNING = [
    _rule(
        "DriftDetected",
        f"count by ({_VERSION}) (modelplane_drift_detected == 1) > 0",
        "warning",
        f"{{{{ $value }}}} features of {_ABOUT_VERSION} drifted.",
        "`modelplane drift show {{ $labels.deployment }}` says which.",
    ),
    _rule(
        "PredictionsDropped",
        f"sum by ({_VERSION}) (increase(modelplane_predictions_dropped_total[10m])) > 0",
        "warning",
        f"{{{{ $value | humanize }}}} predictions of {_ABOUT_VERSION} were lost in ten minutes.",
        "Keep fewer (`spec.predictions.sampling`), or find out why the store is slow.",
    ),
    _rule(
        "LabelsMissing",
        "modelplane_labels_due_ratio < 0.5",
        "warning",
        f"Only {{{{ $value | humanizePercentage }}}} of the labels of {_ABOUT_VERSION} that are "
        "due have come.",
        "Quality is judged by those that came; look at whoever sends them.",
        wait="15m",
    ),
]
_PLATFORM = [
    _rule(
        "NotificationsStuck",
        "modelplane_notifications_pending > 20",
        "warning",
        "{{ $value }} messages to people have not arrived.",
        "`modelplane notification list` says why.",
        wait="15m",
    ),
]


def built_in_rules() -> AlertRules:
    """Return the AlertRules as shipped."""
    groups = [
        {"name": "serving", "rules": _SERVING},
        {"name": "learning", "rules": _LEARNING},
        {"name": "platform", "rules": _PLATFORM},
    ]
    spec = AlertRulesSpec.model_validate({"groups": groups})
    metadata = Metadata(name=NAME, annotations={ANNOTATION: _digest(spec)})
    return AlertRules(metadata=metadata, spec=spec)


def renewed(existing: AlertRules) -> AlertRules | None:
    """Return stored built-in rules as this release ships them; None when nothing is to be done.

    Those that people changed since they were shipped stay as they are.
    """
    wanted = built_in_rules()
    if existing.spec == wanted.spec:
        return None
    if existing.metadata.annotations.get(ANNOTATION) != _digest(existing.spec):
        return None
    annotations = {**existing.metadata.annotations, **wanted.metadata.annotations}
    metadata = existing.metadata.with_(annotations=annotations)
    return existing.with_(metadata=metadata, spec=wanted.spec)


def _digest(spec: AlertRulesSpec) -> str:
    text = json.dumps(spec.to_dict(), sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:32]
