"""Artifacts as trees of files, found by digest, on any file system that fsspec knows.

Made by `wiring`, used by the API. A tree is received aside, checked against its digest and only
then put in its place; what an interrupted upload left aside is removed at the next start. File
I/O happens in threads.

A tree with the digest ``sha256:HEX`` lies in the folder ``HEX``; the digests of its single files
in ``.files-HEX.json``, which is written last where folders cannot be moved in one step: a tree
is stored when that file is there. The records of versions lie in ``.versions`` (see `labels`).
"""

from __future__ import annotations

import asyncio
import errno
import hashlib
import json
import shutil
import tempfile
import threading
from collections.abc import AsyncIterable, AsyncIterator, Callable, Iterable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import asdict
from datetime import datetime
from pathlib import Path
from typing import IO, Any

from fsspec.implementations.local import LocalFileSystem

from modelplane.adapters.blobs.failures import explained
from modelplane.adapters.blobs.labels import LabelFiles, modified_at
from modelplane.adapters.blobs.opening import check_reachable, open_files
from modelplane.client.artifacts import FileDigest, combine_digests, digest_files, tar_stream
from modelplane.client.unpacking import sync, unpack
from modelplane.decisions.registry_check import VersionLabel
from modelplane.errors import FieldError, InvalidResource, NotFound, TerminalError
from modelplane.ports.blobs import StoredFile, StoredTree, Verified

_PARTIAL = ".partial-"
_FILES = ".files-"
_BUFFER_BYTES = 1 << 20
_REMOTE_BLOCK_BYTES = 8 << 20


