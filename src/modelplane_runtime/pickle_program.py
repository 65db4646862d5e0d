"""Follows a pickle's instructions without executing any, and says what they would import.

A pickle is a program for a machine with a stack and a memo. This follows both, so that it knows
which name each call, instantiation and state is about, also where the name was put into the memo
and taken out later. What cannot be followed is refused: names that are computed, extension codes,
persistent ids, buffers outside the file, instructions that Python would read otherwise than we do.

Called by `pickle_scan`, which owns the bytes. Imports nothing that a file names.
"""

from __future__ import annotations

import pickletools
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import IO, Any, Protocol, cast

from modelplane_runtime.pickle_arrays import (
    ARRAY_MAKERS,
    check_array_state,
    describe_type,
    wrapped_array,
)
from modelplane_runtime.pickle_calls import call, is_partial_state
from modelplane_runtime.pickle_names import RENAMED, judge
from modelplane_runtime.pickle_values import (
    DATA,
    MAX_TEXT,
    Bytes,
    Data,
    Global,
    Items,
    Keyed,
    Made,
    Refused,
    Sequence,
)

WRAPPER = "joblib.numpy_pickle.NumpyArrayWrapper"
MAX_FAULTS = 100
MAX_NAMES = 1000
_DICTS = frozenset({"sklearn.utils.Bunch", "sklearn.utils._bunch.Bunch"})
_MARK = object()


class Source(Protocol):
    """Where instructions are read from."""

    def read(self, count: int, /) -> bytes: ...

    def readline(self) -> bytes: ...

    def tell(self) -> int: ...


@dataclass(frozen=True, slots=True)
class Fault:
    """One thing that speaks against loading a file.

    Attributes
    ----------
    position
        Of the instruction, in bytes from the beginning of the (unpacked) stream.
    message
        What it does.
    name
        The name that it would import, if it is about one.
    """

    position: int
    message: str
    name: str = ""


@dataclass(slots=True)
class Findings:
    """What one file's pickles hold: faults in order, and every name that would be imported."""

    faults: list[Fault] = field(default_factory=list)
    names: set[str] = field(default_factory=set)
    instructions: int = 0

    def add(self, position: int, refused: Refused) -> None:
        """Note a fault; raises `Refused` when there are too many to go on."""
        self.faults.append(Fault(position, refused.message, refused.name))
        if len(self.faults) >= MAX_FAULTS:
            raise Refused("has too many faults to look further")


ReadArray = Callable[[int, bool, bool], None]
"""Skips an array: its bytes, whether it is a pickle of objects instead, whether it is padded."""


