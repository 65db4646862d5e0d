"""Small declared worlds for the decision tests."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

from modelplane.resources.meta import Metadata
from modelplane.resources.model_deployment import (
    ModelDeployment,
    ModelDeploymentSpec,
    ModelDeploymentStatus,
)
from modelplane.resources.promotion import Promotion, PromotionSpec, PromotionStatus
from modelplane.resources.replica import Replica, ReplicaSpec, ReplicaStatus
from modelplane.resources.revision import Artifact, Revision, RuntimeSpec, make_revision
from modelplane.resources.rollout import Rollout, RolloutSpec, RolloutStatus
from modelplane.resources.traffic_split import (
    SplitEndpoint,
    SplitVariant,
    TrafficSplit,
    TrafficSplitSpec,
    TrafficSplitStatus,
)

NOW = datetime(2026, 3, 1, 12, 0, tzinfo=UTC)


def revision(version: str) -> Revision:
    artifact = Artifact(format="skops", digest=f"sha256:{version}")
    return make_revision("delay", version, artifact, RuntimeSpec())


V1, V2, V3 = revision("1.0.0"), revision("2.0.0"), revision("3.0.0")


def metadata(name: str, **changes: Any) -> Metadata:
    fields = {"name": name, "environment": "production", "uid": f"uid-{name}", "generation": 1}
    return Metadata(**{**fields, "updated_at": NOW, "created_at": NOW, **changes})


def deployment(stable: Revision | None = V1, replicas: int = 1, **status: Any) -> ModelDeployment:
    return ModelDeployment(
        metadata=metadata("delay"),
        spec=ModelDeploymentSpec(model="delay", version="1.0.0", replicas=replicas),
        status=ModelDeploymentStatus(stable=stable, **status),
    )


def rollout(phase: str = "Ramping", weight_pct: float = 5.0, **changes: Any) -> Rollout:
    fields: dict[str, Any] = {
        "deployment": "delay", "promotion": "delay-2", "ordinal": 2, "stable": V1, "candidate": V2,
    }  # fmt: skip
    status = {"phase": phase, "weightPct": weight_pct, "stepId": 1}
    return Rollout(
        metadata=metadata("delay-2"),
        spec=RolloutSpec(**{**fields, **changes}),
        status=RolloutStatus.model_validate(status),
    )


def replica(of: Revision, index: int = 0, phase: str = "Ready", **changes: Any) -> Replica:
    name = f"delay-{of.short}-{index}"
    address = f"unix:/run/{name}.sock" if phase in {"Ready", "NotReady", "Draining"} else ""
    return Replica(
        metadata=metadata(name),
        spec=ReplicaSpec(deployment="delay", revision=of, index=index, **changes),
        status=ReplicaStatus.model_validate({"phase": phase, "address": address}),
    )


def split(*variants: tuple[Revision, float, list[Replica]], accepted: bool = True) -> TrafficSplit:
    return TrafficSplit(
        metadata=metadata("delay"),
        spec=TrafficSplitSpec(
            deployment="delay",
            variants=tuple(
                SplitVariant(
                    revision=of.digest,
                    version=of.version,
                    role="stable" if place == 0 else "candidate",
                    weight_pct=weight,
                    endpoints=tuple(
                        SplitEndpoint(replica=r.metadata.name, address=r.status.address)
                        for r in replicas
                    ),
                )
                for place, (of, weight, replicas) in enumerate(variants)
            ),
        ),
        status=TrafficSplitStatus(accepted_generation=1 if accepted else 0),
    )


def promotion(phase: str = "Requested", ordinal: int = 2, of: Revision = V2) -> Promotion:
    return Promotion(
        metadata=metadata(f"delay-{ordinal}"),
        spec=PromotionSpec.model_validate(
            {
                "deployment": "delay",
                "revision": of.to_dict(),
                "ordinal": ordinal,
                "subject": {"name": "ana"},
            }
        ),
        status=PromotionStatus.model_validate({"phase": phase}),
    )
