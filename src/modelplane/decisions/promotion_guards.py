"""Whether everything that guards an environment lets a promotion pass.

Called by `decisions.promotion` as long as the rollout has not begun, each time anew: a policy
that changed meanwhile counts. Pure. The order is total: freezes, gates, conditions, approvals;
each comes only when everything before it has agreed.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from functools import partial
from typing import Literal, Protocol

from modelplane.decisions.approvals import ApprovalState, Petition, ask_approvals
from modelplane.decisions.facts import Facts, Request, build_facts
from modelplane.decisions.freezes import find_freeze
from modelplane.decisions.gate_runs import digest_pipeline
from modelplane.decisions.policies import (
    Surroundings,
    judge_policy,
    matching_policies,
    names_for,
    names_for_approval,
    outcome_of,
)
from modelplane.decisions.rollout import policy_of
from modelplane.resources.approval import Approval, ApprovalPolicy
from modelplane.resources.environment import Environment
from modelplane.resources.gate_run import FINISHED_RUN, GateRun, StageResult
from modelplane.resources.model import Model, ModelVersion
from modelplane.resources.promotion import GateOutcome, PolicyOutcome, Promotion, PromotionPhase
from modelplane.resources.promotion_policy import PromotionPolicy
from modelplane.resources.rollout import AbVerdict

_LONGEST_WAIT_S = 3600.0


class Ask(Protocol):
    """Says where the approvals of a promotion stand, as `ask_approvals` does."""

    def __call__(
        self,
        petition: Petition,
        policies: Sequence[ApprovalPolicy],
        approvals: Sequence[Approval],
        *,
        now: datetime,
    ) -> ApprovalState: ...


GateState = Literal["passed", "pending", "missing", "refused"]


@dataclass(frozen=True, slots=True)
class Gate:
    """What there is of one pipeline for a promotion's revision.

    Attributes
    ----------
    run
        The newest run of the pipeline as it is now for exactly the revision, not cancelled.
    noted
        The run that the promotion's status names.
    results
        By the name of the stage of `run`.
    """

    run: GateRun | None = None
    noted: GateRun | None = None
    results: Mapping[str, StageResult] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Guards:
    """Everything that a promotion has to pass, as observed.

    Attributes
    ----------
    environment, model, version
        Where it goes and what it is; `version` is None when there is no record of it.
    policies, approval_policies, approvals
        Those that there are; which ones count is decided here.
    gates
        By pipeline, of those that matching policies require.
    around
        What conditions may refer to; at least the required pipelines.
    can_deploy
        What contracts say, where a condition asks; None: not known.
    ab_verdict
        Of the version's last A/B test, where a condition asks; None: not known.
    """

    environment: Environment
    model: Model
    version: ModelVersion | None = None
    policies: Sequence[PromotionPolicy] = ()
    approval_policies: Sequence[ApprovalPolicy] = ()
    approvals: Sequence[Approval] = ()
    gates: Mapping[str, Gate] = field(default_factory=dict)
    around: Surroundings = field(default_factory=Surroundings)
    can_deploy: bool | None = None
    ab_verdict: AbVerdict | None = None

    @property
    def matching(self) -> tuple[PromotionPolicy, ...]:
        """The promotion policies that count here."""
        return matching_policies(self.policies, self.environment.metadata.name, self.model)


@dataclass(frozen=True, slots=True)
class Passage:
    """What the guards say together.

    Attributes
    ----------
    phase
        ``Approved`` lets it pass; None: a freeze holds it where it is.
    reason, message
        Stable code, and one sentence.
    policies, gates, approvals, evidence_digest
        For the promotion's status.
    start
        Pipelines of which a run is to be started.
    create, void
        Approvals to be written.
    requeue_after_s
        When to look again even if nothing changes.
    """

    phase: PromotionPhase | None
    reason: str
    message: str
    policies: tuple[PolicyOutcome, ...] = ()
    gates: tuple[GateOutcome, ...] = ()
    approvals: tuple[str, ...] = ()
    evidence_digest: str = ""
    start: tuple[str, ...] = ()
    create: tuple[Approval, ...] = ()
    void: tuple[Approval, ...] = ()
    requeue_after_s: float | None = None


def required_pipelines(policies: Sequence[PromotionPolicy]) -> tuple[str, ...]:
    """Return the pipelines that `policies` require, each once, by name."""
    return tuple(sorted({name for policy in policies for name in policy.spec.pipelines}))


def judge_passage(
    promotion: Promotion, guards: Guards, now: datetime, ask: Ask = ask_approvals
) -> Passage:
    """Decide whether `promotion` may go on.

    Parameters
    ----------
    promotion
        As stored, unfinished.
    guards
        What was observed for it.
    now
        The time, UTC.
    ask
        How approvals are asked for; a replay counts those that were given instead.
    """
    matching = guards.matching
    windows = [window for policy in matching for window in policy.spec.freezes]
    freeze = find_freeze(windows, now)
    if freeze is not None:
        held = tuple(
            outcome_of(policy, "pending", freeze.describe() if policy.spec.freezes else "")
            for policy in matching
        )
        left_s = (freeze.until - now).total_seconds() if freeze.until else _LONGEST_WAIT_S
        return Passage(
            None, "Frozen", freeze.describe(), held,
            promotion.status.gates, promotion.status.approvals, promotion.status.evidence_digest,
            requeue_after_s=max(0.1, min(left_s, _LONGEST_WAIT_S)),
        )  # fmt: skip
    if not matching and not _needs_approval(guards):
        return Passage("Approved", "NoPolicy", "no policy guards this environment")
    version = guards.version
    if version is None or version.status.deleted_at is not None:
        message = "the version was deleted; there is nothing to judge it by"
        refused = tuple(outcome_of(policy, "refused", message) for policy in matching)
        return Passage("Refused", "NoVersion", message, refused)
    gates = {name: _Checked.of(name, promotion, guards) for name in required_pipelines(matching)}
    waiting = _pass_gates(matching, gates)
    return waiting or _pass_policies(promotion, guards, gates, partial(ask, now=now))


@dataclass(frozen=True, slots=True)
class _Checked:
    """One required pipeline, judged."""

    state: GateState
    outcome: GateOutcome
    message: str = ""

    @classmethod
    def of(cls, name: str, promotion: Promotion, guards: Guards) -> _Checked:
        pipeline, gate = guards.around.pipelines.get(name), guards.gates.get(name, Gate())
        run, noted = gate.run, gate.noted
        if pipeline is None:
            return cls("refused", _gate(name), f"there is no pipeline {name!r} any more")
        if run is None:
            same = noted is not None and noted.spec.pipeline_digest == digest_pipeline(
                pipeline.spec
            )
            if noted is not None and same and _is_cancelled(noted):
                message = f"run {noted.metadata.name} of {name} was cancelled"
                return cls("refused", _gate(name, noted), message)
            return cls("missing", _gate(name), name)
        phase = run.status.phase
        if phase not in FINISHED_RUN:
            return cls("pending", _gate(name, run), f"{name} (run {run.metadata.name})")
        if phase == "Passed" and len(gate.results) == len(run.status.stages):
            return cls("passed", _gate(name, run))
        if phase == "Errored" and _is_before(run, promotion):
            # It could not be made then: who asks again wants it to be tried again.
            return cls("missing", _gate(name), f"{name} (again)")
        why = run.status.message or ("its results are gone" if phase == "Passed" else "")
        message = f"{name} did not pass: run {run.metadata.name} {phase}"
        return cls("refused", _gate(name, run), f"{message}: {why}" if why else message)


def _pass_gates(
    matching: Sequence[PromotionPolicy], gates: Mapping[str, _Checked]
) -> Passage | None:
    """Return why it stops at the gates; None when all have passed."""
    outcomes = tuple(gate.outcome for gate in gates.values())
    refused = {name: gate for name, gate in gates.items() if gate.state == "refused"}
    told = tuple(_tell(policy, gates) for policy in matching)
    if refused:
        message = "; ".join(gate.message for gate in refused.values())
        return Passage("Refused", "GateFailed", message, told, outcomes)
    missing = tuple(name for name, gate in gates.items() if gate.state == "missing")
    open_ = [gate.message for gate in gates.values() if gate.state in {"missing", "pending"}]
    if open_:
        message = f"waits for {', '.join(open_)}"
        return Passage("Validating", "Validating", message, told, outcomes, start=missing)
    return None


def _tell(policy: PromotionPolicy, gates: Mapping[str, _Checked]) -> PolicyOutcome:
    """Return what a policy says while gates stop the promotion."""
    own = [gates[name] for name in policy.spec.pipelines]
    refused = [gate.message for gate in own if gate.state == "refused"]
    if refused:
        return outcome_of(policy, "refused", "; ".join(refused))
    waits = [gate.message for gate in own if gate.message]
    return outcome_of(policy, "pending", f"waits for {', '.join(waits)}" if waits else "")


def _pass_policies(
    promotion: Promotion,
    guards: Guards,
    gates: Mapping[str, _Checked],
    ask: Callable[[Petition, Sequence[ApprovalPolicy], Sequence[Approval]], ApprovalState],
) -> Passage:
    """Decide by conditions and approvals; every gate has passed."""
    matching, version = guards.matching, guards.version
    assert version is not None
    outcomes = tuple(gate.outcome for gate in gates.values())
    evidence = digest_evidence(r for name in gates for r in guards.gates[name].results.values())
    told = tuple(judge_policy(p, facts_for(p, promotion, guards, version)) for p in matching)
    against = [outcome for outcome in told if outcome.outcome == "refused"]
    if against:
        message = "; ".join(f"{outcome.name}: {outcome.message}" for outcome in against)
        return Passage("Refused", "PolicyRefused", message, told, outcomes, (), evidence)
    results = tuple(sorted({name for gate in outcomes for name in gate.results}))
    petition = Petition(
        promotion,
        version,
        guards.model,
        facts_for(None, promotion, guards, version),
        evidence_digest=evidence,
        results=results,
    )
    state = ask(petition, guards.approval_policies, guards.approvals)
    return _pass_approvals(state, told, outcomes, evidence)


def _pass_approvals(
    state: ApprovalState,
    told: tuple[PolicyOutcome, ...],
    gates: tuple[GateOutcome, ...],
    evidence: str,
) -> Passage:
    phase, reason = _ANSWERS[state.phase]
    message = state.message
    if phase == "Approved" and not (told or state.outcomes):
        return Passage("Approved", "NoPolicy", "no policy guards this environment")
    if phase == "Approved" and not message:
        message = f"allowed by {', '.join(outcome.name for outcome in told)}"
    return Passage(
        phase, reason, message, told + state.outcomes, gates, state.names, evidence,
        create=state.create, void=state.void,
    )  # fmt: skip


_ANSWERS: dict[str, tuple[PromotionPhase, str]] = {
    "none": ("Approved", "PoliciesAllow"),
    "approved": ("Approved", "Approved"),
    "waiting": ("AwaitingApproval", "AwaitingApproval"),
    "refused": ("Refused", "ApprovalRefused"),
    "rejected": ("Rejected", "Rejected"),
    "expired": ("Expired", "Expired"),
}


def facts_for(
    policy: PromotionPolicy | None, promotion: Promotion, guards: Guards, version: ModelVersion
) -> Facts:
    """Return what the conditions of `policy` see; for None what approval policies see.

    A promotion policy sees what its own pipelines measured, approval policies what all gates of
    the promotion did.
    """
    names = policy.spec.pipelines if policy is not None else required_pipelines(guards.matching)
    gates = [guards.gates[name] for name in dict.fromkeys(names) if name in guards.gates]
    around, spec = guards.around, promotion.spec
    return build_facts(
        version,
        guards.model,
        [item for gate in gates for item in gate.results.items()],
        Request(
            guards.environment.metadata.name,
            guards.environment.spec.stage,
            spec.subject.name,
            spec.automatic,
            policy_of(spec.lane),
        ),
        names_for(policy, around) if policy is not None else names_for_approval(around),
        has_champion=any(
            gate.run is not None and gate.run.spec.champion is not None for gate in gates
        ),
        can_deploy=guards.can_deploy,
        ab_verdict=guards.ab_verdict,
    )


def digest_evidence(results: Iterable[StageResult]) -> str:
    """Return the SHA-256 over the results that a promotion rests on: their names and keys."""
    lines = {f"{result.metadata.name} {result.spec.key}\n" for result in results}
    return hashlib.sha256("".join(sorted(lines)).encode()).hexdigest()


def _needs_approval(guards: Guards) -> bool:
    place, model = guards.environment.metadata.name, guards.model.metadata
    return any(
        policy.spec.models.matches(model.name, model.labels)
        and (not policy.spec.environments or place in policy.spec.environments)
        for policy in guards.approval_policies
    )


def _gate(name: str, run: GateRun | None = None) -> GateOutcome:
    if run is None:
        return GateOutcome(pipeline=name, run="", phase="Pending")
    results = tuple(stage.result for stage in run.status.stages if stage.result)
    phase = run.status.phase
    return GateOutcome(pipeline=name, run=run.metadata.name, phase=phase, results=results)


def _is_cancelled(run: GateRun) -> bool:
    return run.spec.cancelled or run.status.phase == "Cancelled"


def _is_before(run: GateRun, promotion: Promotion) -> bool:
    ended, asked = run.status.finished_at, promotion.metadata.created_at
    return ended is not None and asked is not None and ended < asked
