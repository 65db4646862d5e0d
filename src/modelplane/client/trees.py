"""Unpacking downloaded artifacts: a tar stream becomes files, checked against its digest.

Used by both clients; the bytes come over a network, so nothing in them is trusted.
"""

from __future__ import annotations

import os
import shutil
import tarfile
from pathlib import Path, PurePosixPath
from typing import IO

from modelplane.client.artifacts import digest_tree
from modelplane.errors import NoSpace, TerminalError

_PIECE = 1 << 20


def unpack_tree(tar: IO[bytes], destination: Path, digest: str) -> None:
    """Unpack `tar` as the folder `destination`, whole or not at all.

    Parameters
    ----------
    tar
        The stream, at its beginning.
    destination
        A folder that does not exist yet; when somebody else makes it meanwhile, theirs stays.
    digest
        What the unpacked tree must have.

    Raises
    ------
    TerminalError
        It is no tar of plain files, or has another digest.
    NoSpace
        The disk is full.
    """
    building = destination.with_name(f".{destination.name}.{os.getpid()}.{id(tar):x}")
    try:
        building.mkdir(parents=True)
        _write_files(tar, building)
        found = digest_tree(building).digest
        if found != digest:
            raise TerminalError(f"artifact {digest} arrived with other bytes: {found}")
        try:
            building.rename(destination)
        except OSError:
            if not destination.is_dir():
                raise
    except OSError as error:
        if error.errno in {28, 122}:  # ENOSPC, EDQUOT
            raise NoSpace(f"no space left for artifact {digest} in {destination.parent}") from None
        raise TerminalError(f"artifact {digest} cannot be written: {error}") from error
    except tarfile.TarError as error:
        raise TerminalError(f"artifact {digest} arrived damaged: {error}") from None
    finally:
        shutil.rmtree(building, ignore_errors=True)


def _write_files(tar: IO[bytes], root: Path) -> None:
    with tarfile.open(fileobj=tar, mode="r|") as archive:
        for member in archive:
            path = PurePosixPath(member.name)
            if path.is_absolute() or ".." in path.parts:
                raise TerminalError(f"the artifact holds a path outside of it: {member.name!r}")
            target = root / path
            if member.isdir():
                target.mkdir(parents=True, exist_ok=True)
                continue
            # A sparse entry of some bytes may unpack to terabytes.
            is_plain = member.isfile() and not member.issparse()
            content = archive.extractfile(member) if is_plain else None
            if content is None:
                raise TerminalError(f"the artifact holds what is no file: {member.name!r}")
            target.parent.mkdir(parents=True, exist_ok=True)
            with target.open("xb") as file:
                shutil.copyfileobj(content, file, _PIECE)
