"""The terms that a predicate is made of once it was read: typed, and written as CEL again.

Used by `predicate_reading`, which makes them, and `predicates`. Pure data.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Literal

from modelplane.resources.traffic_split import InputType

Source = Literal["user", "header", "presence", "request", "input"]


@dataclass(frozen=True, slots=True)
class RequestFacts:
    """What a predicate can know of one request.

    Attributes
    ----------
    method, path, host
        As the client sent them; a query after `path` does not count.
    headers
        By name in lower case; values of one name joined with commas.
    inputs
        Scalar fields of the JSON body by name, and single values of tensors.
    """

    method: str = "POST"
    path: str = "/"
    host: str = ""
    headers: Mapping[str, str] = field(default_factory=dict)
    inputs: Mapping[str, float | str | bool] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Datum:
    """Something a request may carry.

    Attributes
    ----------
    source
        ``presence`` is whether there is a header of that name.
    name
        Of the header in lower case (for ``user`` too), of the input, or ``method``, ``path``,
        ``host``.
    type
        What it has to be; a value of another type counts as missing. None: not known yet.
    """

    source: Source
    name: str
    type: InputType | None

    def __str__(self) -> str:
        if self.source == "user":
            return f"user.{self.name.removeprefix(USER_HEADER).replace('-', '_')}"
        if self.source == "input":
            plain = self.name.isidentifier() and self.name.isascii()
            return f"input.{self.name}" if plain else f"input[{quote(self.name)}]"
        if self.source == "request":
            return f"request.{self.name}"
        return f"request.headers[{quote(self.name)}]"

    def read(self, facts: RequestFacts) -> float | str | bool | None:
        """Return what `facts` say; None for nothing, or something of another type."""
        value: object
        match self.source:
            case "presence":
                return self.name in facts.headers
            case "user" | "header":
                value = facts.headers.get(self.name)
            case "input":
                value = facts.inputs.get(self.name)
                if isinstance(value, str) and _is_beyond_gateways(value):
                    return None
            case "request":
                value = {
                    "method": facts.method,
                    "host": facts.host,
                    "path": facts.path.partition("?")[0].partition("#")[0],
                }[self.name]
        return _as(self.type, value)


def _is_beyond_gateways(text: str) -> bool:
    return "\0" in text or len(text.encode("utf-8", "surrogatepass")) > MAX_INPUT_BYTES


def _as(wanted: InputType | None, value: object) -> float | str | bool | None:
    if wanted == "truth":
        return value if isinstance(value, bool) else None
    if wanted == "text":
        return value if isinstance(value, str) else None
    if isinstance(value, int | float) and not isinstance(value, bool):
        try:
            return float(value)
        except OverflowError:
            return None
    return None


MAX_INPUT_BYTES = 4096
"""A gateway does not read longer texts from a body."""

USER_HEADER = "x-user-"
"""``user.plan_id`` is the header ``x-user-plan-id``."""


@dataclass(frozen=True, slots=True)
class Constant:
    """A number, a text or a truth."""

    value: float | str | bool

    @property
    def type(self) -> InputType:
        """Its type."""
        if isinstance(self.value, bool):
            return "truth"
        return "text" if isinstance(self.value, str) else "number"


@dataclass(frozen=True, slots=True)
class Operation:
    """An operator or a function, and what it is applied to.

    Attributes
    ----------
    function
        CEL's name of it: ``_==_``, ``startsWith``; ``[]`` for a list.
    type
        Of the result; of the items for a list.
    """

    function: str
    terms: tuple[Term, ...]
    type: InputType | None


Term = Constant | Datum | Operation

_SYMBOLS = {
    "_==_": "==", "_!=_": "!=", "_<_": "<", "_<=_": "<=", "_>_": ">", "_>=_": ">=",
    "_+_": "+", "_-_": "-", "_*_": "*", "_/_": "/", "@in": "in", "_&&_": "&&", "_||_": "||",
}  # fmt: skip


def data_of(term: Term) -> Iterator[Datum]:
    """Yield what a term reads of a request, in order, each as often as it is read."""
    if isinstance(term, Datum):
        yield term
    elif isinstance(term, Operation):
        for below in term.terms:
            yield from data_of(below)


def write(term: Term, name_of: Callable[[Datum], str]) -> str:
    """Return `term` as CEL in which `name_of` says how each datum is written.

    All numbers are doubles there, and chains of ``&&`` and ``||`` are balanced, since parsers
    bound how deep an expression is.
    """
    if isinstance(term, Datum):
        return name_of(term)
    if isinstance(term, Constant):
        return _write_constant(term.value)
    parts = [write(below, name_of) for below in term.terms]
    match term.function:
        case "[]":
            return f"[{', '.join(parts)}]"
        case "!_":
            return f"!({parts[0]})"
        case "-_":
            return f"(-1.0 * {parts[0]})"
        case "size":
            return f"double(size({parts[0]}))"
        case "matches":
            # Envoy gives up the whole expression when the text is missing; a condition is an
            # error like any other.
            return f"({parts[0]} == {parts[0]} ? {parts[0]}.matches({parts[1]}) : false)"
        case "_&&_" | "_||_":
            return _balance(parts, _SYMBOLS[term.function])
        case function if function in _SYMBOLS:
            return f"({parts[0]} {_SYMBOLS[function]} {parts[1]})"
        case function:
            return f"{parts[0]}.{function}({parts[1]})"


def _balance(parts: list[str], symbol: str) -> str:
    if len(parts) == 1:
        return parts[0]
    half = len(parts) // 2
    return f"({_balance(parts[:half], symbol)} {symbol} {_balance(parts[half:], symbol)})"


def _write_constant(value: float | str | bool) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, str):
        return quote(value)
    return f"({value!r})" if value < 0 else repr(value)


def quote(text: str) -> str:
    r"""Return `text` as a literal of CEL.

    Examples
    --------
    >>> print(quote("it's\n"))
    'it\u0027s\u000a'
    """
    plain = "".join(
        c
        if c.isprintable() and c not in "'\\"
        else f"\\U{ord(c):08x}"
        if ord(c) > 0xFFFF
        else f"\\u{ord(c):04x}"
        for c in text
    )
    return f"'{plain}'"
