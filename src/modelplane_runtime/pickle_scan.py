"""Says what stands against loading a pickle file, without loading it.

`load_pickle` asks before it loads a file where pickles are ``scanned``, and so does the security
scan of a pipeline. Reads what ``joblib.load`` reads: plain pickles, those with arrays between the
instructions, and both compressed. Every pickle in the file is followed to its end; whatever
cannot be read or followed is a fault, so that nothing found means that nothing in the file is
outside the allowlist of `pickle_names`. It does not mean that the file is harmless: what the
allowed classes compute is the file's choice.

Never imports or executes anything from a file. Memory is bounded by the largest single value;
time by `Limits`.
"""

from __future__ import annotations

import bz2
import gzip
import io
import lzma
import zlib
from dataclasses import dataclass
from typing import IO, Protocol, cast

from modelplane_runtime.pickle_program import Fault, Findings, Program, ReadArray
from modelplane_runtime.pickle_values import Refused

__all__ = ["Fault", "Limits", "PickleScan", "scan_pickle"]

_CHUNK_BYTES = 2**20
_MAX_LINE_BYTES = 2**20
_ZFILE = b"ZF"


@dataclass(frozen=True, slots=True)
class Limits:
    """How much of a file is looked at before it is refused.

    Attributes
    ----------
    unpacked_bytes
        Of all that a compressed file unpacks to.
    instructions
        Of all pickles in the file: about half a million take a second.
    pickles
        In the file, those of object arrays included.
    """

    unpacked_bytes: int = 16 * 2**30
    instructions: int = 50_000_000
    pickles: int = 100_000


DEFAULT_LIMITS = Limits()


@dataclass(frozen=True, slots=True)
class PickleScan:
    """What was found.

    Attributes
    ----------
    faults
        What stands against loading the file; none when it may be loaded.
    names
        What it would import, sorted.
    """

    faults: tuple[Fault, ...]
    names: tuple[str, ...]


class _Readable(Protocol):
    def read(self, size: int = -1, /) -> bytes: ...


def scan_pickle(
    file: IO[bytes], *, allowed: frozenset[str] = frozenset(), limits: Limits = DEFAULT_LIMITS
) -> PickleScan:
    """Follow every pickle in a file.

    Parameters
    ----------
    file
        Open for reading, able to seek; read from its beginning to its end.
    allowed
        Further names, ``module.name``, that it may import and use in any way.
    limits
        Where looking ends, which is a fault too.
    """
    findings = Findings()
    source = None
    try:
        source = _Source(_open(file), limits.unpacked_bytes)
        _FileScan(source, findings, allowed, limits).run()
    except Refused as error:
        position = source.where() if source else 0
        findings.faults.append(Fault(position, error.message, error.name))
    except (OSError, EOFError, zlib.error, lzma.LZMAError, ValueError) as error:
        position = source.where() if source else 0
        findings.faults.append(Fault(position, f"cannot be unpacked: {error}"))
    except MemoryError:
        findings.faults.append(Fault(0, "is too large to be looked at here"))
    return PickleScan(tuple(findings.faults), tuple(sorted(findings.names)))


def _open(file: IO[bytes]) -> _Readable:
    """Return what joblib would read its instructions from, going by the first bytes as it does."""
    file.seek(0)
    start = file.read(6)
    file.seek(0)
    if not start:
        raise Refused("is empty")
    if start.startswith(_ZFILE):
        raise Refused("is in the format of joblib before 0.10, which is not read here")
    if start.startswith(b"\x04\x22\x4d\x18"):
        raise Refused("is compressed with LZ4, which is not read here")
    if start.startswith(b"\x78"):
        return _Zlib(file)
    if start.startswith(b"\x1f\x8b"):
        return cast(_Readable, gzip.GzipFile(fileobj=file, mode="rb"))
    if start.startswith(b"BZ"):
        return cast(_Readable, bz2.BZ2File(file))
    if start.startswith((b"\x5d\x00", b"\xfd7zXZ")):
        return cast(_Readable, lzma.LZMAFile(file))
    return file


