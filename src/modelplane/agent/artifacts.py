"""The node's artifacts, by their digest: downloaded once, verified each time they are used.

Implements `ports.servers.Artifacts` over the control plane's API. Never changes a file: what no
longer has its digest is thrown away and downloaded again.
"""

from __future__ import annotations

import asyncio
import errno
import shutil
from pathlib import Path

import structlog

from modelplane.agent.control_plane import ControlPlane
from modelplane.client.artifacts import digest_tree
from modelplane.errors import InvalidResource, NoSpace, TransientError

log = structlog.get_logger(__name__)


class ArtifactCache:
    """A directory of artifacts.

    Parameters
    ----------
    root
        Where they lie, in folders named by the digest's hexadecimal digits.
    control_plane
        Where they come from.
    """

    def __init__(self, root: Path, control_plane: ControlPlane) -> None:
        self._root = root
        self._control_plane = control_plane
        self._locks: dict[str, asyncio.Lock] = {}

    async def fetch(self, digest: str) -> Path:
        """Return the folder of an artifact's files, verified; see the port."""
        folder = self._root / digest.removeprefix("sha256:")
        async with self._locks.setdefault(digest, asyncio.Lock()):
            try:
                if folder.is_dir():
                    if await asyncio.to_thread(_has_digest, folder, digest):
                        return folder
                    log.warning("artifact_changed", digest=digest, folder=str(folder))
                    await asyncio.to_thread(shutil.rmtree, folder)
                await self._control_plane.download_artifact(digest, folder)
            except OSError as error:
                if error.errno in (errno.ENOSPC, errno.EDQUOT):
                    raise NoSpace(f"artifact {digest} is not stored: the disk is full") from error
                raise TransientError(f"artifact {digest} cannot be stored: {error}") from error
        return folder


def _has_digest(folder: Path, digest: str) -> bool:
    try:
        return digest_tree(folder).digest == digest
    except (OSError, InvalidResource):
        return False
