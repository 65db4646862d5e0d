"""The shapes in which people write a pipeline, made into the canonical one.

Called by `manifest`. A whole document may be ``pipeline: {stages: [validate:accuracy], …}`` with
``triggers`` in it or beside it, and stages may be words or maps in the full form too. Pure; what
it does not know it leaves in place for validation to report.
"""

from __future__ import annotations

import shlex
from collections.abc import Callable, Mapping
from itertools import count
from typing import Any

from pydantic.alias_generators import to_camel

from modelplane.resources.documents import Location
from modelplane.resources.fields import fields_of, outside_name, suggest
from modelplane.resources.meta import API_VERSION
from modelplane.resources.validation_pipeline import (
    CHECKS,
    Stage,
    Triggers,
    ValidationPipeline,
    ValidationPipelineSpec,
)

DEFAULT_NAME = "default"
"""What a pipeline is called that is written without a name."""

_ROLES = ("validate", "approve")
_FIELD_OF = {
    check: outside_name(name, Stage.model_fields[name])
    for check in CHECKS
    for name in ("schema_" if check == "schema" else check,)
}
_CHECK_OF = {field.lower().replace("_", ""): check for check, field in _FIELD_OF.items()}
_TRIGGERS = {name.lower(): name for name in fields_of(Triggers)}
_BESIDE = frozenset({"triggers", "apiVersion", "metadata"})

Fault = Callable[[Location, str], None]


def is_short_form(top: Mapping[str, Any]) -> bool:
    """Whether a document says ``pipeline:`` instead of its kind."""
    return "pipeline" in top and "kind" not in top


def expand_short_form(
    top: Mapping[str, Any], origins: dict[Location, Location], fault: Fault
) -> dict[str, Any]:
    """Return a short document in the full form; `origins` gets where each part was written.

    Parameters
    ----------
    top
        The document: ``pipeline`` is a map, or the list of its stages.
    origins
        Filled.
    fault
        Called with a written location and a message for each fault.
    """
    written = top["pipeline"]
    if isinstance(written, list):
        spec: dict[str, Any] = {"stages": written}
        origins["spec", "stages"] = ("pipeline",)
    elif isinstance(written, dict):
        spec = {}
        origins["spec",] = ("pipeline",)
        known = (*fields_of(ValidationPipelineSpec), "name")
        for key, value in written.items():
            field = to_camel(str(key))
            if field in known:
                spec[field] = value
                origins["spec", field] = ("pipeline", key)
            else:
                fault(("pipeline", key), f"unknown field; {suggest(str(key), known)}")
    else:
        fault(("pipeline",), "must be a map with stages, or the list of stages")
        spec = {"stages": [_unreadable(0)]}
    if "triggers" in top:
        if spec.get("triggers") is not None and spec["triggers"] != top["triggers"]:
            fault(("triggers",), "differs from pipeline.triggers; write it once")
        spec["triggers"] = top["triggers"]
        origins["spec", "triggers"] = ("triggers",)
    for key in top:
        if key != "pipeline" and key not in _BESIDE:
            fault((key,), f"unknown field; {suggest(str(key), _BESIDE)}")
    given = top.get("metadata")
    metadata = dict(given) if isinstance(given, dict) else {}
    if "name" in spec:
        metadata.setdefault("name", spec.pop("name"))
        origins["metadata", "name"] = ("pipeline", "name")
    metadata.setdefault("name", DEFAULT_NAME)
    return {
        "apiVersion": top.get("apiVersion", API_VERSION),
        "kind": ValidationPipeline.__name__,
        "metadata": metadata,
        "spec": spec,
    }


