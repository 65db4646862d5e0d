"""Whether the documents of a bundle add up: gates, approvals and policies to the outcome. Pure.

Called by `client.evidence` after signatures, records and documents were checked. Every digest
that one document holds of another is computed anew.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any, TypeVar

from pydantic import ValidationError

from modelplane.decisions.evidence import Bundle, Check, Document
from modelplane.decisions.gate_runs import digest_json
from modelplane.decisions.promotion_guards import digest_evidence
from modelplane.resources.approval import Approval
from modelplane.resources.gate_run import GateRun, StageResult
from modelplane.resources.kinds import KINDS
from modelplane.resources.meta import Resource
from modelplane.resources.model import ModelVersion
from modelplane.resources.promotion import GateOutcome, Promotion
from modelplane.resources.revision import make_revision
from modelplane.resources.rollout import Rollout

R = TypeVar("R", bound=Resource[Any, Any])

_APPROVED = frozenset({"Approved", "RollingOut", "Done", "RolledBack"})
"""Phases that nothing reaches without having been approved."""


@dataclass(frozen=True, slots=True)
class _Story:
    """The documents of a bundle as resources."""

    bundle: Bundle
    resources: tuple[Resource[Any, Any], ...]

    def all(self, kind: type[R]) -> list[R]:
        return [resource for resource in self.resources if isinstance(resource, kind)]

    def find(self, kind: type[R], name: str, environment: str | None = None) -> R | None:
        return next(
            (
                r
                for r in self.all(kind)
                if r.metadata.name == name and r.metadata.environment == environment
            ),
            None,
        )

    @property
    def promotion(self) -> Promotion | None:
        place, _, name = self.bundle.promotion.partition("/")
        return self.find(Promotion, name, place)


def check_story(bundle: Bundle) -> list[Check]:
    """Check that what the bundle says happened could have happened as it says."""
    resources = []
    for document in bundle.documents:
        resource = _read(document)
        if resource is None:
            message = f"{document.key} cannot be read by this release"
            return [Check(name="promotion", passed=False, message=message)]
        resources.append(resource)
    story = _Story(bundle, tuple(resources))
    promotion = story.promotion
    if promotion is None:
        return [Check(name="promotion", passed=False, message="it is not among the documents")]
    checks = [_check_revision(story, promotion)]
    if promotion.spec.restores is not None:
        message = (
            f"it goes back to what promotion {promotion.spec.restores} had brought here: that "
            "one's evidence holds the gates and approvals"
        )
        return [*checks, Check(name="gates", passed=True, message=message)]
    if _was_approved(promotion):
        checks += [
            _conclude("gates", _gate_faults(story, promotion), _gate_words(promotion)),
            _conclude("approvals", _approval_faults(story, promotion), _approval_words(promotion)),
            _conclude("policies", _policy_faults(promotion), _policy_words(promotion)),
            _conclude(
                "order", _order_faults(story, promotion), "approved before it was rolled out"
            ),
        ]
    else:
        rollouts = [r.metadata.name for r in story.all(Rollout)]
        message = f"it ended as {promotion.status.phase}: {promotion.status.message}"
        checks.append(_conclude("outcome", [f"yet rollout {r} exists" for r in rollouts], message))
    return checks


def tell_story(bundle: Bundle) -> Iterator[str]:
    """Yield what happened, in order, a line each."""
    own = {document.uid for document in bundle.documents}
    yield f"Promotion {bundle.promotion}, evidence made {bundle.made_at:%Y-%m-%d %H:%M:%S}Z"
    for record in sorted((*bundle.outlying, *bundle.records), key=lambda r: r.sequence):
        if record.uid in own:
            what = f"{record.kind} {record.name}"
            reason = f": {record.reason}" if record.reason else ""
            at = f"{record.at:%Y-%m-%d %H:%M:%S}Z"
            yield f"{record.sequence:>8}  {at}  {record.subject}  {record.action}  {what}{reason}"


def _read(document: Document) -> Resource[Any, Any] | None:
    kind = KINDS.get(document.kind)
    try:
        return None if kind is None else kind.model_validate(
            {
                "kind": document.kind,
                "metadata": {
                    "name": document.name,
                    "environment": document.environment,
                    "uid": document.uid,
                    "resourceVersion": document.resource_version,
                },
                "spec": json.loads(document.spec),
                "status": json.loads(document.status),
            }
        )  # fmt: skip
    except (ValidationError, ValueError):
        return None


def _was_approved(promotion: Promotion) -> bool:
    return promotion.status.phase in _APPROVED or promotion.status.approved_at is not None


def _check_revision(story: _Story, promotion: Promotion) -> Check:
    revision = promotion.spec.revision
    computed = make_revision(revision.model, revision.version, revision.artifact, revision.runtime)
    version = story.find(ModelVersion, f"{revision.model}@{revision.version}")
    artifact = version.spec.artifact if version else None
    faults = []
    if computed.digest != revision.digest:
        faults.append("its revision does not have the digest that it says")
    if artifact is not None and artifact.digest != revision.artifact.digest:
        faults.append("the version's files are not those of the revision")
    words = f"{revision.model} {revision.version}, files {revision.artifact.digest}"
    return _conclude("revision", faults, words)


def _gate_faults(story: _Story, promotion: Promotion) -> Iterator[str]:
    results: list[StageResult] = []
    for gate in promotion.status.gates:
        run = story.find(GateRun, gate.run)
        if run is None:
            yield f"run {gate.run} of {gate.pipeline} is missing"
            continue
        if run.status.phase != "Passed" or gate.phase != "Passed":
            yield f"run {gate.run} of {gate.pipeline} did not pass: {run.status.phase}"
        if run.spec.candidate.revision.digest != promotion.spec.revision.digest:
            yield f"run {gate.run} was of another revision"
        yield from _result_faults(story, gate, run, promotion)
        results += [r for r in story.all(StageResult) if r.metadata.name in gate.results]
    if promotion.status.gates and digest_evidence(results) != promotion.status.evidence_digest:
        yield "the results do not have the digest that was approved"


def _result_faults(
    story: _Story, gate: GateOutcome, run: GateRun, promotion: Promotion
) -> Iterator[str]:
    reported = {stage.result for stage in run.status.stages}
    if len(gate.results) != len(run.spec.stages):
        yield f"run {gate.run} has {len(run.spec.stages)} stages and {len(gate.results)} results"
    for name in gate.results:
        result = story.find(StageResult, name)
        if result is None:
            yield f"result {name} is missing"
        elif name not in reported:
            yield f"result {name} is not of run {gate.run}"
        elif digest_json(result.spec.inputs) != result.spec.key:
            yield f"result {name} does not have the key of what it depends on"
        elif not result.spec.outcome.passed:
            yield f"result {name} did not pass: {result.spec.outcome.message}"
        elif result.spec.inputs.get("model") != promotion.spec.revision.artifact.digest:
            yield f"result {name} is of other files"


def _approval_faults(story: _Story, promotion: Promotion) -> Iterator[str]:
    place = promotion.metadata.environment
    wanted = [o for o in promotion.status.policies if o.kind == "ApprovalPolicy"]
    approvals = []
    for name in promotion.status.approvals:
        where, _, short = name.rpartition("/")
        approval = story.find(Approval, short, where or place)
        if approval is None:
            yield f"approval {name} is missing"
        else:
            approvals.append(approval)
            yield from _answer_faults(story, approval, promotion)
    for outcome in wanted:
        if not any(
            (a.spec.policy, a.spec.policy_digest) == (outcome.name, outcome.digest)
            for a in approvals
        ):
            yield f"no approval answers policy {outcome.name}"


def _answer_faults(story: _Story, approval: Approval, promotion: Promotion) -> Iterator[str]:
    spec, name = approval.spec, approval.metadata.name
    agreed = [d for d in approval.status.decisions if d.decision == "approve"]
    voices = {d.on_behalf_of or d.subject for d in agreed}
    known = {name for gate in promotion.status.gates for name in gate.results}
    if approval.status.phase != "Approved":
        yield f"approval {name} is {approval.status.phase}"
    if spec.revision_digest != promotion.spec.revision.digest:
        yield f"approval {name} is of another revision"
    if not set(spec.results) <= known:
        yield f"approval {name} rests on results that this promotion does not have"
    if len(voices) < spec.quorum:
        yield f"approval {name} has {len(voices)} of {spec.quorum} voices"
    if spec.author and spec.author in voices | {d.subject for d in agreed}:
        yield f"approval {name} was given by the author {spec.author}"
    answered = {
        record.subject
        for record in (*story.bundle.outlying, *story.bundle.records)
        if record.uid == approval.metadata.uid
    }
    for decision in agreed:
        if decision.subject not in answered:
            yield f"the audit log has no answer of {decision.subject} to {name}"


def _policy_faults(promotion: Promotion) -> Iterator[str]:
    for outcome in promotion.status.policies:
        if outcome.outcome != "allowed":
            yield f"{outcome.kind} {outcome.name} said {outcome.outcome}: {outcome.message}"


def _order_faults(story: _Story, promotion: Promotion) -> Iterator[str]:
    records = sorted((*story.bundle.outlying, *story.bundle.records), key=lambda r: r.sequence)
    own = [r for r in records if r.uid == promotion.metadata.uid]
    approved = next((r.sequence for r in own if r.action == "promotion.Approved"), None)
    for rollout in story.all(Rollout):
        started = next((r.sequence for r in records if r.uid == rollout.metadata.uid), None)
        if rollout.spec.promotion != promotion.metadata.name:
            yield f"rollout {rollout.metadata.name} is of promotion {rollout.spec.promotion}"
        elif approved is None or started is None or started < approved:
            yield f"rollout {rollout.metadata.name} began before the promotion was approved"


def _conclude(name: str, faults: Iterable[str], words: str) -> Check:
    found = list(faults)
    return Check(name=name, passed=not found, message="; ".join(found[:3]) or words)


def _gate_words(promotion: Promotion) -> str:
    gates = promotion.status.gates
    count = sum(len(gate.results) for gate in gates)
    names = ", ".join(gate.pipeline for gate in gates)
    return f"{count} results of {names} passed" if gates else "no pipeline was required"


def _approval_words(promotion: Promotion) -> str:
    names = promotion.status.approvals
    return f"approved: {', '.join(names)}" if names else "no approval was required"


def _policy_words(promotion: Promotion) -> str:
    policies = promotion.status.policies
    names = ", ".join(outcome.name for outcome in policies)
    return f"allowed by {names}" if policies else "no policy guarded the environment"
