"""What stages are run by here: digests of their code and of the installed packages.

Called once by `control_plane` when it starts. Results of stages are reused only while both are
the same (`decisions.gate_keys`).
"""

from __future__ import annotations

import hashlib
import platform
import sys
from collections.abc import Iterable
from importlib.util import find_spec
from pathlib import Path

from modelplane.decisions.gate_keys import StagePlace

_CODE = (
    "modelplane.stages",
    "modelplane.stats",
    "modelplane.decisions",
    "modelplane.resources",
    "modelplane.adapters.runtime",
    "modelplane_runtime",
)
"""What a stage's job and the model server it starts are made of."""


def find_place(public_key: Path | None = None) -> StagePlace:
    """Return what stages are run by on this machine; takes some 10 ms.

    Parameters
    ----------
    public_key
        File with this modelplane's own key for signatures, PEM; may be missing.
    """
    key = public_key.read_text() if public_key is not None and public_key.is_file() else ""
    return StagePlace(digest_code(_CODE), digest_packages(sys.path), key)


def digest_code(packages: Iterable[str]) -> str:
    """Return the SHA-256 over the source files of packages, hex."""
    digest = hashlib.sha256()
    for package in packages:
        spec = find_spec(package)
        for place in spec.submodule_search_locations or () if spec else ():
            for file in sorted(Path(place).rglob("*.py")):
                content = hashlib.sha256(file.read_bytes()).hexdigest()
                digest.update(
                    f"{package}/{file.relative_to(place).as_posix()} {content}\n".encode()
                )
    return digest.hexdigest()


def digest_packages(search_path: Iterable[str]) -> str:
    """Return the SHA-256 over Python's version and every installed package's, hex.

    Packages are told by the folders ``NAME-VERSION.dist-info`` of the `search_path`.
    """
    found = {
        info.name.removesuffix(".dist-info").lower()
        for place in search_path
        for info in Path(place or ".").glob("*.dist-info")
    }
    lock = [f"python-{platform.python_version()}-{platform.machine()}", *sorted(found)]
    return hashlib.sha256("\n".join(lock).encode()).hexdigest()
