"""What a person means who asks for the lineage of ``fraud@1.2.0`` or ``production/fraud``.

Called by the API before it walks. Pure.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable

from modelplane.decisions.lineage import Data, Start, data_of, run_id_of
from modelplane.decisions.registry_index import RegistryIndex
from modelplane.decisions.versions import LATEST, resolve_version
from modelplane.errors import InvalidResource, NotFound
from modelplane.resources.kinds import find_kind
from modelplane.resources.model import ModelVersion

_FORMS = (
    "write MODEL, MODEL@VERSION, ENVIRONMENT/DEPLOYMENT, dataset/NAME, dataset/NAME@VERSION "
    "or run/ID"
)
_SHOWN = 3


def find_start(index: RegistryIndex, text: str) -> Start:
    """Return where a walk begins.

    Parameters
    ----------
    index
        The registry.
    text
        A model or dataset, with ``@`` and a version, number, alias or ``latest`` one version of
        it; ``ENVIRONMENT/DEPLOYMENT``; or one of these behind its kind and a slash, which is
        needed where a model and a dataset have the same name, and for a run. Ids of nodes are
        such texts.

    Raises
    ------
    NotFound
        There is no such thing; names what is near.
    InvalidResource
        It can mean several things, or nothing.
    """
    word, slash, rest = text.partition("/")
    if slash and rest:
        if word == "run":
            return _find_run(index, text)
        kind = find_kind(word)
        if kind is not None and kind.__name__ in _FINDERS:
            return _FINDERS[kind.__name__](index, rest)
        if "/" not in rest:
            return _find_deployment(index, text)
    if slash or not text:
        raise InvalidResource(f"{text[:80]!r} names nothing that has a lineage", hint=_FORMS)
    name = text.partition("@")[0]
    is_model, is_dataset = bool(index.versions_of(name)), _is_dataset(index, name)
    if is_model and is_dataset:
        raise InvalidResource(
            f"{name!r} is a model and a dataset", hint=f"write model/{text} or dataset/{text}"
        )
    if is_dataset:
        return _find_data(index, text)
    if is_model or name in index.models:
        return _find_versions(index, text)
    near = _near(name, [*index.models, *index.datasets])
    raise NotFound(f"there is no model or dataset {name[:80]!r}", hint=near or _FORMS)


def _is_dataset(index: RegistryIndex, name: str) -> bool:
    return bool(
        name in index.datasets
        or index.versions_of_dataset(name)
        or next(iter(index.made_from(name)), None)
    )


def _find_versions(index: RegistryIndex, text: str) -> Start:
    name, at, wanted = text.partition("@")
    versions = list(index.versions_of(name).values())
    if not at:
        if not versions:
            hint = _near(name, index.models) or _FORMS
            raise NotFound(f"model {name[:80]!r} has no versions", hint=hint)
        return Start(versions=tuple(sorted(versions, key=lambda version: version.spec.number)))
    found = index.versions.get(text) or index.find_alias(name, wanted)
    return Start(versions=(found or _resolve(name, versions, wanted),))


def _resolve(name: str, versions: list[ModelVersion], wanted: str) -> ModelVersion:
    try:
        return resolve_version(name, versions, wanted)
    except InvalidResource as error:
        if "ambiguous" in error.message:
            raise
        raise NotFound(f"model {name!r} has no version or alias {wanted[:80]!r}") from None


def _find_data(index: RegistryIndex, text: str) -> Start:
    name, at, wanted = text.partition("@")
    registered = sorted(
        index.versions_of_dataset(name).values(), key=lambda version: version.spec.number
    )
    known = [Data(name, version.spec.version) for version in registered]
    if at and Data(name, wanted) in known:
        return Start(data=(Data(name, wanted),))
    for version in registered:
        if wanted in {version.spec.digest, str(version.spec.number)}:
            return Start(data=(Data(name, version.spec.version),))
    if wanted == LATEST and known:
        return Start(data=(known[-1],))
    every = [*known, *sorted(_unregistered(index, name))]
    if not at and (every or name in index.datasets):
        return Start(data=tuple(every))
    if Data(name, wanted) in every:
        return Start(data=(Data(name, wanted),))
    if not every:
        hint = _near(name, index.datasets) or _FORMS
        raise NotFound(f"there is no dataset {name[:80]!r}", hint=hint)
    there = ", ".join(data.label for data in every[-_SHOWN:])
    raise NotFound(f"dataset {name!r} has no version {wanted[:80]!r}", hint=f"there are: {there}")


def _unregistered(index: RegistryIndex, name: str) -> set[Data]:
    """Return the data of a dataset that versions name and the registry has no record of."""
    named = {
        data_of(reference, index)
        for version in index.made_from(name)
        for reference in version.spec.datasets
        if reference.name == name
    }
    return {data for data in named if f"{name}@{data.label}" not in index.dataset_versions}


def _find_deployment(index: RegistryIndex, text: str) -> Start:
    environment, slash, name = text.rpartition("/")
    found = [
        deployment
        for (place, deployed), deployment in index.deployments.items()
        if deployed == name and (not slash or place == environment)
    ]
    if len(found) > 1:
        places = ", ".join(sorted(f"{d.metadata.environment}/{name}" for d in found))
        raise InvalidResource(f"there are several deployments {name!r}", hint=f"one of {places}")
    if not found:
        there = [f"{place}/{deployed}" for place, deployed in index.deployments]
        hint = _near(text, there) or _FORMS
        raise NotFound(f"there is no deployment {text[:120]!r}", hint=hint)
    return Start(deployments=(found[0],))


def _find_run(index: RegistryIndex, text: str) -> Start:
    if any(run_id_of(version) == text for version in index.versions.values()):
        return Start(runs=(text,))
    raise NotFound(f"no version is known to come from {text[:120]!r}")


_FINDERS = {
    "Model": _find_versions,
    "ModelVersion": _find_versions,
    "Dataset": _find_data,
    "DatasetVersion": _find_data,
    "ModelDeployment": _find_deployment,
}


def _near(name: str, names: Iterable[str]) -> str:
    near = difflib.get_close_matches(name[:64], list(names), n=_SHOWN)
    return f"did you mean {' or '.join(near)}?" if near else ""
