"""Unpacking downloaded artifacts: a tar stream becomes files, checked against its digest.

Used by both clients; the bytes come over a network, so nothing in them is trusted.
"""

from __future__ import annotations

import os
import shutil
from pathlib import Path
from typing import IO

from modelplane.client.artifacts import digest_tree
from modelplane.client.unpacking import unpack
from modelplane.errors import InvalidResource, NoSpace, TerminalError


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
        unpack(tar, building)
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
    except InvalidResource as error:
        raise TerminalError(f"artifact {digest} arrived damaged: {error}") from None
    finally:
        shutil.rmtree(building, ignore_errors=True)
