"""What the comparison of the registry with the storage finds, and what it leaves alone."""

from __future__ import annotations

import hashlib
from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from modelplane.decisions.registry_check import (
    Fault,
    RegistryReport,
    VersionLabel,
    check_registry,
    label_of,
)
from modelplane.ports.blobs import StoredTree
from modelplane.resources.meta import Metadata
from modelplane.resources.model import ModelVersion, ModelVersionSpec, ModelVersionStatus
from modelplane.resources.revision import Artifact

NOW = datetime(2025, 3, 1, 12, 0, tzinfo=UTC)
BEFORE = NOW - timedelta(hours=24)
OLD, YOUNG = NOW - timedelta(days=3), NOW - timedelta(minutes=5)


def digest(text: str) -> str:
    return f"sha256:{hashlib.sha256(text.encode()).hexdigest()}"


def version(number: str, *, files: str | None = None, deleted: bool = False) -> ModelVersion:
    artifact = Artifact(format="onnx", digest=digest(files or number))
    return ModelVersion(
        metadata=Metadata(name=f"fraud@{number}", created_at=OLD),
        spec=ModelVersionSpec(model="fraud", version=number, artifact=artifact),
        status=ModelVersionStatus(deleted_at=NOW if deleted else None),
    )


def tree(files: str, *, at: datetime | None = OLD, whole: bool = True) -> StoredTree:
    return StoredTree(digest(files), 10, 1, at, whole)


def label(number: str, *, files: str | None = None, at: datetime | None = OLD) -> VersionLabel:
    return label_of(version(number, files=files).spec, at)


def check(
    versions: list[ModelVersion],
    trees: list[StoredTree],
    labels: list[VersionLabel],
    running: frozenset[str] = frozenset(),
) -> RegistryReport:
    return check_registry(versions, running, trees, labels, before=BEFORE)


def kinds(report: RegistryReport) -> list[tuple[str, tuple[str, ...]]]:
    return [(fault.kind, fault.versions) for fault in report.faults]


def test_what_belongs_together_is_well() -> None:
    report = check(
        [version("1.0.0"), version("1.0.1", files="1.0.0")],
        [tree("1.0.0")],
        [label("1.0.0"), label("1.0.1", files="1.0.0")],
    )
    assert report == RegistryReport(2, {digest("1.0.0"): ("fraud@1.0.0", "fraud@1.0.1")}, (), 0, 0)


def test_a_version_without_its_files_is_missing() -> None:
    report = check([version("1.0.0"), version("1.0.1", files="1.0.0")], [], [label("1.0.0")])
    names = ("fraud@1.0.0", "fraud@1.0.1")
    assert report.faults == (Fault("missing", digest("1.0.0"), names, "no files are stored"),)
    assert report.artifacts == {}


def test_an_unended_upload_does_not_count_as_its_files() -> None:
    report = check([version("1.0.0")], [tree("1.0.0", whole=False)], [label("1.0.0")])
    (fault,) = report.faults
    assert (fault.kind, fault.message) == ("missing", "only a part of its files is stored")


@pytest.mark.parametrize("whole", [True, False])
def test_files_without_a_version_are_orphans_once_they_are_old(whole: bool) -> None:
    assert kinds(check([], [tree("x", whole=whole)], [])) == [("orphaned", ())]
    for at in (YOUNG, None, BEFORE):
        assert check([], [tree("x", at=at, whole=whole)], []).faults == ()


def test_an_orphan_is_called_what_its_record_calls_it() -> None:
    report = check([], [tree("1.0.0")], [label("1.0.0")])
    (fault,) = report.faults
    assert (fault.kind, fault.versions) == ("orphaned", ("fraud@1.0.0",))
    assert fault.records == (label("1.0.0").id,)


def test_old_files_that_are_being_registered_are_no_orphans() -> None:
    assert check([], [tree("1.0.0")], [label("1.0.0", at=YOUNG)]).faults == ()


def test_files_that_run_are_no_orphans() -> None:
    assert check([], [tree("x")], [], frozenset({digest("x")})).faults == ()


def test_files_of_deleted_versions_are_unused_and_no_fault() -> None:
    gone = version("1.0.0", deleted=True)
    report = check([gone], [tree("1.0.0")], [label("1.0.0")])
    assert (report.faults, report.unused, report.unused_bytes) == ((), 1, 10)
    assert (report.versions, report.artifacts) == (0, {})
    assert check([gone], [], []).faults == (), "nor is it missing when gc removed it"
    running = frozenset({digest("1.0.0")})
    assert check([gone], [tree("1.0.0")], [], running).unused == 0


@pytest.mark.parametrize(
    ("found", "says"),
    [
        (None, "the record beside its files is missing"),
        (replace(label("1.0.0"), version="2.0.0"), "says fraud@2.0.0"),
        (replace(label("1.0.0"), digest=digest("x")), f"says fraud@1.0.0 {digest('x')}"),
        (VersionLabel(label("1.0.0").id), f"says {label('1.0.0').id}"),
    ],
)
def test_a_record_that_is_not_there_or_says_something_else(
    found: VersionLabel | None, says: str
) -> None:
    report = check([version("1.0.0")], [tree("1.0.0")], [found] if found else [])
    assert kinds(report) == [("unrecorded", ("fraud@1.0.0",))]
    assert says in report.faults[0].message


def test_a_record_without_a_version_is_stray_once_it_is_old() -> None:
    assert kinds(check([], [], [label("1.0.0")])) == [("stray", ("fraud@1.0.0",))]
    assert kinds(check([], [], [VersionLabel("mv-1")])) == [("stray", ("mv-1",))]
    assert check([], [], [label("1.0.0", at=YOUNG)]).faults == ()


VERSIONS = [f"1.0.{number}" for number in range(6)]
SOME = st.lists(st.sampled_from(VERSIONS), unique=True)


@given(registered=SOME, deleted=SOME, stored=SOME, partial=SOME, recorded=SOME, young=SOME)
def test_nothing_that_is_needed_or_young_is_ever_called_removable(
    registered: list[str],
    deleted: list[str],
    stored: list[str],
    partial: list[str],
    recorded: list[str],
    young: list[str],
) -> None:
    versions = [version(number, deleted=number in deleted) for number in registered]
    trees = [
        tree(number, at=YOUNG if number in young else OLD, whole=number not in partial)
        for number in stored
    ]
    labels = [label(number, at=YOUNG if number in young else OLD) for number in recorded]
    report = check(versions, trees, labels)
    living = {number for number in registered if number not in deleted}
    whole = {number for number in stored if number not in partial}
    found: dict[str, set[str]] = {}
    for fault in report.faults:
        number = next(n for n in VERSIONS if digest(n) == fault.digest)
        assert number not in found.setdefault(fault.kind, set())
        found[fault.kind].add(number)
    orphans = set(stored) - set(registered) - set(young)
    assert found.get("missing", set()) == living - whole
    assert found.get("orphaned", set()) == orphans
    assert found.get("unrecorded", set()) == (living & whole) - set(recorded)
    assert found.get("stray", set()) == set(recorded) - set(registered) - set(young) - set(stored)
    assert set(report.artifacts) == {digest(number) for number in living & whole}
