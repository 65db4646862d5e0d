"""Predicates: who is under a rule of the traffic, in CEL over one request.

Called by the decisions that admit policies and explain assignments, and by the adapter of the
gateway, which gives the very same predicate to Envoy. Pure.

What it means: a predicate holds for a request when it is true whatever the values would be that
the request lacks. A value that is missing or of another type is unknown; ``&&``, ``||`` and
``!`` pass the unknown on (Kleene's logic: ``unknown || true`` is true, ``!unknown`` is unknown),
and a predicate that comes out unknown does not hold. All numbers are doubles.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

from cel_expr_python import cel

from modelplane.expressions.cel import ExpressionFault
from modelplane.expressions.predicate_reading import read_predicate
from modelplane.expressions.predicate_terms import Datum, RequestFacts, Term, data_of, write
from modelplane.resources.strategy import MAX_PREDICATE_CHARS
from modelplane.resources.traffic_split import InputType

__all__ = ["Datum", "ExpressionFault", "Predicate", "RequestFacts", "compile_predicate"]

_TYPES = {"number": cel.Type.DOUBLE, "text": cel.Type.STRING, "truth": cel.Type.BOOL}
_SECRET = frozenset({"cookie", "x-api-key"})


@dataclass(frozen=True, slots=True)
class Predicate:
    """A predicate that every gateway takes.

    Attributes
    ----------
    text
        As it was written.
    data
        What it reads of a request, each once.
    """

    text: str
    data: tuple[Datum, ...]
    _term: Term
    _program: Any

    @property
    def user_names(self) -> tuple[str, ...]:
        """The headers that its ``user.NAME`` are: ``x-user-NAME``."""
        return tuple(datum.name for datum in self.data if datum.source == "user")

    @property
    def input_names(self) -> tuple[str, ...]:
        """The inputs that it reads."""
        return tuple(dict.fromkeys(d.name for d in self.data if d.source == "input"))

    @property
    def reads_body(self) -> bool:
        """Whether the gateway has to wait for the request's body to know."""
        return bool(self.input_names)

    def evaluate(self, request: RequestFacts) -> bool:
        """Return whether it holds for `request`; whatever goes wrong means that it does not."""
        values = {}
        for index, datum in enumerate(self.data):
            value = datum.read(request)
            if value is not None:
                values[f"v{index}"] = value
        try:
            value = self._program.eval(data=values)
            return value.type() == cel.Type.BOOL and value.value() is True
        except Exception:  # the library raises RuntimeError; text that is no UTF-8 among it
            return False

    def describe(self, request: RequestFacts) -> str:
        """Say what its names stand for in `request`.

        Examples
        --------
        >>> predicate = compile_predicate("user.region == 'west' && input.amount > 200")
        >>> predicate.describe(RequestFacts(headers={"x-user-region": "west"}))
        "user.region is 'west', input.amount is missing"
        """
        return ", ".join(f"{datum} is {_show(datum, request)}" for datum in self.data)

    def write(self, name_of: Callable[[Datum], str]) -> str:
        """Return it as CEL in which `name_of` says how each datum is written."""
        return write(self._term, name_of)


def compile_predicate(
    text: str, inputs: Mapping[str, InputType] | None = None
) -> Predicate | tuple[ExpressionFault, ...]:
    """Compile `text`, or return what is wrong with it.

    Parameters
    ----------
    text
        CEL of at most `MAX_PREDICATE_CHARS` characters over ``user.NAME``, ``request.method``,
        ``request.path``, ``request.host``, ``request.headers['name']`` and ``input.NAME``
        (``input['any name']``).
    inputs
        Types of the inputs by name; none or empty: any name, of the type that its use says.

    Examples
    --------
    >>> west = compile_predicate("user.region == 'west'")
    >>> west.evaluate(RequestFacts(headers={"x-user-region": "west"}))
    True
    >>> [str(fault) for fault in compile_predicate("input.amout > 2", {"amount": "number"})]
    ["line 1, column 1: the model has no input 'amout'; did you mean 'amount'?"]
    """
    return _compile(text, tuple(sorted((inputs or {}).items())))


@lru_cache(maxsize=4096)
def _compile(
    text: str, inputs: tuple[tuple[str, InputType], ...]
) -> Predicate | tuple[ExpressionFault, ...]:
    if len(text) > MAX_PREDICATE_CHARS:
        message = f"has {len(text)} characters; {MAX_PREDICATE_CHARS} is the most"
        return (ExpressionFault(1, 1, message),)
    term = read_predicate(text, dict(inputs))
    if isinstance(term, tuple):
        return term
    data = tuple(dict.fromkeys(data_of(term)))
    if not data:
        message = "reads nothing of the request; leave it out to mean everybody"
        return (ExpressionFault(1, 1, message),)
    names = {datum: f"v{index}" for index, datum in enumerate(data)}
    types = tuple(datum.type or "text" for datum in data)
    program = _environment(types).compile(write(term, names.__getitem__))
    return Predicate(text, data, term, program)


@lru_cache(maxsize=256)
def _environment(types: tuple[InputType, ...]) -> Any:
    """Return what compiles programs over v0, v1, …; one takes 180 KB, so predicates share it."""
    return cel.NewEnv(variables={f"v{index}": _TYPES[of] for index, of in enumerate(types)})


def _show(datum: Datum, request: RequestFacts) -> str:
    value = datum.read(request)
    if value is None:
        given = request.inputs.get(datum.name) if datum.source == "input" else None
        return "missing" if given is None else f"not {_TYPE_WORDS[datum.type or 'text']}"
    if datum.source == "presence":
        return "there" if value else "missing"
    if datum.name in _SECRET and datum.source == "header":
        return "there"
    if isinstance(value, bool):
        return "true" if value else "false"
    return f"{value:.6g}" if isinstance(value, float) else repr(value[:100])


_TYPE_WORDS = {"number": "a number", "text": "text", "truth": "true or false"}
