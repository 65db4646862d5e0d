"""What `get` shows of gates: pipelines, runs, policies, approvals, notifications, roles. Pure."""

from __future__ import annotations

from datetime import datetime

from modelplane.cli import words
from modelplane.cli.fillers import Row, columns
from modelplane.resources.approval import Approval, ApprovalPolicy, Delegation
from modelplane.resources.contract import Contract
from modelplane.resources.gate_run import GateRun, StageResult
from modelplane.resources.notification import Notification, NotificationChannel
from modelplane.resources.promotion_policy import PromotionPolicy
from modelplane.resources.role import Role, RoleBinding
from modelplane.resources.selector import ModelSelector
from modelplane.resources.validation_pipeline import ValidationPipeline


def _models(selector: ModelSelector) -> str:
    labels = [f"{name}={value}" for name, value in selector.labels.items()]
    return ",".join([*selector.names, *labels]) or "all"


@columns(ValidationPipeline, "MODELS", "STAGES", "TRIGGERS")
def _pipeline(resource: ValidationPipeline, _: datetime) -> Row:
    triggers = resource.spec.triggers
    named = {
        "push": triggers.on_model_push,
        "dataset": bool(triggers.on_dataset),
        "contract": triggers.on_contract,
        "schedule": triggers.schedule is not None,
    }
    return [
        _models(resource.spec.models),
        ",".join(stage.name for stage in resource.spec.stages),
        ",".join(name for name, given in named.items() if given),
    ]


@columns(GateRun, "MODEL", "VERSION", "TRIGGER", "PHASE", "STAGES", "MESSAGE")
def _run(resource: GateRun, _: datetime) -> Row:
    spec, status = resource.spec, resource.status
    passed = sum(stage.phase == "Passed" for stage in status.stages)
    revision = spec.candidate.revision
    stages = f"{passed}/{len(spec.stages)}"
    return [revision.model, revision.version, spec.trigger, status.phase, stages, status.message]


@columns(StageResult, "CHECK", "STAGE", "MODEL", "VERSION", "PASSED", "MESSAGE")
def _result(resource: StageResult, _: datetime) -> Row:
    spec = resource.spec
    passed = "yes" if spec.outcome.passed else "no"
    return [spec.check, spec.stage, spec.model, spec.version, passed, spec.outcome.message]


@columns(Contract, "CONSUMER", "CONSUMER VERSION", "MODEL", "KEPT BY", "ENVIRONMENTS")
def _contract(resource: Contract, _: datetime) -> Row:
    spec = resource.spec
    kept = [v.version for v in resource.status.verifications if v.passed]
    return [
        spec.consumer, spec.consumer_version, spec.model, ",".join(kept),
        ",".join(spec.environments),
    ]  # fmt: skip


@columns(PromotionPolicy, "ENVIRONMENTS", "MODELS", "PIPELINES", "CONDITIONS", "AUTOMATIC")
def _promotion_policy(resource: PromotionPolicy, _: datetime) -> Row:
    spec = resource.spec
    return [
        ",".join(spec.environments),
        _models(spec.models),
        ",".join(spec.pipelines),
        str(len(spec.conditions)),
        "yes" if spec.automatic else "",
    ]


@columns(ApprovalPolicy, "TEAM", "MODELS", "THRESHOLD", "APPROVERS", "QUORUM")
def _approval_policy(resource: ApprovalPolicy, _: datetime) -> Row:
    spec = resource.spec
    threshold = ",".join(f"{name}>={value}" for name, value in spec.threshold.items())
    who = ",".join([*spec.approvers.groups, *spec.approvers.subjects])
    return [spec.team, _models(spec.models), threshold, who, str(spec.quorum)]


@columns(Approval, "MODEL", "VERSION", "POLICY", "PHASE", "AGREED", "EXPIRES")
def _approval(resource: Approval, now: datetime) -> Row:
    spec, status = resource.spec, resource.status
    agreed = sum(decision.decision == "approve" for decision in status.decisions)
    left = spec.expires_at - now
    expires = words.duration(max(0.0, left.total_seconds())) if status.phase == "Pending" else ""
    agreement = f"{agreed}/{spec.quorum}"
    return [spec.model, spec.version, spec.policy, status.phase, agreement, expires]


@columns(Delegation, "FROM", "TO", "POLICIES", "UNTIL")
def _delegation(resource: Delegation, _: datetime) -> Row:
    spec = resource.spec
    until = f"{spec.ends_at:%Y-%m-%d %H:%M}Z"
    return [spec.delegator, spec.delegate, ",".join(spec.policies) or "all", until]


@columns(NotificationChannel, "TYPE", "EVENTS", "TEAMS", "APPROVER")
def _channel(resource: NotificationChannel, _: datetime) -> Row:
    spec = resource.spec
    receivers = {"webhook": spec.webhook, "slack": spec.slack, "email": spec.email}
    of_type = next(name for name, receiver in receivers.items() if receiver is not None)
    return [of_type, ",".join(spec.events) or "all", ",".join(spec.teams), spec.approver or ""]


@columns(Notification, "CHANNEL", "EVENT", "SUBJECT", "PHASE", "ATTEMPTS", "MESSAGE")
def _notification(resource: Notification, _: datetime) -> Row:
    spec, status = resource.spec, resource.status
    return [
        spec.channel, spec.event.type, spec.event.subject, status.phase, str(status.attempts),
        status.message,
    ]  # fmt: skip


@columns(Role, "RULES", "DESCRIPTION")
def _role(resource: Role, _: datetime) -> Row:
    return [",".join(rule.name for rule in resource.spec.rules), resource.spec.description]


@columns(RoleBinding, "ROLE", "GROUPS", "ENVIRONMENTS", "MODELS")
def _role_binding(resource: RoleBinding, _: datetime) -> Row:
    spec = resource.spec
    return [
        spec.role, ",".join(spec.groups), ",".join(spec.environments) or "all",
        _models(spec.models),
    ]  # fmt: skip
