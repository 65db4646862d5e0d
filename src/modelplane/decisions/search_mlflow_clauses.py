"""A text for MLflow's search, cut into clauses the way MLflow does it.

Called by `search_mlflow`. MLflow reads filters with a tolerant reader of SQL: clauses may stand
side by side, AND may stand anywhere, and what is no clause is named in the error. Knows no
fields. Pure.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

from modelplane.decisions.search_grammar import MAX_COMPARISONS, MAX_TEXT, Word, split_words
from modelplane.errors import InvalidResource

_SYMBOLS = re.compile(r"[=<>!~]+")
_LISTS = (("NOT", "IN"), ("IN",))
_PATTERNS = (("NOT", "LIKE"), ("NOT", "ILIKE"), ("LIKE",), ("ILIKE",))
_SQL_WORD = "version"
"""A word of SQL's own, which MLflow's reader does not take for a field."""


class MlflowFilterError(InvalidResource):
    """A filter, order or value that MLflow refuses; `message` is MLflow's own.

    Its error code there is ``INVALID_PARAMETER_VALUE``.
    """


@dataclass(frozen=True, slots=True)
class Clause:
    """A comparison of anything with anything.

    Attributes
    ----------
    right
        The value: one word, or a list with its brackets; nothing for IS NULL.
    written
        The value as it was written.
    """

    left: Word
    comparator: str
    right: tuple[Word, ...] = ()
    written: str = ""


def split_clauses(text: str) -> list[Clause]:
    """Return the comparisons of a text, whatever stands in them.

    Raises
    ------
    MlflowFilterError
        There is something else, or too much.
    """
    if len(text) > MAX_TEXT:
        raise MlflowFilterError(f"Error on parsing filter '{text[:80]}…'")
    words = read_words(text, "Invalid clause(s) in filter string: {rest}")
    clauses: list[Clause] = []
    invalid: list[str] = []
    at = 0
    while at < len(words):
        if words[at].text == ";" and at + 1 < len(words):
            raise MlflowFilterError(
                f"Search filter contained multiple expression {text!r}. "
                "Provide AND-ed expression list."
            )
        found = _find_clause(text, words, at)
        if found is not None:
            clause, at = found
            clauses.append(clause)
            continue
        end = _end_of_brackets(words, at) if words[at].text == "(" else at + 1
        if words[at].keyword != "AND":
            invalid.append(text[words[at].position : words[end - 1].end])
        at = end
    if invalid:
        raise MlflowFilterError(f"Invalid clause(s) in filter string: {', '.join(invalid)}")
    if len(clauses) > MAX_COMPARISONS:
        raise MlflowFilterError(f"Error on parsing filter '{text[:80]}…'")
    return clauses


def read_words(text: str, message: str) -> list[Word]:
    """Return the words of a text, or raise with `message`, in which ``{rest}`` is the trouble."""
    try:
        return split_words(text)
    except ValueError as error:
        rest = text[int(error.args[0]) :].strip()[:200]
        raise MlflowFilterError(message.replace("{rest}", rest)) from None


def _find_clause(text: str, words: Sequence[Word], at: int) -> tuple[Clause, int] | None:
    """Return the comparison that begins at `at` and the index after it, or None."""
    left = words[at]
    if left.kind == "symbol" or left.keyword or left.text.lower() == _SQL_WORD:
        return None
    following = tuple(word.keyword or word.text for word in words[at + 1 : at + 4])
    for nothing in (("IS", "NULL"), ("IS", "NOT", "NULL")):
        if following[: len(nothing)] == nothing:
            return Clause(left, " ".join(nothing)), at + 1 + len(nothing)
    if following and _SYMBOLS.fullmatch(following[0]):
        comparator: tuple[str, ...] | None = following[:1]
    else:
        known = (c for c in (*_LISTS, *_PATTERNS) if following[: len(c)] == c)
        comparator = next(known, None)
    if comparator is None:
        return None
    begin = at + 1 + len(comparator)
    end = _end_of_value(words, begin, is_list=comparator in _LISTS)
    if end is None:
        return None
    written = text[words[begin].position : words[end - 1].end]
    return Clause(left, " ".join(comparator), tuple(words[begin:end]), written), end


def _end_of_value(words: Sequence[Word], begin: int, *, is_list: bool) -> int | None:
    if begin >= len(words):
        return None
    if words[begin].text == "(":
        return _end_of_brackets(words, begin)
    is_value = words[begin].kind != "symbol" and words[begin].keyword in {"", "NULL"}
    return begin + 1 if is_value and not is_list else None


def _end_of_brackets(words: Sequence[Word], begin: int) -> int:
    """Return the index after the brackets that open at `begin`; the end when they stay open."""
    depth = 0
    for at in range(begin, len(words)):
        depth += (words[at].text == "(") - (words[at].text == ")")
        if depth == 0:
            return at + 1
    return len(words)
