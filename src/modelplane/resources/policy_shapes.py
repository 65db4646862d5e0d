"""The shapes in which people write a traffic policy, made into the canonical one.

Called by `manifest`. Besides the full form there is the flat one that is posted, ``model_name``,
``version``, ``traffic_rule``, ``monitoring_hooks`` at the top, without a kind. Fields are known
in snake_case and camelCase, at the top as under spec. Pure; what it does not know it leaves in
place for validation to report.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import Any

from modelplane.resources.documents import Location
from modelplane.resources.meta import API_VERSION
from modelplane.resources.strategy_shapes import StrategyReader
from modelplane.resources.traffic_policy import TrafficPolicy
from modelplane.resources.versions import version_in_document

Fault = Callable[[Location, str], None]

_FIELDS = {
    "deployment": "deployment",
    "deploymentname": "deployment",
    "modeldeployment": "deployment",
    "model": "model",
    "modelname": "model",
    "version": "version",
    "modelversion": "version",
    "trafficrule": "trafficRule",
    "strategy": "trafficRule",
    "monitoringhooks": "monitoringHooks",
    "hooks": "monitoringHooks",
}
_ABOUT = {"name": "name", "environment": "environment", "namespace": "environment"}
_HEAD = frozenset({"apiVersion", "kind", "metadata", "spec", "status"})
_LONGEST_NAME = 63
_NOT_IN_NAMES = re.compile(r"[^A-Za-z0-9._-]+")


def is_posted_form(top: Mapping[str, Any]) -> bool:
    """Whether a document without a kind is a traffic policy."""
    return "kind" not in top and any(_plain(key) == "trafficrule" for key in top)


def expand_policy(
    top: Mapping[str, Any], origins: dict[Location, Location], fault: Fault
) -> dict[str, Any]:
    """Return a traffic policy's document in the full form, its fields under spec.

    Parameters
    ----------
    top
        The document: flat, or full.
    origins
        Gets where each part was written.
    fault
        Called with a written location and a message for each fault.
    """
    expanded = {key: value for key, value in top.items() if key in _HEAD}
    expanded.setdefault("kind", TrafficPolicy.__name__)
    if "kind" not in top:
        expanded.setdefault("apiVersion", API_VERSION)
    metadata: dict[str, Any] = {}
    if _is_map(top.get("metadata")):
        metadata = expanded["metadata"] = dict(top.get("metadata") or {})
    mover = _Mover(origins, fault)
    spec: dict[str, Any] = {}
    if _is_map(top.get("spec")):
        for key, value in (top.get("spec") or {}).items():
            mover.move(spec, _FIELDS.get(_plain(key), key), value, ("spec", key))
        expanded["spec"] = spec
    for key, value in top.items():
        if key in _HEAD:
            continue
        if _plain(key) in _ABOUT:
            mover.move(metadata, _ABOUT[_plain(key)], value, (key,), into=("metadata",))
        elif _plain(key) in _FIELDS:
            mover.move(spec, _FIELDS[_plain(key)], value, (key,))
        else:
            expanded[key] = value  # is told to be unknown
    if "name" not in metadata and _is_map(top.get("metadata")):
        name = default_name(spec)
        if name:
            metadata["name"] = name
    return expanded


class PolicyReader:
    """Makes the spec of one document canonical.

    Parameters
    ----------
    origins
        Where canonical locations were written; added to.
    written
        Returns where a canonical location was written.
    fault
        Called with a written location and a message for each fault.
    """

    def __init__(
        self,
        origins: dict[Location, Location],
        written: Callable[[Location], Location],
        fault: Fault,
    ) -> None:
        self._origins = origins
        self._written = written
        self._fault = fault

    def read(self, spec: dict[str, Any]) -> None:
        """Replace version, rule and hooks in `spec` by their canonical form."""
        try:
            if "version" in spec:
                spec["version"] = version_in_document(spec["version"])
        except ValueError as error:
            self._fault(self._written(("spec", "version")), str(error))
            del spec["version"]
        root: Location = ("spec", "trafficRule")
        at = self._written(root)
        rule = StrategyReader(self._origins, self._fault, root=root, with_ab=True)
        rule.add(at, spec.pop("trafficRule", None))
        if rule.strategy:
            spec["trafficRule"] = rule.strategy
        hooks = spec.get("monitoringHooks")
        if isinstance(hooks, str):
            spec["monitoringHooks"] = [hooks]


class _Mover:
    """Puts written fields under their canonical names; one written twice must say the same."""

    def __init__(self, origins: dict[Location, Location], fault: Fault) -> None:
        self._origins = origins
        self._fault = fault

    def move(
        self,
        target: dict[str, Any],
        name: str,
        value: object,
        at: Location,
        *,
        into: Location = ("spec",),
    ) -> None:
        if target.get(name) is not None and value is not None and target[name] != value:
            first = self._origins.get((*into, name), (*into, name))
            place = ".".join(map(str, first))
            self._fault(at, f"differs from {place}; write it once")
            return
        if value is None and name in target:
            return
        target[name] = value
        if (*into, name) != at:
            self._origins.setdefault((*into, name), at)


def default_name(spec: Mapping[str, Any]) -> str:
    """Return the name of a policy that was given none: ``MODEL-VERSION``; empty without both.

    Examples
    --------
    >>> default_name({"model": "credit scoring", "version": "v2.0.0+gpu"})
    'credit-scoring-v2.0.0-gpu'
    """
    of = spec.get("model") or spec.get("deployment")
    version = spec.get("version") or "ab"
    if not isinstance(of, str) or not isinstance(version, str | int | float):
        return ""
    end = _NOT_IN_NAMES.sub("-", f"-{version}").rstrip("._-")
    start = _NOT_IN_NAMES.sub("-", of)[: max(1, _LONGEST_NAME - len(end))]
    return f"{start}{end}"[:_LONGEST_NAME].strip("._-")


def written_path(path: str, document: Mapping[str, Any]) -> str:
    """Return a canonical field's path as it was written in a flat `document`.

    Examples
    --------
    >>> written_path("spec.monitoringHooks[1]", {"monitoring_hooks": []})
    'monitoring_hooks[1]'
    """
    head, _, rest = path.partition(".")
    if head != "spec" or not rest:
        return path
    name = re.split(r"[.\[]", rest, maxsplit=1)[0]
    for key in document:
        if key not in _HEAD and _FIELDS.get(_plain(key)) == name:
            return key + rest[len(name) :]
    return path


def _is_map(value: object) -> bool:
    return value is None or isinstance(value, dict)


def _plain(key: object) -> str:
    return str(key).lower().replace("_", "").replace("-", "")
