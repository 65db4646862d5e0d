"""The catalogue of everything that modelplane measures, by Prometheus name. Pure data.

Whoever measures makes samples with `sample`, which knows no other names; `/metrics` shows them,
alert rules and playbooks ask for them, the Grafana dashboard and the page in the guides are
checked against this catalogue. Names are stable: one that is renamed breaks people's alerts.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Literal

SeriesType = Literal["counter", "gauge"]


@dataclass(frozen=True, slots=True)
class Series:
    """One metric.

    Attributes
    ----------
    name
        As Prometheus sees it; its unit is its last word, ``_total`` after that for counters.
    labels
        Names of its labels, all of which each sample has.
    help
        One sentence.
    """

    name: str
    type: SeriesType
    labels: tuple[str, ...]
    help: str


@dataclass(frozen=True, slots=True)
class Sample:
    """One value of one series now."""

    name: str
    labels: Mapping[str, str]
    value: float


_DEPLOYMENT = ("environment", "deployment")
_VERSION = (*_DEPLOYMENT, "version")
_PROXY = ("environment", "proxy")
_ROLLOUT = (*_DEPLOYMENT, "rollout", "version")

CATALOGUE: tuple[Series, ...] = (
    Series("modelplane_gateway_up", "gauge", _PROXY, "1 while the gateway reports."),
    Series(
        "modelplane_gateway_unrouted_total",
        "counter",
        _PROXY,
        "Requests for which there was no deployment.",
    ),
    Series("modelplane_requests_total", "counter", _VERSION, "Requests given to the version."),
    Series(
        "modelplane_request_failures_total",
        "counter",
        _VERSION,
        "Requests that the version failed, those that stable answered instead included.",
    ),
    Series(
        "modelplane_client_failures_total",
        "counter",
        _VERSION,
        "Failures of the version that clients saw.",
    ),
    Series(
        "modelplane_request_latency_seconds",
        "gauge",
        (*_VERSION, "quantile"),
        "Quantile of the last minute's latency: 0.5, 0.95 and 0.99.",
    ),
    Series("modelplane_weight_ratio", "gauge", _VERSION, "Share of the users, 0 to 1."),
    Series(
        "modelplane_replica_up",
        "gauge",
        (*_VERSION, "replica"),
        "1 while the model server is ready.",
    ),
    Series(
        "modelplane_replica_restarts_total",
        "counter",
        (*_VERSION, "replica"),
        "Times that the model server was started again.",
    ),
    Series("modelplane_rollout_running", "gauge", _ROLLOUT, "1 while the rollout is not finished."),
    Series(
        "modelplane_rollout_e_value",
        "gauge",
        _ROLLOUT,
        "Evidence that the candidate does harm; at 1/alpha it is rolled back.",
    ),
    Series(
        "modelplane_rollouts_finished_total",
        "counter",
        (*_DEPLOYMENT, "phase"),
        "Rollouts that ended, by how.",
    ),
    Series("modelplane_predictions_total", "counter", _VERSION, "Predictions that were kept."),
    Series(
        "modelplane_predictions_dropped_total",
        "counter",
        _VERSION,
        "Predictions that were to be kept and were lost.",
    ),
    Series("modelplane_labels_total", "counter", _VERSION, "Labels joined with predictions."),
    Series(
        "modelplane_labels_due_ratio",
        "gauge",
        _VERSION,
        "Of the predictions whose labels are due, the share that has them.",
    ),
    Series(
        "modelplane_quality",
        "gauge",
        (*_VERSION, "metric", "slice"),
        "Quality by labels over the horizon: accuracy, precision, recall, f1, auc, rmse …",
    ),
    Series(
        "modelplane_quality_lower",
        "gauge",
        (*_VERSION, "metric", "slice"),
        "Lower end of its 95 % interval.",
    ),
    Series(
        "modelplane_quality_upper",
        "gauge",
        (*_VERSION, "metric", "slice"),
        "Upper end of its 95 % interval.",
    ),
    Series(
        "modelplane_drift_psi",
        "gauge",
        (*_VERSION, "feature"),
        "Population stability index of recent values against the reference.",
    ),
    Series(
        "modelplane_drift_detected",
        "gauge",
        (*_VERSION, "feature"),
        "1 while the feature is drifted, all features and looks allowed for.",
    ),
    Series(
        "modelplane_drift_missing_ratio",
        "gauge",
        (*_VERSION, "feature"),
        "Share of recent values that are missing.",
    ),
    Series(
        "modelplane_alerts", "gauge", ("phase",), "Alerts that are pending or firing, by phase."
    ),
    Series(
        "modelplane_playbook_runs_total",
        "counter",
        ("playbook", "phase"),
        "Runs of playbooks that ended, by how.",
    ),
    Series(
        "modelplane_training_runs_total",
        "counter",
        ("trigger", "phase"),
        "Trainings that ended, by how.",
    ),
    Series("modelplane_jobs", "gauge", ("phase",), "Jobs that wait or run, by phase."),
    Series(
        "modelplane_notifications_pending", "gauge", (), "Messages to people that have not arrived."
    ),
    Series("modelplane_promotions_waiting", "gauge", ("environment",), "Promotions not begun."),
    Series("modelplane_approvals_pending", "gauge", (), "Questions that wait for people."),
)

BY_NAME: Mapping[str, Series] = MappingProxyType({series.name: series for series in CATALOGUE})


def sample(name: str, value: float, **labels: str) -> Sample:
    """Return a sample of a series of the catalogue.

    Raises
    ------
    KeyError
        The catalogue has no such series.
    ValueError
        It has other labels.
    """
    series = BY_NAME[name]
    if set(labels) != set(series.labels):
        raise ValueError(f"{name} has the labels {', '.join(series.labels)}")
    return Sample(name, labels, value)
