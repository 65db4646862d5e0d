"""The grammar of filters and orders: text to a list of comparisons and back.

Called by `search` and, for the words alone, by `search_mlflow`. Knows no names of fields: those
are in `search_fields`. A filter is comparisons joined by AND, as in MLflow. Pure.
"""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Literal

from modelplane.errors import FieldError, InvalidResource
from modelplane.resources.fields import suggest

MAX_TEXT = 10_000
MAX_COMPARISONS = 100

WordKind = Literal["name", "text", "number", "symbol"]
Value = str | float | int | bool | tuple[str, ...] | None
SYMBOLS = ("=", "!=", "<", "<=", ">", ">=")
COMPARATORS = (*SYMBOLS, "LIKE", "ILIKE", "IN", "NOT IN", "IS NULL", "IS NOT NULL")
KEYWORDS = frozenset(
    {"AND", "OR", "NOT", "IN", "IS", "NULL", "LIKE", "ILIKE", "TRUE", "FALSE", "ASC", "DESC"}
)
_SAID_OTHERWISE = {"==": "=", "<>": "!="}

_WORD = re.compile(
    r"""\s*(?:
      (?P<text>'(?:[^']|'')*')
    | (?P<name>(?:[^\W\d]\w*|`[^`]*`|"[^"]*")(?:\.(?:`[^`]*`|"[^"]*"|\w[\w.\-/]*))?)
    | (?P<number>-?(?:\d+(?:\.\d*)?|\.\d+)(?:[eE][+-]?\d+)?(?![\w.]))
    | (?P<symbol>[=<>!~]+|[(),;])
    )""",
    re.VERBOSE,
)
_LONGEST_NUMBER = 40
_BARE_NAME = re.compile(r"[^\W\d]\w*")
_BARE_KEY = re.compile(r"\w[\w.\-/]*")


@dataclass(frozen=True, slots=True)
class Word:
    """A piece of the text as it was written, and where it begins."""

    kind: WordKind
    text: str
    position: int

    @property
    def end(self) -> int:
        """The position after it."""
        return self.position + len(self.text)

    @property
    def keyword(self) -> str:
        """The word in capitals when it is one of the language's own, else empty."""
        capitals = self.text.upper()
        return capitals if self.kind == "name" and capitals in KEYWORDS else ""

    @property
    def is_quoted(self) -> bool:
        """Whether it stands in double quotes: a name, or a text where a value belongs."""
        return self.kind == "name" and self.text.strip('"') == self.text[1:-1]


@dataclass(frozen=True, slots=True)
class FieldName:
    """What is compared: ``metrics.accuracy`` (group and key) or ``author`` (key alone)."""

    group: str
    key: str

    def __str__(self) -> str:
        if self.group:
            return f"{_quote(self.group, _BARE_NAME)}.{_quote(self.key, _BARE_KEY)}"
        return _quote(self.key, _BARE_NAME)


@dataclass(frozen=True, slots=True)
class Comparison:
    """One condition: a field, how it is compared, and with what.

    Attributes
    ----------
    value
        None for IS NULL and IS NOT NULL, texts for IN and NOT IN.
    position
        Where it begins in the text, from 0; of no account when two are compared.
    """

    name: FieldName
    comparator: str
    value: Value
    position: int = field(default=0, compare=False)

    def __str__(self) -> str:
        if self.value is None:
            return f"{self.name} {self.comparator}"
        return f"{self.name} {self.comparator} {_format_value(self.value)}"


@dataclass(frozen=True, slots=True)
class Sorting:
    """One term of an order."""

    name: FieldName
    descending: bool = False
    position: int = field(default=0, compare=False)

    def __str__(self) -> str:
        return f"{self.name} {'DESC' if self.descending else 'ASC'}"


def format_filter(comparisons: Sequence[Comparison]) -> str:
    """Return the text that `parse_filter` reads as `comparisons`.

    Examples
    --------
    >>> format_filter(parse_filter("metrics.accuracy>.5  AND tags.`my team`='it''s'"))
    "metrics.accuracy > 0.5 AND tags.`my team` = 'it''s'"
    """
    return " AND ".join(map(str, comparisons))


def format_order(terms: Sequence[Sorting]) -> str:
    """Return the text that `parse_order` reads as `terms`."""
    return ", ".join(map(str, terms))