class Program:
    """One pickle, from its first instruction to STOP.

    Parameters
    ----------
    source
        Positioned at the beginning; afterwards behind STOP.
    findings
        Takes what is found.
    allowed
        Further names, ``module.name``, that may be used in any way.
    max_instructions
        Bound on `Findings.instructions`.
    read_array
        What to do where joblib has put an array; None where only Python's pickle reads.
    """

    def __init__(
        self,
        source: Source,
        findings: Findings,
        *,
        allowed: frozenset[str] = frozenset(),
        max_instructions: int,
        read_array: ReadArray | None = None,
    ) -> None:
        self._source = source
        self._findings = findings
        self._allowed = allowed
        self._max_instructions = max_instructions
        self._read_array = read_array
        self._stack: list[Any] = []
        self._memo: dict[int, Any] = {}
        self._position = 0
        self._frame_end = 0

    def follow(self) -> None:
        """Follow all instructions.

        Raises
        ------
        Refused
            They cannot be followed to the end; the fault is not in the findings yet.
        """
        for name, argument in self._instructions():
            if name == "STOP":
                self._pop()
                if self._source.tell() < self._frame_end:
                    raise Refused("ends within a frame")
                return
            handler = _HANDLERS.get(name)
            if handler is None:
                raise Refused(f"has the instruction {name}, which models do not need")
            handler(self, argument)
        raise Refused("ends before its end")

    @property
    def position(self) -> int:
        """Where the present instruction begins."""
        return self._position

    def _instructions(self) -> Iterator[tuple[str, Any]]:
        try:
            for opcode, argument, position in pickletools.genops(cast(IO[bytes], self._source)):
                self._position = position or 0
                self._findings.instructions += 1
                if self._findings.instructions > self._max_instructions:
                    raise Refused(f"has more than {self._max_instructions:,} instructions")
                self._check_frame(opcode.name, argument)
                yield opcode.name, argument
        except (ValueError, OverflowError, IndexError, EOFError) as error:
            raise Refused(f"is no complete pickle: {error}") from None

    def _check_frame(self, name: str, argument: Any) -> None:
        """Python's two unpicklers agree only where an instruction lies in one frame."""
        end = self._source.tell()
        if self._position < self._frame_end < end:
            raise Refused("has an instruction that lies in two frames")
        if name == "FRAME":
            if self._position < self._frame_end:
                raise Refused("has a frame within a frame")
            self._frame_end = end + int(argument)

    # The stack --------------------------------------------------------------------------------

    def _pop(self) -> Any:
        if not self._stack or self._stack[-1] is _MARK:
            raise Refused("takes from an empty stack")
        return self._stack.pop()

    def _top(self) -> Any:
        if not self._stack or self._stack[-1] is _MARK:
            raise Refused("takes from an empty stack")
        return self._stack[-1]

    def _pop_to_mark(self) -> list[Any]:
        for index in range(len(self._stack) - 1, -1, -1):
            if self._stack[index] is _MARK:
                taken = self._stack[index + 1 :]
                del self._stack[index:]
                return taken
        raise Refused("takes to a mark that is not there")

    def push(self, value: Any) -> None:
        """Put one value on the stack."""
        self._stack.append(value)

    # Plain values -----------------------------------------------------------------------------

    def text(self, argument: str) -> None:
        """Push text."""
        self.push(argument if len(argument) <= MAX_TEXT else Data(len(argument)))

    def old_text(self, argument: str | bytes) -> None:
        """Push text of Python 2, which has to be ASCII."""
        text = argument.decode("latin-1") if isinstance(argument, bytes) else argument
        self.text(text) if text.isascii() else self.push(DATA)

    def bytes_(self, argument: bytes | bytearray) -> None:
        """Push bytes."""
        self.push(Bytes(len(argument)))

    def items(self, count: int | None) -> None:
        """Make a tuple of the top `count` values; None takes all to the mark."""
        values = self._pop_to_mark() if count is None else [self._pop() for _ in range(count)][::-1]
        self.push(Items(tuple(values)))

    def make_list(self) -> None:
        """Make a list of all to the mark."""
        self.push(Sequence("list", len(self._pop_to_mark())))

    def make_frozen_set(self) -> None:
        """Make a frozenset of all to the mark."""
        self._pop_to_mark()
        self.push(Sequence("set"))

    def make_dict(self) -> None:
        """Make a dict of all to the mark."""
        values = self._pop_to_mark()
        made = Keyed()
        self._put_all(made, values)
        self.push(made)

    def append(self, count: int | None) -> None:
        """Add the top value, or all to the mark, to a list."""
        added = len(self._pop_to_mark()) if count is None else len([self._pop()])
        target = self._top()
        if isinstance(target, Sequence) and target.kind == "list":
            target.size += added
        elif not self._is_free(target, "collections.deque"):
            raise Refused("adds to what is no list")

    def add_to_set(self) -> None:
        """Add all to the mark to a set."""
        self._pop_to_mark()
        target = self._top()
        is_set = isinstance(target, Sequence) and target.kind == "set"
        if not is_set and not self._is_free(target):
            raise Refused("adds to what is no set")

    def set_items(self, count: int | None) -> None:
        """Put the top pair, or all pairs to the mark, into a dict."""
        values = self._pop_to_mark() if count is None else [self._pop(), self._pop()][::-1]
        target = self._top()
        if self._is_free(target):
            return
        if isinstance(target, Made):
            target = target.items
        if not isinstance(target, Keyed):
            raise Refused("sets items of what is no dict")
        self._put_all(target, values)

    def _is_free(self, target: Any, *names: str) -> bool:
        """Whether an object is one of `names`, the user's own, or of a name already refused."""
        return isinstance(target, Made) and (
            target.of == "" or target.of in names or target.of in self._allowed
        )

    def _put_all(self, target: Keyed, values: list[Any]) -> None:
        if len(values) % 2:
            raise Refused("has a key without a value")
        for key, value in zip(values[::2], values[1::2], strict=True):
            target.put(key, value)

    def pop(self) -> None:
        """Drop the top value, or the mark when that is on top."""
        if self._stack and self._stack[-1] is _MARK:
            self._stack.pop()
        else:
            self._pop()

    def put(self, index: int | None) -> None:
        """Remember the top value under a number; None takes the next."""
        self._memo[len(self._memo) if index is None else int(index)] = self._top()

    def get(self, index: int) -> None:
        """Push what is remembered under a number."""
        if int(index) not in self._memo:
            raise Refused("takes from the memo what is not there")
        self.push(self._memo[int(index)])

    # Names, calls, states ---------------------------------------------------------------------

    def import_name(self, module: str, name: str) -> Global:
        """Judge a name; one that is refused is a fault, and is followed further."""
        module = RENAMED.get(module, module)
        whole = f"{module}.{name}"
        if len(self._findings.names) < MAX_NAMES:
            self._findings.names.add(whole[:300])
        if whole in self._allowed and name.isidentifier():
            return Global(whole, "any")
        # A dot in a name would walk from attribute to attribute.
        rule = judge(module, name) if name.isidentifier() else None
        if rule is None:
            shown = whole[:300]
            refused = Refused(f"imports {shown}, which is not on the allowlist", shown)
            self._findings.add(self._position, refused)
        return Global(whole, rule)

    def global_(self, argument: str) -> None:
        """Push a name that the instruction holds."""
        module, _, name = argument.partition(" ")
        self.push(self.import_name(module, name))

    def stack_global(self) -> None:
        """Push a name whose parts are on the stack."""
        name, module = self._pop(), self._pop()
        if not isinstance(name, str) or not isinstance(module, str):
            raise Refused("computes the name that it imports")
        self.push(self.import_name(module, name))

    def reduce(self) -> None:
        """Call what is on the stack."""
        arguments, target = self._pop(), self._pop()
        if not isinstance(arguments, Items):
            raise Refused("calls something with arguments that are no tuple")
        self._call(target, arguments.values)

    def instantiate(self, argument: str) -> None:
        """INST: call a name with all to the mark."""
        values = self._pop_to_mark()
        module, _, name = argument.partition(" ")
        self._call(self.import_name(module, name), tuple(values))

    def instantiate_object(self) -> None:
        """OBJ: call the first value above the mark with the others."""
        values = self._pop_to_mark()
        if not values:
            raise Refused("takes from an empty stack")
        self._call(values[0], tuple(values[1:]))

    def _call(self, target: Any, arguments: tuple[Any, ...]) -> None:
        if not isinstance(target, Global):
            raise Refused("calls something that it did not import")
        if target.rule is None:
            self.push(Made(""))
        elif target.rule == "any":
            self.push(Made(target.name, arguments))
        elif target.rule == "call":
            self.push(call(target.name, arguments))
        elif target.rule == "class":
            self.push(self._make(target, arguments))
        else:
            raise Refused(f"calls {target.name}, which it may only refer to", target.name)

    def new_object(self, *, named: bool) -> None:
        """Make an object of a class without calling its constructor."""
        keywords = self._pop() if named else Keyed()
        arguments, target = self._pop(), self._pop()
        if not isinstance(target, Global) or not isinstance(arguments, Items):
            raise Refused("makes an object of something that it did not import")
        if not isinstance(keywords, Keyed):
            raise Refused("makes an object with keywords that are no dict")
        if target.rule is None:
            self.push(Made(""))
        elif target.rule in {"class", "state", "any"}:
            self.push(self._make(target, arguments.values))
        else:
            raise Refused(f"makes a {target.name}, which it may only refer to", target.name)

    def _make(self, target: Global, arguments: tuple[Any, ...]) -> Made:
        made = Made(target.name, arguments)
        if target.name in _DICTS or target.name.endswith("._nandict"):
            made.items = Keyed(odd="a key of its constructor" if arguments else "")
        return made

    def build(self) -> None:
        """Give an object its state."""
        state, target = self._pop(), self._top()
        if not isinstance(target, Made):
            raise Refused("sets the state of what is no new object")
        if self._is_free(target):
            return
        if target.of == "numpy.dtype":
            if target.built:
                raise Refused("changes a type of numbers after it was made", target.of)
            describe_type(target, state)
        elif target.of in ARRAY_MAKERS:
            if target.built:
                raise Refused("changes an array after it was made", target.of)
            check_array_state(state)
        elif target.of == "functools.partial":
            if not is_partial_state(state):
                raise Refused("binds arguments to what it may only refer to", target.of)
        elif target.of == WRAPPER:
            self._take_array(target, state)
        else:
            _check_state(target, state)
        target.built = True

    def _take_array(self, target: Made, state: Any) -> None:
        if self._read_array is None or target.built or target.arguments:
            raise Refused("holds a joblib array where joblib does not read one", target.of)
        size, has_objects, padded = wrapped_array(state)
        if self._source.tell() < self._frame_end:
            raise Refused("holds a joblib array within a frame", target.of)
        self._read_array(size, has_objects, padded)
        # In place of the wrapper the loader puts the array.
        self._stack[-1] = Made("numpy.ndarray", built=True)


