"""A promotion with a gate and an approval, as a store holds it when it is over."""

from __future__ import annotations

import asyncio
import itertools
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import timedelta
from pathlib import Path
from typing import Any

from modelplane.adapters.blobs.trees import TreeBlobs
from modelplane.adapters.store.signing import HeadKeeper
from modelplane.adapters.store.sqlite import SqliteStore
from modelplane.controllers.evidence import EvidenceController
from modelplane.controllers.loop import LEASE_NAME, Fence
from modelplane.decisions.gate_runs import digest_json
from modelplane.decisions.promotion_guards import digest_evidence
from modelplane.ports.store import AnyResource, Transaction
from modelplane.resources.approval import Approval, ApprovalDecision, ApprovalSpec, Approvers
from modelplane.resources.checks import SecurityScanCheck
from modelplane.resources.gate_run import (
    GateRun,
    GateRunSpec,
    ServedModel,
    StageOutcome,
    StageResult,
    StageResultSpec,
    StageStatus,
)
from modelplane.resources.meta import Metadata, Subject
from modelplane.resources.model import ModelVersion, ModelVersionSpec
from modelplane.resources.promotion import (
    GateOutcome,
    PolicyOutcome,
    Promotion,
    PromotionSpec,
    PromotionStatus,
)
from modelplane.resources.revision import Artifact, RuntimeSpec, make_revision
from modelplane.resources.rollout import Rollout, RolloutSpec
from modelplane.resources.validation_pipeline import Stage
from modelplane.testing.clock import ManualClock
from tests.controllers.stores import open_store

ANA, LEAD = Subject(name="ana"), Subject(name="lead", groups=("ml-leads",))
ARTIFACT = Artifact(format="skops", digest=f"sha256:{'a' * 64}")
REVISION = make_revision("fraud", "2.0.0", ARTIFACT, RuntimeSpec())
STAGE = Stage(name="scan", security_scan=SecurityScanCheck())


