"""The things that write: commit, claim, renew, prune. Each plans its part of a group.

Made by `sqlite.SqliteStore`, executed by `writer.Writer`. Pure: an operation sees a `Staging`
and the time, and raises before it leaves a trace.
"""

from __future__ import annotations

import json
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from modelplane.adapters.store.documents import (
    Document,
    changed_fields,
    check_resource,
    digest_text,
    read_document,
    same_content,
    same_labels,
    write_part,
)
from modelplane.adapters.store.staging import Part, Staging, StoredRow
from modelplane.errors import Conflict
from modelplane.ports.store import AnyResource, Lease, Transaction
from modelplane.resources.meta import Metadata, ResourceKey, Subject


class Operation(ABC):
    """One thing to do in a group.

    Attributes
    ----------
    keys, lease_names
        What it will look at; loaded before `plan` is called.
    """

    keys: Sequence[ResourceKey] = ()
    lease_names: Sequence[str] = ()

    @abstractmethod
    def plan(self, part: Part) -> Any:
        """Plan the changes in `part` and return the result; raises with nothing changed."""


@dataclass(frozen=True, slots=True)
class _Put:
    resource: AnyResource
    document: Document
    expected: int | None
    action: str


class Commit(Operation):
    """Applies a transaction; its resources are read here, so the caller may go on with them."""

    def __init__(self, transaction: Transaction, new_uid: Callable[[], str]) -> None:
        self._subject: Subject = transaction.subject
        self._reason = transaction.reason
        self._fence = transaction.fence
        self._puts = [
            _Put(*check_resource(resource), expected, action)
            for resource, expected, action in transaction.puts
        ]
        self._deletes = tuple(transaction.deletes)
        # through JSON once, so that what is hashed is what will be read
        self._facts = [
            (action, key, json.loads(json.dumps(dict(details), default=str)))
            for action, key, details in transaction.facts
        ]
        self._evidence = {
            uid: None if body is None else json.dumps(dict(body), separators=(",", ":"))
            for uid, body in transaction.evidence
        }
        self._new_uid = new_uid
        self.keys = [*(put.resource.key for put in self._puts), *(key for key, *_ in self._deletes)]
        self.lease_names = [self._fence.name] if self._fence else []

    def plan(self, part: Part) -> list[AnyResource]:
        """Plan all of the transaction; raises `Conflict`."""
        if self._fence is not None:
            _check_fence(self._fence, part)
        written = [self._put(put, part) for put in self._puts]
        for key, expected, action in self._deletes:
            self._delete(key, expected, action, part)
        for action, fact_key, details in self._facts:
            part.record(self._subject, action, reason=self._reason, key=fact_key, details=details)
        part.evidence.update(self._evidence)
        return written

    def _put(self, put: _Put, part: Part) -> AnyResource:
        resource, key = put.resource, put.resource.key
        row = part.row(key)
        _check_version(key, row, put.expected)
        if row is None:
            return self._write(put, None, None, part)
        before = Metadata.model_validate_json(row.document.metadata)
        if (
            same_content(row.document.spec, put.document.spec)
            and same_labels(before, resource.metadata)
            and same_content(row.document.status, put.document.status)
        ):
            return read_document(key.kind, row.document)
        return self._write(put, row, before, part)

    def _write(
        self, put: _Put, row: StoredRow | None, before: Metadata | None, part: Part
    ) -> AnyResource:
        changed = changed_fields(row.document.spec, put.document.spec) if row else []
        generation = (row.generation if row else 0) + bool(changed or row is None)
        if before is not None and not same_labels(before, put.resource.metadata):
            changed.append("metadata")
        metadata = put.resource.metadata.with_(
            uid=before.uid if before else self._new_uid(),
            generation=generation,
            resource_version=part.next_version(),
            created_at=before.created_at if before else part.now,
            updated_at=part.now,
        )
        resource = put.resource.with_(metadata=metadata)
        document = put.document._replace(metadata=write_part(metadata))
        key = resource.key
        row = StoredRow(key, metadata.uid, generation, metadata.resource_version, document)
        version = part.change(row, "put")
        details: dict[str, Any] = {
            "generation": generation,
            "spec": digest_text(document.spec),
            "status": digest_text(document.status),
            **({"changed": changed} if changed else {}),
        }
        part.resources.append(resource)
        self._record(part, put.action, row, version, details)
        return resource

    def _delete(self, key: ResourceKey, expected: int | None, action: str, part: Part) -> None:
        row = part.row(key)
        if row is None and expected is None:
            return
        _check_version(key, row, expected)
        assert row is not None
        version = part.change(row, "delete")
        details = {
            "generation": row.generation,
            "spec": digest_text(row.document.spec),
            "status": digest_text(row.document.status),
        }
        self._record(part, action, row, version, details)

    def _record(
        self, part: Part, action: str, row: StoredRow, version: int, details: Mapping[str, Any]
    ) -> None:
        part.record(
            self._subject,
            action,
            reason=self._reason,
            key=row.key,
            uid=row.uid,
            resource_version=version,
            details=details,
        )


