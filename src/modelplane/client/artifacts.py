"""The bytes of an artifact: its digest, its tar stream, its format.

Used by the client that pushes, by the blob store that keeps, and by the agent that runs. Only
the standard library, so that a training process can import it.
"""

from __future__ import annotations

import hashlib
import os
import stat
import tarfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO

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


@dataclass(frozen=True, slots=True)
class FileDigest:
    """One file of a tree.

    Attributes
    ----------
    path
        Within the tree, with forward slashes.
    size_bytes
        Its length.
    sha256
        Of its content, hex.
    """

    path: str
    size_bytes: int
    sha256: str


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
        return [(_check_name(path, path.name), path)]
    found: list[tuple[str, Path]] = []

    def fail(error: OSError) -> None:
        raise _unreadable(Path(error.filename or path), error)

    for folder, names, files in os.walk(path, onerror=fail):
        for name in [*names, *files]:
            file = Path(folder) / name
            try:
                mode = file.lstat().st_mode
            except OSError as error:
                raise _unreadable(file, error) from error
            if stat.S_ISREG(mode):
                found.append((_check_name(file, file.relative_to(path).as_posix()), file))
            elif not stat.S_ISDIR(mode):
                raise _refused(file, "an artifact holds plain files and folders, no links")
    if not found:
        raise _refused(path, "it holds no file")
    return sorted(found)


def digest_files(path: Path) -> list[FileDigest]:
    """Read a file or folder and return the digest of each file; raises `InvalidResource`."""
    found = []
    for name, file in list_files(path):
        content = hashlib.sha256()
        size_bytes = 0
        try:
            with file.open("rb") as stream:
                while piece := stream.read(_PIECE):
                    content.update(piece)
                    size_bytes += len(piece)
        except OSError as error:
            raise _unreadable(file, error) from error
        found.append(FileDigest(name, size_bytes, content.hexdigest()))
    return found


def combine_digests(files: Sequence[FileDigest]) -> TreeDigest:
    """Return the digest of a tree from those of its files, given in the order of the paths."""
    lines = (f"{one.path}\0{one.size_bytes}\0{one.sha256}\n".encode() for one in files)
    digest = hashlib.sha256(b"".join(lines)).hexdigest()
    return TreeDigest(f"sha256:{digest}", sum(one.size_bytes for one in files), len(files))


def digest_tree(path: Path) -> TreeDigest:
    """Compute the digest of a file (a tree of one) or a folder; raises `InvalidResource`."""
    return combine_digests(digest_files(path))


def tar_stream(path: Path) -> Iterator[bytes]:
    """Yield a file or folder as a tar stream that depends on nothing but the content.

    Raises
    ------
    InvalidResource
        When something cannot be read, or became shorter meanwhile.
    """
    for name, file in list_files(path):
        try:
            with file.open("rb") as stream:
                yield from _tar_entry(name, file, stream)
        except OSError as error:
            raise _unreadable(file, error) from error
    yield b"\0" * (2 * tarfile.BLOCKSIZE)


def _tar_entry(name: str, file: Path, stream: IO[bytes]) -> Iterator[bytes]:
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


def detect_format(path: Path) -> ArtifactFormat | None:
    """Return the format that a file or folder shows, or None when it shows none."""
    if path.is_dir():
        if (path / "MLmodel").is_file():
            return "mlflow"
        files = list_files(path)
        return _FORMATS.get(files[0][1].suffix.lower()) if len(files) == 1 else None
    return _FORMATS.get(path.suffix.lower())


def _check_name(file: Path, name: str) -> str:
    try:
        name.encode()
    except UnicodeEncodeError:
        raise _refused(file, "the name of the file is not UTF-8") from None
    return name


def _unreadable(file: Path, error: OSError) -> InvalidResource:
    return _refused(file, error.strerror or "unreadable")


def _refused(path: Path, message: str) -> InvalidResource:
    return InvalidResource(
        f"the artifact {_printable(path)} cannot be taken", [FieldError("artifact", message)]
    )


def _printable(path: Path) -> str:
    """Return a path as text that can be sent, whatever bytes the name holds."""
    return str(path).encode(errors="backslashreplace").decode()