def parse_filter(text: str) -> tuple[Comparison, ...]:
    """Return the comparisons that all have to hold; none for an empty text.

    Raises
    ------
    InvalidResource
        It cannot be read; says where and what was expected.
    """
    reader = _Reader(text, "filter")
    comparisons: list[Comparison] = []
    while not reader.at_end:
        if comparisons:
            reader.take_and()
        if len(comparisons) == MAX_COMPARISONS:
            raise reader.fault(f"more than {MAX_COMPARISONS} comparisons", reader.position)
        comparisons.append(reader.take_comparison())
    return tuple(comparisons)


def parse_order(text: str) -> tuple[Sorting, ...]:
    """Return the terms of an order, the most important first; none for an empty text.

    Raises
    ------
    InvalidResource
        It cannot be read; says where and what was expected.
    """
    reader = _Reader(text, "orderBy")
    terms: list[Sorting] = []
    while not reader.at_end:
        if terms:
            reader.take_symbol(",")
        position = reader.position
        name = reader.take_name()
        keyword = reader.peek_keyword()
        if keyword in {"ASC", "DESC"}:
            reader.take()
        if any(term.name == name for term in terms):
            raise reader.fault(f"{name} twice", position)
        if len(terms) == MAX_COMPARISONS:
            raise reader.fault(f"more than {MAX_COMPARISONS} terms", position)
        terms.append(Sorting(name, keyword == "DESC", position))
    return tuple(terms)


def split_words(text: str) -> list[Word]:
    """Return the words of a text.

    Raises
    ------
    ValueError
        With the position of what is no word as its only argument.
    """
    words, position, end = [], 0, len(text.rstrip())
    while position < end:
        match = _WORD.match(text, position)
        if match is None or match.lastgroup is None:
            raise ValueError(position + len(text[position:]) - len(text[position:].lstrip()))
        kind: WordKind = match.lastgroup  # type: ignore[assignment]
        words.append(Word(kind, match[kind], match.start(kind)))
        position = match.end()
    return words


def read_name(text: str) -> FieldName:
    """Return the field that a word names, its quotes taken off."""
    quoted = re.fullmatch(r"(`[^`]*`|\"[^\"]*\"|[^.]*)(?:\.(.*))?", text, re.DOTALL)
    assert quoted is not None, "every text is one of the three"
    first, rest = strip_quotes(quoted[1]), quoted[2]
    return FieldName("", first) if rest is None else FieldName(first, strip_quotes(rest))


def strip_quotes(text: str) -> str:
    """Return `text` without the backticks or double quotes around it."""
    return text[1:-1] if len(text) > 1 and text[0] in '`"' and text[-1] == text[0] else text


