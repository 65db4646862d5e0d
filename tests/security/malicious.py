"""Files that do harm when they are loaded, or would if a scanner could be misled: made, not kept.

No payload does more than it must to be one; nothing here is ever loaded by a test that expects
it to be refused.
"""

from __future__ import annotations

import bz2
import gzip
import io
import lzma
import pickle
import struct
import zipfile
import zlib
from collections.abc import Callable
from functools import partial
from typing import Any

import cloudpickle  # type: ignore[import-untyped]
import joblib
import numpy as np
from sklearn.linear_model import LogisticRegression
from sklearn.preprocessing import FunctionTransformer

COMMAND = "true"


def text(value: str) -> bytes:
    """SHORT_BINUNICODE."""
    return b"\x8c" + bytes([len(value.encode())]) + value.encode()


def imported(module: str, name: str, protocol: int = 4) -> bytes:
    """The instructions that import a name."""
    if protocol < 4:
        return b"c" + f"{module}\n{name}\n".encode()
    return text(module) + text(name) + b"\x93"


def program(*parts: bytes, protocol: int = 4) -> bytes:
    """A whole pickle."""
    head = b"\x80" + bytes([protocol]) if protocol >= 2 else b""
    return head + b"".join(parts) + b"."


def calling(module: str, name: str, *arguments: bytes) -> bytes:
    """A pickle that calls one name."""
    return program(imported(module, name), b"(", *arguments, b"tR")


class Reduced:
    """Pickled as a call."""

    def __init__(self, function: Any, *arguments: Any) -> None:
        self.call = (function, arguments)

    def __reduce__(self) -> Any:
        return self.call


def shell() -> bytes:
    """The plainest of them."""
    return calling("os", "system", text(COMMAND))


def fitted() -> Any:
    rows = np.arange(20.0).reshape(10, 2)
    return LogisticRegression().fit(rows, np.arange(10) % 2)


def joblib_bytes(value: Any, compress: Any = 0) -> bytes:
    stream = io.BytesIO()
    joblib.dump(value, stream, compress=compress)
    return stream.getvalue()


def zipped(**members: bytes) -> bytes:
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w") as archive:
        for name, content in members.items():
            archive.writestr(name.replace("__", "/").replace("_dot_", "."), content)
    return stream.getvalue()


def dtype(name: str, *state: bytes) -> bytes:
    """A numpy type with a state; `state` is the instructions of its tuple."""
    make = imported("numpy", "dtype") + b"(" + text(name) + b"\x89\x88tR"
    return make + b"(" + b"".join(state) + b"tb"


def plain_state(flags: int = 0) -> bytes:
    return b"K\x03" + text("<") + b"NNN" + 2 * b"J\xff\xff\xff\xff" + b"K" + bytes([flags])


FLOATS = dtype("f8", plain_state())


def wrapped(shape: bytes, of: bytes, *more: bytes, after: bytes = b"") -> bytes:
    """A joblib array: its wrapper, and then the bytes that are taken for the array's."""
    state = (
        b"}(" + text("subclass") + imported("numpy", "ndarray")
        + text("shape") + shape + text("order") + text("C") + text("dtype") + of
        + text("allow_mmap") + b"\x89" + b"".join(more) + b"u"
    )  # fmt: skip
    return imported("joblib.numpy_pickle", "NumpyArrayWrapper") + b")\x81" + state + b"b" + after


def whole(count: int) -> bytes:
    return b"J" + struct.pack("<i", count) + b"\x85"


def npy(content: bytes, descr: str = "|O") -> bytes:
    header = f"{{'descr': '{descr}', 'fortran_order': False, 'shape': (1,)}}\n".encode()
    return b"\x93NUMPY\x01\x00" + struct.pack("<H", len(header)) + header + content


