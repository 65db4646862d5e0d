"""Artifacts as trees of files, found by digest, on any file system that fsspec knows.

Built by wiring, used by the API. A tree is received beside its place, checked against its digest
and only then moved there, so that what lies under a digest is whole; what an interrupted upload
left is removed at the next start. File I/O happens in threads.
"""

from __future__ import annotations

import asyncio
import errno
import shutil
import tarfile
import tempfile
from collections.abc import AsyncIterable, AsyncIterator, Sequence
from pathlib import Path, PurePosixPath
from typing import Any

import fsspec

from modelplane.client.artifacts import EMPTY_DIGEST, digest_tree, tar_stream
from modelplane.errors import FieldError, InvalidResource, NoSpace, NotFound, TerminalError
from modelplane.ports.blobs import StoredTree

_PARTIAL = ".partial-"


class TreeBlobs:
    """Implements `ports.blobs.Blobs`.

    Parameters
    ----------
    url
        A folder, or anything fsspec opens: ``s3://bucket/prefix``, ``memory://artifacts``.
    """

    def __init__(self, url: str) -> None:
        self._files: Any
        self._files, root = fsspec.core.url_to_fs(url)
        self._root = str(root).rstrip("/")
        self._files.makedirs(self._root, exist_ok=True)
        for place in self._files.ls(self._root, detail=False):
            if Path(place).name.startswith(_PARTIAL):
                self._files.rm(place, recursive=True)

    async def put(self, tar: AsyncIterable[bytes], expected_digest: str) -> StoredTree:
        """Store a tree; storing it again changes nothing."""
        _check(expected_digest)
        try:
            with tempfile.TemporaryDirectory(prefix="modelplane-") as scratch:
                received = Path(scratch) / "tar"
                with received.open("wb") as file:
                    async for piece in tar:
                        await asyncio.to_thread(file.write, piece)
                return await asyncio.to_thread(
                    self._store, received, Path(scratch) / "tree", expected_digest
                )
        except OSError as error:
            if error.errno == errno.ENOSPC:
                raise NoSpace("the disk for artifacts is full") from error
            raise

    def _store(self, tar: Path, tree: Path, expected_digest: str) -> StoredTree:
        tree.mkdir()
        _unpack(tar, tree)
        found = digest_tree(tree)
        if found.digest != expected_digest:
            raise InvalidResource(
                "the artifact arrived altered",
                [FieldError("digest", f"expected {expected_digest}, got {found.digest}")],
                hint="push it again",
            )
        target = self._place(expected_digest)
        # An object store has no empty folders, and there is nothing to keep of an empty tree.
        if found.files and not self._files.exists(target):
            partial = f"{self._root}/{_PARTIAL}{Path(target).name}"
            if self._files.exists(partial):
                self._files.rm(partial, recursive=True)
            try:
                self._files.put(f"{tree}/", f"{partial}/", recursive=True)
                self._files.mv(f"{partial}/", f"{target}/", recursive=True)
            except OSError:
                shutil.rmtree(partial, ignore_errors=True)
                raise
        return StoredTree(found.digest, found.size_bytes, found.files)

    async def read(self, digest: str) -> AsyncIterator[bytes]:
        """Yield the tree as a tar stream, after checking that the bytes are still the same."""
        with tempfile.TemporaryDirectory(prefix="modelplane-") as scratch:
            tree = Path(scratch) / "tree"
            await asyncio.to_thread(self._load, digest, tree)
            pieces = tar_stream(tree)
            while (piece := await asyncio.to_thread(next, pieces, None)) is not None:
                yield piece

    def _load(self, digest: str, tree: Path) -> None:
        place = self._place(digest)
        if digest == EMPTY_DIGEST:
            tree.mkdir()
            return
        if not self._files.exists(place):
            raise NotFound(f"there is no artifact {digest}")
        tree.mkdir()
        self._files.get(f"{place}/", f"{tree}/", recursive=True)
        found = digest_tree(tree)
        if found.digest != digest:
            raise TerminalError(
                f"the stored artifact {digest} was altered: it now has {found.digest}",
                hint="restore it from a backup, or push the version under a new number",
            )

    async def find(self, digest: str) -> StoredTree | None:
        """Return what is stored under `digest`, by its size; the bytes are not read."""
        return await asyncio.to_thread(self._find, digest)

    def _find(self, digest: str) -> StoredTree | None:
        place = self._place(digest)
        if digest == EMPTY_DIGEST:
            return StoredTree(digest, 0, 0)
        if not self._files.exists(place):
            return None
        sizes = [entry["size"] for entry in self._files.find(place, detail=True).values()]
        return StoredTree(digest, sum(sizes), len(sizes))

    async def list(self) -> Sequence[StoredTree]:
        """Return everything stored, by digest."""
        return await asyncio.to_thread(self._list)

    def _list(self) -> Sequence[StoredTree]:
        names = sorted(Path(place).name for place in self._files.ls(self._root, detail=False))
        found = [self._find(f"sha256:{name}") for name in names if not name.startswith(".")]
        return [tree for tree in found if tree is not None]

    async def delete(self, digest: str) -> None:
        """Remove a tree; an unknown digest changes nothing."""
        await asyncio.to_thread(self._delete, digest)

    def _delete(self, digest: str) -> None:
        place = self._place(digest)
        if self._files.exists(place):
            self._files.rm(place, recursive=True)

    def _place(self, digest: str) -> str:
        _check(digest)
        return f"{self._root}/{digest.removeprefix('sha256:')}"


def _check(digest: str) -> None:
    """Refuse anything but a digest: it becomes a path."""
    hexadecimal = digest.removeprefix("sha256:")
    if (
        hexadecimal == digest
        or len(hexadecimal) != 64
        or set(hexadecimal) - set("0123456789abcdef")
    ):
        raise InvalidResource(
            "not an artifact's digest",
            [FieldError("digest", f"{digest[:80]!r} is not sha256: and 64 hexadecimal digits")],
        )


def _unpack(tar: Path, tree: Path) -> None:
    """Unpack plain files and folders that stay within `tree`; refuse anything else."""
    try:
        with tarfile.open(tar, "r:") as archive:
            for entry in archive:
                path = PurePosixPath(entry.name)
                if path.is_absolute() or ".." in path.parts or not path.parts:
                    raise _refused(f"{entry.name[:200]!r} leaves the tree")
                target = tree.joinpath(*path.parts)
                if entry.isdir():
                    target.mkdir(parents=True, exist_ok=True)
                elif entry.isfile():
                    target.parent.mkdir(parents=True, exist_ok=True)
                    source = archive.extractfile(entry)
                    assert source is not None
                    with target.open("xb") as file:
                        shutil.copyfileobj(source, file)
                else:
                    raise _refused(f"{entry.name[:200]!r} is neither a file nor a folder")
    except (tarfile.TarError, EOFError, FileExistsError, NotADirectoryError) as error:
        raise _refused(f"not a tar stream of distinct files: {error}") from error


def _refused(message: str) -> InvalidResource:
    return InvalidResource("the artifact cannot be taken", [FieldError("artifact", message)])
