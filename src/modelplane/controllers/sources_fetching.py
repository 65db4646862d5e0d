"""Fetches one version from a registry elsewhere: its record and its files, whole or not at all.

Used by the controllers of sources and of artifacts. The files are received aside, checked and
stored by their digest; nothing is committed here, so that a crash leaves nothing half-imported.
"""

from __future__ import annotations

import asyncio
import shutil
import tempfile
from collections.abc import AsyncIterator, Coroutine, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any, TypeVar

from modelplane.client.artifacts import digest_tree, tar_stream
from modelplane.decisions.datasets import dataset_names
from modelplane.decisions.external import DIGEST_TAG, ExternalFiles, ExternalRun, ExternalVersion
from modelplane.decisions.registry_check import label_of
from modelplane.decisions.registry_index import RegistryIndex
from modelplane.errors import InvalidResource, NoSpace, TransientError
from modelplane.ports.blobs import Blobs
from modelplane.ports.registries import ArtifactUnavailable, DigestMismatch, ModelRegistry
from modelplane.ports.store import Store
from modelplane.resources.dataset import Dataset, DatasetReference, DatasetVersion
from modelplane.resources.model import ModelVersionSpec
from modelplane.resources.revision import Artifact

A = TypeVar("A")
B = TypeVar("B")

_NO_SPACE = {28, 122}


@dataclass(frozen=True, slots=True)
class Fetched:
    """A version whose files are stored here, with what is known of it."""

    run: ExternalRun
    files: ExternalFiles
    artifact: Artifact


class VersionFetcher:
    """Fetches versions.

    Parameters
    ----------
    blobs
        Where files are stored.
    scratch
        A folder for files on their way; made when it is not there.
    """

    def __init__(self, blobs: Blobs, scratch: Path) -> None:
        self._blobs = blobs
        self._scratch = scratch

    async def fetch(self, registry: ModelRegistry, version: ExternalVersion) -> Fetched:
        """Store the files of `version` and return what is known of it.

        Raises
        ------
        ArtifactUnavailable
            Its files cannot be had, or cannot be served here.
        SourceUnavailable, SourceRefused
            The registry did not answer.
        TransientError
            They cannot be stored now.
        """
        folder = await asyncio.to_thread(self._make_folder)
        try:
            run, files = await _both(registry.describe(version), registry.download(version, folder))
            artifact = await self._store(version, files, folder)
        finally:
            await asyncio.to_thread(shutil.rmtree, folder, ignore_errors=True)
        return Fetched(run, files, artifact)

    async def label(self, spec: ModelVersionSpec, created_at: datetime) -> None:
        """Write the version's record beside its files; to be called before it is committed."""
        await self._blobs.label(label_of(spec, created_at))

    def _make_folder(self) -> Path:
        try:
            self._scratch.mkdir(parents=True, exist_ok=True)
            return Path(tempfile.mkdtemp(dir=self._scratch))
        except OSError as error:
            if error.errno in _NO_SPACE:
                raise NoSpace(f"no space left in {self._scratch}") from error
            raise TransientError(f"{self._scratch} cannot be used: {error.strerror}") from error

    async def _store(
        self, version: ExternalVersion, files: ExternalFiles, folder: Path
    ) -> Artifact:
        if files.format is None:
            message = f"the files of {version.model} {version.number} are in no format served here"
            raise ArtifactUnavailable("ArtifactUnsupported", message)
        try:
            tree = await asyncio.to_thread(digest_tree, folder)
            stated = version.tags.get(DIGEST_TAG, tree.digest)
            if stated != tree.digest:
                message = f"the tag {DIGEST_TAG} states {stated[:80]}, the files have {tree.digest}"
                raise DigestMismatch(message)
            if await self._blobs.find(tree.digest) is None:
                await self._blobs.put(_pieces(folder), tree.digest)
        except InvalidResource as error:
            raise ArtifactUnavailable("ArtifactRefused", str(error)) from None
        return Artifact(format=files.format, digest=tree.digest, size_bytes=tree.size_bytes)


async def _both(first: Coroutine[Any, Any, A], second: Coroutine[Any, Any, B]) -> tuple[A, B]:
    """Await both at once; when one fails, the other is given up."""
    try:
        async with asyncio.TaskGroup() as group:
            tasks = group.create_task(first), group.create_task(second)
    except BaseExceptionGroup as failed:
        raise failed.exceptions[0] from None
    return tasks[0].result(), tasks[1].result()


async def load_datasets(store: Store, references: Sequence[DatasetReference]) -> RegistryIndex:
    """Return the part of the registry that linking these references takes."""
    index = RegistryIndex()
    for name in dataset_names(references):
        dataset = await store.find(Dataset, name)
        versions, _ = await store.list(DatasetVersion, prefix=f"{name}@")
        for resource in (*([dataset] if dataset else ()), *versions):
            index.put(resource)
    return index


async def _pieces(folder: Path) -> AsyncIterator[bytes]:
    stream = tar_stream(folder)
    while (piece := await asyncio.to_thread(next, stream, None)) is not None:
        yield piece
