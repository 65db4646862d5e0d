"""Conditions in CEL over named facts: compiled against the names that exist, then evaluated.

Called by `decisions.policies` and `decisions.approvals`. Pure. Whatever cannot be evaluated is
not true: a policy must never let something pass because a fact was missing.

All numbers are doubles. CEL does not compare ``metrics.accuracy`` with ``1``, so whole numbers
that stand where a double is needed are read as ``1.0``.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, Literal, NamedTuple

from cel_expr_python import cel

from modelplane.resources.fields import nearest, suggest

MAX_LENGTH = 2000
"""Longest expression, characters; the depth and the steps of one are bounded by the library."""

NameType = Literal["number", "text", "truth", "texts", "numbers"]
"""What a name stands for; the last two are maps from text: ``version.tags['risk']``."""

Value = float | int | str | bool | Mapping[str, str] | Mapping[str, float]

_TYPES = {
    "number": cel.Type.DOUBLE,
    "text": cel.Type.STRING,
    "truth": cel.Type.BOOL,
    "texts": cel.Type.Map(cel.Type.STRING, cel.Type.STRING),
    "numbers": cel.Type.Map(cel.Type.STRING, cel.Type.DOUBLE),
}
_RESERVED = frozenset(
    {
        "as", "break", "const", "continue", "else", "false", "for", "function", "if", "import",
        "in", "let", "loop", "namespace", "null", "package", "return", "true", "var", "void",
        "while",
    }
)  # fmt: skip
_TOKEN = re.compile(
    r"""(?P<comment>//[^\n]*)
      | (?P<text>[bBrR]{0,2}(?:'''(?:\\.|[^\\])*?'''|\"\"\"(?:\\.|[^\\])*?\"\"\"
                           |'(?:\\.|[^'\\\n])*'|"(?:\\.|[^"\\\n])*"))
      | (?P<double>\d+\.\d+(?:[eE][+-]?\d+)?|\d+[eE][+-]?\d+|\.\d+(?:[eE][+-]?\d+)?)
      | (?P<other>0[xX][0-9a-fA-F]+[uU]?|\d+[uU])
      | (?P<int>\d+)
      | (?P<name>\.?[A-Za-z_]\w*(?:\s*\.\s*[A-Za-z_]\w*)*)""",
    re.VERBOSE | re.ASCII,
)
_FAULT = re.compile(r"ERROR: <input>:(-?\d+):(-?\d+): ([^\n]*)")
_UNDECLARED = re.compile(r"undeclared reference to '([^']*)'")
_OVERLOAD = re.compile(r"found no matching overload for '([^']*)' applied to '\((.*)\)'")
_WORDS = {"double": "a number", "int": "a whole number", "string": "text", "bool": "true or false"}


@dataclass(frozen=True, slots=True)
class ExpressionFault:
    """Why an expression is refused, and where; line and column count from 1.

    `name` is the name that is not known, where that is why.
    """

    line: int
    column: int
    message: str
    name: str = ""

    def __str__(self) -> str:
        return f"line {self.line}, column {self.column}: {self.message}"


@dataclass(frozen=True, slots=True)
class Condition:
    """A compiled expression of type bool.

    Attributes
    ----------
    expression
        As it was written.
    names
        The declared names that it uses, in order.
    """

    expression: str
    names: tuple[str, ...]
    compiled: Any


class Verdict(NamedTuple):
    """Whether a condition is true; `reason` says why it could not be evaluated."""

    holds: bool
    reason: str = ""


class _Token(NamedTuple):
    kind: str
    start: int
    end: int
    text: str


def identifier(name: str) -> str:
    """Return `name` as CEL can have it: other characters become ``_``.

    Examples
    --------
    >>> identifier("p95-latency"), identifier("2026 flights"), identifier("in")
    ('p95_latency', '_2026_flights', 'in_')
    """
    cleaned = re.sub(r"[^A-Za-z0-9_]", "_", name)
    if cleaned in _RESERVED:
        return f"{cleaned}_"
    return f"_{cleaned}" if cleaned[:1].isdigit() or not cleaned else cleaned


def compile_condition(
    expression: str, names: Mapping[str, NameType]
) -> Condition | tuple[ExpressionFault, ...]:
    """Compile `expression`, or return what is wrong with it.

    Parameters
    ----------
    expression
        CEL, at most `MAX_LENGTH` characters.
    names
        The names that it may use, dots included: ``metrics.accuracy``.

    Examples
    --------
    >>> names = {"metrics.accuracy": "number"}
    >>> [str(fault) for fault in compile_condition("metrics.acuracy > 0", names)]
    ["line 1, column 1: unknown name 'metrics.acuracy'; did you mean 'metrics.accuracy'?"]
    >>> evaluate(compile_condition("metrics.accuracy >= 1", names), {"metrics.accuracy": 1.0})
    Verdict(holds=True, reason='')
    """
    return _compile(expression, tuple(sorted(names.items())))


def evaluate(condition: Condition, values: Mapping[str, Value]) -> Verdict:
    """Return whether `condition` is true of `values`; any error means that it is not.

    Parameters
    ----------
    condition
        From `compile_condition`.
    values
        By name. A name that has no value makes the condition false, unless it does not matter.
    """
    data = {name: _to_cel(value) for name, value in values.items()}
    try:
        value = condition.compiled.eval(data=data)
        if value.type() == cel.Type.BOOL:
            return Verdict(value.value() is True)
        reason = _clean(str(value.value()))
    except Exception as error:  # the library raises RuntimeError, and says no more in its types
        reason = _clean(str(error))
    return Verdict(False, reason or "it cannot be evaluated")


def describe_values(condition: Condition, values: Mapping[str, Value]) -> str:
    """Say what a condition's names stood for.

    Examples
    --------
    >>> condition = compile_condition("metrics.accuracy >= 0.92", {"metrics.accuracy": "number"})
    >>> describe_values(condition, {"metrics.accuracy": 0.91})
    'metrics.accuracy is 0.91'
    """
    return ", ".join(f"{name} is {_show(values.get(name))}" for name in condition.names)


def names_in(expression: str) -> frozenset[str]:
    """Return the names with their dots that occur in `expression`, known or not.

    Examples
    --------
    >>> sorted(names_in("metrics.accuracy >= 0.9 && 'a.b' == version.model"))
    ['metrics.accuracy', 'version.model']
    """
    return frozenset(_name_of(token) for token in _tokens(expression) if token.kind == "name")


@lru_cache(maxsize=1024)
def _compile(
    expression: str, names: tuple[tuple[str, NameType], ...]
) -> Condition | tuple[ExpressionFault, ...]:
    refused = _check_text(expression)
    if refused:
        return refused
    text, shifts = expression, list[int]()
    known = dict(names)
    while True:
        try:
            compiled = _environment(names).compile(text)
            break
        except Exception as error:  # RuntimeError, with the faults as text
            place = _misread_number(text, str(error))
            if place is None:
                return library_faults(str(error), text, known, shifts)
            text = f"{text[:place]}.0{text[place:]}"
            shifts.append(place)
    found = compiled.return_type()
    if found != cel.Type.BOOL:
        words = _WORDS.get(found.name().lower(), found.name().lower())
        message = f"is {words}, not true or false; compare it: `… >= 0.9`, `… == 'x'`"
        return (ExpressionFault(1, 1, message),)
    used = dict.fromkeys(
        name for token in _tokens(expression) if token.kind == "name"
        for name in known if f"{_name_of(token)}.".startswith(f"{name}.")
    )  # fmt: skip
    return Condition(expression, tuple(used), compiled)


@lru_cache(maxsize=64)
def _environment(names: tuple[tuple[str, NameType], ...]) -> Any:
    return cel.NewEnv(variables={name: _TYPES[of_type] for name, of_type in names})


def _check_text(expression: str) -> tuple[ExpressionFault, ...]:
    if len(expression) > MAX_LENGTH:
        message = f"has {len(expression)} characters; {MAX_LENGTH} is the most"
        return (ExpressionFault(1, 1, message),)
    for token in _tokens(expression):
        # On a name with dots the library's has() returns the value itself.
        if token.kind == "name" and _name_of(token) == "has":
            message = "has() is not offered; a condition on what is missing is never true"
            return (fault_at(expression, token.start, message),)
    return ()


def _tokens(text: str) -> list[_Token]:
    return [
        _Token(match.lastgroup or "", match.start(), match.end(), match.group())
        for match in _TOKEN.finditer(text)
    ]


def _name_of(token: _Token) -> str:
    return re.sub(r"\s", "", token.text).lstrip(".")


def _misread_number(text: str, error: str) -> int | None:
    """Return where a whole number ends that should be a double; None when that is not it."""
    for line, column, message in _FAULT.findall(error):
        overload = _OVERLOAD.search(message)
        if overload is None or "double" not in overload[2] or "int" not in overload[2]:
            continue
        place = _offset(text, int(line), int(column))
        whole = [token for token in _tokens(text) if token.kind == "int"]
        if overload[2].startswith("int"):
            before = [token for token in whole if token.end <= place]
            return before[-1].end if before else None
        after = [token for token in whole if token.start >= place]
        return after[0].end if after else None
    return None


def library_faults(
    error: str, text: str, known: Mapping[str, NameType], shifts: Sequence[int] = ()
) -> tuple[ExpressionFault, ...]:
    """Return the library's faults in our words, at their places in what was written.

    Parameters
    ----------
    error
        The text of the library's error.
    text
        What it compiled.
    known
        The names there are.
    shifts
        Where ``.0`` was put into what was written.
    """
    faults = []
    for line, column, message in _FAULT.findall(error):
        place = _offset(text, int(line), int(column))
        undeclared = _UNDECLARED.search(message)
        if undeclared is not None:
            place = next(
                (t.start for t in _tokens(text) if t.kind == "name" and t.start <= place < t.end),
                place,
            )
        for shift in reversed(shifts):
            place -= min(2, max(0, place - shift))
        original = text
        for shift in reversed(shifts):
            original = original[:shift] + original[shift + 2 :]
        name = undeclared[1] if undeclared is not None else ""
        faults.append(fault_at(original, place, _in_words(message, known), name))
    unique = tuple(dict.fromkeys(faults))[:5]
    return unique or (ExpressionFault(1, 1, _clean(error)),)


def _in_words(message: str, known: Mapping[str, NameType]) -> str:
    undeclared = _UNDECLARED.search(message)
    if undeclared is not None:
        name = undeclared[1]
        if not known:
            return f"unknown name {name!r}; nothing is known here"
        beginning = f"{name.partition('.')[0]}."
        alike = [each for each in known if each.startswith(beginning)]
        if alike and nearest(name, alike) and "." in name:
            return f"unknown name {name!r}; {suggest(name, alike)}"
        return f"unknown name {name!r}; {suggest(name, known)}"
    overload = _OVERLOAD.search(message)
    if overload is not None:
        types = [_WORDS.get(part.strip(), part.strip()) for part in overload[2].split(",")]
        return f"{overload[1].strip('_')!r} does not go with {' and '.join(types)}"
    return _clean(message.partition(" expecting {")[0])


def _offset(text: str, line: int, column: int) -> int:
    lines = text.split("\n")
    before = sum(len(each) + 1 for each in lines[: max(0, line - 1)])
    return min(len(text), before + max(0, column - 1))


def fault_at(text: str, place: int, message: str, name: str = "") -> ExpressionFault:
    """Return the fault at the character `place` of `text`, counted from 0."""
    before = text[:place]
    column = place - (before.rfind("\n") + 1) + 1
    return ExpressionFault(before.count("\n") + 1, column, message, name)


def _clean(message: str) -> str:
    """Return the first line of what the library says, without its codes."""
    first = message.partition("\n")[0]
    return re.sub(r"^[A-Z_]+: |\s*\[[A-Z_]+\]$", "", first).replace(" in Activation", "").strip()


def _to_cel(value: Value) -> Any:
    if isinstance(value, bool | str):
        return value
    if isinstance(value, Mapping):
        return dict(value)
    return float(value)


def _show(value: Value | None) -> str:
    if value is None:
        return "not known"
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, Mapping):
        return ("{" + ", ".join(f"{name}: {of}" for name, of in value.items()))[:200] + "}"
    return f"{value:.6g}" if isinstance(value, float) else str(value)[:200]
