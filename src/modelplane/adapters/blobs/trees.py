"""Artifacts as trees of files, found by digest, on any file system that fsspec knows.

Made by `wiring`, used by the API. A tree is received aside, checked against its digest and only
then put in its place; what an interrupted upload left is removed at the next start. File I/O
happens in threads.

A tree with the digest ``sha256:HEX`` lies in the folder ``HEX``; the digests of its single files
in ``.files-HEX.json``, which is written last where folders cannot be moved in one step.
"""

from __future__ import annotations

import asyncio
import errno
import json
import os
import shutil
import tempfile
from collections.abc import AsyncIterable, AsyncIterator, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import IO, Any

import fsspec
from fsspec.implementations.local import LocalFileSystem

from modelplane.client.artifacts import FileDigest, combine_digests, digest_files, tar_stream
from modelplane.client.unpacking import sync, unpack
from modelplane.errors import (
    FieldError,
    InvalidResource,
    NoSpace,
    NotFound,
    TerminalError,
    TransientError,
)
from modelplane.ports.blobs import StoredTree

_PARTIAL = ".partial-"
_FILES = ".files-"
_BUFFER_BYTES = 1 << 20


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
        self._is_local = isinstance(self._files, LocalFileSystem)
        with _explained(self._root):
            self._files.makedirs(self._root, exist_ok=True)
            for place in self._files.ls(self._root, detail=False):
                if Path(place).name.startswith(_PARTIAL):
                    self._files.rm(place, recursive=True)

    async def put(self, tar: AsyncIterable[bytes], expected_digest: str) -> StoredTree:
        """Store the tree in a tar stream; storing it again changes nothing.

        Raises
        ------
        InvalidResource
            When the digest differs, or the stream is no tar, holds links, devices, sparse files
            or paths that leave the tree; nothing is stored.
        NoSpace
            When the disk is full; nothing is stored.
        TransientError
            When the file system fails.
        """
        _check_digest(expected_digest)
        with _explained(self._root):
            scratch = await asyncio.to_thread(self._make_scratch)
        try:
            await self._receive(tar, scratch / "tar")
            with _explained(self._root):
                return await asyncio.to_thread(self._store, scratch, expected_digest)
        finally:
            await asyncio.to_thread(shutil.rmtree, scratch, ignore_errors=True)

    async def _receive(self, tar: AsyncIterable[bytes], path: Path) -> None:
        """Write a stream into a file, in pieces worth a thread; its own errors pass as they are."""
        waiting = bytearray()
        with path.open("wb", buffering=0) as file:
            async for piece in tar:
                waiting += piece
                if len(waiting) >= _BUFFER_BYTES:
                    await self._write(file, waiting)
                    waiting = bytearray()
            await self._write(file, waiting)

    async def _write(self, file: IO[bytes], content: bytearray) -> None:
        with _explained(self._root):
            while content:
                written = await asyncio.to_thread(file.write, content)
                content = content[written:]

    def _make_scratch(self) -> Path:
        """Make a folder aside: on the same disk where that allows to move a tree in one step."""
        where = self._root if self._is_local else None
        return Path(tempfile.mkdtemp(prefix=_PARTIAL, dir=where))

    def _store(self, scratch: Path, expected_digest: str) -> StoredTree:
        tree = scratch / "tree"
        with (scratch / "tar").open("rb") as tar:
            unpack(tar, tree)
        (scratch / "tar").unlink()
        files = digest_files(tree)
        found = combine_digests(files)
        if found.digest != expected_digest:
            raise InvalidResource(
                "the artifact arrived altered",
                [FieldError("digest", f"expected {expected_digest}, got {found.digest}")],
                hint="push it again",
            )
        if not self._is_stored(expected_digest):
            (self._move_local if self._is_local else self._upload)(tree, expected_digest, files)
        return StoredTree(found.digest, found.size_bytes, found.files)

    def _move_local(self, tree: Path, digest: str, files: Sequence[FileDigest]) -> None:
        self._write_file_digests(digest, files)
        try:
            tree.rename(self._place(digest))
        except OSError as error:
            if error.errno not in {errno.EEXIST, errno.ENOTEMPTY}:
                raise
        sync(Path(self._root))

    def _upload(self, tree: Path, digest: str, files: Sequence[FileDigest]) -> None:
        place = self._place(digest)
        for file in files:
            target = f"{place}/{file.path}"
            self._files.makedirs(target.rpartition("/")[0], exist_ok=True)
            self._files.put_file(str(tree / file.path), target)
        self._write_file_digests(digest, files)

    async def read(self, digest: str) -> AsyncIterator[bytes]:
        """Yield the tree as a tar stream, after checking that the bytes are still the same.

        Raises
        ------
        NotFound
            When nothing is stored under `digest`.
        TerminalError
            When the stored bytes no longer have it; names the file.
        """
        with _explained(self._root):
            scratch = await asyncio.to_thread(self._make_scratch)
        try:
            with _explained(self._root):
                tree = await asyncio.to_thread(self._load, digest, scratch)
            pieces = tar_stream(tree)
            while (piece := await asyncio.to_thread(next, pieces, None)) is not None:
                yield piece
        finally:
            await asyncio.to_thread(shutil.rmtree, scratch, ignore_errors=True)

    def _load(self, digest: str, scratch: Path) -> Path:
        """Return where the checked tree lies on this machine: in its place, or in `scratch`."""
        if not self._is_stored(digest):
            raise NotFound(f"there is no artifact {digest}")
        place = self._place(digest)
        tree = Path(place)
        if not self._is_local:
            tree = scratch / "tree"
            tree.mkdir()
            for remote in self._files.find(place):
                local = tree / str(remote).removeprefix(f"{place}/")
                local.parent.mkdir(parents=True, exist_ok=True)
                self._files.get_file(remote, str(local))
        try:
            found = digest_files(tree)
        except InvalidResource as error:
            raise TerminalError(
                f"the stored artifact {digest} was altered: {error}", hint=_repair(place)
            ) from error
        if combine_digests(found).digest != digest:
            raise TerminalError(
                f"the stored artifact {digest} was altered: {self._difference(digest, found)}",
                hint=_repair(place),
            )
        return tree

    def _difference(self, digest: str, found: Sequence[FileDigest]) -> str:
        """Say in which files a stored tree differs from what was put."""
        before = {file.path: file for file in self._read_file_digests(digest) or ()}
        after = {file.path: file for file in found}
        changes = [
            f"{path} {_change(before.get(path), after.get(path))}"
            for path in sorted(before.keys() | after.keys())
            if before.get(path) != after.get(path)
        ]
        return ", ".join(changes[:10]) if before and changes else "its files have another digest"

    async def find(self, digest: str) -> StoredTree | None:
        """Return what is stored under `digest`, by its size; the bytes are not read."""
        with _explained(self._root):
            return await asyncio.to_thread(self._find, digest)

    def _find(self, digest: str) -> StoredTree | None:
        if not self._is_stored(digest):
            return None
        entries = self._files.find(self._place(digest), detail=True).values()
        sizes = [entry["size"] for entry in entries]
        return StoredTree(digest, sum(sizes), len(sizes))

    async def list(self) -> Sequence[StoredTree]:
        """Return everything stored, by digest."""
        with _explained(self._root):
            return await asyncio.to_thread(self._list)

    def _list(self) -> Sequence[StoredTree]:
        self._files.invalidate_cache(self._root)
        names = sorted(Path(place).name for place in self._files.ls(self._root, detail=False))
        digests = [f"sha256:{name}" for name in names]
        found = [self._find(digest) for digest in digests if _is_digest(digest)]
        return [tree for tree in found if tree is not None]

    async def delete(self, digest: str) -> None:
        """Remove a tree; an unknown digest changes nothing."""
        with _explained(self._root):
            await asyncio.to_thread(self._delete, digest)

    def _delete(self, digest: str) -> None:
        place, digests = self._place(digest), self._file_digests_place(digest)
        if self._is_local and self._files.exists(place):  # out of its place in one step
            aside = Path(tempfile.mkdtemp(prefix=_PARTIAL, dir=self._root))
            Path(place).rename(aside / "tree")
            shutil.rmtree(aside)
        if self._files.exists(digests):
            self._files.rm(digests)
        if self._files.exists(place):
            self._files.rm(place, recursive=True)

    def _is_stored(self, digest: str) -> bool:
        place = self._place(digest) if self._is_local else self._file_digests_place(digest)
        self._files.invalidate_cache(self._root)
        return bool(self._files.exists(place))

    def _place(self, digest: str) -> str:
        _check_digest(digest)
        return f"{self._root}/{digest.removeprefix('sha256:')}"

    def _file_digests_place(self, digest: str) -> str:
        _check_digest(digest)
        return f"{self._root}/{_FILES}{digest.removeprefix('sha256:')}.json"

    def _write_file_digests(self, digest: str, files: Sequence[FileDigest]) -> None:
        text = json.dumps([asdict(file) for file in files])
        self._files.pipe_file(self._file_digests_place(digest), text.encode())

    def _read_file_digests(self, digest: str) -> Sequence[FileDigest] | None:
        try:
            text = self._files.cat_file(self._file_digests_place(digest))
            return [FileDigest(**file) for file in json.loads(text)]
        except (OSError, ValueError, TypeError):
            return None  # they only help to name a file