def framed_array_trick() -> bytes:
    """A frame that ends behind the array's wrapper: Python's unpickler reads on in the frame."""
    hidden = imported("os", "system") + text(COMMAND) + b"\x85R."
    inner = wrapped(whole(len(hidden) // 8 + 1), FLOATS)
    frame = inner + hidden
    array = b"\0" * 8 * (len(hidden) // 8 + 1)
    return b"\x80\x04\x95" + struct.pack("<Q", len(frame)) + frame + array + b"."


def _named() -> dict[str, Callable[[], bytes]]:
    """Pickles that call one name each, which is not for models."""
    calls: dict[str, tuple[str, str, tuple[bytes, ...]]] = {
        "posix system": ("posix", "system", (text(COMMAND),)),
        "subprocess": ("subprocess", "Popen", (text(COMMAND),)),
        "eval": ("builtins", "eval", (text("1"),)),
        "exec": ("builtins", "exec", (text("1"),)),
        "import": ("builtins", "__import__", (text("os"),)),
        "compile": ("builtins", "compile", (text("1"), text(""), text("exec"))),
        "open": ("builtins", "open", (text("x"), text("w"))),
        "attribute of a module": ("builtins", "getattr", (imported("numpy", "ndarray"), text("x"))),
        "operator": ("operator", "attrgetter", (text("system"),)),
        "method caller": ("_operator", "methodcaller", (text("system"), text(COMMAND))),
        "importlib": ("importlib", "import_module", (text("os"),)),
        "runpy": ("runpy", "run_path", (text("x.py"),)),
        "pip": ("pip", "main", (text("install"),)),
        "ctypes": ("ctypes", "CDLL", (text("x.so"),)),
        "browser": ("webbrowser", "open", (text("x"),)),
        "numpy testing": ("numpy.testing._private.utils", "runstring", (text("1"), b"}")),
        "numpy f2py": ("numpy.f2py.crackfortran", "getlincoef", (text("1"), b"}")),
        "numpy load": ("numpy", "load", (text("x.npy"),)),
        "numpy memmap": ("numpy", "memmap", (text("x"),)),
        "ufunc by name": ("numpy.core", "_ufunc_reconstruct", (text("os"), text("system"))),
        "joblib memory": ("joblib.memory", "Memory", (text("/"),)),
        "joblib parallel": ("sklearn.utils.parallel", "Parallel", ()),
        "joblib load": ("joblib", "load", (text("x"),)),
        "reader of sklearn": ("sklearn.datasets", "load_svmlight_file", (text("x"),)),
        "path within sklearn": ("sklearn.utils._repr_html.base", "Path", (text("x"),)),
        "attribute path": ("sklearn.linear_model", "warnings.sys.exit", ()),
        "pandas eval": ("pandas", "eval", (text("1"),)),
        "pandas read": ("pandas.io.pickle", "read_pickle", (text("x"),)),
        "pandas query": ("pandas.core.frame", "DataFrame.query", (text("1"),)),
        "scipy template": ("scipy.stats._continuous_distns", "norm_gen", ()),
        "code": ("types", "CodeType", ()),
        "partial": ("functools", "partial", (imported("os", "system"), text(COMMAND))),
        "bound name": ("copyreg", "_reconstructor", (imported("os", "_wrap_close"), b"N", b"N")),
        "a call of a metric": ("sklearn.metrics._classification", "accuracy_score", ()),
        "zeros without bound": ("builtins", "bytearray", (b"J\xff\xff\xff\x7f",)),
        "array without bound": (
            "numpy.core.multiarray",
            "_reconstruct",
            (imported("numpy", "ndarray"), whole(2**30), text("b")),
        ),
        "codec bomb": ("_codecs", "encode", (text("x"), text("zlib"))),
        "factory": ("collections", "defaultdict", (imported("os", "getpid"),)),
        "class of a wrapper": (
            "sklearn.neighbors._kd_tree",
            "newObj",
            (imported("joblib.numpy_pickle", "NumpyArrayWrapper"),),
        ),
    }
    return {
        title: partial(calling, module, name, *arguments)
        for title, (module, name, arguments) in calls.items()
    }


def _odd() -> dict[str, Callable[[], bytes]]:
    """Pickles that hide what they import, or that Python reads otherwise than they look."""
    system, argument = imported("os", "system"), text(COMMAND) + b"\x85"
    old = imported("os", "system", 0)
    return {
        "protocol 0": lambda: program(old, b"(S'true'\ntR", protocol=0),
        "protocol 1": lambda: program(old, b"(U\x04truetR", protocol=1),
        "renamed module": lambda: program(b"c__builtin__\neval\n(U\x011tR", protocol=2),
        "INST": lambda: program(b"(S'true'\nios\nsystem\n", protocol=0),
        "OBJ": lambda: program(b"(", imported("os", "system", 1), b"U\x04trueo", protocol=1),
        "NEWOBJ": lambda: program(imported("subprocess", "Popen"), argument, b"\x81"),
        "NEWOBJ_EX": lambda: program(imported("subprocess", "Popen"), argument, b"}\x92"),
        "only named": lambda: program(system),
        "name through the memo": lambda: program(
            text("os") + b"\x94" + text("system") + b"\x94", b"00", b"h\x00h\x01\x93", argument,
            b"R",
        ),
        "function through the memo": lambda: program(system + b"q\x050", b"h\x05", argument, b"R"),
        "memo written over": lambda: program(
            text("numpy") + b"q\x000" + text("os") + b"q\x000", b"h\x00" + text("system") + b"\x93",
            argument, b"R",
        ),
        "name by DUP": lambda: program(text("os") + b"2\x93"),
        "computed name": lambda: program(
            text("os"), imported("builtins", "str"), b")R", b"\x93", argument, b"R"
        ),
        "name made of bytes": lambda: program(b"C\x02os", text("system"), b"\x93", argument, b"R"),
        "extension": lambda: program(b"\x82\x01", argument, b"R"),
        "extension of 4 bytes": lambda: program(b"\x84\x01\0\0\0"),
        "persistent id": lambda: program(b"Pos.system\n", protocol=0),
        "persistent id on the stack": lambda: program(text("x") + b"Q"),
        "buffer outside": lambda: program(b"\x97", protocol=5),
        "unknown instruction": lambda: program(b"\xff"),
        "truncated": lambda: shell()[:-3],
        "no STOP": lambda: pickle.dumps([1, 2, 3])[:-1],
        "empty": lambda: b"",
        "rubbish behind": lambda: pickle.dumps([1]) + b"\xfe\xfe",
        "another pickle behind": lambda: pickle.dumps(fitted()) + shell(),
        "stack underflow": lambda: program(b"R"),
        "memo that is not there": lambda: program(b"h\x07"),
        "frame that hides": lambda: b"\x80\x04\x95\x05" + b"\0" * 7 + shell()[2:],
        "frame within a frame": lambda: (
            b"\x80\x04\x95\x20" + b"\0" * 7 + b"\x95\x02" + b"\0" * 7 + shell()[2:]
        ),
        "text without end": lambda: b"c" + b"a" * 3_000_000,
        "length beyond the file": lambda: b"\x80\x04\x8e" + b"\xff" * 7 + b"\x0f.",
    }  # fmt: skip


def _misused() -> dict[str, Callable[[], bytes]]:
    """Pickles that do with allowed names what models do not."""
    estimator = imported("sklearn.pipeline", "Pipeline") + b")\x81"
    metric = imported("sklearn.metrics._classification", "accuracy_score")
    special = b"}" + text("__setstate__") + metric + b"s"
    return {
        "special attribute": lambda: program(estimator, special, b"b", b")b"),
        "special attribute by a dict that grows": lambda: program(
            b"}q\x000", estimator, b"h\x00b", b"h\x00" + text("__setstate__") + metric + b"s"
        ),
        "partial of another": lambda: program(
            imported("functools", "partial"), imported("numpy", "mean"), b"\x85R",
            b"(", imported("builtins", "set"), b")}Ntb",
        ),
        "partial of a call": lambda: program(
            imported("functools", "partial"), imported("numpy", "dtype"), b"\x85R"
        ),
        "state of a class": lambda: program(
            imported("sklearn.pipeline", "Pipeline"), b"N}", text("predict"), metric, b"s\x86b"
        ),
        "state from a mapping": lambda: program(
            estimator, imported("collections", "OrderedDict"), b")R", text("__setstate__"), metric,
            b"s", b"b",
        ),
        "call of an instance": lambda: program(estimator, b")R"),
        "list of an estimator": lambda: program(estimator, b"N", b"a"),
        "cloudpickled function": lambda: cloudpickle.dumps(lambda x: x + 1),
        "cloudpickled estimator": lambda: cloudpickle.dumps(
            FunctionTransformer(func=lambda rows: rows)
        ),
        "function of os in an estimator": lambda: pickle.dumps(FunctionTransformer(func=os_call())),
    }  # fmt: skip


def os_call() -> Any:
    import os  # noqa: PLC0415

    return os.system


def _arrays() -> dict[str, Callable[[], bytes]]:
    """Files whose arrays hide instructions, or lie about their type."""
    trap = Reduced(os_call(), COMMAND)
    objects = dtype("O8", plain_state(63))
    empty_names = b"\x89" + text("x")
    return {
        "in an object array": lambda: pickle.dumps(np.array([trap], dtype=object)),
        "in joblib": lambda: joblib_bytes({"model": fitted(), "trap": trap}),
        "in joblib's object array": lambda: joblib_bytes(np.array([trap, trap], dtype=object)),
        "behind an array of joblib": lambda: joblib_bytes([np.zeros(7), trap]),
        "in zlib": lambda: joblib_bytes(trap, 3),
        "in gzip": lambda: gzip.compress(shell()),
        "in bz2": lambda: bz2.compress(shell()),
        "in lzma": lambda: lzma.compress(shell(), format=lzma.FORMAT_ALONE),
        "in xz": lambda: lzma.compress(shell()),
        "behind zlib": lambda: zlib.compress(pickle.dumps([1])) + shell(),
        "zlib cut off": lambda: zlib.compress(pickle.dumps(list(range(1000))))[:-20],
        "array shorter than said": lambda: b"\x80\x04" + wrapped(whole(2**20), FLOATS) + b".",
        "array larger than memory": lambda: program(
            wrapped(whole(2**31 - 1)[:-1] + whole(2**31 - 1)[:-1] + b"\x86", FLOATS)
        ),
        "array of a negative size": lambda: program(wrapped(whole(-1), FLOATS), shell()[2:-1]),
        "array in a frame": framed_array_trick,
        "wrapper built twice": lambda: program(
            imported("joblib.numpy_pickle", "NumpyArrayWrapper"), b")\x81\x94}bh\x00}b"
        ),
        "wrapper with a method": lambda: program(
            wrapped(whole(0), FLOATS, text("read"), imported("numpy", "mean"))
        ),
        "type that hides objects": lambda: program(
            wrapped(whole(1), dtype("O8", plain_state(0)), after=shell())
        ),
        "numbers that claim objects": lambda: program(
            wrapped(whole(1), dtype("f8", plain_state(63)), after=b"\0" * 8)
        ),
        "fields that hide objects": lambda: program(
            dtype(
                "V8",
                b"K\x03" + text("|") + b"N" + text("a") + b"\x85",
                b"}" + text("a") + objects + b"K\0\x86sK\x08K\x01K\0",
            )
        ),
        "fields over the end": lambda: program(
            dtype(
                "V8",
                b"K\x03" + text("|") + b"N" + text("a") + b"\x85",
                b"}" + text("a") + FLOATS + b"M\xff\x0f\x86sK\x08K\x01K\0",
            )
        ),
        "numpy's own type changed": lambda: program(
            imported("numpy", "dtype") + b"(" + text("f8") + b"\x89\x89tR",
            b"(" + plain_state() + b"tb",
        ),
        "type changed after its use": lambda: program(
            dtype("V8", b"K\x03" + text("|") + b"NNNK\x08K\x01K\0") + b"\x94",
            b"(K\x03" + text("|") + b"NNNJ\xff\xff\xff\x0fK\x01K\0tb", empty_names, b"0",
        ),
        "old joblib": lambda: b"ZF" + zlib.compress(shell()),
        "LZ4": lambda: b"\x04\x22\x4d\x18" + shell(),
    }  # fmt: skip


def _archives() -> dict[str, Callable[[], bytes]]:
    """Files that hold others."""
    return {
        "npy": lambda: npy(shell()),
        "npy with fields": lambda: npy(shell(), descr="|O8"),
        "npy with a broken header": lambda: npy(shell()).replace(b"'descr'", b"'descx'"),
        "npz": lambda: zipped(weights_dot_npy=npy(shell())),
        "torch": lambda: zipped(archive__data_dot_pkl=shell(), archive__version=b"3"),
        "pickle without a suffix in a zip": lambda: zipped(data=shell()),
        "old pickle in a zip": lambda: zipped(
            data_dot_bin=program(b"cos\nsystem\n(tR", protocol=0)
        ),
        "zip in a zip": lambda: zipped(inner_dot_zip=zipped(a_dot_pkl=shell())),
        "gzip in a zip": lambda: zipped(a_dot_gz=gzip.compress(shell())),
        "zip cut off": lambda: zipped(a_dot_pkl=shell())[:-10],
    }


PICKLES: dict[str, Callable[[], bytes]] = _named() | _odd() | _misused() | _arrays()
"""Files for joblib to load, by what they try."""

ARCHIVES = _archives()
"""Files of other kinds, which an artifact may hold beside its model."""
