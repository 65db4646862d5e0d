"""The audit chain names what was done to it, whichever record it was done to."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from modelplane.decisions.audit_chain import (
    GENESIS,
    ChainReport,
    SignedHead,
    canonical_bytes,
    link,
    signed_bytes,
    verify,
)
from modelplane.ports.store import AuditRecord

AT = datetime(2026, 1, 5, 9, 0, tzinfo=UTC)


def record(sequence: int, **changes: Any) -> AuditRecord:
    fields: dict[str, Any] = {"sequence": sequence, "at": AT, "subject": "ada", "action": "create"}
    return AuditRecord(**{**fields, **changes})


def chain(length: int) -> list[AuditRecord]:
    records: list[AuditRecord] = []
    previous = GENESIS
    for sequence in range(1, length + 1):
        records.append(link(previous, record(sequence, name=f"model-{sequence}")))
        previous = records[-1].hash
    return records


def relink(records: list[AuditRecord]) -> list[AuditRecord]:
    """What a careful forger does: number and hash everything anew."""
    forged: list[AuditRecord] = []
    for sequence, old in enumerate(records, start=1):
        previous = forged[-1].hash if forged else GENESIS
        forged.append(link(previous, old.with_(sequence=sequence)))
    return forged


def head_of(records: list[AuditRecord]) -> SignedHead:
    return SignedHead(sequence=records[-1].sequence, hash=records[-1].hash, at=AT)


def faults(report: ChainReport) -> list[tuple[int, str]]:
    return [(fault.sequence, fault.kind) for fault in report.faults]


def renumber(records: list[AuditRecord]) -> list[AuditRecord]:
    """Change the numbers alone, as a forger without the will to hash would."""
    return [old.with_(sequence=place) for place, old in enumerate(records, start=1)]


logs = st.integers(4, 30).flatmap(
    lambda length: st.tuples(st.just(length), st.integers(2, length - 1))
)


@given(st.integers(1, 40))
def test_an_untouched_log_has_no_faults(length: int) -> None:
    records = chain(length)
    report = verify(iter(records), head_of(records), witnesses=[head_of(records[:1])])
    assert report == ChainReport(length)
    assert report.ok


def test_an_empty_log_is_whole_unless_a_head_was_signed() -> None:
    assert verify([]).ok
    assert faults(verify([], head_of(chain(3)))) == [(1, "truncated")]


@given(logs)
def test_an_altered_record_is_named(log: tuple[int, int]) -> None:
    length, at = log
    records = chain(length)
    head = head_of(records)
    records[at - 1] = records[at - 1].with_(subject="mallory")
    assert faults(verify(records, head)) == [(at, "altered")]


@given(logs)
def test_a_record_altered_and_hashed_anew_is_named_by_its_successor(log: tuple[int, int]) -> None:
    length, at = log
    records = chain(length)
    head = head_of(records)
    records[at - 1] = link(records[at - 1].previous_hash, records[at - 1].with_(subject="mallory"))
    assert faults(verify(records, head)) == [(at, "altered")]


@given(logs, st.sampled_from(["previous_hash", "hash"]))
def test_an_altered_hash_is_named_once(log: tuple[int, int], which: str) -> None:
    length, at = log
    records = chain(length)
    head = head_of(records)
    records[at - 1] = records[at - 1].with_(**{which: "0" * 64})
    assert faults(verify(records, head)) == [(at, "altered")]


@given(logs)
def test_a_rest_hashed_anew_contradicts_the_signed_heads(log: tuple[int, int]) -> None:
    length, at = log
    records = chain(length)
    head, witness = head_of(records), head_of(records[:at])
    records[at - 1] = records[at - 1].with_(subject="mallory")
    forged = relink(records)
    assert faults(verify(forged)) == []
    assert faults(verify(forged, head)) == [(length, "altered")]
    assert faults(verify(forged, head_of(forged), witnesses=[witness])) == [(at, "altered")]


@given(logs)
def test_a_removed_record_is_named(log: tuple[int, int]) -> None:
    length, at = log
    records = chain(length)
    head = head_of(records)
    del records[at - 1]
    assert faults(verify(records, head)) == [(at, "removed")]
    assert faults(verify(renumber(records), head)) == [(at, "removed")]


def test_a_removed_range_is_one_fault_that_names_its_ends() -> None:
    records = chain(9)
    report = verify(records[:2] + records[5:], head_of(records))
    assert faults(report) == [(3, "removed")]
    assert "records 3 to 5" in report.faults[0].message
    assert faults(verify(records[2:], head_of(records))) == [(1, "removed")]


@given(logs)
def test_exchanged_records_are_named(log: tuple[int, int]) -> None:
    length, at = log
    records = chain(length)
    head = head_of(records)
    records[at - 1], records[at] = records[at], records[at - 1]
    assert faults(verify(records, head)) == [(at, "reordered")]
    assert faults(verify(renumber(records), head)) == [(at, "reordered")]


@given(logs)
def test_a_cut_off_log_is_told_from_the_head(log: tuple[int, int]) -> None:
    length, at = log
    records = chain(length)
    report = verify(records[:at], head_of(records))
    assert faults(report) == [(at + 1, "truncated")]
    assert verify(records[:at]).ok, "without a head nothing shows it: that is what it is for"


@given(logs)
def test_an_older_head_shows_a_log_cut_off_and_continued(log: tuple[int, int]) -> None:
    length, at = log
    records = chain(length)
    continued = relink([*records[: at - 1], record(at, name="other"), record(at + 1)])
    report = verify(continued, head_of(continued), witnesses=[head_of(records)])
    assert not report.ok


@given(st.integers(2, 20))
def test_a_record_added_at_the_end_is_named(length: int) -> None:
    records = chain(length)
    forged = link(records[-1].hash, record(length + 1, subject="mallory"))
    assert faults(verify([*records, forged], head_of(records))) == [(length + 1, "added")]


@given(logs, st.booleans())
def test_a_record_put_in_between_is_named(log: tuple[int, int], hashed: bool) -> None:
    length, at = log
    records = chain(length)
    forged = record(at, subject="mallory")
    forged = link(records[at - 2].hash, forged) if hashed else forged.with_(hash="0" * 64)
    tampered = renumber([*records[: at - 1], forged, *records[at - 1 :]])
    assert faults(verify(tampered, head_of(records))) == [(at, "added")]


def test_a_record_standing_twice_is_named() -> None:
    records = chain(6)
    assert faults(verify([*records[:4], records[1], *records[4:]], head_of(records))) == [
        (2, "added")
    ]


def test_a_changed_number_is_named() -> None:
    records = chain(5)
    moved = [*records[:4], records[4].with_(sequence=9)]
    assert faults(verify(moved, head_of(records))) == [(5, "altered")]


def test_a_first_record_that_follows_another_is_named() -> None:
    records = chain(3)
    other = link("f" * 64, records[0])
    assert (1, "altered") in faults(verify([other, *records[1:]], head_of(records)))


@pytest.mark.slow
def test_faults_of_a_ruined_log_are_bounded() -> None:
    records = [old.with_(subject="mallory") for old in chain(1_500)]
    report = verify(records)
    assert len(report.faults) == 1_000
    assert report.omitted == 500


@given(
    st.dictionaries(st.sampled_from(["subject", "action", "kind", "name", "reason"]), st.text()),
    st.dictionaries(st.text(), st.one_of(st.integers(), st.text(), st.floats(allow_nan=False))),
)
def test_every_field_is_covered(changes: dict[str, str], details: dict[str, Any]) -> None:
    plain = record(1)
    changed = plain.with_(**changes, details=details)
    assert (canonical_bytes(changed) == canonical_bytes(plain)) == (changed == plain)


def test_the_signature_covers_all_of_the_head() -> None:
    head = head_of(chain(2))
    texts = {
        signed_bytes(head),
        signed_bytes(head.with_(sequence=3)),
        signed_bytes(head.with_(hash="0")),
        signed_bytes(head.with_(at=datetime(2027, 1, 1, tzinfo=UTC))),
    }
    assert len(texts) == 4
    assert signed_bytes(head.with_(signature="ab")) == signed_bytes(head)
