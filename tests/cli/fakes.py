"""A control plane in memory, and resources to put into it."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, TypeVar

from modelplane.client import Applied, Client, Listing, Prediction
from modelplane.client.authorization import Permission
from modelplane.decisions.search import compile_filter, compile_order
from modelplane.errors import ModelplaneError, NotFound
from modelplane.ports.store import AuditRecord, Change
from modelplane.resources.environment import Environment, EnvironmentSpec, Gateway
from modelplane.resources.meta import Metadata, Resource, Subject
from modelplane.resources.model import ModelVersion, ModelVersionSpec
from modelplane.resources.model_deployment import (
    ModelDeployment,
    ModelDeploymentSpec,
    ModelDeploymentStatus,
)
from modelplane.resources.promotion import Promotion, PromotionSpec, PromotionStatus
from modelplane.resources.revision import Artifact, Revision, RuntimeSpec, make_revision
from modelplane.resources.rollout import (
    MetricReport,
    Rollout,
    RolloutPhase,
    RolloutSpec,
    RolloutStatus,
    RolloutStep,
)
from modelplane.resources.strategy import CanaryStrategy, Strategy
from modelplane.resources.token import Token, TokenSpec
from modelplane.resources.traffic_split import (
    SplitEndpoint,
    SplitVariant,
    TrafficSplit,
    TrafficSplitSpec,
    TrafficSplitStatus,
)

AnyResource = Resource[Any, Any]
R = TypeVar("R", bound=AnyResource)

NOW = datetime(2025, 3, 1, 12, 0, tzinfo=UTC)


def metadata(name: str, environment: str | None = "production", **more: Any) -> Metadata:
    created_at = NOW - timedelta(hours=3)
    return Metadata(name=name, environment=environment, created_at=created_at, **more)


def revision(version: str) -> Revision:
    artifact = Artifact(format="onnx", digest="sha256:" + "a" * 64, size_bytes=1_258_291)
    return make_revision("fraud", version, artifact, RuntimeSpec())


def environment(name: str = "production", port: int = 7082, order: int = 20) -> Environment:
    spec = EnvironmentSpec(
        stage="staging" if name == "staging" else "production",
        order=order,
        gateway=Gateway(port=port),
    )
    return Environment(metadata=metadata(name, None), spec=spec)


def deployment(
    name: str = "fraud", version: str = "1.0.0", place: str = "production", **status: Any
) -> ModelDeployment:
    return ModelDeployment(
        metadata=metadata(name, place),
        spec=ModelDeploymentSpec(model="fraud", version=version),
        status=ModelDeploymentStatus(
            **{"stable": revision("1.0.0"), "ready_replicas": 1, **status}
        ),
    )


def promotion(version: str = "1.1.0", **status: Any) -> Promotion:
    return Promotion(
        metadata=metadata("fraud-2"),
        spec=PromotionSpec(
            deployment="fraud",
            revision=revision(version),
            ordinal=2,
            subject=Subject(name="anna", groups=("admin",)),
        ),
        status=PromotionStatus(**status),
    )


def split_of(promotion: Promotion, acknowledged: bool = True) -> TrafficSplit:
    """The split that gives a promoted revision all requests."""
    spec = promotion.spec
    variant = SplitVariant(
        revision=spec.revision.digest,
        version=spec.revision.version,
        role="stable",
        weight_pct=100,
        endpoints=(SplitEndpoint(replica="r-0", address="unix:/r-0"),),
    )
    return TrafficSplit(
        metadata=Metadata(
            name=spec.deployment, environment=promotion.metadata.environment, generation=1
        ),
        spec=TrafficSplitSpec(deployment=spec.deployment, variants=(variant,)),
        status=TrafficSplitStatus(accepted_generation=int(acknowledged)),
    )


def rollout(
    phase: RolloutPhase = "Ramping", weight_pct: float = 25, version: int = 7, **status: Any
) -> Rollout:
    steps = (
        RolloutStep(id=0, weight_pct=1, started_at=NOW - timedelta(seconds=150)),
        RolloutStep(id=1, weight_pct=weight_pct, started_at=NOW - timedelta(seconds=35)),
    )
    given: dict[str, Any] = {
        "phase": phase,
        "message": "errors: 20 of 3,278 candidate requests (0.61%) against 0.50% of stable's",
        "weight_pct": weight_pct,
        "strategy": Strategy(canary=CanaryStrategy()),
        "steps": steps,
        "started_at": NOW - timedelta(seconds=192),
        "candidate_requests": 3278,
        "failed_requests": 20,
        "metrics": (
            MetricReport(
                name="errors",
                verdict="undecided",
                stable=0.005,
                candidate=0.0061,
                difference=0.0011,
                lower=-0.002,
                upper=0.0042,
                margin=0.0025,
                requests_needed=1240,
            ),
            MetricReport(
                name="latency",
                verdict="pass",
                stable=12100,
                candidate=12400,
                difference=300,
                margin=2420,
            ),
            MetricReport(name="precision", verdict="unavailable"),
        ),
        **status,
    }
    return Rollout(
        metadata=metadata("fraud-2", resource_version=version),
        spec=RolloutSpec(
            deployment="fraud",
            promotion="fraud-2",
            ordinal=2,
            stable=revision("1.0.0"),
            candidate=revision("1.1.0"),
        ),
        status=RolloutStatus(**given),
    )


class FakeClient(Client):
    """Answers from a dictionary; what it was asked to do is in `asked`."""

    def __init__(self, *resources: AnyResource) -> None:
        self.resources = {resource.key: resource for resource in resources}
        self.scripts: dict[str, Iterator[AnyResource | ModelplaneError]] = {}
        self.changes: list[Change] = []
        self.made_promotion: Promotion | None = None
        self.warnings: tuple[str, ...] = ()
        self.asked: list[tuple[Any, ...]] = []
        self.meant: list[dict[str, str | None]] = []
        self.variants: list[dict[str, Any]] = []
        self.me: dict[str, Any] = {}
        self.permission = Permission(allowed=True, rule="admin/everything@admin")
        self.verification: dict[str, Any] = {"verified": True, "records": 12, "faults": []}

    def play(self, kind: str, *answers: AnyResource | ModelplaneError) -> None:
        """Let `get` of a kind give these answers in turn, the last one for ever."""

        def play() -> Iterator[AnyResource | ModelplaneError]:
            yield from answers
            while True:
                yield answers[-1]

        self.scripts[kind] = play()

    def close(self) -> None:
        """Hold nothing."""

    def get(self, kind: type[R], name: str, environment: str | None = None) -> R:
        if kind.__name__ in self.scripts:
            answer = next(self.scripts[kind.__name__])
            if isinstance(answer, ModelplaneError):
                raise answer
            assert isinstance(answer, kind)
            return answer
        for key, resource in self.resources.items():
            if key == (kind.__name__, environment, name) and isinstance(resource, kind):
                return resource
        raise NotFound(f"{kind.__name__} {name} does not exist")

    def list(
        self,
        kind: type[R],
        environment: str | None = None,
        *,
        labels: Mapping[str, str] | None = None,
        filter_string: str = "",
        order_by: str = "",
        limit: int | None = None,
    ) -> Listing[R]:
        found: Sequence[Any] = [
            resource
            for resource in self.resources.values()
            if isinstance(resource, kind)
            and environment in (None, resource.metadata.environment)
            and (labels or {}).items() <= resource.metadata.labels.items()
        ]
        if filter_string or order_by:
            wanted = compile_filter(filter_string, kind)
            found = compile_order(order_by, kind).sort(wanted.select(found))
        return Listing(tuple(found[:limit]), 7)

    def watch(self, kind: type[R], since: int, environment: str | None = None) -> Iterator[Change]:
        self.asked.append(("watch", kind.__name__, since, environment))
        changes, self.changes = self.changes, []
        yield from changes
        raise KeyboardInterrupt

    def apply(self, resource: R, *, dry_run: bool = False, reason: str = "") -> Applied[R]:
        self.asked.append(("apply", str(resource.key), dry_run, reason))
        before = self.resources.get(resource.key)
        result: Any = "created" if before is None else "changed"
        if before is not None and before.spec == resource.spec:
            result = "unchanged"
        if not dry_run:
            self.resources[resource.key] = resource
        made = self.made_promotion if result != "unchanged" else None
        return Applied(result, resource, made, self.warnings)

    def delete(
        self, kind: type[R], name: str, environment: str | None = None, *, reason: str = ""
    ) -> R:
        self.asked.append(("delete", kind.__name__, name, environment, reason))
        return self.get(kind, name, environment)

    def push(
        self, name: str, version: str, artifact: str | Path | None = None, **record: Any
    ) -> Applied[ModelVersion]:
        self.asked.append(("push", name, version, artifact, record))
        made = ModelVersion(
            metadata=metadata(f"{name}@{version}", None),
            spec=ModelVersionSpec(
                model=name, version=version, number=3, artifact=revision(version).artifact
            ),
        )
        return Applied("created", made, None, self.warnings)

    def promote(
        self, deployment: str, version: str | None = None, *, to: str = "", reason: str = ""
    ) -> Applied[ModelDeployment]:
        self.asked.append(("promote", deployment, version, to, reason))
        found = self.get(ModelDeployment, deployment, to)
        return Applied("changed", found, self.made_promotion, self.warnings)

    def undo(
        self, deployment: str, environment: str = "", *, reason: str = ""
    ) -> Applied[ModelDeployment]:
        self.asked.append(("undo", deployment, environment, reason))
        found = self.get(ModelDeployment, deployment, environment)
        return Applied("changed", found, self.made_promotion)

    def _ask_of_rollout(
        self, deployment: str, verb: str, environment: str, reason: str, **which: str | None
    ) -> Applied[Rollout]:
        self.asked.append((verb, deployment, environment, reason))
        self.meant.append(which)
        return Applied("changed", rollout())

    def traffic(
        self, deployment: str, environment: str = "production", *, seconds: int = 60
    ) -> dict[str, Any]:
        self.asked.append(("traffic", deployment, environment))
        return {"deployment": deployment, "variants": self.variants}

    def predict(self, deployment: str, request: Mapping[str, Any], **more: Any) -> Prediction:
        self.asked.append(("predict", deployment, request, more))
        response = {"model_name": deployment, "outputs": [{"data": [0.1]}]}
        return Prediction(response, "1.0.0", "1.1.0", "r-1")

    def create_token(
        self, name: str, groups: Iterable[str] = (), *, expires_in: str | None = None
    ) -> tuple[Token, str, tuple[str, ...]]:
        self.asked.append(("create_token", name, tuple(groups), expires_in))
        spec = TokenSpec(groups=tuple(groups), digest="")
        warnings = () if groups else (f"{name} may do nothing yet",)
        return Token(metadata=metadata(name, None), spec=spec), "mp_secret", warnings

    def whoami(self) -> dict[str, Any]:
        return self.me

    def can_i(
        self,
        verb: str,
        kind: str,
        environment: str | None = None,
        *,
        model: str | None = None,
        subject: str | None = None,
    ) -> Permission:
        self.asked.append(("can_i", verb, kind, environment, model, subject))
        return self.permission

    def revoke_token(self, name: str) -> None:
        self.asked.append(("revoke_token", name))

    def audit(self, after: int = 0, limit: int = 100, **only: Any) -> tuple[AuditRecord, ...]:
        self.asked.append(("audit", after, limit, only))
        return (
            AuditRecord(
                sequence=1, at=NOW, subject="anna", action="apply", kind="ModelDeployment",
                environment="production", name="fraud", reason="retrained",
            ),
        )  # fmt: skip

    def verify_audit(self) -> dict[str, Any]:
        return self.verification

    def export_audit(self) -> Iterator[bytes]:
        yield from (b'{"sequence": 1}\n', b'{"head": 1}\n')
