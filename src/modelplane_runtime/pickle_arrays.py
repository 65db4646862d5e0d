"""How many bytes an array has in a file, told from the description of its type.

joblib writes the numbers of an array between two instructions of a pickle. A scanner that takes
other bytes for the array than the loader does would not see what is executed, so types are
followed exactly, and those that contradict themselves are refused: numpy believes what a file
says of a type, and a type that hides that it holds objects makes pointers out of bytes.

Called by `pickle_calls` and `pickle_program`.
"""

from __future__ import annotations

import re
from typing import Any, TypeGuard

from modelplane_runtime.pickle_values import (
    Bytes,
    Data,
    Global,
    Items,
    Keyed,
    Made,
    Refused,
    Sequence,
)

_TYPE = re.compile(r"[<>|=]?([?biufcmMOSUV])(\d{0,6})")
_SIZES = {"?": 1, "b": 1, "m": 8, "M": 8, "O": 8}
_NUMBERS = frozenset({1, 2, 4, 8, 16, 32})
_OBJECT_FLAGS = 63
# Needs initialising, needs Python's lock, aligned: nothing that says what the bytes are.
_HARMLESS_FLAGS = 8 | 16 | 128
_MAX_BYTES = 2**42

ARRAY_MAKERS = frozenset(
    {
        "numpy.core.multiarray._reconstruct",
        "numpy._core.multiarray._reconstruct",
        "numpy.ma._mareconstruct",
        "numpy.ma.core._mareconstruct",
    }
)
"""What makes an empty array, whose state then says what it holds."""
_WRAPPER_KEYS = frozenset(
    {"subclass", "shape", "order", "dtype", "allow_mmap", "numpy_array_alignment_bytes"}
)


def describe_type(made: Made, state: Any) -> None:
    """Note the size of a ``numpy.dtype`` in bytes, and whether it holds objects.

    Parameters
    ----------
    made
        The type, as it was made.
    state
        What it is built with; None for nothing.

    Raises
    ------
    Refused
        It is no type that numpy writes.
    """
    found = _TYPE.fullmatch(str(made.arguments[0])) if made.arguments else None
    if found is None:
        raise _strange("its name")
    kind, digits = found.groups()
    made.has_objects = kind == "O"
    if kind in _SIZES:
        made.itemsize = _SIZES[kind]
    elif kind in "SUV":
        made.itemsize = int(digits or 0) * (4 if kind == "U" else 1)
    elif digits and int(digits) in _NUMBERS:
        made.itemsize = int(digits)
    else:
        raise _strange("its name")
    if state is not None:
        _read_state(made, kind, state)


def _read_state(made: Made, kind: str, state: Any) -> None:
    values = state.values if isinstance(state, Items) else ()
    dated = kind in "mM"
    if (len(values), *values[:1]) != ((9, 4) if dated else (8, 3)):
        raise _strange("its state")
    _, order, subtype, names, fields, size, alignment, flags = values[:8]
    whole = [isinstance(value, int) for value in (size, alignment, flags)]
    if not isinstance(order, (str, Bytes)) or subtype is not None or not all(whole):
        raise _strange("its state")
    if kind == "O":
        if flags & 0xFF != _OBJECT_FLAGS:
            raise _strange("its flags")
    elif flags & 0xFF & ~_HARMLESS_FLAGS:
        raise _strange("its flags")
    if dated and not _is_unit(values[8]):
        raise _strange("its unit")
    if kind in "SUV":
        if not 0 <= size <= _MAX_BYTES:
            raise _strange("its size")
        made.itemsize = size
    if names is None and fields is None:
        return
    if kind != "V" or not isinstance(names, Items) or not isinstance(fields, Keyed):
        raise _strange("its fields")
    _check_fields(names, fields, size)


def _is_unit(value: Any) -> bool:
    """Whether this is a unit of time: numpy does not look, and would read what is not there."""
    unit = value.values[1] if isinstance(value, Items) and len(value.values) == 2 else None
    return (
        isinstance(unit, Items)
        and len(unit.values) == 4
        and isinstance(unit.values[0], Bytes)
        and all(isinstance(number, int) and number > 0 for number in unit.values[1:])
    )


def _check_fields(names: Items, fields: Keyed, size: int) -> None:
    if fields.odd or fields.full or set(fields.known) != set(names.values):
        raise _strange("its fields")
    for field in fields.known.values():
        values = field.values if isinstance(field, Items) else ()
        if len(values) < 2 or not is_whole_type(values[0]) or not isinstance(values[1], int):
            raise _strange("its fields")
        inner, offset = values[:2]
        if inner.has_objects:
            raise _strange("its fields, which hold objects")
        if offset < 0 or offset + inner.itemsize > size:
            raise _strange("its fields, which reach over its end")
    fields.pinned = True


def is_whole_type(value: Any) -> TypeGuard[Made]:
    """Whether `value` is a ``numpy.dtype`` with its state, which cannot change any more."""
    return isinstance(value, Made) and value.of == "numpy.dtype" and value.built


def check_array_state(state: Any) -> None:
    """Check the state of an array: a type, a shape, and as many items as that takes.

    numpy reads beyond the end of a list that is shorter than the shape says.

    Raises
    ------
    Refused
        It is no state that numpy writes.
    """
    values = state.values if isinstance(state, Items) else ()
    if len(values) < 5 or not isinstance(values[1], Items) or not is_whole_type(values[2]):
        raise Refused("sets an array to what numpy does not write")
    dtype, held = values[2], values[4]
    count = _count(values[1])
    as_bytes = isinstance(held, Bytes) and held.size == count * dtype.itemsize
    as_list = isinstance(held, Sequence) and held.kind == "list" and held.size == count
    if not (as_list if dtype.has_objects else as_bytes):
        raise Refused("sets an array to more or fewer items than its shape has")


def _count(shape: Items) -> int:
    count = 1
    for size in shape.values:
        if not isinstance(size, int) or size < 0:
            raise Refused("has an array whose shape is no list of sizes")
        count *= size
        if count > _MAX_BYTES:
            raise Refused(f"has an array of {count:,} items")
    return count


def wrapped_array(state: Any) -> tuple[int, bool, bool]:
    """Return the bytes of an array that joblib wrote, whether objects, and whether padded.

    Parameters
    ----------
    state
        The state of its ``NumpyArrayWrapper``.

    Raises
    ------
    Refused
        It is none that joblib writes.
    """
    if not isinstance(state, Keyed) or state.odd or state.full or set(state.known) - _WRAPPER_KEYS:
        raise Refused("holds a joblib array with a state that joblib does not write")
    known = state.known
    shape, dtype, subclass = known.get("shape"), known.get("dtype"), known.get("subclass")
    padding = known.get("numpy_array_alignment_bytes")
    fits = (
        isinstance(subclass, Global)
        and subclass.name in {"numpy.ndarray", "numpy.matrix"}
        and known.get("order") in {"C", "F"}
        and (padding is None or (isinstance(padding, int) and padding > 0))
        and not isinstance(known.get("allow_mmap"), Data)
    )
    if not fits or not isinstance(shape, Items) or not is_whole_type(dtype):
        raise Refused("holds a joblib array with a state that joblib does not write")
    return _count(shape) * dtype.itemsize, dtype.has_objects, padding is not None


def _strange(what: str) -> Refused:
    return Refused(f"describes a type of numbers as numpy does not: {what}", "numpy.dtype")
