"""Comparisons made into functions: does a resource match, the LIKE of SQL included.

Called by `search` and `search_mlflow` with fields that exist and values of the right type. A
value that is missing matches nothing but IS NULL, as in SQL. Pure.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from modelplane.decisions.registry_index import RegistryIndex
from modelplane.decisions.search_grammar import Comparison
from modelplane.resources.meta import Resource

AnyResource = Resource[Any, Any]
Reader = Callable[[Any, RegistryIndex | None], Any]
"""Reads a field of a resource; the index knows what other resources say of it."""

Predicate = Callable[[AnyResource, RegistryIndex | None], bool]


@dataclass(frozen=True, slots=True)
class Filter:
    """What has to hold, as a function of a resource.

    Attributes
    ----------
    text
        The filter written in one way: two filters with the same text match the same.
    comparisons
        What it compares.
    """

    text: str
    comparisons: tuple[Comparison, ...]
    predicates: tuple[Predicate, ...]

    def __call__(self, resource: AnyResource, index: RegistryIndex | None = None) -> bool:
        """Whether everything holds for `resource`."""
        return all(predicate(resource, index) for predicate in self.predicates)

    def select(
        self, resources: Iterable[AnyResource], index: RegistryIndex | None = None
    ) -> list[AnyResource]:
        """Return those of `resources` for which everything holds, in their order."""
        found = list(resources)
        for holds in self.predicates:
            found = [resource for resource in found if holds(resource, index)]
        return found


def compile_value(read: Reader, comparator: str, wanted: Any) -> Predicate:
    """Return the predicate of a field that has one value or none."""
    if comparator in {"LIKE", "ILIKE"}:
        wanted = compile_like(wanted, ignore_case=comparator == "ILIKE")
    elif comparator in {"IN", "NOT IN"}:
        wanted = frozenset(wanted)
    return _PREDICATES[comparator](read, wanted)


# Each written out, because searches spend their time here: one call for each resource.
_PREDICATES: dict[str, Callable[[Reader, Any], Predicate]] = {
    "=": lambda read, w: lambda r, i: (v := read(r, i)) is not None and v == w,
    "!=": lambda read, w: lambda r, i: (v := read(r, i)) is not None and v != w,
    "<": lambda read, w: lambda r, i: (v := read(r, i)) is not None and v < w,
    "<=": lambda read, w: lambda r, i: (v := read(r, i)) is not None and v <= w,
    ">": lambda read, w: lambda r, i: (v := read(r, i)) is not None and v > w,
    ">=": lambda read, w: lambda r, i: (v := read(r, i)) is not None and v >= w,
    "IN": lambda read, w: lambda r, i: (v := read(r, i)) is not None and v in w,
    "NOT IN": lambda read, w: lambda r, i: (v := read(r, i)) is not None and v not in w,
    "LIKE": lambda read, w: lambda r, i: (v := read(r, i)) is not None and w(v),
    "ILIKE": lambda read, w: lambda r, i: (v := read(r, i)) is not None and w(v),
    "IS NULL": lambda read, _: lambda r, i: read(r, i) is None,
    "IS NOT NULL": lambda read, _: lambda r, i: read(r, i) is not None,
}


def compile_values(read: Reader, comparator: str, wanted: Any) -> Predicate:
    """Return the predicate of a field that has any number of values.

    ``=``, LIKE and IN ask whether some value fits; ``!=`` and NOT IN whether none is excluded,
    so that they hold where there are no values; IS NULL whether there are none.
    """
    if comparator == "IS NULL":
        return lambda resource, index: not read(resource, index)
    if comparator == "IS NOT NULL":
        return lambda resource, index: bool(read(resource, index))
    if comparator in {"!=", "NOT IN"}:
        excluded = frozenset(wanted if isinstance(wanted, tuple) else (wanted,))
        return lambda resource, index: excluded.isdisjoint(read(resource, index))
    if comparator in {"=", "IN"}:
        among = frozenset(wanted if isinstance(wanted, tuple) else (wanted,))
        return lambda resource, index: not among.isdisjoint(read(resource, index))
    fits = compile_like(wanted, ignore_case=comparator == "ILIKE")
    return lambda resource, index: any(map(fits, read(resource, index)))


def compile_like(pattern: str, *, ignore_case: bool) -> Callable[[str], bool]:
    """Return whether a text fits a pattern: ``%`` is any text, ``_`` any character.

    The pieces between the ``%`` are looked for from left to right, so the time is bounded by the
    product of the lengths, which a regular expression does not promise.

    Examples
    --------
    >>> like = compile_like("fr%d_", ignore_case=True)
    >>> like("FRAUDS"), like("fraud")
    (True, False)
    """
    first, *rest = [_compile_piece(p, ignore_case) for p in re.split("%+", pattern)]
    if not rest:
        return lambda text: first.fullmatch(text) is not None
    *middle, last = rest
    last_length = len(re.split("%+", pattern)[-1])

    def fits(text: str) -> bool:
        match = first.match(text)
        for piece in middle:
            if match is None:
                return False
            match = piece.search(text, match.end())
        begin = len(text) - last_length
        return match is not None and begin >= match.end() and last.match(text, begin) is not None

    return fits


def _compile_piece(piece: str, ignore_case: bool) -> re.Pattern[str]:
    flags = re.DOTALL | (re.IGNORECASE if ignore_case else 0)
    return re.compile("".join("." if c == "_" else re.escape(c) for c in piece), flags)


def conjunction(comparisons: Sequence[Comparison], predicates: Sequence[Predicate]) -> Filter:
    """Return the filter of comparisons that all have to hold."""
    text = " AND ".join(map(str, comparisons))
    return Filter(text, tuple(comparisons), tuple(predicates))
