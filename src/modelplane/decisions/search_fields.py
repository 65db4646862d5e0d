"""The fields that modelplane's own filters and orders know, kind by kind.

Called by `search`. Where a version was corrected, what counts is the corrected value. Pure.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime
from functools import lru_cache
from typing import Any, Literal, cast

from modelplane.decisions.aliases import aliases_of
from modelplane.decisions.corrections import effective
from modelplane.decisions.registry_index import RegistryIndex
from modelplane.decisions.search_matching import AnyResource, Reader
from modelplane.resources.dataset import Dataset, DatasetVersion
from modelplane.resources.model import AliasMove, Model, ModelVersion, ModelVersionSpec
from modelplane.resources.versions import version_order

FieldType = Literal["text", "texts", "number", "time", "version", "flag"]
_UNKNOWN = "unknown"


@dataclass(frozen=True, slots=True)
class Field:
    """A field that can be searched.

    Attributes
    ----------
    name
        As it is written in one way: ``metrics.accuracy``.
    type
        What its values are: ``texts`` any number of texts, ``time`` seconds since 1970,
        ``version`` a semantic version.
    read
        Reads it; None where it is missing, a set for ``texts``.
    """

    name: str
    type: FieldType
    read: Reader


def created_at(resource: AnyResource) -> datetime | None:
    """Return when a resource was made; for a version of elsewhere, when it was registered there."""
    if isinstance(resource, ModelVersion) and resource.spec.registered_at is not None:
        return resource.spec.registered_at
    return resource.metadata.created_at


def updated_at(resource: AnyResource) -> datetime | None:
    """Return when a resource last changed; for models and versions as MLflow's users say it."""
    if isinstance(resource, Model | ModelVersion) and resource.status.changed_at is not None:
        return resource.status.changed_at
    return resource.metadata.updated_at


def corrected(version: ModelVersion) -> ModelVersionSpec:
    """Return a version's record with its corrections."""
    corrections = version.status.corrections
    return effective(version.spec, corrections) if corrections else version.spec


def _seconds(read: Callable[[Any], datetime | None]) -> Reader:
    def read_seconds(resource: Any, _: RegistryIndex | None) -> float | None:
        time = read(resource)
        return None if time is None else time.timestamp()

    return read_seconds


def _plain(read: Callable[[Any], Any]) -> Reader:
    return lambda resource, _: read(resource)


def _known(read: Callable[[ModelVersionSpec], str]) -> Reader:
    """Read a text of a version's record that says `unknown`, or nothing, when it is missing."""

    def read_known(version: ModelVersion, _: RegistryIndex | None) -> str | None:
        text = read(corrected(version))
        return None if text in {"", _UNKNOWN} else text

    return read_known


def _aliases(version: ModelVersion, index: RegistryIndex | None) -> frozenset[str]:
    if index is None:
        return frozenset(version.status.aliases)
    model = index.models.get(version.spec.model)
    if version.status.deleted_at is not None or model is None or not model.status.aliases:
        return frozenset()
    return frozenset(aliases_of(model, version.spec.version))


def _model_aliases(model: Model, _: RegistryIndex | None) -> frozenset[str]:
    return frozenset(model.status.aliases)


def _datasets(version: ModelVersion, _: RegistryIndex | None) -> frozenset[str]:
    names = {reference.name for reference in version.spec.datasets}
    return frozenset(names | {f"{r.name}@{r.version}" for r in version.spec.datasets if r.version})


def _of_datasets(field: Literal["name", "digest", "context"]) -> Reader:
    return lambda version, _: frozenset(getattr(r, field) for r in version.spec.datasets)


_TIMES = {"created": ("time", _seconds(created_at)), "updated": ("time", _seconds(updated_at))}

_FIELDS: dict[type[AnyResource], dict[str, tuple[str, Reader]]] = {
    ModelVersion: {
        "model": ("text", _plain(lambda v: v.spec.model)),
        "version": ("version", _plain(lambda v: v.spec.version)),
        "number": ("number", _plain(lambda v: v.spec.number)),
        "id": ("text", _plain(lambda v: v.spec.id or None)),
        "flavour": ("text", _known(lambda s: s.flavour)),
        "format": ("text", _plain(lambda v: v.spec.artifact.format if v.spec.artifact else None)),
        "digest": ("text", _plain(lambda v: v.spec.artifact.digest if v.spec.artifact else None)),
        "author": ("text", _plain(lambda v: v.spec.author or None)),
        "run_id": ("text", _known(lambda s: s.training.run_id)),
        "git_commit": ("text", _known(lambda s: s.training.git_commit)),
        "source": ("text", _plain(lambda v: v.spec.source)),
        "description": ("text", _plain(lambda v: v.status.description or None)),
        "stage": ("text", _plain(lambda v: v.status.stage)),
        "alias": ("texts", _aliases),
        "dataset": ("texts", _datasets),
        "dataset.name": ("texts", _of_datasets("name")),
        "dataset.digest": ("texts", _of_datasets("digest")),
        "dataset.context": ("texts", _of_datasets("context")),
        "deleted": ("flag", _plain(lambda v: v.status.deleted_at is not None)),
        **_TIMES,
    },
    Model: {
        "name": ("text", _plain(lambda m: m.metadata.name)),
        "description": ("text", _plain(lambda m: m.spec.description or None)),
        "source": ("text", _plain(lambda m: m.status.source)),
        "alias": ("texts", _model_aliases),
        **_TIMES,
    },
    Dataset: {
        "name": ("text", _plain(lambda d: d.metadata.name)),
        "description": ("text", _plain(lambda d: d.spec.description or None)),
        **_TIMES,
    },
    DatasetVersion: {
        "dataset": ("text", _plain(lambda d: d.spec.dataset)),
        "version": ("text", _plain(lambda d: d.spec.version)),
        "number": ("number", _plain(lambda d: d.spec.number)),
        "digest": ("text", _plain(lambda d: d.spec.digest)),
        "format": ("text", _plain(lambda d: d.spec.format)),
        "uri": ("text", _plain(lambda d: d.spec.uri)),
        "rows": ("number", _plain(lambda d: d.spec.rows)),
        "size_bytes": ("number", _plain(lambda d: d.spec.size_bytes)),
        "author": ("text", _plain(lambda d: d.spec.author or None)),
        **_TIMES,
    },
    AliasMove: {
        "model": ("text", _plain(lambda a: a.spec.model)),
        "alias": ("text", _plain(lambda a: a.spec.alias)),
        "environment": ("text", _plain(lambda a: a.spec.environment)),
        "deployment": ("text", _plain(lambda a: a.spec.deployment)),
        "before": ("version", _plain(lambda a: a.spec.before)),
        "after": ("version", _plain(lambda a: a.spec.after)),
        "subject": ("text", _plain(lambda a: a.spec.subject)),
        "origin": ("text", _plain(lambda a: a.spec.origin)),
        "promotion": ("text", _plain(lambda a: a.spec.promotion)),
        "at": ("time", _seconds(lambda a: a.spec.at)),
    },
}


