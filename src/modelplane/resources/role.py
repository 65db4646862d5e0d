"""Roles and their bindings: which group may do what, where, to which models. Pure data.

A `Role` is a list of rules; a `RoleBinding` gives a group a role. Whatever no rule of a bound
role allows is refused.
"""

from __future__ import annotations

from typing import ClassVar, Literal

from pydantic import Field

from modelplane.resources.meta import Name, NoStatus, Part, Resource
from modelplane.resources.selector import ModelSelector

Verb = Literal[
    "get", "list", "watch", "download",
    "apply", "delete", "upload", "act",
    "promote", "steer", "approve", "run",
    "status", "report",
]  # fmt: skip
"""What can be done: reading; writing (``act`` is any other action); asking for a promotion,
steering a rollout (pause, resume, finish, roll back, undo), approving, running pipelines;
reports of agents (``status`` of a resource, ``report`` of telemetry)."""

Stage = Literal["development", "staging", "production"]


class RoleRule(Part):
    """One thing that the role may do; refusals and grants name it ``ROLE/RULE``."""

    name: Name = Field(description="Unique in the role.")
    verbs: tuple[Verb | Literal["*"], ...] = Field(min_length=1, description="`*` is all.")
    kinds: tuple[str, ...] = Field(
        min_length=1,
        description="Kinds of resources, and `Artifact`, `Audit`, `Evidence`, `Lineage`, "
        "`Metrics`, `Telemetry`; `*` is all.",
    )
    stages: tuple[Stage, ...] = Field(
        default=(), description="Only in environments of these stages; absent: everywhere."
    )


class RoleSpec(Part):
    """What a role may do."""

    description: str = Field(default="", max_length=1000, description="What it is for.")
    rules: tuple[RoleRule, ...] = Field(
        default=(), max_length=50, description="What one may do; nothing else."
    )


class Role(Resource[RoleSpec, NoStatus]):
    """A named list of what one may do; some exist from the start and cannot be changed."""

    scoped: ClassVar[bool] = False
    plural: ClassVar[str] = "roles"
    declared: ClassVar[bool] = True

    kind: Literal["Role"] = "Role"
    spec: RoleSpec
    status: NoStatus = Field(default_factory=NoStatus)


class RoleBindingSpec(Part):
    """Who has the role, where and for which models."""

    role: Name = Field(description="What they get.")
    groups: tuple[str, ...] = Field(
        min_length=1, max_length=100, description="Whoever has a token with one of them gets it."
    )
    environments: tuple[Name, ...] = Field(
        default=(),
        description="Only in these environments; global kinds are then out of reach. Absent: all.",
    )
    models: ModelSelector = Field(
        default_factory=ModelSelector, description="Only for these models; absent: all."
    )


class RoleBinding(Resource[RoleBindingSpec, NoStatus]):
    """Gives groups a role."""

    scoped: ClassVar[bool] = False
    plural: ClassVar[str] = "role-bindings"
    declared: ClassVar[bool] = True

    kind: Literal["RoleBinding"] = "RoleBinding"
    spec: RoleBindingSpec
    status: NoStatus = Field(default_factory=NoStatus)
