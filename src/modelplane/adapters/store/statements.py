"""The SQL that writes: one planned group.

Used by `writer.Writer`, inside a transaction that it began; nothing here commits.
"""

from __future__ import annotations

import json
from typing import Any

from sqlalchemy import Connection, bindparam, delete, insert, update

from modelplane.adapters.store.queries import HEAD, PRUNED_THROUGH
from modelplane.adapters.store.staging import Staging, StoredRow
from modelplane.adapters.store.tables import audit, changes, evidence, leases, meta, resources
from modelplane.decisions.audit_chain import SignedHead
from modelplane.ports.store import AuditRecord
from modelplane.resources.meta import ResourceKey

_OLD_KEY = (
    resources.c.kind == bindparam("old_kind"),
    resources.c.environment == bindparam("old_environment"),
    resources.c.name == bindparam("old_name"),
)
# Made once: making a statement costs more than running it.
_INSERT_RESOURCE, _INSERT_CHANGE, _INSERT_RECORD = insert(resources), insert(changes), insert(audit)
_UPDATE_RESOURCE = update(resources).where(*_OLD_KEY)
_DELETE_RESOURCE = delete(resources).where(*_OLD_KEY)
_DELETE_LEASE = delete(leases).where(leases.c.name == bindparam("old_name"))
_DELETE_EVIDENCE = delete(evidence).where(evidence.c.rollout_uid == bindparam("old_uid"))
_UPDATE_META = update(meta).where(meta.c.name == bindparam("old_name"))
_PRUNE = delete(changes).where(changes.c.resource_version <= bindparam("through"))


def write_staging(connection: Connection, staging: Staging, head: SignedHead | None) -> None:
    """Write a planned group and its signed head."""
    _write_resources(connection, staging)
    if staging.changes:
        connection.execute(
            _INSERT_CHANGE,
            [
                {
                    "resource_version": change.resource_version,
                    "type": change.type,
                    **_key_columns(change.key),
                    **change.document._asdict(),
                }
                for change in staging.changes
            ],
        )
    if staging.audit:
        connection.execute(_INSERT_RECORD, [_audit_columns(record) for record in staging.audit])
    _replace_leases(connection, staging)
    _replace_evidence(connection, staging)
    if staging.prunes:
        connection.execute(_PRUNE, {"through": staging.pruned_through})
        _set_meta(connection, PRUNED_THROUGH, str(staging.pruned_through))
    if head is not None:
        _set_meta(connection, HEAD, json.dumps(head.to_dict()))


def _write_resources(connection: Connection, staging: Staging) -> None:
    inserts: list[dict[str, Any]] = []
    updates: list[dict[str, Any]] = []
    deletes: list[dict[str, Any]] = []
    for key, row in staging.new_rows.items():
        existed = staging.rows[key] is not None
        if row is not None:
            (updates if existed else inserts).append(_row_columns(row, update=existed))
        elif existed:
            deletes.append(_old_key(key))
    for statement, values in (
        (_INSERT_RESOURCE, inserts),
        (_UPDATE_RESOURCE, updates),
        (_DELETE_RESOURCE, deletes),
    ):
        if values:
            connection.execute(statement, values)


def _replace_leases(connection: Connection, staging: Staging) -> None:
    if not staging.new_leases:
        return
    connection.execute(_DELETE_LEASE, [{"old_name": name} for name in staging.new_leases])
    connection.execute(
        insert(leases),
        [
            {
                "name": lease.name,
                "holder": lease.holder,
                "epoch": lease.epoch,
                "expires_at": lease.expires_at.isoformat(),
            }
            for lease in staging.new_leases.values()
        ],
    )


def _replace_evidence(connection: Connection, staging: Staging) -> None:
    if not staging.evidence:
        return
    connection.execute(_DELETE_EVIDENCE, [{"old_uid": uid} for uid in staging.evidence])
    kept = [
        {"rollout_uid": uid, "body": body}
        for uid, body in staging.evidence.items()
        if body is not None
    ]
    if kept:
        connection.execute(insert(evidence), kept)


def _set_meta(connection: Connection, name: str, value: str) -> None:
    changed = connection.execute(_UPDATE_META, {"old_name": name, "value": value})
    if changed.rowcount == 0:
        connection.execute(insert(meta), {"name": name, "value": value})


def _key_columns(key: ResourceKey) -> dict[str, Any]:
    return {"kind": key.kind, "environment": key.environment or "", "name": key.name}


def _old_key(key: ResourceKey) -> dict[str, Any]:
    return {f"old_{name}": value for name, value in _key_columns(key).items()}


def _row_columns(row: StoredRow, *, update: bool) -> dict[str, Any]:
    return {
        **(_old_key(row.key) if update else _key_columns(row.key)),
        "uid": row.uid,
        "generation": row.generation,
        "resource_version": row.resource_version,
        **row.document._asdict(),
    }


def _audit_columns(record: AuditRecord) -> dict[str, Any]:
    columns = {name: getattr(record, name) for name in audit.c.keys()}  # noqa: SIM118
    columns["at"] = record.at.isoformat()
    columns["details"] = json.dumps(record.details)
    return columns
