"""The bytes of an artifact: its digest, its tar stream, its format.

Used by the client that pushes, by the blob store that keeps, and by the agent that runs. Only
the standard library, so that a training process can import it.
"""

from __future__ import annotations

import hashlib
import os
import stat
import tarfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from modelplane.errors import FieldError, InvalidResource
from modelplane.resources.revision import ArtifactFormat

_PIECE = 1 << 20
_FORMATS: dict[str, ArtifactFormat] = {
    ".onnx": "onnx",
    ".skops": "skops",
    ".joblib": "joblib",
    ".pkl": "joblib",
    ".pickle": "joblib",
}


EMPTY_DIGEST = f"sha256:{hashlib.sha256().hexdigest()}"
"""The digest of a tree without files: what a version has that is only a command."""


@dataclass(frozen=True, slots=True)
class TreeDigest:
    """A tree of files by its content.

    Attributes
    ----------
    digest
        ``sha256:`` and hex, over each file's path, size and SHA-256 in the order of the paths.
    size_bytes
        Of all files together.
    files
        How many there are.
    """

    digest: str
    size_bytes: int
    files: int


def list_files(path: Path) -> list[tuple[str, Path]]:
    """Return (path within the tree, file) of a file or folder, in the order of the paths.

    Raises
    ------
    InvalidResource
        When there is nothing, something cannot be read, or the tree holds anything but plain
        files and folders.
    """
    if not path.exists():
        raise _refused(path, "there is no such file or folder")
    if path.is_file():
        return [(path.name, path)]
    found: list[tuple[str, Path]] = []

    def fail(error: OSError) -> None:
        raise _refused(Path(error.filename or path), error.strerror or "unreadable")

    for folder, names, files in os.walk(path, onerror=fail):
        for name in [*names, *files]:
            file = Path(folder) / name
            mode = file.lstat().st_mode
            if stat.S_ISREG(mode):
                found.append((file.relative_to(path).as_posix(), file))
            elif not stat.S_ISDIR(mode):
                raise _refused(file, "an artifact holds plain files and folders, no links")
    return sorted(found)


def digest_tree(path: Path) -> TreeDigest:
    """Compute the digest of a file (a tree of one) or a folder; raises `InvalidResource`."""
    tree = hashlib.sha256()
    size_bytes = 0
    files = list_files(path)
    for name, file in files:
        content = hashlib.sha256()
        size = 0
        try:
            with file.open("rb") as stream:
                while piece := stream.read(_PIECE):
                    content.update(piece)
                    size += len(piece)
        except OSError as error:
            raise _refused(file, error.strerror or "unreadable") from error
        tree.update(f"{name}\0{size}\0{content.hexdigest()}\n".encode())
        size_bytes += size
    return TreeDigest(f"sha256:{tree.hexdigest()}", size_bytes, len(files))


def tar_stream(path: Path) -> Iterator[bytes]:
    """Yield a file or folder as a tar stream that depends on nothing but the content."""
    for name, file in list_files(path):
        with file.open("rb") as stream:
            entry = tarfile.TarInfo(name)
            entry.size = os.fstat(stream.fileno()).st_size
            entry.mode = 0o644
            yield entry.tobuf(tarfile.PAX_FORMAT)
            left = entry.size
            while left and (piece := stream.read(min(_PIECE, left))):
                left -= len(piece)
                yield piece
            if left:
                raise _refused(file, "it became shorter while it was read")
            yield b"\0" * (-entry.size % tarfile.BLOCKSIZE)
    yield b"\0" * (2 * tarfile.BLOCKSIZE)


def detect_format(path: Path) -> ArtifactFormat | None:
    """Return the format that a file or folder shows, or None when it shows none."""
    if path.is_dir():
        if (path / "MLmodel").is_file():
            return "mlflow"
        files = list_files(path)
        return _FORMATS.get(files[0][1].suffix.lower()) if len(files) == 1 else None
    return _FORMATS.get(path.suffix.lower())


def _refused(path: Path, message: str) -> InvalidResource:
    return InvalidResource(
        f"the artifact {path} cannot be taken", [FieldError("artifact", message)]
    )
