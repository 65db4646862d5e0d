"""A TrafficPolicy: which version gets whose requests, beside what its deployment says. Pure data.

It belongs to one version (or the arms of one A/B/n test) of a deployment that exists. Several
policies of one deployment run beside each other, each with rollouts of its own; what serves by
default is stable for all of them. Its hooks are what the version is watched for.
"""

from __future__ import annotations

from typing import ClassVar, Literal

from pydantic import Field, model_validator

from modelplane.resources.meta import Condition, ModelName, Name, Part, Resource
from modelplane.resources.strategy import Strategy

TrafficPolicyPhase = Literal["Pending", "Active", "Waiting", "Ended", "Refused"]


class HookStatus(Part):
    """One monitoring hook and whether it watches."""

    hook: str = Field(description="As it was written.")
    state: Literal["active", "waiting"] = "active"
    message: str = Field(default="", description="What it watches, or what it waits for.")


class PolicyArm(Part):
    """How one version of the policy fares."""

    version: str
    promotion: str = ""
    rollout: str = ""
    phase: str = Field(default="", description="Of the rollout, or of the promotion before it.")
    message: str = ""


class TrafficPolicySpec(Part):
    """Who gets the version, and what it is watched for."""

    deployment: Name | None = Field(
        default=None, description="Absent: the one deployment of `model` in the environment."
    )
    model: ModelName | None = Field(default=None, description="Absent: the deployment's.")
    version: str | None = Field(
        default=None, description="Semantic version, number or `latest`; absent with `ab` only."
    )
    traffic_rule: Strategy = Field(description="How the version gets traffic, and whose.")
    monitoring_hooks: tuple[str, ...] = Field(
        default=(),
        max_length=20,
        description="What it is watched for: `latency_alert>95th`, `error_alert>1%`, "
        "`drift_detection/enabled`.",
    )

    @model_validator(mode="after")
    def _names_its_versions_once(self) -> TrafficPolicySpec:
        if (self.version is None) != (self.traffic_rule.ab is not None):
            raise ValueError("name a version, or the arms of `ab`; not both")
        if self.deployment is None and self.model is None:
            raise ValueError("name the deployment or the model")
        return self


class TrafficPolicyStatus(Part):
    """What became of it."""

    phase: TrafficPolicyPhase = "Pending"
    message: str = ""
    arms: tuple[PolicyArm, ...] = ()
    hooks: tuple[HookStatus, ...] = ()
    gateway: str = Field(
        default="", description="The gateway's words when it refused the routes; else empty."
    )
    conditions: tuple[Condition, ...] = ()


class TrafficPolicy(Resource[TrafficPolicySpec, TrafficPolicyStatus]):
    """A version's share of a deployment's traffic, and what it is watched for."""

    scoped: ClassVar[bool] = True
    plural: ClassVar[str] = "traffic-policies"
    declared: ClassVar[bool] = True
    short_names: ClassVar[tuple[str, ...]] = ("tp", "traffic-policy")

    kind: Literal["TrafficPolicy"] = "TrafficPolicy"
    spec: TrafficPolicySpec
    status: TrafficPolicyStatus = Field(default_factory=TrafficPolicyStatus)
