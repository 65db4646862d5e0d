"""Orders made into functions: sorted lists, and the place after which a page goes on.

Called by `search`, `search_mlflow` and `pages`. An order is total: its last terms tell any two
resources apart. What is missing comes last, whichever way it goes. Pure.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from modelplane.decisions.registry_index import RegistryIndex
from modelplane.decisions.search_matching import AnyResource, Reader, Table

Scalar = str | float | int | bool | None
"""What a page token keeps of a term."""


@dataclass(frozen=True, slots=True)
class OrderTerm:
    """One term of an order.

    Attributes
    ----------
    name
        The field, for the text of the order.
    read
        Reads a scalar or None.
    rank
        Makes a value comparable where it is not by itself.
    in_table
        Whether it depends on the resource alone, so that a table's column may hold it.
    """

    name: str
    read: Reader
    rank: Callable[[Any], Any] | None = None
    descending: bool = False
    in_table: bool = False

    def arrange(self, positions: list[int], values: list[Any]) -> list[int]:
        """Return `positions` by their values; those that are alike stay as they are."""
        rank = self.rank
        missing = [position for position in positions if values[position] is None]
        present = [position for position in positions if values[position] is not None]
        if rank is not None:
            values = [None if value is None else rank(value) for value in values]
        present.sort(key=lambda position: values[position], reverse=self.descending)
        return present + missing

    def place(self, value: Scalar) -> tuple[bool, Any]:
        """Return what tells whether `value` comes before another."""
        if value is None:
            return True, None
        return False, self.rank(value) if self.rank else value


@dataclass(frozen=True, slots=True)
class Order:
    """A total order.

    Attributes
    ----------
    terms
        What was asked for, the most important first.
    ties
        What tells apart those that are still alike: the plain order of the kind.
    """

    terms: tuple[OrderTerm, ...]
    ties: tuple[OrderTerm, ...] = ()

    @property
    def all_terms(self) -> tuple[OrderTerm, ...]:
        """The terms asked for and the ties."""
        return self.terms + self.ties

    @property
    def text(self) -> str:
        """The order written in one way."""
        terms = self.all_terms
        return ", ".join(f"{t.name} {'DESC' if t.descending else 'ASC'}" for t in terms)

    def sort(
        self,
        resources: Iterable[AnyResource],
        index: RegistryIndex | None = None,
        *,
        in_plain_order: bool = False,
    ) -> list[AnyResource]:
        """Return `resources` in this order; `in_plain_order` says that they lie as `ties` say."""
        found = resources if isinstance(resources, Table) else list(resources)
        # Positions are sorted, and no pairs of key and resource: ten thousand new tuples in each
        # search would keep the garbage collector busy.
        positions: list[int] = list(range(len(found)))
        # Each sort keeps what it does not tell apart, so the last one weighs most.
        for term in reversed(self.terms if in_plain_order else self.all_terms):
            if isinstance(found, Table) and term.in_table:
                values = found.column(term.name, term.read)
            else:
                values = [term.read(resource, index) for resource in found]
            positions = term.arrange(positions, values)
        return [found[position] for position in positions]

    def values(self, resource: AnyResource, index: RegistryIndex | None = None) -> list[Scalar]:
        """Return what the terms read of `resource`: its place in this order."""
        return [term.read(resource, index) for term in self.all_terms]

    def count_through(
        self,
        ordered: Sequence[AnyResource],
        place: Sequence[Scalar],
        index: RegistryIndex | None = None,
    ) -> int:
        """Return how many of `ordered` do not come after `place`.

        Raises
        ------
        TypeError, ValueError
            `place` is no place in this order.
        """
        terms = self.all_terms
        wanted = [term.place(value) for term, value in zip(terms, place, strict=True)]
        low, high = 0, len(ordered)
        while low < high:
            middle = (low + high) // 2
            if _is_after(terms, self.values(ordered[middle], index), wanted):
                high = middle
            else:
                low = middle + 1
        return low


def _is_after(
    terms: Sequence[OrderTerm], values: Sequence[Scalar], wanted: Sequence[tuple[bool, Any]]
) -> bool:
    for term, value, other in zip(terms, values, wanted, strict=True):
        own = term.place(value)
        if own[0] != other[0]:
            return own[0]  # what is missing comes last, whichever way the order goes
        if own != other:
            return bool(own[1] > other[1]) != term.descending
    return False
