"""The recorded data: whether it is still there and still the same, put where the code reads it.

Called by ``modelplane reproduce`` before the command runs. Data stays where it lies: the code's
folder gets links to it.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path, PurePath

from modelplane.client.datasets import describe_data
from modelplane.client.reproduction_code import find_below
from modelplane.decisions.reproduction import UNKNOWN, Finding
from modelplane.errors import ModelplaneError
from modelplane.resources.dataset import DatasetReference

_OURS = ("sha256:", "delta:", "md5:")
_PIECE = 1 << 20


@dataclass(frozen=True, slots=True)
class Places:
    """Where to look for data, and where the code will.

    Attributes
    ----------
    top
        The top of the code that will run.
    directory
        Where the command runs, from `top`.
    source
        The user's own folder of the code, which holds what is not committed.
    work
        The folder of this reproduction; nothing is linked outside of it.
    """

    top: Path
    directory: PurePath
    source: Path
    work: Path


def place_data(reference: DatasetReference, places: Places) -> Finding:
    """Look for one piece of data, link it into the code's folder, and say whether it is the same.

    Data in the code's own folder goes before the place that was recorded, since that is what
    the code will read.
    """
    name = f"{reference.name}@{reference.version}" if reference.version else reference.name
    if reference.digest == UNKNOWN:
        return Finding("data", "not reproducible", f"{name}: its digest was not recorded")
    if reference.format == "frame":
        message = f"{name} was a data frame in memory: only the run can show it"
        return Finding("data", "not reproducible", message)
    if reference.uri is None:
        return Finding("data", "not reproducible", f"{name}: where it lay was not recorded")
    if "://" in reference.uri or not reference.digest.startswith(_OURS):
        message = f"{name} at {reference.uri} is not read: its digest is another tool's"
        return Finding("data", "not reproducible", message)
    found = None
    for candidate in _candidates(reference, places):
        finding = _compare(name, reference, candidate)
        if found is None or (finding.outcome == "match" != found[1].outcome):
            found = candidate, finding
    if found is None:
        return Finding("data", "not reproducible", f"{name} is not at {reference.uri}")
    _link(reference, found[0], places)
    return found[1]


def _candidates(reference: DatasetReference, places: Places) -> Iterator[Path]:
    path = Path(_path(reference))
    inside = _inside(path, places)
    if inside is not None and inside.exists():
        yield inside
        return
    if path.is_absolute():
        choices = [path, find_below(path, places.source)]
    else:
        folder = places.source / places.directory
        choices = [folder / path, places.source / path, find_below(path, places.source)]
    yield from (choice for choice in choices if choice is not None and choice.exists())


def _path(reference: DatasetReference) -> str:
    """Return the path in a reference; that of a Delta table has its version behind it."""
    path, _, version = (reference.uri or "").rpartition("@")
    delta = reference.digest.startswith("delta:") or reference.format == "delta"
    return path if delta and version.isdecimal() else reference.uri or ""


def _inside(path: Path, places: Places) -> Path | None:
    """Return where the code will look for the path within our folder; None when elsewhere."""
    if not path.is_absolute():
        place = Path(os.path.normpath(places.top / places.directory / path))
    elif path.is_relative_to(places.source):
        place = places.top / path.relative_to(places.source)
    elif not path.exists() and (below := find_below(path, places.source)) is not None:
        place = places.top / below.relative_to(places.source)
    else:
        return None
    return place if place.is_relative_to(places.work) else None


def _compare(name: str, reference: DatasetReference, path: Path) -> Finding:
    try:
        digest = _digest(reference, path)
    except (ModelplaneError, OSError) as error:
        return Finding("data", "not reproducible", f"{name}: {error}")
    details = {"name": name, "recorded": reference.digest, "found": digest, "path": str(path)}
    if digest == reference.digest:
        return Finding("data", "match", f"{name}: the same data at {path}", details)
    message = f"{name}: the data at {path} is not what was recorded"
    return Finding("data", "differs", message, details)


def _digest(reference: DatasetReference, path: Path) -> str:
    if reference.digest.startswith("md5:"):
        if path.is_file():
            return f"md5:{_md5(path)}"
        # A folder: DVC's own word, which is committed beside it.
        return describe_data(path.with_name(f"{path.name}.dvc")).digest
    version = (reference.uri or "")[len(_path(reference)) :]
    return describe_data(f"{path}{version}").digest


def _md5(path: Path) -> str:
    digest = hashlib.md5(usedforsecurity=False)
    with path.open("rb") as stream:
        while piece := stream.read(_PIECE):
            digest.update(piece)
    return digest.hexdigest()


def _link(reference: DatasetReference, path: Path, places: Places) -> None:
    inside = _inside(Path(_path(reference)), places)
    if inside is None or inside.exists() or inside.is_symlink():
        return
    inside.parent.mkdir(parents=True, exist_ok=True)
    inside.symlink_to(path.resolve())
