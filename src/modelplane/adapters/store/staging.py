"""What one group of operations will write, worked out before anything is written.

The writer loads what the operations of a group need into a `Staging`; each operation plans
against it, sees what those before it planned, and either adds its part or leaves no trace. Pure:
no SQL, no clock.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, Literal

from modelplane.adapters.store.documents import Document
from modelplane.decisions.audit_chain import SignedHead, link
from modelplane.ports.store import AnyResource, AuditRecord, Lease
from modelplane.resources.meta import ResourceKey, Subject


@dataclass(frozen=True, slots=True)
class StoredRow:
    """A row of the table ``resources``."""

    key: ResourceKey
    uid: str
    generation: int
    resource_version: int
    document: Document


@dataclass(frozen=True, slots=True)
class ChangeRow:
    """A row of the table ``changes``."""

    resource_version: int
    type: Literal["put", "delete"]
    key: ResourceKey
    document: Document


@dataclass(slots=True)
class Staging:
    """The present state, as far as a group needs it, and what the group changes.

    Attributes
    ----------
    rows, leases
        As the database has them; None where it has nothing. Operations read through `row` and
        `lease`, which know what was planned since.
    version, sequence, hash
        The newest change, and the newest audit record with its hash.
    signed
        The newest audit record as it was signed; should be the newest there is.
    pruned_through
        The newest change that is no longer in the log.
    prunes
        Whether the group shortens the log to there.
    """

    rows: dict[ResourceKey, StoredRow | None]
    leases: dict[str, Lease | None]
    version: int
    sequence: int
    hash: str
    signed: SignedHead | None
    pruned_through: int = 0
    prunes: bool = False
    new_rows: dict[ResourceKey, StoredRow | None] = field(default_factory=dict)
    new_leases: dict[str, Lease] = field(default_factory=dict)
    evidence: dict[str, str | None] = field(default_factory=dict)
    changes: list[ChangeRow] = field(default_factory=list)
    audit: list[AuditRecord] = field(default_factory=list)
    resources: list[AnyResource] = field(default_factory=list)

    def row(self, key: ResourceKey) -> StoredRow | None:
        """Return a resource's row as it will be after what is planned so far."""
        return self.new_rows[key] if key in self.new_rows else self.rows[key]

    def lease(self, name: str) -> Lease | None:
        """Return a lease as it will be after what is planned so far."""
        return self.new_leases.get(name) or self.leases[name]

    def accept(self, part: Part) -> None:
        """Add what one operation planned."""
        self.new_rows.update(part.rows)
        self.new_leases.update(part.leases)
        self.evidence.update(part.evidence)
        self.changes.extend(part.changes)
        self.audit.extend(part.audit)
        self.resources.extend(part.resources)
        if part.changes:
            self.version = part.changes[-1].resource_version
        if part.audit:
            self.sequence, self.hash = part.audit[-1].sequence, part.audit[-1].hash
        if part.pruned_through > self.pruned_through:
            self.pruned_through = part.pruned_through
            self.prunes = True


@dataclass(slots=True)
class Part:
    """One operation's part of a group, kept apart until the operation is sure to succeed."""

    staging: Staging
    now: datetime
    rows: dict[ResourceKey, StoredRow | None] = field(default_factory=dict)
    leases: dict[str, Lease] = field(default_factory=dict)
    evidence: dict[str, str | None] = field(default_factory=dict)
    changes: list[ChangeRow] = field(default_factory=list)
    audit: list[AuditRecord] = field(default_factory=list)
    resources: list[AnyResource] = field(default_factory=list)
    pruned_through: int = 0

    def row(self, key: ResourceKey) -> StoredRow | None:
        """Return a resource's row, this operation's changes included."""
        return self.rows[key] if key in self.rows else self.staging.row(key)

    def next_version(self) -> int:
        """Return the resource version that the next change gets."""
        return self.staging.version + len(self.changes) + 1

    def change(self, row: StoredRow, type_: Literal["put", "delete"]) -> int:
        """Plan a change of one resource and return its place in the change log."""
        version = self.next_version()
        self.rows[row.key] = row if type_ == "put" else None
        self.changes.append(ChangeRow(version, type_, row.key, row.document))
        return version

    def record(
        self,
        subject: Subject,
        action: str,
        *,
        reason: str,
        key: ResourceKey | None = None,
        uid: str = "",
        resource_version: int = 0,
        details: Mapping[str, Any],
    ) -> None:
        """Plan one audit record, linked to the one before it; `details` holds JSON types only."""
        previous_hash = self.audit[-1].hash if self.audit else self.staging.hash
        record = AuditRecord(
            sequence=self.staging.sequence + len(self.audit) + 1,
            at=self.now,
            subject=subject.name,
            action=action,
            kind=key.kind if key else "",
            environment=(key.environment or None) if key else None,
            name=key.name if key else "",
            uid=uid,
            resource_version=resource_version,
            reason=reason,
            details=dict(details),
            previous_hash=previous_hash,
        )
        self.audit.append(link(previous_hash, record))