def _check_version(key: ResourceKey, row: StoredRow | None, expected: int | None) -> None:
    if expected is None:
        return
    found = row.resource_version if row else 0
    if found == expected:
        return
    if row is None:
        raise Conflict(f"{key} does not exist any more", hint="read it again")
    if expected == 0:
        raise Conflict(f"{key} exists already", hint="update it, or choose another name")
    raise Conflict(
        f"{key} has changed: expected version {expected}, found {found}",
        hint="read it again and repeat the change",
    )


def _check_fence(fence: Lease, part: Part) -> None:
    held = part.staging.lease(fence.name)
    if held is None or (held.epoch, held.holder) != (fence.epoch, fence.holder):
        raise Conflict(f"the lease {fence.name!r} of {fence.holder} was taken over; it may not act")
    if held.expires_at <= part.now:
        raise Conflict(f"the lease {fence.name!r} of {fence.holder} has expired; it may not act")


class Claim(Operation):
    """Takes a lease that is free, expired or the holder's own."""

    def __init__(self, name: str, holder: str, ttl_s: float) -> None:
        self.lease_names = [name]
        self._name, self._holder, self._ttl_s = name, holder, ttl_s

    def plan(self, part: Part) -> Lease | None:
        """Return the lease, or None when another holds it."""
        held = part.staging.lease(self._name)
        valid = held is not None and held.expires_at > part.now
        if held is not None and valid and held.holder != self._holder:
            return None
        # A holder that let its lease lapse gets a new epoch too: what it began may be stale.
        epoch = 1 if held is None else held.epoch + (0 if valid else 1)
        lease = Lease(self._name, self._holder, epoch, _expiry(part.now, self._ttl_s))
        part.leases[self._name] = lease
        return lease


class Renew(Operation):
    """Extends a lease that is still held."""

    def __init__(self, lease: Lease, ttl_s: float) -> None:
        self.lease_names = [lease.name]
        self._lease, self._ttl_s = lease, ttl_s

    def plan(self, part: Part) -> Lease | None:
        """Return the extended lease, or None when it was lost."""
        held = part.staging.lease(self._lease.name)
        if held is None or held.expires_at <= part.now:
            return None
        if (held.epoch, held.holder) != (self._lease.epoch, self._lease.holder):
            return None
        lease = Lease(held.name, held.holder, held.epoch, _expiry(part.now, self._ttl_s))
        part.leases[held.name] = lease
        return lease


class Prune(Operation):
    """Shortens the change log."""

    def __init__(self, keep: int) -> None:
        self._keep = max(keep, 1)  # the newest change tells the next version

    def plan(self, part: Part) -> int:
        """Return the newest change that is gone."""
        part.pruned_through = max(part.staging.pruned_through, part.staging.version - self._keep)
        return part.pruned_through


def plan_all(
    operations: Sequence[Operation], staging: Staging, now: datetime
) -> list[Any | Exception]:
    """Plan a group in order; an operation that fails leaves no trace and hurts no other.

    Returns
    -------
    list
        Per operation its result, or the error it raised.
    """
    outcomes: list[Any | Exception] = []
    for operation in operations:
        part = Part(staging, now)
        try:
            outcomes.append(operation.plan(part))
        except Exception as error:  # belongs to this operation's caller alone
            outcomes.append(error)
        else:
            staging.accept(part)
    return outcomes


def _expiry(now: datetime, ttl_s: float) -> datetime:
    return now + timedelta(seconds=ttl_s)
