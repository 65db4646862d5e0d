"""The audit log as a hash chain: linking records, and finding which one was tampered with.

The store links each record to the one before it and signs the newest link outside the database;
``audit verify`` streams records through `verify`. Pure: reads no log, holds no key, checks no
signature. Memory does not grow with the length of the log.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, Literal, Protocol, Self, TypeVar

from pydantic import Field

from modelplane.resources.meta import Part

GENESIS = ""
"""What the first record holds in place of a previous hash."""

_CANONICAL = json.JSONEncoder(sort_keys=True, separators=(",", ":"))
_SEARCH = 64
_MAX_SEARCHES = 1_000
_MAX_FAULTS = 1_000
_MAX_GAPS = 10_000

FaultKind = Literal["altered", "removed", "reordered", "added", "truncated"]


class ChainRecord(Protocol):
    """What a record needs to be a link; `AuditRecord` is one."""

    @property
    def sequence(self) -> int:
        """Its place, from 1."""

    @property
    def previous_hash(self) -> str:
        """The hash of the record before it, `GENESIS` for the first."""

    @property
    def hash(self) -> str:
        """SHA-256 over all other fields, hex."""

    def to_dict(self) -> dict[str, Any]:
        """Return the record's outside form."""

    def with_(self, **changes: Any) -> Self:
        """Return a copy with `changes`."""


R = TypeVar("R", bound=ChainRecord)


class AuditRecord(Part):
    """One link of the audit chain: who did what to which resource, when and why.

    ``hash`` covers every other field and the previous record's hash. ``details`` holds digests
    and short facts, never a secret.
    """

    sequence: int
    at: datetime
    subject: str
    action: str
    kind: str = ""
    environment: str | None = None
    name: str = ""
    uid: str = ""
    resource_version: int = 0
    reason: str = ""
    details: dict[str, Any] = Field(default_factory=dict)
    previous_hash: str = ""
    hash: str = ""


class SignedHead(Part):
    """The newest link, as it is signed outside the database.

    ``signature`` is Ed25519 over `signed_bytes`, hex.
    """

    sequence: int
    hash: str
    at: datetime
    signature: str = ""


@dataclass(frozen=True, slots=True)
class ChainFault:
    """One thing wrong with the log.

    Attributes
    ----------
    sequence
        The record concerned (the first of them when several are).
    kind
        What happened to it.
    message
        The same in words.
    """

    sequence: int
    kind: FaultKind
    message: str


@dataclass(frozen=True, slots=True)
class ChainReport:
    """What `verify` found.

    Attributes
    ----------
    records
        How many records were read.
    faults
        In order of their sequence, the first thousand.
    omitted
        How many more faults there are.
    """

    records: int
    faults: tuple[ChainFault, ...] = ()
    omitted: int = 0

    @property
    def ok(self) -> bool:
        """Whether nothing is wrong."""
        return not self.faults


def canonical_bytes(record: ChainRecord) -> bytes:
    """Return what a record's hash covers: all fields but the hash, as sorted, compact JSON."""
    fields = record.to_dict()
    fields.pop("hash", None)
    return _CANONICAL.encode(fields).encode()


def hash_record(record: ChainRecord) -> str:
    """Return the hash that `record` should carry, hex."""
    return hashlib.sha256(canonical_bytes(record)).hexdigest()


def link(previous_hash: str, record: R) -> R:
    """Return `record` as the link after the one with `previous_hash`, its own hash computed."""
    linked = record
    if record.previous_hash != previous_hash:
        linked = record.with_(previous_hash=previous_hash)
    return linked.with_(hash=hash_record(linked))


def signed_bytes(head: SignedHead) -> bytes:
    """Return what the signature of `head` covers."""
    fields = head.to_dict()
    del fields["signature"]
    return _CANONICAL.encode(fields).encode()


def verify(
    records: Iterable[ChainRecord],
    head: SignedHead | None = None,
    *,
    witnesses: Sequence[SignedHead] = (),
) -> ChainReport:
    """Check a whole log.

    Parameters
    ----------
    records
        In stored order; read once, so it may be a stream.
    head
        The newest signed link: the log must end exactly there. Its signature is the caller's
        to check. None: the end of the log is not checked.
    witnesses
        Older signed links, which the log must contain.

    Returns
    -------
    ChainReport
        Names each record that was altered, removed, reordered or added, and a log cut off.
    """
    verifier = ChainVerifier(head, witnesses=witnesses)
    for record in records:
        verifier.add(record)
    return verifier.finish()


@dataclass(frozen=True, slots=True)
class _Claim:
    """A record that claims to be the newest one so far."""

    hash: str
    sound: bool
    place: int


