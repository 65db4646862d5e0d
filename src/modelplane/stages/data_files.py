"""The files of a dataset's version: brought here where they are remote, and checked.

Called by `data`. Data that is no longer what was registered must not decide anything, so the
digest is compared wherever it is one that can be computed here.
"""

from __future__ import annotations

import hashlib
import tempfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

import fsspec

from modelplane.client.artifacts import digest_tree
from modelplane.client.datasets import describe_data
from modelplane.errors import ModelplaneError
from modelplane.resources.gate_run import DataInput
from modelplane.stages.failures import CheckImpossible, InfrastructureFailed

FETCH_TIMEOUT_S = 300.0
_PIECE = 1 << 20
_COMPUTED = ("sha256:", "md5:", "delta:")


def name_of(data: DataInput) -> str:
    """Return how messages call a version of data: ``NAME@VERSION``."""
    return f"{data.name}@{data.version}"


def is_verified(data: DataInput) -> bool:
    """Whether the digest is one that is compared before the data is read."""
    # What DVC calls a folder is the digest of a list that only DVC has.
    return data.digest.startswith(_COMPUTED) and not data.digest.endswith(".dir")


@contextmanager
def local_files(data: DataInput, *, timeout_s: float = FETCH_TIMEOUT_S) -> Iterator[Path]:
    """Give the path of the data on this machine, its digest checked.

    Parameters
    ----------
    data
        The version. A URI of another scheme than ``file`` is fetched with fsspec into a
        temporary folder, which is gone afterwards.
    timeout_s
        How long fetching may take.

    Raises
    ------
    CheckImpossible
        It is not there, cannot be read, or is no longer this version.
    InfrastructureFailed
        The place that it lies at does not answer.
    """
    place = _place(data)
    if isinstance(place, Path):
        _check_digest(data, place)
        yield place
        return
    with tempfile.TemporaryDirectory(prefix="data-") as folder:
        path = _fetch(data, place, Path(folder), timeout_s)
        _check_digest(data, path)
        yield path


def split_delta(path: Path) -> tuple[Path, int | None]:
    """Return the table and the version in ``PATH@VERSION``, None without one."""
    whole, at, version = str(path).rpartition("@")
    return (Path(whole), int(version)) if at and version.isdecimal() else (path, None)


def _place(data: DataInput) -> Path | str:
    """Return the local path, or the URI of what must be fetched."""
    if data.format == "frame":
        raise CheckImpossible(
            f"{name_of(data)} was a data frame in memory: write it to a file and register that"
        )
    if not data.uri:
        raise CheckImpossible(
            f"where {name_of(data)} lies was not recorded: register it again with its path"
        )
    parts = urlsplit(data.uri)
    if "://" in data.uri and parts.scheme != "file":
        return data.uri
    path = Path(unquote(parts.path) if parts.scheme == "file" else data.uri)
    if not path.is_absolute():
        raise CheckImpossible(
            f"{name_of(data)} was registered by the relative path {data.uri}, which only who "
            "registered it can find: register it again by its absolute path"
        )
    exists = path.exists() or (data.format == "delta" and split_delta(path)[0].exists())
    if not exists:
        raise CheckImpossible(f"{name_of(data)} is not at {path}: there is no such file or folder")
    return path


def _fetch(data: DataInput, uri: str, folder: Path, timeout_s: float) -> Path:
    """Copy remote files into `folder`, under their own name, which counts for the digest."""
    found: list[Path] = []
    failed: list[Exception] = []

    def copy() -> None:
        try:
            found.append(_copy(uri, folder))
        except Exception as error:  # each file system raises classes of its own
            failed.append(error)

    # A thread of its own: many file systems have no time-out, and a job must be able to end.
    thread = threading.Thread(target=copy, daemon=True, name="fetch")
    thread.start()
    thread.join(timeout_s)
    if found:
        return found[0]
    if not failed:
        raise InfrastructureFailed(
            f"{name_of(data)}: {uri} did not arrive within {timeout_s:g} seconds"
        )
    error = failed[0]
    words = f"{name_of(data)} at {uri} cannot be read: {type(error).__name__}: {first_line(error)}"
    lasting = (FileNotFoundError, PermissionError, ImportError, ValueError, IsADirectoryError)
    if isinstance(error, lasting):
        raise CheckImpossible(words) from error
    raise InfrastructureFailed(words) from error


def _copy(uri: str, folder: Path) -> Path:
    files: Any
    files, path = fsspec.core.url_to_fs(uri)
    target = folder / (Path(path.rstrip("/")).name or "data")
    if files.isdir(path):
        for name in files.find(path):
            inside = name[len(path.rstrip("/")) :].lstrip("/")
            copied = target / inside
            if not copied.resolve().is_relative_to(target.resolve()):
                raise ValueError(f"{name} lies outside of {uri}")
            copied.parent.mkdir(parents=True, exist_ok=True)
            files.get_file(name, str(copied))
    else:
        files.get_file(path, str(target))
    if not target.exists():
        raise FileNotFoundError(uri)
    return target


def _check_digest(data: DataInput, path: Path) -> None:
    if not is_verified(data):
        return
    try:
        found = _digests(data, path)
    except (ModelplaneError, OSError) as error:
        raise CheckImpossible(f"{name_of(data)} cannot be read: {first_line(error)}") from error
    if found and data.digest not in found:
        raise CheckImpossible(
            f"the data at {data.uri} is no longer {name_of(data)}: its digest is {found[0]}, "
            f"that of {name_of(data)} is {data.digest}; restore it, or register it as a new version"
        )


def _digests(data: DataInput, path: Path) -> tuple[str, ...]:
    """Return what the data may be called by; empty when that cannot be computed."""
    kind = data.digest.partition(":")[0]
    if kind == "delta":
        return (describe_data(path).digest,)
    if kind == "md5":
        return (f"md5:{_hash(path, 'md5')}",) if path.is_file() else ()
    own = digest_tree(path).digest
    # Other tools give the digest of the bytes alone, without the name.
    return (own, f"sha256:{_hash(path, 'sha256')}") if path.is_file() else (own,)


def _hash(path: Path, algorithm: str) -> str:
    digest = hashlib.new(algorithm, usedforsecurity=False)
    with path.open("rb") as stream:
        while piece := stream.read(_PIECE):
            digest.update(piece)
    return digest.hexdigest()


def first_line(error: Exception) -> str:
    """Return the first line of what an error says, bounded."""
    return (str(error).strip().splitlines() or [type(error).__name__])[0][:500]
