"""Compares what is registered with what is stored: missing, orphaned, without a record.

Called by the API for ``registry check``; whoever registers a version with files calls `label_of`
and stores the label with `ports.blobs.Blobs.label` before committing. Pure. What only reading the
bytes can show, that they were altered, is asked of the store and not decided here.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence, Set
from dataclasses import dataclass
from datetime import datetime
from typing import Literal, Protocol

from modelplane.resources.gate_run import StageResult
from modelplane.resources.job import Job
from modelplane.resources.model import ModelVersion, ModelVersionSpec, version_id
from modelplane.resources.promotion import Promotion

FaultKind = Literal["missing", "altered", "orphaned", "unrecorded", "stray"]
"""A version without its files; files with other bytes; files without a version; a version
without its record beside the files; a record without a version."""

REMOVABLE: Set[FaultKind] = {"orphaned", "stray"}
"""Faults that are mended by removing something."""


@dataclass(frozen=True, slots=True)
class VersionLabel:
    """The record beside stored files that says which version they are.

    Attributes
    ----------
    id
        The version's unique id.
    model, version, digest
        What the id was made from; empty when the record cannot be read.
    created_at
        When it was first written; None when the record cannot be read.
    """

    id: str
    model: str = ""
    version: str = ""
    digest: str = ""
    created_at: datetime | None = None

    @property
    def name(self) -> str:
        """The version's name, or its id when the record cannot be read."""
        return f"{self.model}@{self.version}" if self.model else self.id


class StoredFiles(Protocol):
    """What is known of a stored artifact without reading it: `ports.blobs.StoredTree`."""

    @property
    def digest(self) -> str:
        """The digest it is stored under."""

    @property
    def size_bytes(self) -> int:
        """Of all files together."""

    @property
    def stored_at(self) -> datetime | None:
        """When it was stored; None when that is not known."""

    @property
    def whole(self) -> bool:
        """Whether its upload ended."""


@dataclass(frozen=True, slots=True)
class Fault:
    """One thing that is wrong.

    Attributes
    ----------
    kind
        What sort of fault.
    digest
        The artifact; empty for a record that cannot be read.
    versions
        Names of the versions concerned, in order; for files without a version, what their
        records call them.
    message
        What is wrong, in words.
    size_bytes
        What is stored of it.
    records
        Unique ids of the records concerned.
    """

    kind: FaultKind
    digest: str
    versions: tuple[str, ...]
    message: str
    size_bytes: int = 0
    records: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class RegistryReport:
    """What the comparison found.

    Attributes
    ----------
    versions
        How many versions with files there are, deleted ones not counted.
    artifacts
        The stored artifacts of those versions, with the versions' names: what can be read to
        find altered bytes.
    faults
        By kind and digest.
    unused, unused_bytes
        Artifacts that only deleted versions name, and their size: no fault; ``gc`` removes them.
    """

    versions: int
    artifacts: Mapping[str, tuple[str, ...]]
    faults: tuple[Fault, ...]
    unused: int
    unused_bytes: int


def label_of(spec: ModelVersionSpec, created_at: datetime | None) -> VersionLabel:
    """Return the label of a version that has files."""
    if spec.artifact is None:
        raise ValueError(f"{spec.model}@{spec.version} has no files yet")
    digest = spec.artifact.digest
    unique_id = spec.id or version_id(spec.model, spec.version, digest)
    return VersionLabel(unique_id, spec.model, spec.version, digest, created_at)


def says_same(one: VersionLabel, other: VersionLabel) -> bool:
    """Whether two labels say the same, whenever they were written."""
    return (one.id, one.model, one.version, one.digest) == (
        other.id, other.model, other.version, other.digest,
    )  # fmt: skip


def users_by_digest(versions: Iterable[ModelVersion]) -> dict[str, list[ModelVersion]]:
    """Return the versions that name each digest, deleted ones included."""
    users: dict[str, list[ModelVersion]] = {}
    for version in versions:
        if version.spec.artifact is not None:
            users.setdefault(version.spec.artifact.digest, []).append(version)
    return users


def is_living(version: ModelVersion) -> bool:
    """Whether a version was not deleted."""
    return version.status.deleted_at is None


def kept_digests(
    results: Iterable[StageResult], jobs: Iterable[Job], promotions: Iterable[Promotion]
) -> frozenset[str]:
    """Return the artifacts that are no version's and are kept all the same.

    The evidence of stages and of promotions, and what jobs are given and have left.
    """
    kept: set[str | None] = set()
    for result in results:
        kept |= {result.spec.evidence, *result.spec.shard_evidence}
    for job in jobs:
        kept |= {job.status.output, *job.spec.artifacts.values()}
    kept |= {promotion.status.evidence for promotion in promotions}
    return frozenset(digest for digest in kept if digest)