class _Reader:
    """Takes words from the front of a text and says what is wrong with the rest."""

    def __init__(self, text: str, parameter: str) -> None:
        self._parameter = parameter
        self._end = len(text)
        if len(text) > MAX_TEXT:
            raise self.fault(f"longer than {MAX_TEXT} characters", MAX_TEXT)
        try:
            self._words = split_words(text)
        except ValueError as error:
            raise self._character(text, int(error.args[0])) from None
        self._next = 0

    @property
    def at_end(self) -> bool:
        return self._next == len(self._words)

    @property
    def position(self) -> int:
        return self._end if self.at_end else self._words[self._next].position

    def fault(self, message: str, position: int) -> InvalidResource:
        what = "order" if self._parameter == "orderBy" else "filter"
        return unreadable(self._parameter, f"the {what} cannot be read", message, position)

    def _character(self, text: str, position: int) -> InvalidResource:
        character = text[position]
        if character in "'`\"":
            return self.fault(f"the quote {character} is not closed", position)
        return self.fault(f"an unknown character {character!r}", position)

    def take(self) -> Word:
        word = self._words[self._next]
        self._next += 1
        return word

    def peek_keyword(self) -> str:
        return "" if self.at_end else self._words[self._next].keyword

    def take_symbol(self, symbol: str) -> None:
        if self.at_end or self._words[self._next].text != symbol:
            raise self._expected(f"{symbol!r}")
        self.take()

    def take_keyword(self, *keywords: str) -> str:
        if self.peek_keyword() not in keywords:
            raise self._expected(" or ".join(keywords))
        return self.take().keyword

    def take_and(self) -> None:
        if self.peek_keyword() == "OR":
            raise self.fault("comparisons are joined by AND alone: ask twice", self.position)
        self.take_keyword("AND")

    def take_name(self) -> FieldName:
        if self.at_end or self._words[self._next].kind != "name" or self.peek_keyword():
            raise self._expected("a field such as metrics.accuracy")
        name = read_name(self.take().text)
        if not name.key:
            self._next -= 1
            raise self._expected("a name within the quotes")
        return name

    def take_comparison(self) -> Comparison:
        position = self.position
        name = self.take_name()
        comparator = self._take_comparator()
        if comparator in {"IS NULL", "IS NOT NULL"}:
            return Comparison(name, comparator, None, position)
        if comparator in {"IN", "NOT IN"}:
            return Comparison(name, comparator, self._take_texts(), position)
        return Comparison(name, comparator, self._take_value(), position)

    def _take_comparator(self) -> str:
        keyword = self.peek_keyword()
        if keyword in {"LIKE", "ILIKE", "IN"}:
            return self.take().keyword
        if keyword == "NOT":
            self.take()
            return f"NOT {self.take_keyword('IN')}"
        if keyword == "IS":
            self.take()
            negated = self.take_keyword("NULL", "NOT") == "NOT"
            if negated:
                self.take_keyword("NULL")
            return "IS NOT NULL" if negated else "IS NULL"
        symbol = "" if self.at_end else self._words[self._next].text
        if symbol in _SAID_OTHERWISE:
            raise self.fault(f"write {_SAID_OTHERWISE[symbol]} for {symbol}", self.position)
        if symbol not in SYMBOLS:
            raise self._expected(f"one of {', '.join(COMPARATORS)}", word=symbol)
        return self.take().text

    def _take_texts(self) -> tuple[str, ...]:
        self.take_symbol("(")
        texts = [self._take_text()]
        while not self.at_end and self._words[self._next].text == ",":
            self.take()
            texts.append(self._take_text())
        self.take_symbol(")")
        return tuple(texts)

    def _take_text(self) -> str:
        value = self._take_value()
        if not isinstance(value, str):
            self._next -= 1
            raise self._expected("a quoted text")
        return value

    def _take_value(self) -> str | float | int | bool:
        if self.at_end:
            raise self._expected("a value")
        word = self._words[self._next]
        if word.keyword in {"TRUE", "FALSE"}:
            return self.take().keyword == "TRUE"
        if word.kind == "text":
            return self.take().text[1:-1].replace("''", "'")
        if word.kind == "number":
            return self._take_number()
        if word.is_quoted:
            return self.take().text[1:-1]
        if word.kind == "name" and not word.keyword:
            raise self.fault(f"put the text in quotes: '{word.text}'", word.position)
        raise self._expected("a number or a quoted text")

    def _take_number(self) -> float | int:
        word = self.take()
        if len(word.text) <= _LONGEST_NUMBER:
            number = float(word.text) if set(word.text) & set(".eE") else int(word.text)
            if math.isfinite(number):
                return number
        raise self.fault("no such number", word.position)

    def _expected(self, what: str, *, word: str = "") -> InvalidResource:
        if self.at_end:
            return self.fault(f"it ends where {what} was expected", self._end)
        found = self._words[self._next]
        hint = ""
        if word and found.kind == "name":
            hint = f"; {suggest(word.upper(), ('LIKE', 'ILIKE', 'IN', 'NOT IN', 'IS NULL'))}"
        return self.fault(f"expected {what}, found {found.text[:60]!r}{hint}", found.position)


def unreadable(parameter: str, what: str, message: str, position: int) -> InvalidResource:
    """Return the error about one place of a filter or an order; places count from 1."""
    fault = FieldError(f"query.{parameter}", f"at character {position + 1}: {message}")
    return InvalidResource(what, [fault])


def _quote(text: str, bare: re.Pattern[str]) -> str:
    if bare.fullmatch(text) and text.upper() not in KEYWORDS:
        return text
    return f'"{text}"' if "`" in text else f"`{text}`"


def _format_value(value: str | float | bool | tuple[str, ...]) -> str:
    if isinstance(value, tuple):
        return f"({', '.join(map(_format_value, value))})"
    if isinstance(value, str):
        return "'" + value.replace("'", "''") + "'"
    return str(value).lower() if isinstance(value, bool) else repr(value)