def _check_state(target: Made, state: Any) -> None:
    """Refuse a state that would set special attributes: ``__setstate__`` is one, to be called."""
    parts = state.values if isinstance(state, Items) else (state,)
    pair = isinstance(state, Items) and len(parts) == 2
    for part in parts:
        if isinstance(part, Keyed):
            part.pinned = True
        if isinstance(part, Keyed) and part.odd:
            raise Refused(f"sets {part.odd[:80]} in a {target.of}", target.of)
        if isinstance(part, Made) and part.of == "numpy.dtype" and not part.built:
            raise Refused("uses a type of numbers before it is whole", target.of)
        random = target.of.startswith("numpy.random.")
        if isinstance(part, Made) and (pair or part is state) and not random:
            raise Refused(f"sets the state of a {target.of} from another object", target.of)


Handler = Callable[[Program, Any], None]


def _table() -> dict[str, Handler]:
    table: dict[str, Handler] = {
        "MARK": lambda p, _: p.push(_MARK),
        "POP": lambda p, _: p.pop(),
        "POP_MARK": lambda p, _: (p._pop_to_mark(), None)[1],
        "DUP": lambda p, _: p.push(p._top()),
        "NONE": lambda p, _: p.push(None),
        "NEWTRUE": lambda p, _: p.push(True),
        "NEWFALSE": lambda p, _: p.push(False),
        "EMPTY_LIST": lambda p, _: p.push(Sequence("list")),
        "EMPTY_SET": lambda p, _: p.push(Sequence("set")),
        "EMPTY_DICT": lambda p, _: p.push(Keyed()),
        "EMPTY_TUPLE": lambda p, _: p.items(0),
        "TUPLE1": lambda p, _: p.items(1),
        "TUPLE2": lambda p, _: p.items(2),
        "TUPLE3": lambda p, _: p.items(3),
        "TUPLE": lambda p, _: p.items(None),
        "LIST": lambda p, _: p.make_list(),
        "DICT": lambda p, _: p.make_dict(),
        "FROZENSET": lambda p, _: p.make_frozen_set(),
        "APPEND": lambda p, _: p.append(1),
        "APPENDS": lambda p, _: p.append(None),
        "ADDITEMS": lambda p, _: p.add_to_set(),
        "SETITEM": lambda p, _: p.set_items(1),
        "SETITEMS": lambda p, _: p.set_items(None),
        "MEMOIZE": lambda p, _: p.put(None),
        "GLOBAL": lambda p, a: p.global_(a),
        "STACK_GLOBAL": lambda p, _: p.stack_global(),
        "REDUCE": lambda p, _: p.reduce(),
        "INST": lambda p, a: p.instantiate(a),
        "OBJ": lambda p, _: p.instantiate_object(),
        "NEWOBJ": lambda p, _: p.new_object(named=False),
        "NEWOBJ_EX": lambda p, _: p.new_object(named=True),
        "BUILD": lambda p, _: p.build(),
        "PROTO": lambda p, a: None,
        "FRAME": lambda p, a: None,
    }  # fmt: skip
    table |= dict.fromkeys(
        ["INT", "BININT", "BININT1", "BININT2", "LONG", "LONG1", "LONG4"], _whole
    )
    table |= dict.fromkeys(["FLOAT", "BINFLOAT"], lambda p, _: p.push(DATA))
    table |= dict.fromkeys(
        ["UNICODE", "SHORT_BINUNICODE", "BINUNICODE", "BINUNICODE8"], lambda p, a: p.text(a)
    )
    table |= dict.fromkeys(["STRING", "BINSTRING", "SHORT_BINSTRING"], lambda p, a: p.old_text(a))
    table |= dict.fromkeys(
        ["SHORT_BINBYTES", "BINBYTES", "BINBYTES8", "BYTEARRAY8"], lambda p, a: p.bytes_(a)
    )
    table |= dict.fromkeys(["PUT", "BINPUT", "LONG_BINPUT"], lambda p, a: p.put(a))
    table |= dict.fromkeys(["GET", "BINGET", "LONG_BINGET"], lambda p, a: p.get(a))
    return table


def _whole(program: Program, number: int) -> None:
    # Sizes and shapes are looked at; numbers beyond any of these take memory only.
    program.push(number if -(2**63) <= number < 2**63 else DATA)


_HANDLERS = _table()
