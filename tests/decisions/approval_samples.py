"""Promotions, policies and approvals for the tests of approvals."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

from modelplane.decisions.approvals import Petition, ask_approvals
from modelplane.decisions.facts import FactNames, Facts
from modelplane.resources.approval import (
    Approval,
    ApprovalPolicy,
    ApprovalPolicySpec,
    Delegation,
    DelegationSpec,
)
from modelplane.resources.meta import Metadata, Subject
from modelplane.resources.model import Model, ModelVersion, ModelVersionSpec
from modelplane.resources.promotion import Promotion, PromotionSpec
from modelplane.resources.revision import Artifact, RuntimeSpec, make_revision

NOW = datetime(2026, 3, 1, 12, 0, tzinfo=UTC)


def person(name: str, *groups: str) -> Subject:
    return Subject(name=name, groups=groups)


ANA, BEN, CAT = person("ana", "leads"), person("ben", "leads"), person("cat", "leads")
AUTHOR, REQUESTER = person("author", "leads"), person("requester", "leads")
PASSER_BY = person("passer-by", "analysts")


def policy(name: str = "risk", **spec: Any) -> ApprovalPolicy:
    given = {"approvers": {"groups": ["leads"]}, **spec}
    return ApprovalPolicy(
        metadata=Metadata(name=name), spec=ApprovalPolicySpec.model_validate(given)
    )


def petition(
    environment: str = "staging",
    *,
    number: int = 1,
    version: str = "2.0.0",
    evidence: str = "e1",
    results: Sequence[str] = ("r1",),
    metrics: Mapping[str, float] | None = None,
    labels: Mapping[str, str] | None = None,
) -> Petition:
    artifact = Artifact(format="skops", digest=f"sha256:{version}")
    promotion = Promotion(
        metadata=Metadata(
            name=f"fraud-{number}", environment=environment, uid=f"uid-{environment}-{number}"
        ),
        spec=PromotionSpec(
            deployment="fraud",
            revision=make_revision("fraud", version, artifact, RuntimeSpec()),
            ordinal=number,
            subject=REQUESTER,
        ),
    )
    measured = {"accuracy": 0.95} if metrics is None else metrics
    values = {f"metrics.{name}": value for name, value in measured.items()}
    names = FactNames(dict.fromkeys(values, "number"), dict.fromkeys(measured, ("s",)))
    return Petition(
        promotion,
        ModelVersion(
            metadata=Metadata(name=f"fraud@{version}"),
            spec=ModelVersionSpec(model="fraud", version=version, author="author"),
        ),
        Model(metadata=Metadata(name="fraud", labels=dict(labels or {}))),
        Facts(values, names),
        evidence_digest=evidence,
        results=tuple(results),
    )


def asked(about: Petition | None = None, *, uid: str = "uid-a", **spec: Any) -> Approval:
    """One open approval, as the store would give it back."""
    state = ask_approvals(about or petition(), [policy(**spec)], [], now=NOW)
    (approval,) = state.create
    return approval.with_(metadata=approval.metadata.with_(uid=uid))


def delegation(delegator: str, delegate: str, **spec: Any) -> Delegation:
    given = {
        "delegator": delegator,
        "delegate": delegate,
        "starts_at": NOW,
        "ends_at": NOW.replace(day=3),
        **spec,
    }
    return Delegation(metadata=Metadata(name="d"), spec=DelegationSpec(**given))
