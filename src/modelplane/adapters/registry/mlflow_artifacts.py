"""Files of versions: from MLflow's own store, from object stores, or from allowed folders.

Used by `mlflow.MlflowRegistry` with URIs that it resolved. Names and sizes that a server states
are not trusted: nothing is written outside the folder that is given, and no more than allowed.
"""

from __future__ import annotations

import asyncio
import importlib
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any
from urllib.parse import quote, unquote, urlsplit

from modelplane.adapters.registry.mlflow_answers import read_list
from modelplane.adapters.registry.mlflow_http import MlflowHttp
from modelplane.errors import NoSpace, NotFound, TransientError
from modelplane.ports.registries import ArtifactUnavailable, DigestMismatch

_ROUTE = "/mlflow-artifacts/artifacts"
_MAX_FILES = 10_000
_MAX_DEPTH = 32
_AT_ONCE = 4
_NO_SPACE = {28, 122}
_OBJECT_STORES = {
    "s3": "s3fs", "s3a": "s3fs", "gs": "gcsfs", "gcs": "gcsfs",
    "abfs": "adlfs", "abfss": "adlfs", "az": "adlfs", "wasbs": "adlfs",
}  # fmt: skip
"""Schemes that are read through fsspec, and the package that each takes."""


@dataclass(frozen=True, slots=True)
class ListedFile:
    """A file in MLflow's artifact store: its path within the version, and its stated size."""

    path: str
    size_bytes: int | None


class ArtifactReader:
    """Copies the files at a URI into a folder.

    Parameters
    ----------
    http
        The server, whose artifact store is read through it.
    roots
        What may be read besides: folders of this machine, addresses in object stores. Whoever
        registers a version names its URI, and what reads it has the control plane's rights.
    max_bytes
        Of one version's files together.
    """

    def __init__(self, http: MlflowHttp, roots: tuple[str, ...], max_bytes: int) -> None:
        self._http = http
        self._roots = roots
        self._max_bytes = max_bytes

    async def copy(self, uri: str, into: Path) -> None:
        """Copy the files at `uri` into the empty folder `into`.

        Raises
        ------
        ArtifactUnavailable
            They are not there, not complete, too large, or somewhere that may not be read.
        SourceUnavailable, SourceRefused
            The server did not give them.
        """
        scheme = urlsplit(uri).scheme.lower()
        inside = self._in_store(uri, scheme)
        if inside is not None:
            await self._copy_from_store(inside, into)
        elif scheme in {"", "file"}:
            await asyncio.to_thread(self._copy_local, uri, into)
        elif scheme in _OBJECT_STORES:
            await asyncio.to_thread(self._copy_objects, uri, scheme, into)
        else:
            message = f"files at {scheme}: URIs cannot be read"
            raise ArtifactUnavailable("ArtifactUnsupported", message)

    def _in_store(self, uri: str, scheme: str) -> str | None:
        """Return the path in the server's own artifact store that `uri` names, or None."""
        parts = urlsplit(uri)
        if scheme == "mlflow-artifacts":
            if parts.netloc and parts.netloc != self._http.host:
                raise _refused(f"its files are on another server, {parts.netloc[:200]}")
            path = parts.path
        elif scheme in {"http", "https"}:
            before, route, path = parts.path.partition(f"/api/2.0{_ROUTE}/")
            if f"{scheme}://{parts.netloc}{before}" != self._http.url or not route:
                raise _refused(f"its files are on another server, {parts.netloc[:200]}")
        else:
            return None
        return _check_path(unquote(path).strip("/"))

    async def _copy_from_store(self, root: str, into: Path) -> None:
        files = await self._list(root)
        if not files:
            raise _missing(f"MLflow has no files under {root}")
        if sum(file.size_bytes or 0 for file in files) > self._max_bytes:
            message = f"the files have more than {self._max_bytes:,} bytes, the limit here"
            raise ArtifactUnavailable("ArtifactTooLarge", message)
        slots = asyncio.Semaphore(_AT_ONCE)

        async def fetch(file: ListedFile) -> None:
            target = into.joinpath(*PurePosixPath(file.path).parts)
            target.parent.mkdir(parents=True, exist_ok=True)
            async with slots:
                size = await self._fetch(f"{root}/{file.path}", target)
            if file.size_bytes is not None and size != file.size_bytes:
                stated = f"{file.size_bytes:,} bytes stated, {size:,} arrived"
                raise DigestMismatch(f"{file.path} is not what MLflow says: {stated}")

        try:
            async with asyncio.TaskGroup() as group:
                for file in files:
                    group.create_task(fetch(file))
        except BaseExceptionGroup as failed:
            raise failed.exceptions[0] from None

    async def _fetch(self, path: str, target: Path) -> int:
        try:
            return await self._http.fetch(f"{_ROUTE}/{quote(path)}", target, self._max_bytes)
        except NotFound:
            raise _missing(f"MLflow has no file {path}") from None

    async def _list(self, root: str) -> list[ListedFile]:
        """Return all files below `root`, by path."""
        found: list[ListedFile] = []
        waiting = [""]
        while waiting:
            folder = waiting.pop()
            listed = f"{root}/{folder}".rstrip("/")
            try:
                answer = await self._http.call("GET", _ROUTE, query={"path": listed})
            except NotFound:
                raise _missing(f"MLflow has no files under {listed}") from None
            for name, is_folder, size in read_list(_read_entry, answer.get("files")):
                path = f"{folder}/{_check_name(name)}".lstrip("/")
                if is_folder:
                    waiting.append(path)
                else:
                    found.append(ListedFile(path, size))
                if path.count("/") > _MAX_DEPTH or len(found) + len(waiting) > _MAX_FILES:
                    message = f"there are more than {_MAX_FILES:,} files, or folders too deep"
                    raise ArtifactUnavailable("ArtifactTooLarge", message)
        return sorted(found, key=lambda file: file.path)

    def _copy_local(self, uri: str, into: Path) -> None:
        parts = urlsplit(uri)
        text = unquote(parts.path) if parts.scheme else uri
        if parts.netloc not in {"", "localhost"}:
            raise _refused("a file URI that names a host cannot be read")
        source = self._allowed(Path(text))
        try:
            if not source.exists():
                raise _missing(f"there is nothing at {source}")
            if source.is_file():
                self._copy_file(source, into / source.name, 0)
                return
            copied = 0
            for path in sorted(source.rglob("*")):
                if path.is_file():
                    target = into / path.relative_to(source)
                    target.parent.mkdir(parents=True, exist_ok=True)
                    copied += self._copy_file(self._allowed(path), target, copied)
        except OSError as error:
            raise TransientError(f"{source} cannot be copied: {error.strerror}") from error

    def _allowed(self, path: Path) -> Path:
        """Return where `path` really lies, which must be below an allowed folder."""
        real = path.resolve()
        if path.is_absolute() and any(
            real.is_relative_to(Path(root).resolve()) for root in self._roots if "://" not in root
        ):
            return real
        raise _not_allowed(str(path))

    def _check_allowed(self, uri: str) -> None:
        """Raise `ArtifactUnavailable` unless an address lies below one of the roots."""
        wanted = uri.replace("s3a://", "s3://", 1).rstrip("/") + "/"
        roots = (r.replace("s3a://", "s3://", 1).rstrip("/") + "/" for r in self._roots)
        is_below = any("://" in root and wanted.startswith(root) for root in roots)
        if not is_below or {"..", "."} & set(wanted.split("/")):
            raise _not_allowed(uri)

    def _copy_file(self, source: Path, target: Path, copied: int) -> int:
        size = source.stat().st_size
        if copied + size > self._max_bytes:
            message = f"the files have more than {self._max_bytes:,} bytes, the limit here"
            raise ArtifactUnavailable("ArtifactTooLarge", message)
        shutil.copyfile(source, target)
        return size

    def _copy_objects(self, uri: str, scheme: str, into: Path) -> None:
        """Copy from an object store; what lets us in there comes from its own configuration."""
        self._check_allowed(uri)
        package = _OBJECT_STORES[scheme]
        try:
            importlib.import_module(package)
        except ImportError:
            hint = f"install {package} beside modelplane: modelplane[{_extra(package)}]"
            message = f"files at {scheme}: URIs take {package}, which is not installed"
            raise ArtifactUnavailable("ArtifactUnsupported", message, hint=hint) from None
        import fsspec  # noqa: PLC0415 - a third of a second, and most sources need none

        plain = uri.replace("s3a://", "s3://", 1)
        try:
            files, root = fsspec.core.url_to_fs(plain, **_store_options(package))
            found: dict[str, dict[str, Any]] = files.find(root, detail=True)
            if not found:
                raise _missing(f"there is nothing at {uri}")
            if sum(int(entry.get("size") or 0) for entry in found.values()) > self._max_bytes:
                message = f"the files have more than {self._max_bytes:,} bytes, the limit here"
                raise ArtifactUnavailable("ArtifactTooLarge", message)
            for remote in found:
                name = remote.removeprefix(root).lstrip("/") or PurePosixPath(remote).name
                target = into.joinpath(*PurePosixPath(_check_path(name)).parts)
                target.parent.mkdir(parents=True, exist_ok=True)
                files.get_file(remote, str(target))
        except FileNotFoundError:
            raise _missing(f"there is nothing at {uri}") from None
        except PermissionError:
            raise _refused(f"{uri} may not be read with the credentials there are") from None
        except ArtifactUnavailable:
            raise
        except Exception as error:  # each store's library has its own
            if isinstance(error, OSError) and error.errno in _NO_SPACE:
                raise NoSpace(f"no space left in {into}") from error
            if "Credential" in type(error).__name__:
                raise _refused(f"there are no credentials to read {uri} with") from error
            message = f"{uri} cannot be read: {type(error).__name__}"
            raise TransientError(message) from error