class Story:
    """The store, and the parts that make and sign evidence."""

    def __init__(self, store: SqliteStore, clock: ManualClock, folder: Path) -> None:
        self.store = store
        self.clock = clock
        self.audit = folder / "audit"
        self.blobs = TreeBlobs(str(folder / "artifacts"))
        self.fence = Fence()
        self.numbers = itertools.count(1)
        heads = HeadKeeper(self.audit)
        self.public_key = heads.public_key().decode()
        self.controller = EvidenceController(
            store,
            self.blobs,
            self.fence,
            clock,
            signed_head=self.signed_head,
            sign=heads.sign_bytes,
        )

    async def signed_head(self) -> dict[str, Any]:
        head: dict[str, Any] = json.loads((self.audit / "head.json").read_text())
        return {**head, "publicKey": self.public_key}

    async def write(self, subject: Subject, action: str, *resources: AnyResource) -> None:
        self.clock.step(1)
        transaction = Transaction(subject)
        for resource in resources:
            transaction.put(resource, action)
        await self.store.commit(transaction)

    async def promotion(self) -> Promotion:
        return await self.store.get(Promotion, "fraud-1", "production")

    async def noise(self, count: int) -> None:
        """Things happen that have nothing to do with it."""
        for number in itertools.islice(self.numbers, count):
            other = ModelVersion(
                metadata=Metadata(name=f"other@{number}.0.0"),
                spec=ModelVersionSpec(model="other", version=f"{number}.0.0"),
            )
            await self.write(ANA, "push", other)

    async def bundle(self) -> dict[str, Any]:
        """Let the controller make the evidence, and read what it stored."""
        key = (await self.promotion()).key
        async with asyncio.timeout(10):
            while await self.controller.reconcile(key) is not None:  # noqa: ASYNC110
                await asyncio.sleep(0.05)  # the log's head is signed a moment after the record
        digest = (await self.promotion()).status.evidence
        assert digest is not None
        (file,) = await self.blobs.list_files(digest)
        content = b"".join([p async for p in self.blobs.read_file(digest, file.path)])
        bundle: dict[str, Any] = json.loads(content)
        return bundle

    async def go_the_whole_way(self, **faults: Any) -> None:
        """Push, scan, ask, approve, roll out; `faults` replace parts of what is written."""
        now = self.clock.now()
        version = ModelVersion(
            metadata=Metadata(name="fraud@2.0.0"),
            spec=ModelVersionSpec(
                model="fraud",
                version="2.0.0",
                artifact=ARTIFACT,
                author=faults.get("author", "ana"),
            ),
        )
        await self.write(ANA, "push", version)
        await self.noise(2)
        spec = PromotionSpec(
            deployment="fraud", revision=REVISION, ordinal=1, subject=ANA, reason="better"
        )
        place = Metadata(name="fraud-1", environment="production")
        await self.write(ANA, "request", Promotion(metadata=place, spec=spec))
        result, run = _scanned(now, faults)
        await self.write(Subject(name="system:gates"), "run", result, run)
        approval = self._approval(result, faults)
        await self.write(Subject(name="system:promotion"), "ask", approval)
        asked = await self.store.get(Approval, "fraud-1.risk", "production")
        decision = ApprovalDecision(
            subject=faults.get("answers", "lead"), decision="approve", at=self.clock.now()
        )
        if not faults.get("unanswered"):
            answered = asked.with_status(phase="Approved", decisions=(decision,))
            await self.write(LEAD, "approve", answered)
        await self._roll_out(result, faults)

    def _approval(self, result: StageResult, faults: dict[str, Any]) -> Approval:
        now = self.clock.now()
        return Approval(
            metadata=Metadata(name="fraud-1.risk", environment="production"),
            spec=ApprovalSpec(
                promotion="fraud-1",
                promotion_uid="uid",
                policy="risk",
                policy_digest="d1",
                model="fraud",
                version="2.0.0",
                revision_digest=faults.get("approved_revision", REVISION.digest),
                evidence_digest=digest_evidence([result]),
                results=(result.metadata.name,),
                author="ana",
                approvers=Approvers(groups=("ml-leads",)),
                quorum=faults.get("quorum", 1),
                requested_at=now,
                expires_at=now + timedelta(days=7),
            ),
        )

    async def _roll_out(self, result: StageResult, faults: dict[str, Any]) -> None:
        promotion = await self.promotion()
        policies = (
            PolicyOutcome(kind="PromotionPolicy", name="gates", digest="d0", outcome="allowed"),
            PolicyOutcome(
                kind="ApprovalPolicy",
                name="risk",
                digest="d1",
                outcome=faults.get("policy", "allowed"),
            ),
        )
        status = PromotionStatus(
            phase="Approved",
            policies=policies,
            gates=(
                GateOutcome(
                    pipeline="checks",
                    run="checks-1",
                    phase="Passed",
                    results=faults.get("results", (result.metadata.name,)),
                ),
            ),
            approvals=("production/fraud-1.risk",),
            evidence_digest=digest_evidence([result]),
            approved_at=self.clock.now(),
        )
        rollout = Rollout(
            metadata=Metadata(name="fraud-1", environment="production"),
            spec=RolloutSpec(
                deployment="fraud", promotion="fraud-1", ordinal=1, candidate=REVISION
            ),
        )
        system = Subject(name="system:promotion")
        if faults.get("rollout_first"):
            await self.write(system, "rollout.start", rollout)
        await self.write(system, "promotion.Approved", promotion.with_(status=status))
        if not faults.get("rollout_first"):
            await self.write(system, "rollout.start", rollout)
        approved = await self.promotion()
        done = approved.with_status(phase="Done", rollout="fraud-1", finished_at=self.clock.now())
        await self.write(system, "promotion.Done", done)
        await self.noise(2)


def _scanned(now: Any, faults: dict[str, Any]) -> tuple[StageResult, GateRun]:
    inputs = {"model": ARTIFACT.digest, "check": "security_scan"}
    key = faults.get("key", digest_json(inputs))
    passed = not faults.get("failed")
    result = StageResult(
        metadata=Metadata(name=key[:40]),
        spec=StageResultSpec(
            key=key,
            inputs=inputs,
            check="security_scan",
            stage="scan",
            model="fraud",
            version="2.0.0",
            outcome=StageOutcome(passed=passed, message="nothing outside the allowlist"),
            run="checks-1",
            duration_s=1.0,
        ),
    )
    run = GateRun(
        metadata=Metadata(name="checks-1"),
        spec=GateRunSpec(
            pipeline="checks",
            pipeline_digest="d2",
            stages=(STAGE,),
            candidate=ServedModel(revision=faults.get("scanned", REVISION)),
            subject=ANA,
        ),
    )
    stage = StageStatus(name="scan", phase="Passed", key=key, result=result.metadata.name)
    return result, run.with_status(phase=faults.get("run", "Passed"), stages=(stage,))


@asynccontextmanager
async def open_story(folder: Path) -> AsyncIterator[Story]:
    """Give an empty store with everything around it."""
    async with open_store(folder) as (store, clock):
        story = Story(store, clock, folder)
        story.fence.set(await store.claim(LEASE_NAME, "test", 3600))
        yield story
