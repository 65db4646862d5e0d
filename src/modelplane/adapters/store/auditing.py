"""Guards the audit log: finds what contradicts the signed heads, and verifies the whole log.

Used when the store opens, by the writer, and by ``audit verify``. A contradiction does not stop
the store, since rolling back a bad candidate matters more; it becomes an audit record itself,
which verification reports for ever after. Decides nothing about single records: that is
`decisions.audit_chain`.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import asdict, replace
from datetime import datetime

from sqlalchemy import Connection

from modelplane.adapters.store.operations import Operation
from modelplane.adapters.store.queries import (
    newest_record,
    read_hash,
    read_signed_head,
    stream_audit,
)
from modelplane.adapters.store.signing import HeadKeeper
from modelplane.adapters.store.staging import Part, Staging
from modelplane.decisions.audit_chain import (
    GENESIS,
    ChainFault,
    ChainReport,
    SignedHead,
    verify,
)
from modelplane.ports.store import AuditRecord
from modelplane.resources.meta import Subject

FAULT_ACTION = "audit-fault"
_STORE = Subject(name="system:store")


class NoteFault(Operation):
    """Writes into the log that it was tampered with."""

    def __init__(self, fault: ChainFault) -> None:
        self._fault = fault

    def plan(self, part: Part) -> None:
        """Plan the record."""
        _record_fault(self._fault, part)


def _record_fault(fault: ChainFault, part: Part) -> None:
    part.record(_STORE, FAULT_ACTION, reason=fault.message, details=asdict(fault))


def note_unsigned(staging: Staging, now: datetime) -> None:
    """Stage a record when the log does not end where it was signed: a writer did not do that.

    The group that follows is linked to the end, so this is the moment to say so.
    """
    signed = staging.signed
    end = (signed.sequence, signed.hash) if signed else (0, GENESIS)
    if end == (staging.sequence, staging.hash):
        return
    part = Part(staging, now)
    _record_fault(_end_fault(end[0], staging.sequence), part)
    staging.accept(part)


def _end_fault(signed: int, found: int) -> ChainFault:
    if found < signed:
        message = f"the log was cut off: it ended with record {found}, signed was {signed}"
        return ChainFault(found + 1, "truncated", message)
    if found == signed:
        return ChainFault(found, "altered", f"record {found} was not the one that was signed")
    message = f"records {signed + 1} to {found} were written by something that could not sign"
    return ChainFault(signed + 1, "added", message)


def find_head_fault(
    connection: Connection, head: SignedHead | None, heads: HeadKeeper
) -> ChainFault | None:
    """Return what is wrong between the head file and the log; None when they agree.

    The file may be behind the log (the process died before writing it), never ahead. `head` must
    have been read before the connection's transaction began: other processes write too.
    """
    newest = newest_record(connection)
    if head is None:
        if newest == 0:
            return None
        return ChainFault(newest, "truncated", "the file with the signed head is missing")
    if not heads.is_genuine(head):
        return _not_genuine(head)
    if head.sequence > newest:
        return _end_fault(head.sequence, newest)
    if read_hash(connection, head.sequence) != head.hash:
        return _end_fault(head.sequence, head.sequence)
    return None


def verify_log(
    connection: Connection, witnesses: Sequence[SignedHead], heads: HeadKeeper
) -> ChainReport:
    """Verify the log as the connection's transaction sees it.

    Parameters
    ----------
    connection
        In a transaction.
    witnesses
        The head files, read before the transaction began; so the log must contain them.
    heads
        Knows the keys.
    """
    signed = read_signed_head(connection)
    given = [*witnesses, *([signed] if signed else [])]
    genuine = [head for head in given if heads.is_genuine(head)]
    extra = [_not_genuine(head) for head in given if head not in genuine]
    if not witnesses:
        message = "the file with the signed head is missing"
        extra.append(ChainFault(signed.sequence if signed else 1, "truncated", message))
    if signed is None and read_hash(connection, 1) is not None:
        message = "the signature of the newest record is missing from the database"
        extra.append(ChainFault(1, "altered", message))
    head = max(genuine, key=lambda one: one.sequence, default=None)
    if signed in genuine:
        head = signed
    noted: list[ChainFault] = []
    report = verify(
        _noting(stream_audit(connection), noted),
        head,
        witnesses=[one for one in genuine if one is not head],
    )
    faults = sorted([*report.faults, *extra, *noted], key=lambda fault: fault.sequence)
    return replace(report, faults=tuple(faults))


def _noting(records: Iterator[AuditRecord], noted: list[ChainFault]) -> Iterator[AuditRecord]:
    for record in records:
        if record.action == FAULT_ACTION and record.subject == _STORE.name:
            details = record.details
            noted.append(
                ChainFault(
                    int(details.get("sequence", 0)),
                    details.get("kind", "altered"),
                    f"{details.get('message', '')} (noted in record {record.sequence})",
                )
            )
        yield record


def _not_genuine(head: SignedHead) -> ChainFault:
    message = f"the signed head of record {head.sequence} carries no valid signature"
    return ChainFault(head.sequence, "altered", message)
