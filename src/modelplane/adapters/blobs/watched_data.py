"""Data that triggers of training watch: on disk, or in an object store through fsspec.

Implements `ports.training.DataPlaces`. A look costs a listing: names, sizes, times, and in an
object store the ETags; the data itself is read only where it lies on disk and has changed. A
store's data is never read: the digest is over its listing. Works in a few threads of its own, so
that a disk or a network that hangs holds up nobody else.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import os
import re
import warnings
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple, TypeVar
from urllib.parse import unquote, urlsplit

from modelplane.adapters.blobs.failures import explained
from modelplane.adapters.blobs.opening import open_files
from modelplane.client.datasets import describe_data
from modelplane.client.datasets_delta import is_delta
from modelplane.decisions.datasets import clean_dataset_name, clean_uri
from modelplane.errors import InvalidResource, TransientError
from modelplane.resources.dataset import DatasetFormat, DatasetReference
from modelplane.resources.training import WatchedData

T = TypeVar("T")

_THREADS = 4
_LOOK_TIMEOUT_S = 60.0
_READ_TIMEOUT_S = 3600.0
_RETRY_AFTER_S = 60.0
_DELTA_LOG = "_delta_log"
_COMMIT = re.compile(r"(\d{20})\.json")
_IDENTITIES = ("ETag", "etag", "md5", "md5Hash", "mtime", "LastModified", "last_modified")
"""What tells versions of an object apart, the best first; each store has its own."""


class _Entry(NamedTuple):
    """One file or object: its name below the data, its size, and what tells its content."""

    name: str
    size_bytes: int
    identity: str


class WatchedPlaces:
    """Looks at data on disk and in object stores."""

    def __init__(self) -> None:
        self._threads = ThreadPoolExecutor(_THREADS, thread_name_prefix="watched-data")
        self._looking: dict[tuple[str, str, str], Future[Any]] = {}
        self._hanging: set[Future[Any]] = set()

    async def fingerprint(self, data: WatchedData) -> str | None:
        """Return a digest over the listing; see the port."""
        return await self._in_thread("list", data, lambda: _fingerprint(data), _LOOK_TIMEOUT_S)

    async def describe(self, data: WatchedData) -> DatasetReference:
        """Return what the data is; see the port."""
        return await self._in_thread("read", data, lambda: _describe(data), _READ_TIMEOUT_S)

    def close(self) -> None:
        """Begin nothing more; what is under way is not waited for."""
        self._threads.shutdown(wait=False, cancel_futures=True)

    async def _in_thread(
        self, what: str, data: WatchedData, work: Callable[[], T], timeout_s: float
    ) -> T:
        """Do `work` in a thread; who asks for the same meanwhile waits for the same answer.

        One that hangs is not joined by a second for the same data.
        """
        key = what, data.uri, data.format
        future = self._looking.get(key)
        if future is None or future.done():
            future = self._looking[key] = self._threads.submit(work)
        elif future in self._hanging:
            raise TransientError(
                f"{clean_uri(data.uri)} has not answered since it was looked at last",
                retry_after_s=_RETRY_AFTER_S,
            )
        try:
            async with asyncio.timeout(timeout_s):
                # Shielded: a thread cannot be cancelled, and has to be known to go on.
                found: T = await asyncio.shield(asyncio.wrap_future(future))
        except TimeoutError:
            self._hanging.add(future)
            future.add_done_callback(self._hanging.discard)
            raise TransientError(
                f"{clean_uri(data.uri)} did not answer within {timeout_s:g} s",
                retry_after_s=_RETRY_AFTER_S,
            ) from None
        if self._looking.get(key) is future:
            del self._looking[key]
        return found


def _fingerprint(data: WatchedData) -> str | None:
    path = _local_path(data.uri)
    if path is None:
        return _digest(_list_objects(data.uri))
    if not path.exists():
        return None
    shown = path / _DELTA_LOG if _reads_delta(data, path) else path
    return _digest(list(_list_files(shown)))


def _describe(data: WatchedData) -> DatasetReference:
    path = _local_path(data.uri)
    if path is None:
        return _describe_objects(data)
    _check_format(data, path)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # what cannot be known of it is left out
        return describe_data(str(path))


def _local_path(uri: str) -> Path | None:
    """Return the path of data on disk; None for an address elsewhere."""
    if "://" not in uri:
        return Path(uri)
    parts = urlsplit(uri)
    return Path(unquote(parts.path)) if parts.scheme == "file" and not parts.netloc else None


def _check_format(data: WatchedData, path: Path) -> None:
    """Raise `InvalidResource` when it is not what it is declared to be."""
    is_met = {
        "auto": True,
        "file": path.is_file(),
        "folder": path.is_dir(),
        "parquet": path.is_dir() or path.suffix.lower() in {".parquet", ".parq"},
        "delta": is_delta(path),
        "dvc": path.is_file() and path.suffix == ".dvc",
    }[data.format]
    if not is_met:
        raise InvalidResource(f"{path} is not what its format says: {data.format}")


def _reads_delta(data: WatchedData, path: Path) -> bool:
    return data.format in {"auto", "delta"} and is_delta(path)


def _list_files(path: Path) -> Iterator[_Entry]:
    """Yield a file, or everything below a folder; what goes away meanwhile is left out."""
    if path.is_file():
        yield _entry(path.name, path.stat())
        return
    waiting = [path]
    while waiting:
        folder = waiting.pop()
        try:
            with os.scandir(folder) as entries:
                for entry in entries:
                    if entry.is_dir():
                        waiting.append(Path(entry.path))
                        continue
                    # A link that leads nowhere hides none of its neighbours.
                    with contextlib.suppress(FileNotFoundError):
                        yield _entry(os.path.relpath(entry.path, path), entry.stat())
        except FileNotFoundError:
            continue
        except OSError as error:
            raise InvalidResource(f"{folder} cannot be read: {error.strerror}") from None


def _entry(name: str, found: os.stat_result) -> _Entry:
    return _Entry(name, found.st_size, f"{found.st_mtime_ns}.{found.st_ino}")


def _list_objects(uri: str) -> list[_Entry]:
    files, root = open_files(uri)
    shown = clean_uri(uri)
    with explained(shown, is_remote=True):
        try:
            # Asked anew each time: listings are remembered otherwise.
            files.invalidate_cache()
            found = files.find(root, detail=True)
        except FileNotFoundError:
            return []
    return [
        _Entry(
            str(name).removeprefix(root).lstrip("/") or str(name).rpartition("/")[2],
            int(info.get("size") or 0),
            next((str(info[key]) for key in _IDENTITIES if info.get(key)), ""),
        )
        for name, info in sorted(found.items())
        if info.get("type") != "directory"
    ]


def _describe_objects(data: WatchedData) -> DatasetReference:
    entries = _list_objects(data.uri)
    log = [entry for entry in entries if entry.name.startswith(f"{_DELTA_LOG}/")]
    commits = [int(match[1]) for entry in log if (match := _COMMIT.search(entry.name))]
    told = _digest(log if commits else entries)
    if told is None:
        raise InvalidResource(f"there is nothing at {clean_uri(data.uri)}")
    if data.format == "delta" and not commits:
        raise InvalidResource(f"{clean_uri(data.uri)} is no Delta table: it has no log")
    form: DatasetFormat = "folder" if len(entries) > 1 else "file"
    if data.format in {"parquet", "dvc"}:
        form = data.format
    uri = clean_uri(data.uri)
    return DatasetReference(
        name=clean_dataset_name(uri.rstrip("/").rpartition("/")[2]),
        digest=f"listing:{told}",
        version=str(max(commits)) if commits else None,
        size_bytes=sum(entry.size_bytes for entry in entries),
        files=len(entries),
        uri=uri,
        format="delta" if commits else form,
    )


def _digest(entries: list[_Entry]) -> str | None:
    """Return the SHA-256 over a listing; None when nothing is listed."""
    if not entries:
        return None
    digest = hashlib.sha256()
    for entry in sorted(entries):
        digest.update("\0".join((entry.name, str(entry.size_bytes), entry.identity)).encode())
        digest.update(b"\n")
    return digest.hexdigest()
