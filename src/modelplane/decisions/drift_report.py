"""What is known of drift, as it is stored and read. Pure data.

Written by `controllers.drift` as evidence; read by the API, the command line and rollouts.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from typing import Any, Literal

from pydantic import Field

from modelplane.resources.data_profile import ColumnKind
from modelplane.resources.meta import Part
from modelplane.resources.model_deployment import ModelDeployment

DriftState = Literal["learning", "waiting", "stable", "drifted"]


class FeatureDrift(Part):
    """One feature in the newest window, against its reference."""

    feature: str
    kind: ColumnKind
    origin: Literal["data", "traffic"] = Field(description="Of its reference.")
    rows: int = Field(description="In the window.")
    psi: float | None = Field(default=None, description="Absent: too few rows.")
    p: float | None = Field(default=None, description="Chance of this if nothing changed.")
    distance: float | None = Field(default=None, description="Jensen-Shannon distance, 0 to 1.")
    moved: float | None = Field(
        default=None,
        description="Of numbers: how far rows moved on average, in standard deviations.",
    )
    variation: float | None = Field(
        default=None, description="Of categories: share of the rows in other categories."
    )
    missing: float = Field(default=0.0, description="Share of the rows without a value.")
    missing_before: float = 0.0
    other: float = Field(default=0.0, description="Share of values that are new or rare.")
    other_before: float = 0.0
    scatter: float = Field(default=1.0, description="Correlation of the rows; 1: none.")
    exceeds_since: datetime | None = Field(
        default=None, description="First of the looks in a row that found it different."
    )
    drifted_since: datetime | None = None

    @property
    def is_drifted(self) -> bool:
        """Whether it counts as drifted."""
        return self.drifted_since is not None


class VersionDrift(Part):
    """What is known of one version's drift."""

    version: str
    state: DriftState = "learning"
    message: str = ""
    learning_since: datetime | None = Field(
        default=None, description="Begin of the window that becomes its reference."
    )
    data: str = Field(default="", description="Name of the training data it is compared with.")
    traffic_at: datetime | None = Field(
        default=None, description="End of the window of traffic that it is compared with."
    )
    window_from: datetime | None = None
    window_until: datetime | None = None
    rows: int = 0
    threshold: float | None = Field(default=None, description="PSI that counts as drift.")
    level: float | None = Field(default=None, description="Share of alpha that this look had.")
    features: tuple[FeatureDrift, ...] = ()

    @property
    def drifted(self) -> tuple[str, ...]:
        """Names of the drifted features, the most drifted first."""
        found = [feature for feature in self.features if feature.is_drifted]
        return tuple(f.feature for f in sorted(found, key=lambda f: -(f.psi or 0.0)))


class DriftReport(Part):
    """What is known of a deployment's drift."""

    environment: str
    deployment: str
    watched: bool = Field(description="Whether drift is looked for.")
    message: str = ""
    versions: tuple[VersionDrift, ...] = ()


def read_version(record: Mapping[str, Any] | None, version: str) -> VersionDrift | None:
    """Return what a deployment's stored record says of a version; None when nothing."""
    found = ((record or {}).get("versions") or {}).get(version)
    return VersionDrift.model_validate(found) if found is not None else None


def read_report(
    deployment: ModelDeployment, record: Mapping[str, Any] | None, *, is_hooked: bool
) -> DriftReport:
    """Return what is known of a deployment's drift, and why nothing is where that is so.

    Parameters
    ----------
    deployment
        As stored.
    record
        What is stored under `record_key`.
    is_hooked
        Whether a traffic policy of it watches drift.
    """
    spec, meta = deployment.spec, deployment.metadata
    report = DriftReport(environment=meta.environment or "", deployment=meta.name, watched=False)
    if spec.drift is None and not is_hooked:
        return report.with_(message="drift is not watched; write spec.drift: {}")
    if spec.predictions is None:
        return report.with_(message="no predictions are kept; write spec.predictions: {}")
    own = record if record is not None and record.get("uid") == meta.uid else {}
    versions = [read_version(own, version) for version in own.get("versions", {})]
    found = tuple(version for version in versions if version is not None)
    drifted = [version for version in found if version.drifted]
    message = "no look at it yet"
    if found:
        message = f"{len(drifted)} of {len(found)} versions drift" if drifted else "no drift"
    return report.with_(watched=True, message=message, versions=found)


def record_key(environment: str, deployment: str) -> str:
    """Return what a deployment's drift is stored under, as evidence."""
    return f"drift/{environment}/{deployment}"


def traffic_key(environment: str, deployment: str, version: str) -> str:
    """Return what the reference made of a version's traffic is stored under, as evidence."""
    return f"drift-reference/{environment}/{deployment}/{version}"


def profile_key(version_name: str) -> str:
    """Return what the profile of a version's training data is stored under, as evidence."""
    return f"data-profile/{version_name}"
