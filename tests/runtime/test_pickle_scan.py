"""The scanner of pickles: it follows what Python executes, and refuses what it cannot follow."""

from __future__ import annotations

import _compat_pickle
import contextlib
import io
import pickle
import resource
from collections.abc import Callable
from typing import Any

import joblib
import joblib.numpy_pickle
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from sklearn.ensemble import RandomForestClassifier
from sklearn.linear_model import LogisticRegression

from modelplane_runtime import pickle_names
from modelplane_runtime.pickle_scan import Limits, PickleScan, scan_pickle
from tests.security.malicious import PICKLES, calling, imported, program, text

ROWS = np.arange(40.0).reshape(20, 2)
LABELS = np.arange(20) % 2


def scan(content: bytes, **options: Any) -> PickleScan:
    return scan_pickle(io.BytesIO(content), **options)


def dumped(value: Any, compress: Any = 0) -> bytes:
    stream = io.BytesIO()
    joblib.dump(value, stream, compress=compress)
    return stream.getvalue()


def small_models() -> list[bytes]:
    words = np.array(["late", "early"], dtype=object)
    logistic = LogisticRegression().fit(ROWS, words[LABELS])
    forest = RandomForestClassifier(n_estimators=2, random_state=0).fit(ROWS, LABELS)
    return [
        *(pickle.dumps(logistic, protocol) for protocol in range(6)),
        dumped(logistic),
        dumped(forest),
        dumped({"rows": ROWS, "words": words, "flags": np.asfortranarray(ROWS > 3)}),
    ]


MODELS = small_models()


@pytest.mark.parametrize("content", MODELS)
def test_models_pass_and_tell_what_they_import(content: bytes) -> None:
    found = scan(content)

    assert found.faults == ()
    assert all(pickle_names.judge(*name.rsplit(".", 1)) is not None for name in found.names)


def test_a_fault_names_what_is_imported_and_where() -> None:
    (fault,) = scan(calling("os", "system", text("true"))).faults

    assert fault.name == "os.system"
    assert fault.message == "imports os.system, which is not on the allowlist"
    assert fault.position == len(program(text("os") + text("system"))) - 1


def test_all_names_are_told_at_once() -> None:
    several = program(b"(", imported("os", "system"), imported("builtins", "eval"), b"t")

    assert [fault.name for fault in scan(several).faults] == ["os.system", "builtins.eval"]


def test_names_that_the_user_allows_pass_and_no_others() -> None:
    content = calling("shapes", "Circle", text("x"))

    assert scan(content, allowed=frozenset({"shapes.Circle"})).faults == ()
    assert scan(content, allowed=frozenset({"shapes.Square", "shapes"})).faults
    nested = calling("shapes", "Circle.area", text("x"))
    assert scan(nested, allowed=frozenset({"shapes.Circle.area"})).faults


@pytest.mark.parametrize(
    ("limits", "content", "message"),
    [
        (Limits(unpacked_bytes=2**16), lambda: dumped(np.zeros(10**6), 9), "unpacks to more"),
        (Limits(instructions=100), lambda: pickle.dumps(list(range(200))), "more than 100 instr"),
        (Limits(pickles=3), lambda: pickle.dumps(1) * 5, "more than 3 pickles"),
    ],
)
def test_looking_ends_and_that_is_a_fault(
    limits: Limits, content: Callable[[], bytes], message: str
) -> None:
    (fault,) = scan(content(), limits=limits).faults

    assert message in fault.message


def test_a_bomb_takes_no_memory() -> None:
    bomb = dumped(np.zeros(6 * 10**7, dtype=np.int8), ("zlib", 9))  # 60 MB in 60 kB
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    assert scan(bomb).faults == ()

    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 20_000  # kB


def test_no_allowed_name_means_another_in_old_files() -> None:
    allowed = {tuple(name.rsplit(".", 1)) for name in pickle_names._EXACT}

    assert not allowed & set(_compat_pickle.NAME_MAPPING)
    modules = {module for module, _ in allowed} | {"sklearn", "scipy.sparse"}
    assert not modules & set(_compat_pickle.IMPORT_MAPPING)
    for old, new in pickle_names.RENAMED.items():
        assert _compat_pickle.IMPORT_MAPPING[old] == new


class _Stub:
    """Stands for everything that a pickle imports; takes whatever is done to it."""

    def __new__(cls, *_: Any, **__: Any) -> _Stub:
        return object.__new__(cls)

    def __init__(self, *_: Any, **__: Any) -> None: ...

    def __setstate__(self, _: Any) -> None: ...

    def __setitem__(self, _: Any, __: Any) -> None: ...

    def append(self, _: Any) -> None: ...

    def extend(self, _: Any) -> None: ...

    def add(self, _: Any) -> None: ...


_REAL = ("joblib.numpy_pickle", "numpy", "numpy._core.multiarray", "numpy.core.multiarray")


class _Recorder(joblib.numpy_pickle.NumpyUnpickler):  # type: ignore[misc]
    """joblib's own unpickler, which makes nothing but arrays and says what it was asked for."""

    def __init__(self, content: bytes, names: set[str]) -> None:
        super().__init__("", io.BytesIO(content), ensure_native_byte_order=False)
        self.names = names

    def find_class(self, module: str, name: str) -> Any:
        self.names.add(f"{pickle_names.RENAMED.get(module, module)}.{name}")
        known = pickle_names.judge(module, name) is not None
        return super().find_class(module, name) if module in _REAL and known else _Stub


BASES = [content for content in MODELS if len(content) < 5000] + [
    content for make in PICKLES.values() if len(content := make()) < 3000
]


@settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.filter_too_much])
@given(data=st.data())
def test_what_python_would_import_is_what_the_scanner_says(data: st.DataObject) -> None:
    """However a file is cut and mixed: where the scanner finds nothing, nothing is hidden."""
    content = bytearray(data.draw(st.sampled_from(BASES)))
    for _ in range(data.draw(st.integers(0, 3))):
        at = data.draw(st.integers(0, len(content)))
        other = data.draw(st.sampled_from(BASES))
        start = data.draw(st.integers(0, len(other)))
        piece = other[start : start + data.draw(st.integers(0, 60))]
        content[at : at + data.draw(st.integers(0, 60))] = piece
    found = scan(bytes(content))
    if found.faults:
        return
    names: set[str] = set()
    with contextlib.suppress(Exception):
        _Recorder(bytes(content), names).load()
    assert names <= set(found.names)
