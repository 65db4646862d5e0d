"""The shape that every resource shares: metadata, spec, status, conditions.

People declare `spec`; reconcilers report `status`. All types are immutable: a change is a copy.
Used by every floor above; does no I/O and reads no clock.
"""

from __future__ import annotations

import re
from datetime import datetime
from typing import Annotated, Any, ClassVar, Generic, Literal, NamedTuple, Self, TypeVar

from pydantic import AfterValidator, BaseModel, ConfigDict, Field
from pydantic.alias_generators import to_camel

API_VERSION: Literal["modelplane.dev/v1"] = "modelplane.dev/v1"
DEFAULT_ENVIRONMENT = "production"

_NAME = re.compile(r"[A-Za-z0-9]([-A-Za-z0-9._]*[A-Za-z0-9])?")
_VERSION = re.compile(r"[0-9A-Za-z][-0-9A-Za-z.+]*")
_NOT_IN_MODEL_NAMES = frozenset("/\\:@?#%")


def check_name(name: str) -> str:
    """Return `name` when it may name a resource.

    Names are letters, digits, ``-``, ``_`` and ``.``, 1 to 63 characters, and stand in URL paths
    as they are. Raises ValueError otherwise.
    """
    if len(name) > 63 or not _NAME.fullmatch(name):
        raise ValueError(
            f"not a name: {name[:80]!r}; use 1 to 63 letters, digits, '-', '_' and '.', "
            "beginning and ending with a letter or digit"
        )
    return name


def check_model_name(name: str) -> str:
    """Return `name` when it may name a model or a dataset.

    Registries that people already use allow more than `check_name` does: 1 to 200 printable
    characters, spaces inside included, but none of ``/ \\ : @ ? # %``. Raises ValueError
    otherwise.
    """
    if (
        0 < len(name) <= 200
        and name.isprintable()
        and name == name.strip()
        and name not in {".", ".."}
        and _NOT_IN_MODEL_NAMES.isdisjoint(name)
    ):
        return name
    raise ValueError(
        f"not a name: {name[:80]!r}; use 1 to 200 printable characters without "
        "/ \\ : @ ? # % and without spaces at the ends"
    )


def check_resource_name(name: str) -> str:
    """Return `name` when it is a name or ``NAME@VERSION``; raises ValueError otherwise.

    Names that the system derives from people's (``DEPLOYMENT-REVISION-0``) may be longer than
    those that `check_name` accepts.
    """
    if len(name) <= 128 and _NAME.fullmatch(name):
        return name
    owner, at, version = name.rpartition("@")
    if at and len(version) <= 100 and _VERSION.fullmatch(version):
        check_model_name(owner)
        return name
    return check_model_name(name)


Name = Annotated[str, AfterValidator(check_name)]
ModelName = Annotated[str, AfterValidator(check_model_name)]


class Part(BaseModel):
    """A piece of a resource: immutable, strict about fields, camelCase outside."""

    model_config = ConfigDict(
        frozen=True, extra="forbid", alias_generator=to_camel, populate_by_name=True,
        allow_inf_nan=False, protected_namespaces=(),
    )  # fmt: skip

    def with_(self, **changes: Any) -> Self:
        """Return a copy with `changes`; values are trusted to be valid."""
        return self.model_copy(update=changes)

    def to_dict(self) -> dict[str, Any]:
        """Return the outside form: camelCase, JSON types, absent values left out."""
        return self.model_dump(mode="json", by_alias=True, exclude_none=True)


class Metadata(Part):
    """Who a resource is.

    ``uid`` is given once and never used again; ``generation`` counts changes of the spec;
    ``resource_version`` is the store's sequence of the last change and guards updates.
    """

    name: Annotated[str, AfterValidator(check_resource_name)] = Field(
        description="Unique within the kind and environment."
    )
    environment: str | None = Field(
        default=None, description="The environment it belongs to; absent for global kinds."
    )
    labels: dict[str, str] = Field(default_factory=dict, description="For selection and policy.")
    annotations: dict[str, str] = Field(default_factory=dict, description="For people and tools.")
    uid: str = Field(default="", description="Given by the store at creation.")
    generation: int = Field(default=0, description="Counts the changes of the spec.")
    resource_version: int = Field(default=0, description="Sequence of the last change.")
    created_at: datetime | None = Field(default=None, description="Given by the store.")
    updated_at: datetime | None = Field(default=None, description="Given by the store.")


ConditionStatus = Literal["True", "False", "Unknown"]


class Condition(Part):
    """One observation about a resource, in the form Kubernetes users know."""

    type: str
    status: ConditionStatus
    reason: str
    message: str = ""
    observed_generation: int = 0
    last_transition_time: datetime | None = None


def set_condition(
    conditions: tuple[Condition, ...], condition: Condition, now: datetime
) -> tuple[Condition, ...]:
    """Return `conditions` with `condition` in place of the one of its type.

    The transition time moves only when the status does. The order is by type.
    """
    before = next((c for c in conditions if c.type == condition.type), None)
    since = before.last_transition_time if before and before.status == condition.status else now
    others = [c for c in conditions if c.type != condition.type]
    merged = [*others, condition.with_(last_transition_time=since)]
    return tuple(sorted(merged, key=lambda c: c.type))


class ResourceKey(NamedTuple):
    """What names a resource: kind, environment (None for global kinds), name."""

    kind: str
    environment: str | None
    name: str

    def __str__(self) -> str:
        where = f"{self.environment}/" if self.environment else ""
        return f"{self.kind} {where}{self.name}"


class Subject(Part):
    """Who asks: a token's name and groups, or a part of the system (``system:rollout``)."""

    name: str
    groups: tuple[str, ...] = ()


SpecT = TypeVar("SpecT", bound=Part)
StatusT = TypeVar("StatusT", bound=Part)


class NoStatus(Part):
    """The status of kinds that nothing reconciles."""


class Resource(Part, Generic[SpecT, StatusT]):
    """One declared thing. Each kind is a subclass that fixes `kind`, `spec` and `status`.

    Class attributes
    ----------------
    scoped
        Whether it belongs to an environment.
    plural
        The kind in URL paths: plural and hyphenated.
    declared
        Whether people may write it with apply; the others are made by the system.
    """

    scoped: ClassVar[bool] = True
    plural: ClassVar[str] = ""
    declared: ClassVar[bool] = False
    short_names: ClassVar[tuple[str, ...]] = ()

    api_version: Literal["modelplane.dev/v1"] = API_VERSION
    kind: str
    metadata: Metadata
    spec: SpecT
    status: StatusT

    @property
    def key(self) -> ResourceKey:
        """The key it is stored under."""
        return ResourceKey(self.kind, self.metadata.environment, self.metadata.name)

    def with_status(self, **changes: Any) -> Self:
        """Return a copy whose status has `changes`."""
        return self.with_(status=self.status.with_(**changes))

    def with_spec(self, **changes: Any) -> Self:
        """Return a copy whose spec has `changes`."""
        return self.with_(spec=self.spec.with_(**changes))
