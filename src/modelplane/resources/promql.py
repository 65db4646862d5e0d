"""PromQL's grammar: whether a text is an expression, and where it is not.

Called where expressions are declared (alert rules) and before they are evaluated. Reads the text
with the package promql-parser, which knows the types of Prometheus' functions; it evaluates
nothing. Texts that its recursion could not bear are refused before it sees them.
"""

from __future__ import annotations

import re
from bisect import bisect_left
from functools import lru_cache
from typing import Any

import promql_parser

MAX_CHARS = 10_000
MAX_NESTING = 100
MAX_OPERATORS = 200

_TOKEN = re.compile(
    r"""\#[^\n]*|"(?:[^"\\]|\\.)*"|'(?:[^'\\]|\\.)*'|`[^`]*`|[A-Za-z_:][A-Za-z0-9_:.]*"""
    r"""|[0-9][0-9A-Za-z_.]*|=~|!~|!=|==|>=|<=|\S"""
)
_OPENING = {"(": ")", "[": "]", "{": "}"}
_OPERATORS = frozenset("+-*/%^") | {"==", "!=", ">", "<", ">=", "<=", "and", "or", "unless"}
_ENDINGS = (
    "", " x", "(x)", " (x)", " (x) (x)", ", x", "x[5m]", "[5m]", "5m", "]", "1", ", 1", '=""',
    '="x"', '"x"', '"x",x="x"', 'x="x"', "by (x) (x)", ", x, x)", '"x", x', " on (x) x", "(x) x",
)  # fmt: skip
"""What may come after the beginning of an expression, before its brackets are closed."""


def parse_promql(text: str) -> Any:
    """Return the expression that `text` is, as promql-parser's syntax tree.

    Raises
    ------
    ValueError
        It is none; says line and column, from 1, and what is wrong there.
    """
    _check_bounds(text)
    try:
        return promql_parser.parse(text)
    except ValueError as error:
        raise ValueError(f"not PromQL: {_place(text)}: {error}") from None


@lru_cache(maxsize=2048)
def check_promql(text: str) -> str:
    """Return `text`, which is PromQL; raises as `parse_promql` does.

    Examples
    --------
    >>> check_promql("sum(rate(modelplane_requests_total[1m])) > 3")
    'sum(rate(modelplane_requests_total[1m])) > 3'
    >>> check_promql("up == == 1")
    Traceback (most recent call last):
    ...
    ValueError: not PromQL: line 1, column 7: invalid promql query
    """
    parse_promql(text)
    return text


def _check_bounds(text: str) -> None:
    if len(text) > MAX_CHARS:
        raise ValueError(f"not PromQL: longer than {MAX_CHARS:,} characters")
    nesting = operators = 0
    for token in _TOKEN.findall(text):
        nesting += (token in _OPENING) - (token in _OPENING.values())
        operators += token.lower() in _OPERATORS
        if nesting > MAX_NESTING:
            raise ValueError(f"not PromQL: nested deeper than {MAX_NESTING} levels")
        if operators > MAX_OPERATORS:
            raise ValueError(f"not PromQL: more than {MAX_OPERATORS} operators")


def _place(text: str) -> str:
    """Return where the first token stands after which nothing could make an expression of it."""
    tokens = [t for t in _TOKEN.finditer(text) if not t[0].startswith("#")]
    index = bisect_left(range(len(tokens)), 1, key=lambda i: not _may_begin(text, tokens[i]))
    at = tokens[index].start() if index < len(tokens) else len(text.rstrip())
    line = text.count("\n", 0, at) + 1
    column = at - (text.rfind("\n", 0, at) + 1) + 1
    return f"line {line}, column {column}"


def _may_begin(text: str, last: re.Match[str]) -> bool:
    """Whether an expression may begin with `text` up to the token `last`."""
    start = text[: last.end()]
    open_ones: list[str] = []
    for token in _TOKEN.findall(start):
        if token in _OPENING:
            open_ones.append(_OPENING[token])
        elif open_ones and token == open_ones[-1]:
            open_ones.pop()
    closing = "".join(reversed(open_ones))
    for ending in _ENDINGS:
        # What an ending opens it closes itself; "]" closes the innermost of the start's.
        closed = closing[1:] if ending == "]" and closing.startswith("]") else closing
        try:
            promql_parser.parse(f"{start}{ending}{closed}")
        except ValueError:
            continue
        return True
    return False
