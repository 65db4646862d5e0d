"""What stands in a version's files that speaks against loading them: each file, by its content.

Called by the security scan. Loads nothing: pickles are followed by `modelplane_runtime`'s scanner,
archives are opened member by member, ONNX graphs and skops files are read for what they refer to.
A file that cannot be read, or that hides what it is, is an error.
"""

from __future__ import annotations

import ast
import io
import mmap
import pickletools
import re
import struct
import zipfile
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import IO, Any

import skops.io
from picklescan.scanner import SafetyLevel, scan_bytes

from modelplane.client.artifacts import list_files
from modelplane.resources.gate_run import Finding
from modelplane.resources.revision import ArtifactFormat
from modelplane.stages.graph_scan import GraphUnreadable, escapes, read_graph
from modelplane_runtime.models.skops_file import is_trusted
from modelplane_runtime.pickle_scan import scan_pickle

_PICKLE_SUFFIXES = frozenset({".joblib", ".pkl", ".pickle", ".pt", ".pth", ".ckpt", ".dill"})
_COMPRESSED = (b"\x78\x01", b"\x78\x5e", b"\x78\x9c", b"\x78\xda", b"\x1f\x8b", b"BZh", b"\x5d\x00",
               b"\xfd7zXZ", b"ZF", b"\x04\x22\x4d\x18")  # fmt: skip
_PROGRAMS = (b"\x7fELF", b"MZ", b"\xca\xfe\xba\xbe", b"\xcf\xfa\xed\xfe", b"#!", b"\0asm")
_CODE_SUFFIXES = frozenset({".py", ".pyc", ".sh", ".so", ".dll", ".dylib", ".exe", ".js", ".jar"})
_LAMBDA = re.compile(rb'"class_name"\s*:\s*"(Lambda|TFOpLambda)"')
_TELLING = frozenset(
    {"GLOBAL", "STACK_GLOBAL", "INST", "OBJ", "REDUCE", "NEWOBJ", "PERSID", "BINPERSID", "EXT1"}
)

_HEAD_BYTES = 2**16
_SNIFFED_BYTES = 2**20
_MAX_HEADER_BYTES = 2**20
_MAX_MEMBERS = 10_000
_MAX_MEMBER_BYTES = 2**31
_MAX_UNPACKED_BYTES = 2**34
_MAX_DEPTH = 4
_MAX_NAMES = 500


