"""All kinds, by name. A new kind is one file and one line here; the store needs no migration."""

from __future__ import annotations

from typing import Any

from modelplane.resources.alerting import Alert, AlertRules, Silence
from modelplane.resources.approval import Approval, ApprovalPolicy, Delegation
from modelplane.resources.contract import Contract
from modelplane.resources.dataset import Dataset, DatasetVersion
from modelplane.resources.environment import Environment
from modelplane.resources.gate_run import GateRun, StageResult
from modelplane.resources.job import Job
from modelplane.resources.meta import Resource
from modelplane.resources.model import AliasMove, Model, ModelVersion
from modelplane.resources.model_deployment import ModelDeployment
from modelplane.resources.model_source import ModelSource
from modelplane.resources.notification import Notification, NotificationChannel
from modelplane.resources.playbook import Playbook, PlaybookRun
from modelplane.resources.promotion import Promotion
from modelplane.resources.promotion_policy import PromotionPolicy
from modelplane.resources.replica import Replica
from modelplane.resources.role import Role, RoleBinding
from modelplane.resources.rollout import Rollout
from modelplane.resources.token import Token
from modelplane.resources.traffic_policy import TrafficPolicy
from modelplane.resources.traffic_split import TrafficSplit
from modelplane.resources.training import TrainingRun, TrainingTrigger
from modelplane.resources.validation_pipeline import ValidationPipeline

_ALL: tuple[type[Resource[Any, Any]], ...] = (
    Environment,
    Model,
    ModelVersion,
    AliasMove,
    Dataset,
    DatasetVersion,
    ModelSource,
    ModelDeployment,
    ValidationPipeline,
    GateRun,
    StageResult,
    Contract,
    PromotionPolicy,
    ApprovalPolicy,
    Promotion,
    Approval,
    Delegation,
    Rollout,
    TrafficPolicy,
    TrafficSplit,
    Replica,
    Job,
    AlertRules,
    Alert,
    Silence,
    Playbook,
    PlaybookRun,
    TrainingTrigger,
    TrainingRun,
    NotificationChannel,
    Notification,
    Role,
    RoleBinding,
    Token,
)

KINDS: dict[str, type[Resource[Any, Any]]] = {kind.__name__: kind for kind in _ALL}
"""Every kind by its name, in the order people meet them."""

BY_PLURAL: dict[str, type[Resource[Any, Any]]] = {kind.plural: kind for kind in _ALL}
"""Every kind by its name in URL paths."""


def find_kind(word: str) -> type[Resource[Any, Any]] | None:
    """Return the kind a person means: its name in any case, plural, or short name; else None."""
    wanted = word.lower().replace("_", "-")
    for kind in _ALL:
        names = {kind.__name__.lower(), kind.plural, kind.plural.replace("-", "")}
        if wanted in names or wanted in kind.short_names:
            return kind
    return None