class TreeBlobs:
    """Implements `ports.blobs.Blobs`.

    Parameters
    ----------
    url
        A folder, or anything fsspec opens: ``s3://bucket/prefix``, ``memory://artifacts``.
    scratch
        A folder on this machine where trees are received and checked when `url` is elsewhere;
        the system's temporary folder when left out.

    Raises
    ------
    TerminalError
        Nothing that is installed opens such a `url`. Nothing is connected to yet.
    """

    def __init__(self, url: str, scratch: Path | None = None) -> None:
        self._files: Any
        self._files, self._root = open_files(url)
        self._is_local = isinstance(self._files, LocalFileSystem)
        self._scratch = Path(self._root) if self._is_local else scratch
        self._labels = LabelFiles(self._files, self._root, is_local=self._is_local)
        self._changing = threading.Lock()
        if self._is_local:
            with self._explained():
                self._files.makedirs(self._root, exist_ok=True)

    def prepare(self) -> None:
        """Look whether the storage can be used, and remove what a killed process left aside.

        For the one process that stores; others may have an upload in progress there.

        Raises
        ------
        TerminalError
            It does not exist, or refuses our credentials.
        TransientError
            It does not answer just now.
        """
        if self._scratch is not None:
            with self._explained():
                for left in self._scratch.glob(f"{_PARTIAL}*"):
                    shutil.rmtree(left, ignore_errors=True)
        if not self._is_local:
            check_reachable(self._files, self._root)

    def _explained(self) -> AbstractContextManager[None]:
        return explained(self._root, is_remote=not self._is_local)

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
        with self._explained():
            scratch = await asyncio.to_thread(self._make_scratch)
        try:
            await self._receive(tar, scratch / "tar")
            with self._explained():
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
        with self._explained():
            while content:
                written = await asyncio.to_thread(file.write, content)
                content = content[written:]

    def _make_scratch(self) -> Path:
        """Make a folder aside: on the same disk where that allows to move a tree in one step."""
        return Path(tempfile.mkdtemp(prefix=_PARTIAL, dir=self._scratch))

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
        # No folders are made: buckets have none, and a missing bucket must not be made either.
        place = self._place(digest)
        for file in files:
            self._files.put_file(str(tree / file.path), f"{place}/{file.path}")
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
        with self._explained():
            scratch = await asyncio.to_thread(self._make_scratch)
        try:
            with self._explained():
                tree = await asyncio.to_thread(self._load, digest, scratch)
            pieces = tar_stream(tree)
            while (piece := await asyncio.to_thread(next, pieces, None)) is not None:
                yield piece
        finally:
            await asyncio.to_thread(shutil.rmtree, scratch, ignore_errors=True)

    def _load(self, digest: str, scratch: Path) -> Path:
        """Return where the checked tree lies on this machine: in its place, or in `scratch`."""
        self._check_stored(digest)
        place = self._place(digest)
        tree = Path(place)
        if not self._is_local:
            tree = scratch / "tree"
            tree.mkdir()
            for remote in self._files.find(place):
                local = tree / str(remote).removeprefix(f"{place}/")
                local.parent.mkdir(parents=True, exist_ok=True)
                self._files.get_file(remote, str(local))
        difference = self._compare(digest, lambda: digest_files(tree)).difference
        if difference:
            raise TerminalError(
                f"the stored artifact {digest} was altered: {difference}", hint=_repair(place)
            )
        return tree

    async def verify(self, digest: str) -> Verified:
        """Read the whole tree and compare it with its digest.

        Raises
        ------
        NotFound
            When nothing is stored under `digest`.
        """
        with self._explained():
            return await asyncio.to_thread(self._verify, digest)

    def _verify(self, digest: str) -> Verified:
        self._check_stored(digest)
        if self._is_local:
            return self._compare(digest, lambda: digest_files(Path(self._place(digest))))
        return self._compare(digest, lambda: self._digest_remote(digest))

    def _digest_remote(self, digest: str) -> list[FileDigest]:
        """Read the files of a tree where they are, without a copy on this machine."""
        place, found = self._place(digest), []
        for remote in self._files.find(place):
            content, size_bytes = hashlib.sha256(), 0
            with self._files.open(remote, "rb", block_size=_REMOTE_BLOCK_BYTES) as file:
                while piece := file.read(_BUFFER_BYTES):
                    content.update(piece)
                    size_bytes += len(piece)
            path = str(remote).removeprefix(f"{place}/")
            found.append(FileDigest(path, size_bytes, content.hexdigest()))
        return sorted(found, key=lambda file: file.path)

    def _compare(self, digest: str, read: Callable[[], list[FileDigest]]) -> Verified:
        try:
            found = read()
        except InvalidResource as error:  # a link in it, or no file at all
            return Verified(digest, 0, str(error))
        combined = combine_digests(found)
        is_same = combined.digest == digest
        difference = "" if is_same else self._difference(digest, found)
        return Verified(digest, combined.size_bytes, difference)

    def _check_stored(self, digest: str) -> None:
        if not self._is_stored(digest):
            raise NotFound(f"there is no artifact {digest}")

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
        with self._explained():
            return await asyncio.to_thread(self._find, digest)

    def _find(self, digest: str) -> StoredTree | None:
        if not self._is_stored(digest):
            return None
        infos = self._files.find(self._place(digest), detail=True).values()
        return self._describe(digest, infos)

    def _describe(self, digest: str, infos: Iterable[Mapping[str, Any]]) -> StoredTree:
        """Describe a whole tree; it is as old as what was written last of it."""
        sizes = [info["size"] for info in infos]
        place = self._place(digest) if self._is_local else self._file_digests_place(digest)
        stored_at = modified_at(self._files.info(place))
        return StoredTree(digest, sum(sizes), len(sizes), stored_at)

    async def list(self) -> Sequence[StoredTree]:
        """Return everything stored, by digest, unended uploads included."""
        with self._explained():
            return await asyncio.to_thread(self._list)

    def _list(self) -> Sequence[StoredTree]:
        """Look at everything in one walk: each request to a bucket lists a thousand files."""
        self._files.invalidate_cache()
        trees: dict[str, list[Mapping[str, Any]]] = {}
        ended: dict[str, datetime | None] = {}
        for path, info in self._files.find(self._root, detail=True).items():
            name, _, inside = str(path).removeprefix(f"{self._root}/").partition("/")
            if inside and _is_digest(f"sha256:{name}"):
                trees.setdefault(f"sha256:{name}", []).append(info)
            elif name.startswith(_FILES):
                hexadecimal = name.removeprefix(_FILES).removesuffix(".json")
                ended[f"sha256:{hexadecimal}"] = modified_at(info)
        return [self._describe_found(d, infos, ended) for d, infos in sorted(trees.items())]

    def _describe_found(
        self,
        digest: str,
        infos: Sequence[Mapping[str, Any]],
        ended: Mapping[str, datetime | None],
    ) -> StoredTree:
        if self._is_local:
            return self._describe(digest, infos)
        whole = digest in ended
        times = [time for info in infos if (time := modified_at(info)) is not None]
        stored_at = ended[digest] if whole else max(times, default=None)
        sizes = [info["size"] for info in infos]
        return StoredTree(digest, sum(sizes), len(sizes), stored_at, whole)

    async def delete(self, digest: str, *, unless_since: datetime | None = None) -> bool:
        """Remove a tree, unless it was stored or labelled since then; return whether it is gone.

        An unknown digest changes nothing. Labels stay.
        """
        with self._explained():
            return await asyncio.to_thread(self._delete, digest, unless_since)

    def _delete(self, digest: str, unless_since: datetime | None) -> bool:
        with self._changing:
            if unless_since is not None and self._is_fresh(digest, unless_since):
                return False
            place, digests = self._place(digest), self._file_digests_place(digest)
            if self._files.exists(digests):  # first: without it a tree elsewhere is not stored
                self._files.rm(digests)
            if self._is_local and self._files.exists(place):  # out of its place in one step
                aside = Path(tempfile.mkdtemp(prefix=_PARTIAL, dir=self._root))
                Path(place).rename(aside / "tree")
                shutil.rmtree(aside)
            elif self._files.exists(place):
                self._files.rm(place, recursive=True)
            return True

    def _is_fresh(self, digest: str, since: datetime) -> bool:
        self._files.invalidate_cache()
        infos = list(self._files.find(self._place(digest), detail=True).values())
        if self._is_stored(digest):
            times = [self._describe(digest, infos).stored_at]
        else:
            times = [modified_at(info) for info in infos]
        if any(time is None or time >= since for time in times):
            return True
        return any(label.digest == digest for label in self._labels.read(written_since=since))

    async def label(self, label: VersionLabel) -> None:
        """Write the record of a version beside its files; repeating it changes nothing.

        Raises
        ------
        NotFound
            When nothing is stored under its digest.
        """
        with self._explained():
            await asyncio.to_thread(self._label, label)

    def _label(self, label: VersionLabel) -> None:
        with self._changing:
            self._check_stored(label.digest)
            self._labels.write(label)

    async def labels(self) -> Sequence[VersionLabel]:
        """Return all records, by id; those that cannot be read have nothing but their id."""
        with self._explained():
            return await asyncio.to_thread(self._labels.read)

    async def unlabel(self, version_id: str) -> None:
        """Remove the record of a version; an unknown id changes nothing."""
        with self._explained():
            await asyncio.to_thread(self._labels.remove, version_id)

    async def list_files(self, digest: str) -> Sequence[StoredFile]:
        """Return the files of a tree by their paths; raises `NotFound`."""
        with self._explained():
            return await asyncio.to_thread(self._list_files, digest)

    def _list_files(self, digest: str) -> Sequence[StoredFile]:
        self._check_stored(digest)
        place = self._place(digest)
        infos = self._files.find(place, detail=True).items()
        found = ((str(path).removeprefix(f"{place}/"), info["size"]) for path, info in infos)
        return [StoredFile(path, size_bytes) for path, size_bytes in sorted(found)]

    async def read_file(self, digest: str, path: str) -> AsyncIterator[bytes]:
        """Yield one file of a tree, after checking that its bytes are still the same.

        Raises
        ------
        NotFound
            When nothing is stored under `digest`, or it has no such file.
        TerminalError
            When the file was altered.
        """
        with self._explained():
            file = await asyncio.to_thread(self._open_file, digest, path)
        try:
            while True:
                with self._explained():
                    piece = await asyncio.to_thread(file.read, _BUFFER_BYTES)
                if not piece:
                    break
                yield piece
        finally:
            await asyncio.to_thread(file.close)

    def _open_file(self, digest: str, path: str) -> Any:
        if all(file.path != path for file in self._list_files(digest)):
            raise NotFound(f"the artifact {digest} has no file {path[:200]!r}")
        file: Any = self._files.open(f"{self._place(digest)}/{path}", "rb")
        recorded = {one.path: one.sha256 for one in self._read_file_digests(digest) or ()}
        if path in recorded and hashlib.file_digest(file, "sha256").hexdigest() != recorded[path]:
            file.close()
            place = self._place(digest)
            raise TerminalError(
                f"the stored artifact {digest} was altered: {path}", hint=_repair(place)
            )
        file.seek(0)
        return file

    def _is_stored(self, digest: str) -> bool:
        place = self._place(digest) if self._is_local else self._file_digests_place(digest)
        self._files.invalidate_cache()
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