def _repair(place: str) -> str:
    return f"restore {place} from a backup, or remove it and push the same bytes again"


def _change(before: FileDigest | None, after: FileDigest | None) -> str:
    if after is None:
        return "is missing"
    return "was added" if before is None else "has other bytes"


@contextmanager
def _explained(root: str) -> Iterator[None]:
    """Turn errors of the file system into modelplane's."""
    try:
        yield
    except OSError as error:
        if error.errno in {errno.ENOSPC, errno.EDQUOT}:
            raise NoSpace(f"the disk for artifacts ({root}) is full; nothing was stored") from error
        reason = os.strerror(error.errno) if error.errno else str(error)
        raise TransientError(f"the artifacts in {root} cannot be reached: {reason}") from error


def _is_digest(text: str) -> bool:
    hexadecimal = text.removeprefix("sha256:")
    is_whole = text != hexadecimal and len(hexadecimal) == 64
    return is_whole and set(hexadecimal) <= set("0123456789abcdef")


def _check_digest(digest: str) -> None:
    """Refuse anything but a digest: it becomes a path."""
    if not _is_digest(digest):
        raise InvalidResource(
            "not an artifact's digest",
            [FieldError("digest", f"{digest[:80]!r} is not sha256: and 64 hexadecimal digits")],
        )