@dataclass(slots=True)
class ArtifactScan:
    """What was found in one artifact.

    Attributes
    ----------
    allowed, trusted_types
        Further names for pickles, and types for skops files, that the user allows.
    findings
        In the order of the files.
    names
        What its pickles import.
    kinds
        How many files of each kind it has.
    """

    allowed: frozenset[str] = frozenset()
    trusted_types: frozenset[str] = frozenset()
    findings: list[Finding] = field(default_factory=list)
    names: set[str] = field(default_factory=set)
    kinds: dict[str, int] = field(default_factory=dict)
    unpacked_bytes: int = 0

    def add(self, severity: Any, code: str, message: str, where: str) -> None:
        """Note a finding."""
        finding = Finding(severity=severity, code=code, message=message[:1000], where=where[:300])
        self.findings.append(finding)

    def scan(self, folder: Path, format: ArtifactFormat) -> None:
        """Look at every file of an artifact of `format`."""
        files = list_files(folder)
        main = main_files([name for name, _ in files], format)
        if format in _MAIN_SUFFIXES and len(main) != 1:
            message = f"a version of format {format} has one such file, this has {len(main)}"
            self.add("error", "MainFileUnclear", message, "")
        for name, path in files:
            try:
                with path.open("rb") as file:
                    kind = self._scan_file(name, file, 0, is_main=name in main)
            except OSError as error:
                message = f"the file cannot be read: {error.strerror or error}"
                self.add("error", "Unreadable", message, name)
                continue
            self.kinds[kind] = self.kinds.get(kind, 0) + 1
            if name in main and kind not in _MAIN_KINDS[format]:
                self.add("error", "NotItsFormat", f"the file is no {format} file", name)
            elif kind == "unknown":
                severity = "error" if format == "joblib" else "warning"
                self.add(severity, "UnknownFile", "what this file holds is not known", name)

    def _scan_file(self, name: str, file: IO[bytes], depth: int, *, is_main: bool = False) -> str:
        """Look at one file; return what kind it is."""
        head = file.read(_HEAD_BYTES)
        suffix = PurePosixPath(name.lower()).suffix
        zipped = zipfile.is_zipfile(file)
        if suffix == ".skops" and zipped and is_main:
            self._scan_skops(name, file)
        if zipped or head.startswith(b"PK\x03\x04"):
            self._scan_zip(name, file, depth)
            if head.startswith(b"PK"):
                return "skops" if suffix == ".skops" else "zip"
        if head.startswith(b"\x93NUMPY"):
            self._scan_numpy(name, file)
            return "numpy"
        if suffix == ".onnx":
            self._scan_graph(name, file)
            return "onnx"
        if suffix in _PICKLE_SUFFIXES or _looks_like_pickle(head, file):
            self._scan_pickle(name, file)
            return "pickle"
        if head.startswith(_COMPRESSED):
            return self._scan_compressed(name, file)
        if suffix in _CODE_SUFFIXES or head.startswith(_PROGRAMS):
            message = "the file is a program; nothing runs it unless the model's format does"
            self.add("warning", "Program", message, name)
            return "program"
        if _holds_lambda(file):
            message = "the model holds a Keras Lambda layer: loading it runs code that it carries"
            self.add("error", "KerasLambda", message, name)
        return "text" if _is_text(head) else "unknown"

    # Pickles ----------------------------------------------------------------------------------

    def _scan_pickle(self, name: str, file: IO[bytes]) -> None:
        found = scan_pickle(file, allowed=self.allowed)
        if len(self.names) < _MAX_NAMES:
            self.names |= set(found.names)
        for fault in found.faults:
            message = f"the pickle {fault.message}"
            self.add("error", "PickleNotAllowed", message, f"{name}, byte {fault.position}")
        self._ask_picklescan(name, file)

    def _ask_picklescan(self, name: str, file: IO[bytes]) -> None:
        """Ask for a second opinion; what it cannot read, ours has read or refused."""
        file.seek(0)
        try:
            found = scan_bytes(file, name, PurePosixPath(name).suffix.lower())
        except Exception as error:  # it is not made for every file that ours refuses
            self.add("info", "PicklescanFailed", f"picklescan: {type(error).__name__}", name)
            return
        for imported in found.globals:
            whole = f"{imported.module}.{imported.name}"
            if imported.safety == SafetyLevel.Dangerous and whole not in self.allowed:
                message = f"picklescan holds {whole} to be dangerous"
                self.add("error", "Picklescan", message, name)

    def _scan_compressed(self, name: str, file: IO[bytes]) -> str:
        """Look into a compressed file that may be a pickle: any but a pickle is not known."""
        found = scan_pickle(file, allowed=self.allowed)
        # What was a pickle up to its first fault is one.
        if found.names or not found.faults or found.faults[0].position > 0:
            self._scan_pickle(name, file)
            return "pickle"
        return "unknown"

    # Archives ---------------------------------------------------------------------------------

    def _scan_zip(self, name: str, file: IO[bytes], depth: int) -> None:
        if depth >= _MAX_DEPTH:
            self.add("error", "TooDeep", "archives are nested too deeply to be looked into", name)
            return
        try:
            with zipfile.ZipFile(file) as archive:
                members = [member for member in archive.infolist() if not member.is_dir()]
                if len(members) > _MAX_MEMBERS:
                    message = f"it has more than {_MAX_MEMBERS:,} members"
                    self.add("error", "TooManyMembers", message, name)
                for member in members[:_MAX_MEMBERS]:
                    self._scan_member(name, archive, member, depth)
        except (zipfile.BadZipFile, OSError, ValueError, EOFError) as error:
            self.add("error", "ArchiveUnreadable", f"the archive cannot be read: {error}", name)

    def _scan_member(
        self, name: str, archive: zipfile.ZipFile, member: zipfile.ZipInfo, depth: int
    ) -> None:
        where = f"{name}/{member.filename}"
        self.unpacked_bytes += member.file_size
        large = member.file_size > _MAX_MEMBER_BYTES
        if large or self.unpacked_bytes > _MAX_UNPACKED_BYTES:
            message = f"it unpacks to {member.file_size:,} bytes, which is not looked at"
            self.add("error", "TooLarge", message, where)
            return
        try:
            content = archive.read(member)
        except (zipfile.BadZipFile, RuntimeError, NotImplementedError, OSError, EOFError) as error:
            self.add("error", "ArchiveUnreadable", f"a member cannot be read: {error}", where)
            return
        except Exception as error:  # zlib.error and the like, which have no common class
            self.add("error", "ArchiveUnreadable", f"a member is damaged: {error}", where)
            return
        self._scan_file(where, io.BytesIO(content), depth + 1)

    def _scan_numpy(self, name: str, file: IO[bytes]) -> None:
        """Look at a ``.npy`` file: an array of objects is a pickle behind its header."""
        try:
            holds_objects = _read_numpy_header(file)
        except (ValueError, KeyError, TypeError, SyntaxError, struct.error, MemoryError):
            self.add("error", "Unreadable", "the header of the array cannot be read", name)
            return
        if holds_objects:
            self._scan_pickle(name, io.BytesIO(file.read()))

    # Other formats ----------------------------------------------------------------------------

    def _scan_skops(self, name: str, file: IO[bytes]) -> None:
        file.seek(0)
        try:
            types = skops.io.get_untrusted_types(data=file.read())
        except Exception as error:  # whatever it is, skops will not load it either
            message = f"skops cannot read the file: {type(error).__name__}: {error}"
            self.add("error", "Unreadable", message, name)
            return
        for type_name in types:
            if not is_trusted(type_name) and type_name not in self.trusted_types:
                message = f"the file holds {type_name}, which is not trusted"
                self.add("error", "TypeNotTrusted", message, name)

    def _scan_graph(self, name: str, file: IO[bytes]) -> None:
        try:
            with mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as content:
                graph = read_graph(content[:])
        except (GraphUnreadable, ValueError, OSError) as error:
            self.add("error", "Unreadable", f"the graph cannot be read: {error}", name)
            return
        for data_file in sorted(graph.data_files):
            if escapes(data_file):
                message = f"the graph reads {data_file[:200]}, which is not in the model's folder"
                self.add("error", "OutsideFile", message, name)
        if graph.domains:
            message = f"operators that are not ONNX's own: {', '.join(sorted(graph.domains))}"
            self.add("warning", "ForeignOperators", message, name)


