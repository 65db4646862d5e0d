"""Comparisons made into functions: does a resource match, the LIKE of SQL included.

Called by `search` and `search_mlflow` with fields that exist and values of the right type. A
value that is missing matches nothing but IS NULL, as in SQL. Pure.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import chain
from typing import Any, overload

from modelplane.decisions.registry_index import LivingVersions, RegistryIndex
from modelplane.decisions.search_grammar import Comparison
from modelplane.resources.meta import Resource
from modelplane.resources.model import ModelVersion

AnyResource = Resource[Any, Any]
Reader = Callable[[Any, RegistryIndex | None], Any]
"""Reads a field of a resource; the index knows what other resources say of it."""

Predicate = Callable[[AnyResource, RegistryIndex | None], bool]
Test = Callable[[Any], bool]
"""Whether a field's value, or None, is as wanted."""


class Table(Sequence[ModelVersion]):
    """The living versions of some models, in their plain order, with their fields as columns."""

    def __init__(self, models: Iterable[LivingVersions]) -> None:
        self._models = list(models)
        self._versions = list(chain.from_iterable(model.versions for model in self._models))

    def __len__(self) -> int:
        return len(self._versions)

    @overload
    def __getitem__(self, position: int) -> ModelVersion: ...
    @overload
    def __getitem__(self, position: slice) -> list[ModelVersion]: ...
    def __getitem__(self, position: int | slice) -> ModelVersion | list[ModelVersion]:
        return self._versions[position]

    def __iter__(self) -> Iterator[ModelVersion]:
        return iter(self._versions)

    def column(self, name: str, read: Reader) -> list[Any]:
        """Return what `read` reads of each version, which depends on the version alone."""
        columns = (model.column(name, read) for model in self._models)
        return list(chain.from_iterable(columns))


@dataclass(frozen=True, slots=True)
class Condition:
    """A predicate of one field.

    Attributes
    ----------
    read, test
        What is read, and whether it is as wanted.
    column
        What the field is called in tables; empty where it does not depend on the resource alone.
    """

    read: Reader
    test: Test
    column: str = ""

    def __call__(self, resource: AnyResource, index: RegistryIndex | None) -> bool:
        """Whether it holds for `resource`."""
        return self.test(self.read(resource, index))


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
        found: Sequence[AnyResource] = (
            resources if isinstance(resources, Table) else list(resources)
        )
        positions: Iterable[int] = range(len(found))
        for holds in self.predicates:
            if isinstance(holds, Condition) and holds.column and isinstance(found, Table):
                column, test = found.column(holds.column, holds.read), holds.test
                positions = [position for position in positions if test(column[position])]
            else:
                positions = [position for position in positions if holds(found[position], index)]
        return [found[position] for position in positions]


def compile_value(read: Reader, comparator: str, wanted: Any, *, column: str = "") -> Predicate:
    """Return the predicate of a field that has one value or none; see `Condition.column`."""
    if comparator in {"LIKE", "ILIKE"}:
        wanted = compile_like(wanted, ignore_case=comparator == "ILIKE")
    elif comparator in {"IN", "NOT IN"}:
        wanted = frozenset(wanted)
    return Condition(read, _TESTS[comparator](wanted), column)


# Each written out, because searches spend their time here: one call for each resource.
_TESTS: dict[str, Callable[[Any], Test]] = {
    "=": lambda wanted: lambda value: value is not None and value == wanted,
    "!=": lambda wanted: lambda value: value is not None and value != wanted,
    "<": lambda wanted: lambda value: value is not None and value < wanted,
    "<=": lambda wanted: lambda value: value is not None and value <= wanted,
    ">": lambda wanted: lambda value: value is not None and value > wanted,
    ">=": lambda wanted: lambda value: value is not None and value >= wanted,
    "IN": lambda wanted: lambda value: value is not None and value in wanted,
    "NOT IN": lambda wanted: lambda value: value is not None and value not in wanted,
    "LIKE": lambda wanted: lambda value: value is not None and wanted(value),
    "ILIKE": lambda wanted: lambda value: value is not None and wanted(value),
    "IS NULL": lambda _: lambda value: value is None,
    "IS NOT NULL": lambda _: lambda value: value is not None,
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