def check_registry(
    versions: Iterable[ModelVersion],
    running: Set[str],
    trees: Sequence[StoredFiles],
    labels: Sequence[VersionLabel],
    *,
    before: datetime,
) -> RegistryReport:
    """Compare the registered versions with the stored artifacts and the records beside them.

    Parameters
    ----------
    versions
        All, deleted ones included; read before `trees` and `labels`, so that what is registered
        meanwhile does not look as if it were missing.
    running
        Digests that model servers use, or that are kept besides; they are no orphans.
    trees, labels
        Everything stored.
    before
        Files and records younger than this are no orphans: a push stores the bytes first.
    """
    users = users_by_digest(versions)
    stored = {tree.digest: tree for tree in trees}
    living = {
        digest: names
        for digest, named in users.items()
        if (names := [version for version in named if is_living(version)])
    }
    whole = {digest for digest, tree in stored.items() if tree.whole}
    faults = [
        *(_missing(digest, living[digest], stored) for digest in living.keys() - whole),
        *_orphaned(stored, users.keys() | running, labels, before),
        *_unrecorded({d: living[d] for d in living.keys() & whole}, labels),
        *_stray(users, stored, labels, before),
    ]
    unused = [stored[digest] for digest in (users.keys() & whole) - living.keys() - running]
    return RegistryReport(
        versions=sum(len(named) for named in living.values()),
        artifacts={digest: _names(living[digest]) for digest in sorted(living.keys() & whole)},
        faults=tuple(sorted(faults, key=lambda fault: (fault.kind, fault.digest, fault.records))),
        unused=len(unused),
        unused_bytes=sum(tree.size_bytes for tree in unused),
    )


def _missing(
    digest: str, named: Sequence[ModelVersion], stored: Mapping[str, StoredFiles]
) -> Fault:
    tree = stored.get(digest)
    message = "no files are stored" if tree is None else "only a part of its files is stored"
    return Fault("missing", digest, _names(named), message, tree.size_bytes if tree else 0)


def _orphaned(
    stored: Mapping[str, StoredFiles],
    used: Set[str],
    labels: Sequence[VersionLabel],
    before: datetime,
) -> Iterable[Fault]:
    recorded: dict[str, list[VersionLabel]] = {}
    for label in labels:
        recorded.setdefault(label.digest, []).append(label)
    for digest, tree in stored.items():
        if digest in used or tree.stored_at is None or tree.stored_at >= before:
            continue
        found = recorded.get(digest, [])
        if any(label.created_at is None or label.created_at >= before for label in found):
            continue  # being registered just now
        what = "no version has these files" if tree.whole else "an upload that did not end"
        names = tuple(sorted(label.name for label in found))
        ids = tuple(sorted(label.id for label in found))
        yield Fault("orphaned", digest, names, what, tree.size_bytes, ids)


def _unrecorded(
    living: Mapping[str, Sequence[ModelVersion]], labels: Sequence[VersionLabel]
) -> Iterable[Fault]:
    by_id = {label.id: label for label in labels}
    for digest, named in living.items():
        for version in named:
            wanted = label_of(version.spec, version.metadata.created_at)
            found = by_id.get(wanted.id)
            if found is None:
                message = "the record beside its files is missing"
            elif not says_same(found, wanted):
                message = f"the record beside its files says {found.name} {found.digest}".rstrip()
            else:
                continue
            names = (version.metadata.name,)
            yield Fault("unrecorded", digest, names, message, records=(wanted.id,))


def _stray(
    users: Mapping[str, Sequence[ModelVersion]],
    stored: Mapping[str, StoredFiles],
    labels: Sequence[VersionLabel],
    before: datetime,
) -> Iterable[Fault]:
    known = {label_of(version.spec, None).id for named in users.values() for version in named}
    for label in labels:
        is_young = label.created_at is not None and label.created_at >= before
        is_told_already = label.digest in stored and label.digest not in users  # with its files
        if label.id in known or is_young or is_told_already:
            continue
        message = "a record of a version that is not registered"
        yield Fault("stray", label.digest, (label.name,), message, records=(label.id,))


def _names(versions: Iterable[ModelVersion]) -> tuple[str, ...]:
    return tuple(sorted(version.metadata.name for version in versions))