@dataclass(slots=True)
class ChainVerifier:
    """Checks a log that arrives record by record; `verify` in pieces.

    A record's *true* sequence is the one its hash was made with. Records are followed by it, so
    that a log whose records were renumbered or exchanged is still told apart from an altered one.
    """

    head: SignedHead | None = None
    witnesses: Sequence[SignedHead] = ()
    _records: int = 0
    _top: int = 0
    _claims: list[_Claim] = field(default_factory=lambda: [_Claim(GENESIS, True, 0)])
    _before_top: str = GENESIS
    _gaps: list[tuple[int, int]] = field(default_factory=list)
    _shift: int = 0
    _searches: int = 0
    _faults: list[ChainFault] = field(default_factory=list)
    _omitted: int = 0

    def add(self, record: ChainRecord) -> None:
        """Check the next record."""
        self._records += 1
        true_sequence, sound = self._true_sequence(record)
        claim = _Claim(record.hash, sound, record.sequence)
        if self.head is not None and true_sequence > self.head.sequence:
            self._fault(true_sequence, "added", "stands after the signed end of the log")
        elif true_sequence > self._top:
            self._advance(record, claim, true_sequence)
        else:
            self._look_back(record, claim, true_sequence)

    def finish(self) -> ChainReport:
        """Return what was found, the end of the log included."""
        expected = self.head.hash if self.head and self.head.sequence == self._top else None
        self._settle(expected, "the signed head holds another hash: it, or records before it")
        for first, last in self._gaps:
            self._removed(first, last)
        for witness in (*((self.head,) if self.head else ()), *self.witnesses):
            if witness.sequence > self._top:
                lost = _span(self._top + 1, witness.sequence)
                self._fault(
                    self._top + 1, "truncated", f"the log was cut off: it lacks {lost}, once signed"
                )
                break
        faults = sorted(self._faults, key=lambda fault: fault.sequence)
        return ChainReport(self._records, tuple(faults), self._omitted)

    def _true_sequence(self, record: ChainRecord) -> tuple[int, bool]:
        if hash_record(record) == record.hash:
            self._shift = 0
            return record.sequence, True
        if self._searches >= _MAX_SEARCHES and not self._shift:
            return record.sequence, False
        self._searches += 1
        near = sorted(
            {record.sequence - self._shift, *range(self._top - _SEARCH, self._top + _SEARCH)},
            key=lambda sequence: abs(sequence + self._shift - record.sequence),
        )
        for sequence in near:
            if sequence > 0 and hash_record(record.with_(sequence=sequence)) == record.hash:
                renumbered = record.sequence - sequence
                if sequence == self._top + 1 and renumbered != self._shift:
                    self._fault(sequence, "altered", f"its number was changed to {record.sequence}")
                self._shift = renumbered
                return sequence, True
        return record.sequence, False

    def _advance(self, record: ChainRecord, claim: _Claim, sequence: int) -> None:
        """Take a record with a sequence not seen before as the newest."""
        follows = sequence == self._top + 1
        if follows and self._top == 0 and claim.sound and record.previous_hash != GENESIS:
            claim = _Claim(claim.hash, False, claim.place)
        self._before_top = self._settle(
            record.previous_hash if follows and claim.sound else None,
            "the record after it holds another hash for it: it",
        )
        if not follows:
            self._gaps.append((self._top + 1, sequence - 1))
            if len(self._gaps) > _MAX_GAPS:
                self._removed(*self._gaps.pop(0))
            self._before_top = record.previous_hash
        self._top = sequence
        self._claims = [claim]

    def _look_back(self, record: ChainRecord, claim: _Claim, sequence: int) -> None:
        """Take a record whose sequence should have come before, or came already."""
        gap = next((gap for gap in self._gaps if gap[0] <= sequence <= gap[1]), None)
        if gap is not None:
            place = self._gaps.index(gap)
            pieces = [(gap[0], sequence - 1), (sequence + 1, gap[1])]
            self._gaps[place : place + 1] = [(a, b) for a, b in pieces if a <= b]
            self._fault(sequence, "reordered", f"stands after record {self._top}")
            if not claim.sound:
                self._altered(sequence)
        elif sequence == self._top and record.previous_hash == self._before_top:
            self._claims.append(claim)  # the next record's link tells which is the real one
        else:
            self._fault(sequence, "added", "stands in the log a second time")

    def _settle(self, expected: str | None, why: str) -> str:
        """Decide which claim is the newest record, blame the others, and return its hash.

        `expected` is its hash as something sound knows it, None when nothing does.
        """
        ranked = sorted(
            self._claims, key=lambda claim: (claim.hash != expected, not claim.sound, claim.place)
        )
        winner = ranked[0]
        for other in ranked[1:]:
            self._fault(other.place, "added", "was put in; the records after it do not know it")
        if not winner.sound:
            self._altered(self._top)
        elif expected is not None and winner.hash != expected:
            self._fault(self._top, "altered", f"{why} was rewritten")
        elif any(w.sequence == self._top and w.hash != winner.hash for w in self.witnesses):
            self._fault(self._top, "altered", "it, or records before it, differ from a signed head")
        return winner.hash

    def _altered(self, sequence: int) -> None:
        self._fault(sequence, "altered", "its content does not match its hash")

    def _removed(self, first: int, last: int) -> None:
        self._fault(first, "removed", f"{_span(first, last)} missing")

    def _fault(self, sequence: int, kind: FaultKind, message: str) -> None:
        if len(self._faults) < _MAX_FAULTS:
            text = message if kind in {"removed", "truncated"} else f"record {sequence}: {message}"
            self._faults.append(ChainFault(sequence, kind, text))
        else:
            self._omitted += 1


def _span(first: int, last: int) -> str:
    return f"record {first}" if first == last else f"records {first} to {last}"