class _Zlib:
    """One zlib stream, unpacked piece by piece; what follows it is refused."""

    def __init__(self, file: IO[bytes]) -> None:
        self._file = file
        self._unpacker = zlib.decompressobj()

    def read(self, size: int = -1, /) -> bytes:
        while not self._unpacker.eof:
            packed = self._unpacker.unconsumed_tail or self._file.read(_CHUNK_BYTES)
            if not packed:
                raise Refused("is cut off")
            if piece := self._unpacker.decompress(packed, max(1, size)):
                return piece
        if self._unpacker.unused_data or self._file.read(1):
            raise Refused("has something behind its compressed part")
        return b""


class _Source:
    """Bytes in order, counted and bounded; never more in memory than is there to be read."""

    def __init__(self, file: _Readable, max_bytes: int) -> None:
        self._file = file
        self._left = max_bytes
        self._buffer = b""
        self._place = 0
        self._position = 0
        self.fault_position: int | None = None

    def tell(self) -> int:
        return self._position

    def where(self) -> int:
        """Where looking ended."""
        return self._position if self.fault_position is None else self.fault_position

    def read(self, count: int, /) -> bytes:
        end = self._place + count
        if end <= len(self._buffer):  # nearly always; the rest is for what lies across two pieces
            piece = self._buffer[self._place : end]
            self._place, self._position = end, self._position + count
            return piece
        out = io.BytesIO()
        while out.tell() < count and (self._place < len(self._buffer) or self._fill()):
            out.write(self._take(count - out.tell()))
        return out.getvalue()

    def readline(self) -> bytes:
        out = bytearray()
        while self._place < len(self._buffer) or self._fill():
            end = self._buffer.find(b"\n", self._place)
            out += self._take((end + 1 or len(self._buffer)) - self._place)
            if end >= 0:
                break
            if len(out) > _MAX_LINE_BYTES:
                raise Refused("has a line without end")
        return bytes(out)

    def skip(self, count: int) -> None:
        """Pass over `count` bytes; raises `Refused` when there are fewer."""
        while count > 0:
            if self._place >= len(self._buffer) and not self._fill():
                raise Refused("is cut off within an array")
            count -= len(self._take(count))

    def at_end(self) -> bool:
        """Whether nothing is left."""
        return self._place >= len(self._buffer) and not self._fill()

    def _take(self, count: int) -> bytes:
        piece = self._buffer[self._place : self._place + count]
        self._place += len(piece)
        self._position += len(piece)
        return piece

    def _fill(self) -> bool:
        self._buffer, self._place = self._file.read(_CHUNK_BYTES), 0
        self._left -= len(self._buffer)
        if self._left < 0:
            raise Refused("unpacks to more than is looked at here")
        return bool(self._buffer)


class _FileScan:
    """All pickles of one source, one after the other."""

    def __init__(
        self, source: _Source, findings: Findings, allowed: frozenset[str], limits: Limits
    ) -> None:
        self._source = source
        self._findings = findings
        self._allowed = allowed
        self._limits = limits
        self._pickles = 0

    def run(self) -> None:
        # joblib puts arrays into the first pickle alone; it reads no further one.
        self._follow(self._read_array)
        while not self._source.at_end():
            self._follow(None)

    def _follow(self, read_array: ReadArray | None) -> None:
        self._pickles += 1
        if self._pickles > self._limits.pickles:
            raise Refused(f"holds more than {self._limits.pickles:,} pickles")
        program = Program(
            self._source,
            self._findings,
            allowed=self._allowed,
            max_instructions=self._limits.instructions,
            read_array=read_array,
        )
        try:
            program.follow()
        except Refused:
            if self._source.fault_position is None:  # a pickle within another ends that one too
                self._source.fault_position = program.position
            raise

    def _read_array(self, size: int, has_objects: bool, padded: bool) -> None:
        if has_objects:
            self._follow(None)
            return
        if padded:
            padding = self._source.read(1)
            self._source.skip(padding[0] if padding else 1)
        self._source.skip(size)