def _metric(key: str) -> Reader:
    def read(version: ModelVersion, _: RegistryIndex | None) -> float | None:
        spec = corrected(version) if version.status.corrections else version.spec
        return spec.metrics.get(key)

    return read


def _parameter(key: str) -> Reader:
    def read(version: ModelVersion, _: RegistryIndex | None) -> str | None:
        spec = corrected(version) if version.status.corrections else version.spec
        return spec.parameters.get(key)

    return read


def _tag(key: str) -> Reader:
    return lambda resource, _: resource.status.tags.get(key)


def _label(key: str) -> Reader:
    return lambda resource, _: resource.metadata.labels.get(key)


_GROUPS: dict[type[AnyResource], dict[str, tuple[FieldType, Callable[[str], Reader]]]] = {
    ModelVersion: {
        "metrics": ("number", _metric),
        "params": ("text", _parameter),
        "tags": ("text", _tag),
        "labels": ("text", _label),
    },
    Model: {"tags": ("text", _tag), "labels": ("text", _label)},
    Dataset: {"labels": ("text", _label)},
    DatasetVersion: {"labels": ("text", _label)},
    AliasMove: {},
}

_rank_version = lru_cache(maxsize=20_000)(version_order)
"""Parsing takes longer than everything else about a version."""

_SAME_GROUP = {
    "metric": "metrics",
    "param": "params",
    "parameter": "params",
    "parameters": "params",
    "tag": "tags",
    "label": "labels",
    "datasets": "dataset",
}
_ATTRIBUTES = frozenset({"attribute", "attributes", "attr"})
_SAME_NAME = {
    "flavor": "flavour",
    "version_number": "number",
    "source_path": "source",
    "aliases": "alias",
    "datasets": "dataset",
}
_NAME_IS = {ModelVersion: "model", DatasetVersion: "dataset", AliasMove: "model"}
"""What ``name`` means for kinds whose resources are named after another."""

_TIES: dict[type[AnyResource], tuple[str, ...]] = {
    ModelVersion: ("model", "number"),
    DatasetVersion: ("dataset", "number"),
}

SEARCHED: tuple[type[AnyResource], ...] = tuple(_FIELDS)
"""The kinds whose lists can be searched."""

PLACE = Field("place", "text", lambda r, _: r.metadata.name)
ENVIRONMENT = Field("environment", "text", lambda r, _: r.metadata.environment or "")


def field_names(kind: type[AnyResource]) -> list[str]:
    """Return the names of a kind's fields, as people may write them."""
    groups = [f"{group}.NAME" for group in _GROUPS[kind]]
    return sorted({"name", *_FIELDS[kind], *groups})


def find_field(kind: type[AnyResource], group: str, key: str) -> Field | None:
    """Return the field of `kind` that a name means, or None."""
    group = _SAME_GROUP.get(group, group)
    if group in _GROUPS[kind]:
        type_, reader_of = _GROUPS[kind][group]
        return Field(f"{group}.{key}", type_, reader_of(key))
    name = key if not group or group in _ATTRIBUTES else f"{group}.{key}"
    name = _NAME_IS.get(kind, name) if name == "name" else _SAME_NAME.get(name, name)
    if name not in _FIELDS[kind]:
        return None
    type_of_field, read_field = _FIELDS[kind][name]
    return Field(name, cast("FieldType", type_of_field), read_field)


def tie_fields(kind: type[AnyResource]) -> tuple[Field, ...]:
    """Return the fields that tell any two resources of `kind` apart, in their plain order."""
    named = [find_field(kind, "", name) for name in _TIES.get(kind, ())]
    return (*(field for field in named if field), PLACE, *((ENVIRONMENT,) if kind.scoped else ()))


def rank_of(field: Field) -> Callable[[Any], Any] | None:
    """Return what makes a field's values comparable in their order; None: they are."""
    return _rank_version if field.type == "version" else None
