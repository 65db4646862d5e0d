"""What of the registry may match a filter: everything of a kind, or what an index leads to.

Called by the API's lists. Narrows by what a filter requires (a model, an alias, an id, a
dataset), so that most questions look at few resources. The filter still has to be asked. Pure.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from operator import attrgetter
from typing import Any

from modelplane.decisions.registry_index import RegistryIndex
from modelplane.decisions.search import required_text, uses
from modelplane.decisions.search_matching import Filter, Table
from modelplane.resources.dataset import Dataset, DatasetVersion
from modelplane.resources.meta import Resource
from modelplane.resources.model import Model, ModelVersion

_NUMBER = attrgetter("spec.number", "metadata.name")
_PLAIN = attrgetter("spec.model", "spec.number", "metadata.name")


def candidates(
    index: RegistryIndex, kind: type[Resource[Any, Any]], wanted: Filter
) -> Sequence[Resource[Any, Any]]:
    """Return what may match, in the plain order of the kind.

    Deleted versions are among them only where the filter speaks of ``deleted``.
    """
    if kind is Model:
        return [index.models[name] for name in sorted(index.models)]
    if kind is Dataset:
        return [index.datasets[name] for name in sorted(index.datasets)]
    if kind is DatasetVersion:
        return _dataset_versions(index, required_text(wanted, kind, "dataset"))
    return _versions(index, wanted)


def _dataset_versions(index: RegistryIndex, dataset: str | None) -> Sequence[DatasetVersion]:
    datasets = index.dataset_names() if dataset is None else [dataset]
    return [
        version
        for name in sorted(datasets)
        for version in sorted(index.versions_of_dataset(name).values(), key=_NUMBER)
    ]


def _versions(index: RegistryIndex, wanted: Filter) -> Sequence[ModelVersion]:
    versions = _few_versions(index, wanted)
    with_deleted = uses(wanted, ModelVersion, "deleted")
    if versions is None and not with_deleted:
        model = required_text(wanted, ModelVersion, "model")
        models = sorted(index.model_names()) if model is None else [model]
        return Table(map(index.living_versions, models))
    found = index.versions.values() if versions is None else versions
    return sorted((v for v in found if with_deleted or v.status.deleted_at is None), key=_PLAIN)


def _few_versions(index: RegistryIndex, wanted: Filter) -> Iterable[ModelVersion] | None:
    """Return the versions that an index leads to; None when no index helps."""
    unique_id = required_text(wanted, ModelVersion, "id")
    if unique_id is not None:
        found = index.find_id(unique_id)
        return [found] if found else []
    alias = required_text(wanted, ModelVersion, "alias")
    if alias is not None:
        named = (index.find_alias(model, alias) for model in index.models)
        return [version for version in named if version]
    dataset = required_text(wanted, ModelVersion, "dataset")
    if dataset is not None:
        name, _, version_of_data = dataset.partition("@")
        return index.made_from(name, version_of_data or None)
    return None
