"""With which arguments a pickle may call the functions that rebuild objects.

Called by `pickle_program` for names whose rule is ``call``. Each check admits what real files
contain; what would take memory without bound, or hand a callable on, is refused.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from modelplane_runtime.pickle_arrays import describe_type, is_whole_type
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

Arguments = tuple[Any, ...]

_ARRAYS = frozenset(
    {
        "numpy.ndarray",
        "numpy.matrix",
        "numpy.core.multiarray.ndarray",
        "numpy._core.multiarray.ndarray",
        "numpy.ma.MaskedArray",
        "numpy.ma.core.MaskedArray",
    }
)
_PLAIN_BASES = frozenset(
    f"builtins.{name}" for name in ("object", "dict", "list", "tuple", "str", "int", "float")
)
_MAX_ARGUMENTS = 16
_MAPPINGS = frozenset({"collections.OrderedDict", "collections.Counter", "collections.defaultdict"})


def call(name: str, arguments: Arguments) -> Any:
    """Return what calling `name` gives.

    Raises
    ------
    Refused
        These arguments are not among those that real files have.
    """
    check = _CHECKS.get(name) or _check_of_family(name)
    if check is None or len(arguments) > _MAX_ARGUMENTS or not check(arguments):
        raise Refused(f"calls {name} in a way that models do not", name)
    if name == "_codecs.encode":
        given = arguments[0]
        return Bytes(len(given) if isinstance(given, str) else given.size)
    if name == "builtins.bytes":
        return Bytes(0)
    if name in {"builtins.set", "builtins.frozenset"}:
        return Sequence("set")
    made = Made(name, arguments)
    if name == "numpy.dtype":
        describe_type(made, None)
    if name in _MAPPINGS:
        made.items = Keyed()
        for value in arguments:
            # Of what a list holds nothing is known any more: it may be pairs with any key.
            if isinstance(value, Sequence):
                made.items.odd = "a key from a list"
            elif isinstance(value, Keyed):
                made.items.odd, made.items.full = value.odd, value.full
    elif name.endswith(".newObj") or ".__pyx_unpickle_" in name:
        made = Made(arguments[0].name, arguments)
    elif name == "copyreg._reconstructor":
        made = Made(arguments[0].name, ())
        if arguments[1].name == "builtins.dict":
            made.items = Keyed(odd="a key of a rebuilt dict") if arguments[2] else Keyed()
    return made


def _check_of_family(name: str) -> Callable[[Arguments], bool] | None:
    function = name.rpartition(".")[2]
    if function == "newObj":
        return lambda given: len(given) == 1 and _is_class_of(given[0], "sklearn.")
    if function.startswith("__pyx_unpickle_"):
        return _is_cython_rebuild
    return None


def _is_class(value: Any) -> bool:
    return isinstance(value, Global) and value.rule in {"class", "state"}


def _is_class_of(value: Any, package: str) -> bool:
    return _is_class(value) and str(value.name).startswith(package)


def _is_cython_rebuild(given: Arguments) -> bool:
    return (
        len(given) == 3
        and (
            _is_class_of(given[0], "sklearn.")
            or (isinstance(given[0], Global) and given[0].name.endswith(".SeedSequence"))
        )
        and isinstance(given[1], int)
        and (given[2] is None or isinstance(given[2], Items))
    )


def _is_plain(value: Any) -> bool:
    return value is None or isinstance(value, (bool, int, str, Data, Bytes))


def _are_plain(given: Arguments) -> bool:
    return all(_is_plain(value) for value in given)


def _are_plain_or_items(given: Arguments) -> bool:
    return all(_is_plain(value) or isinstance(value, (Made, Items)) for value in given)


def _is_collection(given: Arguments) -> bool:
    return not given or (len(given) == 1 and isinstance(given[0], (Sequence, Items)))


def _is_mapping(given: Arguments) -> bool:
    return not given or (len(given) == 1 and isinstance(given[0], (Keyed, Sequence)))


def _is_default_mapping(given: Arguments) -> bool:
    # The factory is called for a key that is missing, so it must be harmless without arguments.
    factories = {"builtins.int", "builtins.float", "builtins.list", "builtins.dict", "builtins.set"}
    return len(given) <= 1 and all(
        value is None or (isinstance(value, Global) and value.name in factories) for value in given
    )


def _is_bytearray(given: Arguments) -> bool:
    # Of a number it would make so many zeros.
    if not given or (len(given) == 1 and isinstance(given[0], Bytes)):
        return True
    return len(given) == 2 and given[1] in {"latin-1", "latin1"} and _is_text(given[0])


def _is_text(value: Any) -> bool:
    return isinstance(value, str) or (isinstance(value, Data) and value.size >= 0)


def _is_latin_text(given: Arguments) -> bool:
    return len(given) == 2 and given[1] in {"latin1", "latin-1"} and _is_text(given[0])


def _is_reconstructor(given: Arguments) -> bool:
    return (
        len(given) == 3
        and _is_class(given[0])
        and isinstance(given[1], Global)
        and given[1].name in _PLAIN_BASES
        and (_is_plain(given[2]) or isinstance(given[2], (Keyed, Sequence, Items)))
    )


def _is_type(given: Arguments) -> bool:
    # The last asks for a copy: without it a state would change numpy's own type for everybody.
    return len(given) == 3 and isinstance(given[0], str) and given[1:] == (False, True)


def _is_array_class(value: Any) -> bool:
    return isinstance(value, Global) and value.name in _ARRAYS


def _is_empty_shape(value: Any) -> bool:
    return isinstance(value, Items) and value.values == (0,)


def _is_empty_array(given: Arguments) -> bool:
    return (
        len(given) == 3
        and _is_array_class(given[0])
        and _is_empty_shape(given[1])
        and (isinstance(given[2], Bytes) or given[2] in {"b", "d"})
    )


def _is_empty_masked_array(given: Arguments) -> bool:
    return (
        len(given) == 4
        and _is_array_class(given[0])
        and _is_array_class(given[1])
        and _is_empty_shape(given[2])
        and (isinstance(given[3], Bytes) or given[3] in {"b", "d"})
    )


def _is_plain_type(value: Any) -> bool:
    return is_whole_type(value) and not value.has_objects


def _is_scalar(given: Arguments) -> bool:
    return len(given) == 2 and _is_plain_type(given[0]) and isinstance(given[1], Bytes)


def _is_buffer_array(given: Arguments) -> bool:
    return (
        len(given) == 4
        and (isinstance(given[0], Bytes) or _made_of(given[0], "builtins.bytearray"))
        and _is_plain_type(given[1])
        and isinstance(given[2], Items)
        and _are_plain(given[2].values)
        and given[3] in {"C", "F"}
    )


def _made_of(value: Any, name: str) -> bool:
    return isinstance(value, Made) and value.of == name


def _is_random(given: Arguments) -> bool:
    """Names and classes of numpy's generators, generators, and numpy's own constructors."""
    return all(
        isinstance(value, str)
        or (isinstance(value, (Global, Made)) and _name(value).startswith("numpy.random."))
        for value in given
    )


def is_partial_state(state: Any) -> bool:
    """Whether a ``functools.partial`` gets a value of the allowlist and arguments for it."""
    values = state.values if isinstance(state, Items) else ()
    return (
        len(values) == 4
        and _is_partial(values[:1])
        and isinstance(values[1], Items)
        and isinstance(values[2], Keyed)
        and not values[2].odd
        and values[3] is None
    )


def _is_partial(given: Arguments) -> bool:
    return len(given) == 1 and isinstance(given[0], Global) and given[0].rule == "value"


def _name(value: Global | Made) -> str:
    return value.name if isinstance(value, Global) else value.of


_CHECKS: dict[str, Callable[[Arguments], bool]] = {
    "builtins.bytearray": _is_bytearray,
    "builtins.bytes": lambda given: not given,
    "builtins.complex": _are_plain,
    "builtins.frozenset": _is_collection,
    "builtins.range": _are_plain,
    "builtins.set": _is_collection,
    "builtins.slice": _are_plain_or_items,
    "_codecs.encode": _is_latin_text,
    "copyreg._reconstructor": _is_reconstructor,
    "collections.Counter": _is_mapping,
    "collections.OrderedDict": _is_mapping,
    "collections.defaultdict": _is_default_mapping,
    "collections.deque": lambda given: (
        not given
        or (isinstance(given[0], (Sequence, Items)) and len(given) <= 2 and _are_plain(given[1:]))
    ),
    "datetime.date": _are_plain,
    "datetime.datetime": _are_plain,
    "datetime.timedelta": _are_plain,
    "functools.partial": _is_partial,
    "numpy.dtype": _is_type,
    "numpy.core.multiarray._reconstruct": _is_empty_array,
    "numpy._core.multiarray._reconstruct": _is_empty_array,
    "numpy.core.multiarray.scalar": _is_scalar,
    "numpy._core.multiarray.scalar": _is_scalar,
    "numpy.core.numeric._frombuffer": _is_buffer_array,
    "numpy._core.numeric._frombuffer": _is_buffer_array,
    "numpy.ma._mareconstruct": _is_empty_masked_array,
    "numpy.ma.core._mareconstruct": _is_empty_masked_array,
    "numpy.random._pickle.__bit_generator_ctor": _is_random,
    "numpy.random._pickle.__generator_ctor": _is_random,
    "numpy.random._pickle.__randomstate_ctor": _is_random,
}
