"""What searches of MLflow's clients found, kept while nothing changes.

Used by `search`: clients page through what they find, and ask the same again. Reads memory only.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterable, Sequence
from typing import Any

from modelplane.api.catalog import Catalog
from modelplane.decisions.registry_index import RegistryIndex
from modelplane.decisions.search import Filter, MlflowEntity, Order
from modelplane.resources.meta import Resource

AnyResource = Resource[Any, Any]
_MAX_KEPT = 500_000
"""Found resources that are kept, over all searches."""


class FoundBefore:
    """What recent searches found, in order, while the registry is as it was then."""

    def __init__(self, catalog: Catalog) -> None:
        self._catalog = catalog
        self._at = -1
        self._found: OrderedDict[tuple[str, str, str], Sequence[AnyResource]] = OrderedDict()
        self._kept = 0

    def find(
        self, index: RegistryIndex, entity: MlflowEntity, wanted: Filter, order: Order
    ) -> Sequence[AnyResource]:
        """Return what `wanted` selects in its order; `index` is the catalog's, as it is now."""
        if self._catalog.through != self._at:
            self._at, self._kept = self._catalog.through, 0
            self._found.clear()
        key = entity, wanted.text, order.text
        found = self._found.get(key)
        if found is not None:
            self._found.move_to_end(key)
            return found
        candidates = _candidates(index, entity, wanted)
        found = order.sort(wanted.select(candidates, index), index)
        self._found[key] = found
        self._kept += len(found) + 1
        while self._kept > _MAX_KEPT:
            self._kept -= len(self._found.popitem(last=False)[1]) + 1
        return found


def _candidates(
    index: RegistryIndex, entity: MlflowEntity, wanted: Filter
) -> Iterable[AnyResource]:
    """Return what may match: not everything where the filter names a model or a tag's value."""
    if entity == "model":
        return index.models.values()
    found: Iterable[AnyResource] | None = None
    for comparison in wanted.comparisons:
        if comparison.comparator != "=":
            continue
        key, value = comparison.name.key, str(comparison.value)
        if comparison.name.group == "tags":
            found = index.tagged(key, value).values()
        elif key == "name":
            return index.versions_of(value).values()
    return index.versions.values() if found is None else found
