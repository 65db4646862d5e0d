"""The SQL that reads: resources, changes, audit records, evidence, and what a group needs.

Used by `sqlite.SqliteStore` and `writer.Writer`. Each function runs inside a transaction that its
caller began, so that what it reads is of one moment; nothing here writes.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, TypeVar

from pydantic import ValidationError
from sqlalchemy import Connection, RowMapping, bindparam, func, select

from modelplane.adapters.store.documents import Document, ResourceCache, read_document
from modelplane.adapters.store.staging import Staging, StoredRow
from modelplane.adapters.store.tables import audit, changes, evidence, leases, meta, resources
from modelplane.decisions.audit_chain import GENESIS, SignedHead
from modelplane.errors import Conflict
from modelplane.ports.store import AnyResource, AuditRecord, Change, ChangePage, Lease
from modelplane.resources.kinds import KINDS
from modelplane.resources.meta import ResourceKey

HEAD = "audit_head"
PRUNED_THROUGH = "changes_pruned_through"
PAGE_SIZE = 200
_AUDIT_PAGE_SIZE = 1_000
_MAX_KEYS_PER_QUERY = 300
_NEVER = datetime(1970, 1, 1, tzinfo=UTC)

T = TypeVar("T")


class Expired(Conflict):
    """A watch asked for changes that are no longer in the log."""

    code = "expired"


_ONE = select(
    resources.c.resource_version, resources.c.metadata, resources.c.spec, resources.c.status
).where(
    resources.c.kind == bindparam("kind"),
    resources.c.environment == bindparam("environment"),
    resources.c.name == bindparam("name"),
)
_SOME = select(resources).where(
    resources.c.kind == bindparam("kind"),
    resources.c.environment == bindparam("environment"),
    resources.c.name.in_(bindparam("names", expanding=True)),
)
_NEWEST_CHANGE = select(func.max(changes.c.resource_version))
_NEWEST_RECORD = select(func.max(audit.c.sequence))
_META = select(meta.c.value).where(meta.c.name == bindparam("name"))

# What every group needs, in one statement: statements cost more than what they do.
_STATE = select(
    _NEWEST_CHANGE.scalar_subquery(),
    _NEWEST_RECORD.scalar_subquery(),
    select(audit.c.hash).order_by(audit.c.sequence.desc()).limit(1).scalar_subquery(),
    select(meta.c.value).where(meta.c.name == HEAD).scalar_subquery(),
    select(meta.c.value).where(meta.c.name == PRUNED_THROUGH).scalar_subquery(),
)


def read_resource(connection: Connection, key: ResourceKey) -> AnyResource | None:
    """Return one resource, or None."""
    names = {"kind": key.kind, "environment": key.environment or "", "name": key.name}
    found = connection.execute(_ONE, names).one_or_none()
    if found is None:
        return None
    return read_document(key.kind, Document(found.metadata, found.spec, found.status))


@dataclass(frozen=True, slots=True)
class Selection:
    """Resources of one kind: in one environment or all, with names that begin with `prefix`."""

    kind: str
    environment: str | None = None
    prefix: str = ""


def read_kind(
    connection: Connection, selection: Selection, cache: ResourceCache
) -> tuple[list[AnyResource], int]:
    """Return a kind's resources in name order and the newest change.

    Reads the keys first and only the texts that are not in `cache`.
    """
    columns = (resources.c.name, resources.c.environment, resources.c.resource_version)
    kind, prefix = selection.kind, selection.prefix
    statement = select(*columns).where(resources.c.kind == kind)
    if selection.environment is not None or not KINDS[kind].scoped:
        # Named for global kinds too: the primary key is then searched by name.
        statement = statement.where(resources.c.environment == (selection.environment or ""))
    if prefix:
        after = prefix[:-1] + chr(ord(prefix[-1]) + 1)
        statement = statement.where(resources.c.name >= prefix, resources.c.name < after)
    rows = connection.execute(statement.order_by(resources.c.name, resources.c.environment)).all()
    found: list[AnyResource | None] = []
    missing: dict[ResourceKey, int] = {}
    for place, (name, where, version) in enumerate(rows):
        key = ResourceKey(kind, where or None, name)
        cached = cache.get(key, version)
        found.append(cached)
        if cached is None:
            missing[key] = place
    for row in load_rows(connection, list(missing)):
        resource = read_document(kind, row.document)
        cache.put(resource)
        found[missing[row.key]] = resource
    return [resource for resource in found if resource is not None], newest_change(connection)


def newest_change(connection: Connection) -> int:
    """Return the resource version of the newest change, 0 in an empty store."""
    return connection.execute(_NEWEST_CHANGE).scalar() or 0


def read_changes(
    connection: Connection, since: int, kinds: Sequence[str], cache: ResourceCache
) -> ChangePage:
    """Return the changes after `since`, a page at the most.

    Raises
    ------
    Expired
        When some of them are no longer in the log, or `since` lies in the future (the store was
        restored from a backup).
    """
    newest = newest_change(connection)
    oldest = read_pruned_through(connection)
    if not oldest <= since <= newest:
        raise Expired(
            f"changes after {since} cannot be told: the log holds those after {oldest} up to "
            f"{newest}",
            hint="list again and watch from the version of the list",
        )
    if since == newest:
        return ChangePage((), newest, more=False)
    statement = select(changes).where(changes.c.resource_version > since)
    if kinds:
        statement = statement.where(changes.c.kind.in_(kinds))
    statement = statement.order_by(changes.c.resource_version).limit(PAGE_SIZE)
    page = [_read_change(row, cache) for row in connection.execute(statement).mappings()]
    more = len(page) == PAGE_SIZE
    return ChangePage(page, page[-1].resource_version if more else newest, more)


def _read_change(row: RowMapping, cache: ResourceCache) -> Change:
    version = row["resource_version"]
    key = ResourceKey(row["kind"], row["environment"] or None, row["name"])
    resource = cache.get(key, version)
    if resource is None:
        resource = read_document(key.kind, Document(row["metadata"], row["spec"], row["status"]))
        cache.put(resource)
    return Change(version, row["type"], resource)


def read_pruned_through(connection: Connection) -> int:
    """Return the newest change that is no longer in the log, 0 when all are."""
    return int(connection.execute(_META, {"name": PRUNED_THROUGH}).scalar() or 0)


def read_signed_head(connection: Connection) -> SignedHead | None:
    """Return the head that was signed with the newest audit record."""
    text = connection.execute(_META, {"name": HEAD}).scalar()
    return SignedHead.model_validate_json(text) if text else None


def newest_record(connection: Connection) -> int:
    """Return the sequence of the newest audit record, 0 when there is none."""
    return connection.execute(_NEWEST_RECORD).scalar() or 0


def read_hash(connection: Connection, sequence: int) -> str | None:
    """Return the hash of one audit record, None when there is no such record."""
    if sequence == 0:
        return GENESIS
    return connection.execute(select(audit.c.hash).where(audit.c.sequence == sequence)).scalar()


def read_audit(
    connection: Connection,
    after: int,
    limit: int,
    *,
    last: int | None = None,
    only: Mapping[str, str | Sequence[str] | None] = {},
) -> list[AuditRecord]:
    """Return the first audit records after `after`, or the `last` newest, in order.

    `only` holds what columns must equal, or be one of; None is anything.
    """
    statement = select(audit).where(
        *(
            audit.c[column] == value if isinstance(value, str) else audit.c[column].in_(value)
            for column, value in only.items()
            if value is not None
        )
    )
    if last is None:
        statement = statement.where(audit.c.sequence > after).order_by(audit.c.sequence)
        statement = statement.limit(limit)
    else:
        statement = statement.order_by(audit.c.sequence.desc()).limit(last)
    records = [_read_record(row) for row in connection.execute(statement).mappings()]
    return records if last is None else records[::-1]


def stream_audit(connection: Connection) -> Iterator[AuditRecord]:
    """Yield the whole audit log in order, a page in memory at a time."""
    after = 0
    while page := read_audit(connection, after, _AUDIT_PAGE_SIZE):
        yield from page
        after = page[-1].sequence


def _read_record(row: RowMapping) -> AuditRecord:
    fields: dict[str, Any] = dict(row)
    try:
        return AuditRecord(**{**fields, "details": json.loads(fields["details"])})
    except (ValidationError, ValueError):  # somebody wrote what we never write: it shows as altered
        return AuditRecord(
            sequence=fields["sequence"],
            at=_NEVER,
            subject="",
            action="unreadable",
            previous_hash=str(fields["previous_hash"]),
            hash=str(fields["hash"]),
        )


def read_evidence(
    connection: Connection, rollout_uids: Sequence[str]
) -> dict[str, Mapping[str, Any]]:
    """Return the stored evidence by rollout."""
    found: dict[str, Mapping[str, Any]] = {}
    for uids in _chunks(rollout_uids, _MAX_KEYS_PER_QUERY):
        statement = select(evidence).where(evidence.c.rollout_uid.in_(uids))
        for uid, body in connection.execute(statement):
            found[uid] = json.loads(body)
    return found


def load_staging(
    connection: Connection, keys: Sequence[ResourceKey], lease_names: Sequence[str]
) -> Staging:
    """Return the present state as far as a group needs it."""
    rows: dict[ResourceKey, StoredRow | None] = dict.fromkeys(keys)
    rows.update((row.key, row) for row in load_rows(connection, list(rows)))
    held: dict[str, Lease | None] = dict.fromkeys(lease_names)
    if held:
        statement = select(leases).where(leases.c.name.in_(list(held)))
        for row in connection.execute(statement):
            expires_at = datetime.fromisoformat(row.expires_at)
            held[row.name] = Lease(row.name, row.holder, row.epoch, expires_at)
    version, sequence, hash_, head, pruned_through = connection.execute(_STATE).one()
    return Staging(
        rows,
        held,
        version=version or 0,
        sequence=sequence or 0,
        hash=hash_ or GENESIS,
        signed=SignedHead.model_validate_json(head) if head else None,
        pruned_through=int(pruned_through or 0),
    )


def load_rows(connection: Connection, keys: Sequence[ResourceKey]) -> Iterator[StoredRow]:
    """Yield the rows of `keys` that exist, in no order."""
    names: dict[tuple[str, str], list[str]] = {}
    for key in keys:
        names.setdefault((key.kind, key.environment or ""), []).append(key.name)
    for (kind, environment), all_names in names.items():
        for some in _chunks(all_names, _MAX_KEYS_PER_QUERY):
            found = {"kind": kind, "environment": environment, "names": some}
            for row in connection.execute(_SOME, found):
                yield StoredRow(
                    ResourceKey(row.kind, row.environment or None, row.name),
                    row.uid,
                    row.generation,
                    row.resource_version,
                    Document(row.metadata, row.spec, row.status),
                )


def _chunks(items: Sequence[T], size: int) -> Iterator[Sequence[T]]:
    for start in range(0, len(items), size):
        yield items[start : start + size]
