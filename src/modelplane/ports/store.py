"""The store: resources, change log, leases, audit log and evidence.

Called by the API and the controllers. Every change of state goes through `commit`, which writes
the resources and their audit records in one transaction, or nothing. Reads hold no transaction.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, Literal, Protocol, TypeVar

from modelplane.decisions.audit_chain import AuditRecord as AuditRecord  # noqa: PLC0414 (callers of the port meet it here)
from modelplane.resources.meta import Resource, ResourceKey, Subject

AnyResource = Resource[Any, Any]
R = TypeVar("R", bound=AnyResource)


@dataclass(frozen=True, slots=True)
class Change:
    """One entry of the change log.

    Attributes
    ----------
    resource_version
        Its place in the log; strictly increasing over all kinds.
    type
        ``put`` or ``delete``.
    resource
        The resource after the change; for a deletion, as it was last.
    """

    resource_version: int
    type: Literal["put", "delete"]
    resource: AnyResource


@dataclass(frozen=True, slots=True)
class ChangePage:
    """Some changes in order; everything up to version `through` has been looked at.

    `more` says whether the log goes on.
    """

    changes: Sequence[Change]
    through: int
    more: bool


@dataclass(frozen=True, slots=True)
class Lease:
    """The right to act, held until `expires_at`; `epoch` grows with each new holder."""

    name: str
    holder: str
    epoch: int
    expires_at: datetime


@dataclass(slots=True)
class Transaction:
    """Changes that happen together or not at all; filled by the caller, then committed once.

    Attributes
    ----------
    subject
        Who is accountable; stands in each audit record.
    reason
        Why, in words; may be empty.
    fence
        When given, the commit fails with `Conflict` unless this lease's epoch is current.
    """

    subject: Subject
    reason: str = ""
    fence: Lease | None = None
    puts: list[tuple[AnyResource, int | None, str]] = field(default_factory=list)
    deletes: list[tuple[ResourceKey, int | None, str]] = field(default_factory=list)
    facts: list[tuple[str, ResourceKey | None, Mapping[str, Any]]] = field(default_factory=list)
    evidence: list[tuple[str, Mapping[str, Any] | None]] = field(default_factory=list)

    def create(self, resource: AnyResource, action: str = "create") -> None:
        """Write `resource`, which must not exist yet (`Conflict` otherwise)."""
        self.puts.append((resource, 0, action))

    def update(self, resource: AnyResource, action: str = "update") -> None:
        """Write `resource` over the version it was read at (`Conflict` if that has passed).

        An update that changes nothing is dropped: no new version, no audit record.
        """
        self.puts.append((resource, resource.metadata.resource_version, action))

    def put(self, resource: AnyResource, action: str) -> None:
        """Create `resource` when it was never stored, update it otherwise."""
        write = self.update if resource.metadata.resource_version else self.create
        write(resource, action)

    def delete(self, resource: AnyResource, action: str = "delete") -> None:
        """Remove `resource` as it was read (`Conflict` if it has changed since)."""
        version = resource.metadata.resource_version
        self.deletes.append((resource.key, version, action))

    def note(self, action: str, key: ResourceKey | None = None, **details: Any) -> None:
        """Add an audit record that goes with no change of a resource."""
        self.facts.append((action, key, details))

    def put_evidence(self, rollout_uid: str, evidence: Mapping[str, Any] | None) -> None:
        """Replace a rollout's evidence (None removes it): data, so no audit record."""
        self.evidence.append((rollout_uid, evidence))

    def __bool__(self) -> bool:
        return bool(self.puts or self.deletes or self.facts or self.evidence)


class Store(Protocol):
    """Durable state. All methods raise `TransientError` (or `NoSpace`) when it cannot be had."""

    async def get(self, kind: type[R], name: str, environment: str | None = None) -> R:
        """Return one resource; raises `NotFound`."""

    async def find(self, kind: type[R], name: str, environment: str | None = None) -> R | None:
        """Return one resource, or None."""

    async def list(
        self,
        kind: type[R],
        environment: str | None = None,
        *,
        labels: Mapping[str, str] = {},
        prefix: str = "",
    ) -> tuple[Sequence[R], int]:
        """Return a kind's resources in name order and the resource version they are at least at.

        ``environment=None`` lists all environments; `prefix` is how names begin. A watch from
        that version misses nothing.
        """

    def newest_version(self, kinds: Sequence[type[AnyResource]] = ()) -> int:
        """Return the version at which some of `kinds` changed last, without asking the database.

        What this process committed counts at once, what others did within a second. It may be
        higher than the last change of those kinds, never lower.
        """

    async def changes(self, since: int, kinds: Sequence[type[AnyResource]] = ()) -> ChangePage:
        """Return the first changes after version `since`; raises as `watch` does."""

    async def commit(self, transaction: Transaction) -> Sequence[AnyResource]:
        """Apply all of `transaction`, durably, and return the written resources in order.

        The store fills uid, generation, resource version and times. Raises `Conflict` (an
        expected version or the fence has passed) with nothing written.
        """

    def watch(self, since: int, kinds: Sequence[type[AnyResource]] = ()) -> AsyncIterator[Change]:
        """Yield changes after version `since` in order, for ever; all kinds when none is named.

        Raises `Conflict` with code ``expired`` when `since` is older than the log: list again.
        """

    async def claim(self, name: str, holder: str, ttl_s: float) -> Lease | None:
        """Take a lease that is free, expired or already `holder`'s; None when another has it."""

    async def renew(self, lease: Lease, ttl_s: float) -> Lease | None:
        """Extend a lease; None when it was lost."""

    async def audit(
        self,
        after: int = 0,
        limit: int = 1000,
        *,
        last: int | None = None,
        kind: str | Sequence[str] | None = None,
        name: str | None = None,
        environment: str | None = None,
    ) -> Sequence[AuditRecord]:
        """Return audit records in order: the first `limit` with a sequence above `after`.

        With `last`, the newest that many instead. `kind` (one or several), `name` and
        `environment` leave out records of other resources.
        """

    async def evidence(self, rollout_uids: Sequence[str]) -> Mapping[str, Mapping[str, Any]]:
        """Return the stored evidence of the rollouts that have any."""
