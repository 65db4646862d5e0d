"""Artifacts: trees of files found by their digest, never changed, and whose they are.

The API stores what is pushed and hands it to agents. A digest is that of
`modelplane.client.artifacts.digest_tree`. Beside the trees lies one small record, a label, for
each version that has files: from the files alone one finds the version so, as one finds the
files from the version.
"""

from __future__ import annotations

from collections.abc import AsyncIterable, AsyncIterator, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Protocol

from modelplane.decisions.registry_check import VersionLabel


@dataclass(frozen=True, slots=True)
class StoredTree:
    """One stored artifact.

    Attributes
    ----------
    digest
        What it is stored under.
    size_bytes
        Of all files together, without packaging.
    files
        How many there are.
    stored_at
        When, if that is known; in UTC.
    whole
        False for what an upload left that did not end: `find` and `read` do not know it.
    """

    digest: str
    size_bytes: int
    files: int
    stored_at: datetime | None = field(default=None, compare=False)
    whole: bool = True


@dataclass(frozen=True, slots=True)
class StoredFile:
    """One file of an artifact: its path within it, with forward slashes, and its size."""

    path: str
    size_bytes: int


@dataclass(frozen=True, slots=True)
class Verified:
    """A stored artifact that was read: how much, and how it differs from its digest.

    `difference` is empty when the bytes are those that were stored.
    """

    digest: str
    size_bytes: int
    difference: str = ""


class Blobs(Protocol):
    """Content-addressed storage of file trees.

    All methods raise `TransientError` when the storage does not answer and `TerminalError` when
    it is not there or refuses the credentials.
    """

    async def put(self, tar: AsyncIterable[bytes], expected_digest: str) -> StoredTree:
        """Store the tree in a tar stream; storing it again changes nothing.

        Raises `InvalidResource` with nothing stored when the digest differs, or when the stream
        is no tar, holds links, devices or paths that leave the tree; `NoSpace` on a full disk.
        """

    def read(self, digest: str) -> AsyncIterator[bytes]:
        """Yield the tree as a tar stream; raises `NotFound`, or `TerminalError` when the stored
        bytes no longer have the digest.
        """

    async def verify(self, digest: str) -> Verified:
        """Read the whole tree and compare it with its digest; raises `NotFound`."""

    async def find(self, digest: str) -> StoredTree | None:
        """Return what is stored under `digest`, or None."""

    async def list(self) -> Sequence[StoredTree]:
        """Return everything stored, by digest, unended uploads included."""

    async def delete(self, digest: str, *, unless_since: datetime | None = None) -> bool:
        """Remove a tree; an unknown digest changes nothing. Return whether it is gone.

        With `unless_since` what was stored or labelled since then stays. Labels stay too.
        """

    async def label(self, label: VersionLabel) -> None:
        """Write the record of a version beside its files; repeating it changes nothing.

        To be called before the version is committed, with `registry_check.label_of`: a fresh
        label also keeps `delete` from taking the files away meanwhile. Raises `NotFound` when
        nothing is stored under its digest.
        """

    async def labels(self) -> Sequence[VersionLabel]:
        """Return all records, by id; those that cannot be read have nothing but their id."""

    async def unlabel(self, version_id: str) -> None:
        """Remove the record of a version; an unknown id changes nothing."""

    async def list_files(self, digest: str) -> Sequence[StoredFile]:
        """Return the files of a tree by their paths; raises `NotFound`."""

    def read_file(self, digest: str, path: str) -> AsyncIterator[bytes]:
        """Yield one file of a tree; raises `NotFound`, or `TerminalError` when its bytes are no
        longer those that were stored.
        """
