"""Artifacts: trees of files found by their digest, never changed.

The API stores what is pushed and hands it to agents. A digest is that of
`modelplane.client.artifacts.digest_tree`.
"""

from __future__ import annotations

from collections.abc import AsyncIterable, AsyncIterator, Sequence
from dataclasses import dataclass
from typing import Protocol


@dataclass(frozen=True, slots=True)
class StoredTree:
    """One stored artifact: its digest, its size without packaging, its number of files."""

    digest: str
    size_bytes: int
    files: int


class Blobs(Protocol):
    """Content-addressed storage of file trees."""

    async def put(self, tar: AsyncIterable[bytes], expected_digest: str) -> StoredTree:
        """Store the tree in a tar stream; storing it again changes nothing.

        Raises `InvalidResource` with nothing stored when the digest differs, or when the stream
        is no tar, holds links, devices or paths that leave the tree; `NoSpace` on a full disk.
        """

    def read(self, digest: str) -> AsyncIterator[bytes]:
        """Yield the tree as a tar stream; raises `NotFound`, or `TerminalError` when the stored
        bytes no longer have the digest.
        """

    async def find(self, digest: str) -> StoredTree | None:
        """Return what is stored under `digest`, or None."""

    async def list(self) -> Sequence[StoredTree]:
        """Return everything stored, by digest."""

    async def delete(self, digest: str) -> None:
        """Remove a tree; an unknown digest changes nothing."""
