"""Orders made into functions: sorted lists, and the place after which a page goes on.

Called by `search`, `search_mlflow` and `pages`. An order is total: its last terms tell any two
resources apart. What is missing comes last, whichever way it goes. Pure.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from modelplane.decisions.registry_index import RegistryIndex
from modelplane.decisions.search_matching import AnyResource, Reader

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
    """

    name: str
    read: Reader
    rank: Callable[[Any], Any] | None = None
    descending: bool = False

    def sort(
        self, resources: Iterable[AnyResource], index: RegistryIndex | None
    ) -> list[AnyResource]:
        """Return `resources` by this term; those it does not tell apart stay as they are."""
        read, rank = self.read, self.rank
        present: list[AnyResource] = []
        missing: list[AnyResource] = []
        keys: list[Any] = []
        for resource in resources:
            value = read(resource, index)
            if value is None:
                missing.append(resource)
            else:
                present.append(resource)
                keys.append(rank(value) if rank else value)
        # By position and not in pairs: ten thousand new tuples in each search would keep the
        # garbage collector busy.
        positions = sorted(range(len(keys)), key=keys.__getitem__, reverse=self.descending)
        return [present[position] for position in positions] + missing

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
        ordered = list(resources)
        # Each sort keeps what it does not tell apart, so the last one weighs most.
        for term in reversed(self.terms if in_plain_order else self.all_terms):
            ordered = term.sort(ordered, index)
        return ordered

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