class PipelineReader:
    """Makes the stages and the triggers of one document canonical.

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
        """Replace stages and triggers in `spec` by their canonical form."""
        stages = spec.get("stages")
        if isinstance(stages, list):
            read = [self._read_stage(index, stage) for index, stage in enumerate(stages)]
            spec["stages"] = self._name_all(read)
        if spec.get("triggers") is not None:
            spec["triggers"] = self._read_triggers(spec["triggers"])
        models = spec.get("models")
        if isinstance(models, str):
            spec["models"] = {"names": [models]}
        elif isinstance(models, list):
            spec["models"] = {"names": models}
            self._move(("spec", "models", "names"), self._written(("spec", "models")))

    # -- stages ---------------------------------------------------------------------------

    def _read_stage(self, index: int, stage: object) -> object:
        at: Location = ("spec", "stages", index)
        if isinstance(stage, str):
            head = self._read_word(self._written(at), stage)
            return {**head[1], head[0]: {}} if head else _unreadable(index)
        if not isinstance(stage, dict):
            return stage
        canonical: dict[str, Any] = {}
        for key, value in stage.items():
            head = self._read_head(self._written(at), key)
            if head is None and isinstance(key, str) and ":" in key:
                return _unreadable(index)
            if head is None:
                canonical[_stage_field(key)] = value
                self._move((*at, _stage_field(key)), (*self._written(at), key))
                continue
            field, further = head
            for name, given in further.items():
                canonical.setdefault(name, given)
            canonical[field] = _read_settings(field, value)
            self._move((*at, field), (*self._written(at), key))
        return canonical

    def _read_head(self, at: Location, key: Any) -> tuple[str, dict[str, Any]] | None:
        """Return what a key of a stage's map says of its check; None when it is another field."""
        if not isinstance(key, str):
            return None
        if ":" in key:
            return self._read_word((*at, key), key)
        check = _CHECK_OF.get(_plain(key))
        return (_FIELD_OF[check], {}) if check else None

    def _read_word(self, at: Location, word: str) -> tuple[str, dict[str, Any]] | None:
        """Return field and further fields of ``accuracy``, ``approve:security_scan``, …"""
        role, colon, named = word.partition(":")
        role, named = (role.strip().lower(), named.strip()) if colon else ("validate", word.strip())
        check = _CHECK_OF.get(_plain(named))
        if role not in _ROLES:
            self._fault(at, f"not a role: {role!r}; {suggest(role, _ROLES)}")
        if check is None:
            self._fault(at, f"not a check: {named!r}; {suggest(named, CHECKS)}")
        if role not in _ROLES or check is None:
            return None
        return _FIELD_OF[check], {} if role == "validate" else {"role": role}

    def _name_all(self, stages: list[object]) -> list[object]:
        """Return the stages with those named that were not: after their check, and numbered."""
        given = (stage.get("name") for stage in stages if isinstance(stage, dict))
        taken = {name for name in given if isinstance(name, str)}
        named: list[object] = []
        for stage in stages:
            if not isinstance(stage, dict) or "name" in stage:
                named.append(stage)
                continue
            check = next((c for c, field in _FIELD_OF.items() if field in stage), None)
            if check is None:
                named.append(stage)
                continue
            names = (f"{check}-{number}" if number > 1 else check for number in count(1))
            name = next(name for name in names if name not in taken)
            taken.add(name)
            named.append({"name": name, **stage})
        return named

    # -- triggers -------------------------------------------------------------------------

    def _read_triggers(self, triggers: object) -> object:
        at: Location = ("spec", "triggers")
        if isinstance(triggers, str):
            triggers = [triggers]
        if isinstance(triggers, list):
            merged: dict[str, Any] = {}
            for index, trigger in enumerate(triggers):
                here = (*self._written(at), index)
                given = {trigger: True} if isinstance(trigger, str) else trigger
                if not isinstance(given, dict):
                    self._fault(here, "must be a trigger's name or a map")
                    continue
                for key, value in given.items():
                    self._add_trigger(merged, key, value, here)
            return merged
        if not isinstance(triggers, dict):
            return triggers
        canonical: dict[str, Any] = {}
        for key, value in triggers.items():
            self._add_trigger(canonical, key, value, (*self._written(at), key))
        return canonical

    def _add_trigger(self, into: dict[str, Any], key: Any, value: Any, at: Location) -> None:
        name = _TRIGGERS.get(_plain(str(key)))
        if name is None:
            self._fault(at, f"not a trigger: {key!r}; {suggest(str(key), _TRIGGERS.values())}")
            return
        if name == "onDataset" and isinstance(value, str):
            value = [value]
        if name in {"onDataset", "schedule"} and value is True:
            needs = "the datasets" if name == "onDataset" else "a cron expression"
            self._fault(at, f"needs {needs}: write {key}: …")
            return
        into[name] = value
        self._move(("spec", "triggers", name), at)

    def _move(self, canonical: Location, written: Location) -> None:
        self._origins.setdefault(canonical, written)


def _unreadable(index: int) -> dict[str, Any]:
    """Return a stage for one that was faulted already, so that nothing else is said of it."""
    return {"name": f"unreadable-{index}", "contract": {}}


def _plain(word: str) -> str:
    return word.strip().lower().replace("_", "").replace("-", "")


def _stage_field(key: Any) -> Any:
    camel = to_camel(str(key))
    return camel if camel in fields_of(Stage) else key


def _read_settings(field: str, value: object) -> object:
    """Return a check's configuration: nothing is the default, a command may be its words."""
    if value is None or value is True:
        return {}
    if field == "command" and isinstance(value, str):
        return {"run": shlex.split(value)}
    if field == "command" and isinstance(value, list):
        return {"run": value}
    if not isinstance(value, dict):
        return value
    return {to_camel(key) if isinstance(key, str) else key: v for key, v in value.items()}