_MAIN_SUFFIXES: dict[str, tuple[str, ...]] = {
    "joblib": (".joblib", ".pkl", ".pickle"),
    "skops": (".skops",),
    "onnx": (".onnx",),
}
_MAIN_KINDS: dict[str, frozenset[str]] = {
    "joblib": frozenset({"pickle"}),
    "skops": frozenset({"skops"}),
    "onnx": frozenset({"onnx"}),
    "mlflow": frozenset({"pickle", "skops", "onnx"}),
    "command": frozenset(),
}


def main_files(names: Iterable[str], format: ArtifactFormat) -> set[str]:
    """Return the file that the model server would load: the only one, or that of the suffix."""
    every = list(names)
    suffixes = _MAIN_SUFFIXES.get(format)
    if format == "mlflow":
        return {name for name in every if name.lower().endswith((".skops", ".onnx"))}
    if suffixes is None:
        return set()
    if len(every) == 1:
        return set(every)
    return {name for name in every if PurePosixPath(name.lower()).suffix in suffixes}


def _looks_like_pickle(head: bytes, file: IO[bytes]) -> bool:
    """Whether a file without a telling name is a pickle: of any protocol, also the first ones."""
    if head[:1] == b"\x80" and len(head) > 1 and head[1] <= 5:
        return True
    file.seek(0)
    telling = False
    try:
        for opcode, _, _ in pickletools.genops(file.read(_SNIFFED_BYTES)):
            telling = telling or opcode.name in _TELLING
    except (ValueError, OverflowError, IndexError, EOFError):
        # What began like a pickle and imports something is not harmless for being broken.
        return telling and head[:1] in b"c(\x80"
    return telling


def _read_numpy_header(file: IO[bytes]) -> bool:
    """Whether the array holds objects; leaves the file behind its header."""
    file.seek(6)
    major, _ = file.read(2)
    (size,) = struct.unpack(*(("<H", file.read(2)) if major == 1 else ("<I", file.read(4))))
    if size > _MAX_HEADER_BYTES:
        raise ValueError("the header is too large")
    header = ast.literal_eval(file.read(size).decode("latin-1"))
    return _names_objects(header["descr"])


def _names_objects(descr: Any) -> bool:
    if isinstance(descr, str):
        return "O" in descr
    if isinstance(descr, list | tuple):
        return any(_names_objects(part) for part in descr if not isinstance(part, int))
    raise ValueError("the type is no description")


def _holds_lambda(file: IO[bytes]) -> bool:
    file.seek(0)
    before = b""
    while piece := file.read(_SNIFFED_BYTES):
        if _LAMBDA.search(before + piece):
            return True
        before = piece[-100:]
    return False


def _is_text(head: bytes) -> bool:
    if b"\0" in head:
        return False
    try:
        head.decode()
    except UnicodeDecodeError as error:
        return error.start > len(head) - 4 and len(head) == _HEAD_BYTES
    return True