def _read_entry(data: Mapping[str, Any]) -> tuple[str, bool, int | None]:
    size = data.get("file_size")
    return str(data["path"]), bool(data.get("is_dir", False)), None if size is None else int(size)


def _check_name(name: str) -> str:
    """Return a name that MLflow listed, which must be one part of a path."""
    if name in {"", ".", ".."} or "/" in name or "\\" in name or "\0" in name:
        raise _refused(f"MLflow lists the file {name[:200]!r}, which would leave its folder")
    return name


def _check_path(path: str) -> str:
    for part in path.split("/"):
        _check_name(part)
    return path


def _store_options(package: str) -> dict[str, Any]:
    """Return what a file system is made with: nothing remembered, and nothing waited for long."""
    options: dict[str, Any] = {"skip_instance_cache": True}
    if package == "s3fs":
        retries = {"mode": "standard", "total_max_attempts": 3}
        options["config_kwargs"] = {"connect_timeout": 5, "read_timeout": 20, "retries": retries}
    return options


def _extra(package: str) -> str:
    return {"s3fs": "s3", "gcsfs": "gs", "adlfs": "az"}[package]


def _refused(message: str, *, hint: str = "") -> ArtifactUnavailable:
    return ArtifactUnavailable("ArtifactRefused", message, hint=hint)


def _not_allowed(place: str) -> ArtifactUnavailable:
    hint = "name the folder or address in spec.artifactRoots if it may be read"
    return _refused(f"the files are at {place}, which may not be read here", hint=hint)


def _missing(message: str) -> ArtifactUnavailable:
    return ArtifactUnavailable("ArtifactMissing", message)
