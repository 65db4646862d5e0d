"""The roles that exist from the start, and who has them.

Used by `authorization`, which takes them from here whatever the store holds, and by wiring, which
keeps them in the store so that people can read them. Pure data.
"""

from __future__ import annotations

from modelplane.resources.kinds import KINDS
from modelplane.resources.meta import Metadata
from modelplane.resources.role import (
    Role,
    RoleBinding,
    RoleBindingSpec,
    RoleRule,
    RoleSpec,
    Stage,
    Verb,
)

ADMIN_GROUP = "admin"
AGENT_GROUP = "system:agents"
SYSTEM_PREFIX = "system:"
"""Groups that begin so belong to modelplane; nobody can bind them."""

AGENT_KINDS = frozenset({"Environment", "Replica", "TrafficSplit", "Job"})
"""Kinds whose status agents report."""

NOT_RESOURCES = (
    "Artifact",
    "Audit",
    "Certificate",
    "Evidence",
    "Feedback",
    "Lineage",
    "Metrics",
    "Prediction",
    "Telemetry",
)
"""What rules can name beside kinds: the files of versions, the audit log, bundles of evidence,
the lineage graph, what models predicted and what turned out to be true, the metrics of the control
plane itself, what agents count, and the certificates of their proxies with the authority that
signs them."""

THINGS: tuple[str, ...] = (*KINDS, *NOT_RESOURCES)
"""Everything that rules can name as a kind."""

READS: tuple[Verb, ...] = ("get", "list", "watch", "download")
_TELLING = frozenset({"Audit", "Evidence", "Notification", "Prediction", "Token"})
"""Who did what and who was told what, what people sent to models, and who may come in: not for
everybody's eyes."""


def _kinds(*without: str) -> tuple[str, ...]:
    return tuple(thing for thing in THINGS if thing not in without)


def _rule(
    name: str,
    verbs: tuple[Verb, ...],
    kinds: tuple[str, ...],
    stages: tuple[Stage, ...] = (),
) -> RoleRule:
    return RoleRule(name=name, verbs=verbs, kinds=kinds, stages=stages)


def _role(name: str, description: str, *rules: RoleRule) -> Role:
    return Role(
        metadata=Metadata(name=name), spec=RoleSpec(description=description, rules=tuple(rules))
    )


_RUN = _rule("run", ("run",), ("ValidationPipeline", "GateRun", "TrainingTrigger", "TrainingRun"))
_LABEL = _rule("label", ("report",), ("Feedback",))
_READ_ALL_BUT_TELLING = _rule("read", READS, _kinds(*_TELLING))

BUILT_IN_ROLES: tuple[Role, ...] = (
    _role(
        "developer",
        "Reads, registers data and versions, runs pipelines; deploys up to staging; may ask for "
        "a promotion anywhere.",
        _READ_ALL_BUT_TELLING,
        _rule(
            "register",
            ("upload", "apply", "act"),
            ("Artifact", "Model", "ModelVersion", "Dataset", "DatasetVersion", "Contract"),
        ),
        _RUN,
        _LABEL,
        _rule(
            "deploy",
            ("apply", "delete", "steer", "promote"),
            ("ModelDeployment", "Rollout", "TrafficPolicy"),
            ("development", "staging"),
        ),
        _rule("request", ("promote",), ("ModelDeployment",)),
    ),
    _role(
        "approver",
        "Reads, and answers the approvals whose policy names it; may delegate that.",
        _READ_ALL_BUT_TELLING,
        _rule("answer", ("approve",), ("Approval", "PlaybookRun")),
        _rule("delegate", ("act",), ("Delegation",)),
    ),
    _role(
        "operator",
        "Reads, the audit log included; steers rollouts and takes traffic policies away "
        "everywhere, runs pipelines, has notifications sent again; writes alert rules and "
        "silences; runs and answers playbooks, and writes those whose steps it may do itself.",
        _rule("read", READS, _kinds("Token")),
        _rule("steer", ("steer",), ("ModelDeployment", "Rollout")),
        _rule("withdraw", ("delete",), ("TrafficPolicy",)),
        _rule("watch", ("apply", "delete"), ("AlertRules", "Silence")),
        _rule("repair", ("apply", "delete", "run"), ("Playbook",)),
        _rule("intervene", ("run", "approve"), ("PlaybookRun",)),
        _RUN,
        _LABEL,
        _rule("replay", ("act",), ("Notification",)),
    ),
    _role(
        "auditor",
        "Reads everything, and changes nothing.",
        _rule("read", READS, ("*",)),
    ),
    _role(
        "agent",
        "What agents need: to see what should run, to fetch files, to report.",
        _rule("see", ("list", "watch"), ("Environment", "Job", "Replica", "TrafficSplit")),
        _rule("carry", ("upload", "download"), ("Artifact",)),
        _rule("report", ("status",), tuple(sorted(AGENT_KINDS))),
        _rule("count", ("report",), ("Prediction", "Telemetry")),
        _rule("identify", ("get", "act"), ("Certificate",)),
        _rule("train", ("act",), ("TrainingRun",)),
    ),
    _role(
        "admin",
        "May do everything; the only role that may grant.",
        RoleRule(name="everything", verbs=("*",), kinds=("*",)),
    ),
)
"""In the order in which a refusal proposes them: those that may do the least first."""


def _binding(name: str, role: str, group: str) -> RoleBinding:
    return RoleBinding(
        metadata=Metadata(name=name), spec=RoleBindingSpec(role=role, groups=(group,))
    )


BUILT_IN_BINDINGS: tuple[RoleBinding, ...] = (
    _binding("admin", "admin", ADMIN_GROUP),
    _binding("system-agents", "agent", AGENT_GROUP),
)
"""They hold always."""

FIRST_BINDINGS: tuple[RoleBinding, ...] = tuple(
    _binding(name, name, name) for name in ("developer", "approver", "operator", "auditor")
)
"""Made at the first start; people may change or delete them."""

BUILT_IN_ROLE_NAMES = frozenset(role.metadata.name for role in BUILT_IN_ROLES)
TRAINING_RULES = (
    _rule(
        "see",
        ("get", "list", "download"),
        ("Model", "ModelVersion", "Dataset", "DatasetVersion", "Artifact", "TrainingRun"),
    ),
    _rule("describe-data", ("upload", "apply"), ("Artifact", "Dataset", "DatasetVersion")),
)
"""What the token of a training may do besides registering versions of its model."""

TRAINING_REGISTERS = _rule("register", ("apply",), ("ModelVersion",))
"""What it may do to its own model only."""

BUILT_IN_BINDING_NAMES = frozenset(binding.metadata.name for binding in BUILT_IN_BINDINGS)
