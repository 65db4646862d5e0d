"""Finding models and versions in the registry's index, and encoding them for MLflow's clients.

Used by the handlers of this package. Reads memory only; an index may change at the next await.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from pydantic_core import to_json

from modelplane.api.catalog import Catalog
from modelplane.decisions.aliases import aliases_of
from modelplane.decisions.mlflow_registry import (
    Stage,
    check_name,
    missing,
    read_number,
    show_model,
    show_version,
)
from modelplane.decisions.registry_index import RegistryIndex
from modelplane.resources.model import Model, ModelVersion

_MAX_ENCODED = 20_000


def find_model(index: RegistryIndex, name: str) -> Model:
    """Return a model; raises `MlflowError` when the name is none, or there is no such model."""
    found = index.models.get(check_name(name))
    if found is None:
        raise missing(f"Registered Model with name={name} not found")
    return found


def find_version(index: RegistryIndex, name: str, version: str) -> ModelVersion:
    """Return the version of a model that a request names; raises `MlflowError`."""
    check_name(name)
    number = read_number(version)
    # Where all versions come from MLflow's clients they are called so.
    likely = index.versions.get(f"{name}@{number}.0.0")
    if likely is not None and likely.spec.number == number and is_living(likely):
        return likely
    for found in living_versions(index, name):
        if found.spec.number == number:
            return found
    raise missing(f"Model Version (name={name}, version={number}) not found")


def is_living(version: ModelVersion) -> bool:
    """Whether a version is not deleted."""
    return version.status.deleted_at is None


def living_versions(index: RegistryIndex, name: str) -> list[ModelVersion]:
    """Return the versions of a model that are not deleted."""
    return [version for version in index.versions_of(name).values() if is_living(version)]


def latest_by_stage(versions: Iterable[ModelVersion]) -> dict[Stage, ModelVersion]:
    """Return the version with the highest number of each stage that has one, oldest stage first."""
    latest: dict[Stage, ModelVersion] = {}
    for version in sorted(versions, key=lambda v: v.spec.number):
        latest[version.status.stage] = version
    return latest


class Encoder:
    """Resources as MLflow's JSON, kept encoded while they do not change."""

    def __init__(self, catalog: Catalog) -> None:
        self._catalog = catalog
        self._at = -1
        self._models: dict[str, bytes] = {}
        self._versions: dict[str, tuple[int, bytes]] = {}

    def version(self, version: ModelVersion, model: Model | None) -> bytes:
        """Return a version with the aliases that its model has for it."""
        return self._with_aliases(version, aliases_of(model, version.spec.version))

    def versions(self, versions: Iterable[ModelVersion], index: RegistryIndex) -> bytes:
        """Return a list of versions with their aliases."""
        aliases: dict[str, Mapping[str, list[str]]] = {}
        encoded: list[bytes] = []
        for version in versions:
            name = version.spec.model
            if name not in aliases:
                aliases[name] = _invert(index.models.get(name))
            encoded.append(self._with_aliases(version, aliases[name].get(version.spec.version)))
        return b"[" + b",".join(encoded) + b"]"

    def model(self, model: Model, index: RegistryIndex) -> bytes:
        """Return a model with its aliases and its latest versions."""
        if self._catalog.through != self._at or len(self._models) >= _MAX_ENCODED:
            self._at = self._catalog.through
            self._models.clear()
        name = model.metadata.name
        if name not in self._models:
            self._models[name] = self._encode_model(model, name, index)
        return self._models[name]

    def _encode_model(self, model: Model, name: str, index: RegistryIndex) -> bytes:
        numbers = {
            to: found.spec.number
            for to in model.status.aliases.values()
            if (found := index.versions.get(f"{name}@{to}")) is not None and is_living(found)
        }
        head = to_json(show_model(model, numbers))
        latest = latest_by_stage(living_versions(index, name)).values()
        if not latest:
            return head
        return head[:-1] + b',"latest_versions":' + self.versions(latest, index) + b"}"

    def _with_aliases(self, version: ModelVersion, aliases: Iterable[str] | None) -> bytes:
        encoded = self._encode(version)
        if not aliases:
            return encoded
        return encoded[:-1] + b',"aliases":' + to_json(list(aliases)) + b"}"

    def _encode(self, version: ModelVersion) -> bytes:
        name, at = version.metadata.name, version.metadata.resource_version
        known = self._versions.get(name)
        if known is not None and known[0] == at:
            return known[1]
        encoded = to_json(show_version(version))
        if len(self._versions) >= _MAX_ENCODED:
            self._versions.clear()
        self._versions[name] = at, encoded
        return encoded


def _invert(model: Model | None) -> Mapping[str, list[str]]:
    """Return the aliases of each version that has some, by its semantic version."""
    names: dict[str, list[str]] = {}
    if model is not None:
        for alias, to in model.status.aliases.items():
            names.setdefault(to, []).append(alias)
    return names
