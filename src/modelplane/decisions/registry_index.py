"""The registry in memory: what is asked for often, found without a database.

Kept up to date by `api.catalog` from the change log. Holds resources as they are stored; makes
no decision, reads nothing, and tells nothing that the store does not hold.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any

from modelplane.resources.dataset import Dataset, DatasetVersion
from modelplane.resources.meta import Resource
from modelplane.resources.model import Model, ModelVersion
from modelplane.resources.model_deployment import ModelDeployment

KINDS: tuple[type[Resource[Any, Any]], ...] = (
    Model, ModelVersion, Dataset, DatasetVersion, ModelDeployment,
)  # fmt: skip
"""What is held."""


class LivingVersions:
    """The versions of a model that are not deleted, by number, and their fields as columns.

    Walking ten thousand records for one number each takes longer than everything else in a
    search; a column holds the numbers side by side.
    """

    max_columns = 32

    def __init__(self, versions: list[ModelVersion]) -> None:
        self.versions = versions
        self._columns: dict[str, list[Any]] = {}

    def column(self, name: str, read: Callable[[Any, None], Any]) -> list[Any]:
        """Return what `read` reads of each version; `name` says what that is."""
        column = self._columns.get(name)
        if column is None:
            if len(self._columns) >= self.max_columns:
                self._columns.clear()
            column = self._columns[name] = [read(version, None) for version in self.versions]
        return column


class RegistryIndex:
    """Models, datasets, their versions and the deployments, with what they are found by.

    Deleted versions are held too (`ModelVersion.status.deleted_at`), since deployments and
    lineage may still name them.
    """

    def __init__(self) -> None:
        self.models: dict[str, Model] = {}
        self.datasets: dict[str, Dataset] = {}
        self.versions: dict[str, ModelVersion] = {}
        self.dataset_versions: dict[str, DatasetVersion] = {}
        self.deployments: dict[tuple[str, str], ModelDeployment] = {}
        self._of_model: dict[str, dict[str, ModelVersion]] = {}
        self._living: dict[str, LivingVersions] = {}
        self._by_id: dict[str, ModelVersion] = {}
        self._of_dataset: dict[str, dict[str, DatasetVersion]] = {}
        self._by_dataset_digest: dict[tuple[str, str], DatasetVersion] = {}
        self._made_from: dict[str, dict[str, ModelVersion]] = {}
        self._tagged: dict[tuple[str, str], dict[str, ModelVersion]] = {}

    def put(self, resource: Resource[Any, Any]) -> None:
        """Hold `resource` in place of the one with its key."""
        name = resource.metadata.name
        if isinstance(resource, ModelVersion):
            self._put_version(name, resource)
        elif isinstance(resource, Model):
            self.models[name] = resource
        elif isinstance(resource, DatasetVersion):
            self.dataset_versions[name] = resource
            self._of_dataset.setdefault(resource.spec.dataset, {})[name] = resource
            self._by_dataset_digest[resource.spec.dataset, resource.spec.digest] = resource
        elif isinstance(resource, Dataset):
            self.datasets[name] = resource
        elif isinstance(resource, ModelDeployment):
            self.deployments[resource.metadata.environment or "", name] = resource

    def remove(self, resource: Resource[Any, Any]) -> None:
        """Forget the resource with the key of `resource`."""
        name = resource.metadata.name
        if isinstance(resource, ModelVersion):
            self.versions.pop(name, None)
            self._of_model.get(resource.spec.model, {}).pop(name, None)
            self._living.pop(resource.spec.model, None)
            self._by_id.pop(resource.spec.id, None)
            for key in _dataset_keys(resource):
                self._made_from.get(key, {}).pop(name, None)
            self._untag(name, resource)
        elif isinstance(resource, Model):
            self.models.pop(name, None)
        elif isinstance(resource, DatasetVersion):
            self.dataset_versions.pop(name, None)
            self._of_dataset.get(resource.spec.dataset, {}).pop(name, None)
            self._by_dataset_digest.pop((resource.spec.dataset, resource.spec.digest), None)
        elif isinstance(resource, Dataset):
            self.datasets.pop(name, None)
        elif isinstance(resource, ModelDeployment):
            self.deployments.pop((resource.metadata.environment or "", name), None)

    def _put_version(self, name: str, version: ModelVersion) -> None:
        before = self.versions.get(name)
        if before is not None and before.spec is not version.spec:
            self.remove(before)  # its files, and with them its data, may be known only now
        before = self.versions.get(name)
        if before is not None:
            self._untag(name, before)
        for tag in version.status.tags.items():
            self._tagged.setdefault(tag, {})[name] = version
        self.versions[name] = version
        self._of_model.setdefault(version.spec.model, {})[name] = version
        self._living.pop(version.spec.model, None)
        if version.spec.id:
            self._by_id[version.spec.id] = version
        for key in _dataset_keys(version):
            self._made_from.setdefault(key, {})[name] = version

    def _untag(self, name: str, version: ModelVersion) -> None:
        for tag in version.status.tags.items():
            having = self._tagged.get(tag, {})
            having.pop(name, None)
            if not having:
                self._tagged.pop(tag, None)

    def tagged(self, key: str, value: str) -> Mapping[str, ModelVersion]:
        """Return the versions with a tag of this very value, deleted ones included."""
        return self._tagged.get((key, value), {})

    def versions_of(self, model: str) -> Mapping[str, ModelVersion]:
        """Return the versions of a model by their names, deleted ones included."""
        return self._of_model.get(model, {})

    def model_names(self) -> Iterable[str]:
        """Return the names of all models that have versions, deleted models included."""
        return self._of_model.keys()

    def living_versions(self, model: str) -> LivingVersions:
        """Return the versions of a model that are not deleted; kept until one changes."""
        living = self._living.get(model)
        if living is None:
            versions = [v for v in self.versions_of(model).values() if v.status.deleted_at is None]
            versions.sort(key=lambda version: (version.spec.number, version.metadata.name))
            living = self._living[model] = LivingVersions(versions)
        return living

    def dataset_names(self) -> Iterable[str]:
        """Return the names of all datasets that have versions."""
        return self._of_dataset.keys()

    def find_alias(self, model: str, alias: str) -> ModelVersion | None:
        """Return the version that an alias of a model names, or None."""
        found = self.models.get(model)
        version = found.status.aliases.get(alias) if found else None
        return self.versions.get(f"{model}@{version}") if version else None

    def find_id(self, unique_id: str) -> ModelVersion | None:
        """Return the version with a unique id, or None."""
        return self._by_id.get(unique_id)

    def versions_of_dataset(self, dataset: str) -> Mapping[str, DatasetVersion]:
        """Return the versions of a dataset by their names."""
        return self._of_dataset.get(dataset, {})

    def find_data(self, dataset: str, digest: str) -> DatasetVersion | None:
        """Return the version of a dataset that is this very data, or None."""
        return self._by_dataset_digest.get((dataset, digest))

    def made_from(self, dataset: str, version: str | None = None) -> Iterable[ModelVersion]:
        """Return the model versions made from a dataset, or from one version of it."""
        key = dataset if version is None else f"{dataset}@{version}"
        return self._made_from.get(key, {}).values()


def _dataset_keys(version: ModelVersion) -> set[str]:
    keys = {reference.name for reference in version.spec.datasets}
    return keys | {f"{r.name}@{r.version}" for r in version.spec.datasets if r.version}
