"""Unpacks a tar stream that somebody sent: plain files that stay within the tree, nothing else.

Called by the client that downloads and by the blob store that receives. What arrives is not
trusted.
"""

from __future__ import annotations

import os
import shutil
import tarfile
from pathlib import Path, PurePosixPath
from typing import IO

from modelplane.errors import FieldError, InvalidResource


def unpack(tar: IO[bytes], tree: Path) -> None:
    """Unpack the stream `tar` into the new folder `tree`, durably.

    Raises
    ------
    InvalidResource
        When it is no tar, holds links, devices or sparse files, names a file twice, or a path
        that leaves the tree.
    """
    tree.mkdir(parents=True)
    try:
        with tarfile.open(fileobj=tar, mode="r|") as archive:
            for entry in archive:
                _unpack_entry(archive, entry, tree)
    except (tarfile.TarError, EOFError, FileExistsError, NotADirectoryError, ValueError) as error:
        raise refuse(f"not a tar stream of distinct files: {error}") from error
    for folder, _, _ in os.walk(tree):
        sync(Path(folder))


def _unpack_entry(archive: tarfile.TarFile, entry: tarfile.TarInfo, tree: Path) -> None:
    path = PurePosixPath(entry.name)
    if path.is_absolute() or ".." in path.parts:
        raise refuse(f"{entry.name[:200]!r} leaves the tree")
    target = tree.joinpath(*path.parts)
    if entry.isdir():
        target.mkdir(parents=True, exist_ok=True)
        return
    # A sparse entry of some bytes may unpack to terabytes.
    content = archive.extractfile(entry) if entry.isfile() and not entry.issparse() else None
    if content is None or not path.parts:
        raise refuse(f"{entry.name[:200]!r} is neither a plain file nor a folder")
    target.parent.mkdir(parents=True, exist_ok=True)
    with target.open("xb") as file:
        shutil.copyfileobj(content, file, 1 << 20)
        file.flush()
        os.fsync(file.fileno())


def sync(folder: Path) -> None:
    """Make the names in a folder durable."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def refuse(message: str) -> InvalidResource:
    """Return the error for an upload that cannot be taken."""
    return InvalidResource("the artifact cannot be taken", [FieldError("artifact", message)])
