"""Corrections: what a version's record should have said, beside what it says.

Called by the API when somebody corrects a version, and by everything that reads records for
people: search, lists and descriptions. Pure. The record itself never changes; a correction is
a later record with a reason, and the last one about a field counts.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterable
from typing import Any

from modelplane.errors import Conflict, FieldError, InvalidResource
from modelplane.resources.fields import suggest
from modelplane.resources.model import Correction, ModelVersion, ModelVersionSpec

MAX_CORRECTIONS = 200
"""How many one version may have."""

_MAX_NAME = 250
_MAX_TEXT = 10_000
_MAPS = {
    "metrics": "a number",
    "parameters": "text",
    "feature_configuration": "a JSON value",
}
_TEXTS = frozenset(
    {
        "flavour", "training.python", "training.hardware", "training.git_commit",
        "training.git_remote", "training.command", "training.directory", "training.run_id",
    }
)  # fmt: skip
_FLAGS = frozenset({"training.git_dirty"})
_BY_OUTSIDE_NAME = {
    "featureConfiguration": "feature_configuration",
    "gitCommit": "git_commit",
    "gitRemote": "git_remote",
    "gitDirty": "git_dirty",
    "runId": "run_id",
}
FIELDS: tuple[str, ...] = (*(f"{name}.NAME" for name in _MAPS), *sorted(_TEXTS | _FLAGS))
"""What can be corrected, as people write it."""


def effective(spec: ModelVersionSpec, corrections: Iterable[Correction]) -> ModelVersionSpec:
    """Return the record as it should have been.

    Parameters
    ----------
    spec
        The record as it was registered.
    corrections
        Those of the version's status, oldest first. Fields that cannot be corrected are left
        alone.

    Returns
    -------
    ModelVersionSpec
        `spec` itself when nothing is corrected.
    """
    changed: dict[str, Any] = {}
    training: dict[str, Any] = {}
    for correction in corrections:
        place, _, name = correction.field.partition(".")
        value = correction.value
        if place in _MAPS and name:
            entries = changed.setdefault(place, dict(getattr(spec, place)))
            if value is None:
                entries.pop(name, None)
            else:
                entries[name] = value
        elif correction.field in _FLAGS:
            training[name] = value
        elif correction.field in _TEXTS and place == "training":
            training[name] = "unknown" if value is None else value
        elif correction.field in _TEXTS:
            changed[place] = "" if value is None else value
    if training:
        changed["training"] = spec.training.with_(**training)
    return spec.with_(**changed) if changed else spec


def correct_version(version: ModelVersion, correction: Correction) -> ModelVersion:
    """Return `version` with one more correction; as it is when that says nothing new.

    Raises
    ------
    InvalidResource
        The field cannot be corrected, the value has another type, or no reason is given.
    Conflict
        The version has `MAX_CORRECTIONS` already.
    """
    field = canonical_field(correction.field)
    faults = _check_value(field, correction.value)
    if not correction.reason.strip():
        faults.append(FieldError("reason", "required: a correction says why"))
    if faults:
        raise InvalidResource("the body is not valid", faults)
    value = float(correction.value) if _is_metric(field, correction.value) else correction.value
    before = version.status.corrections
    longer = (*before, correction.with_(field=field, value=value))
    if effective(version.spec, longer) == effective(version.spec, before):
        return version
    if len(before) >= MAX_CORRECTIONS:
        raise Conflict(
            f"{version.metadata.name} has {MAX_CORRECTIONS} corrections, which is the most",
            hint="register a new version whose record is right",
        )
    return version.with_status(corrections=longer)


def canonical_field(field: str) -> str:
    """Return the path of a field that can be corrected: ``training.gitCommit`` is ``git_commit``.

    Raises
    ------
    InvalidResource
        It cannot be corrected; says what can.
    """
    place, dot, name = field.partition(".")
    place = _BY_OUTSIDE_NAME.get(place, place)
    if place in _MAPS:
        if 0 < len(name) <= _MAX_NAME and name.isprintable():
            return f"{place}.{name}"
        message = f"write {place}.NAME, with 1 to {_MAX_NAME} printable characters"
        raise InvalidResource("the body is not valid", [FieldError("field", message)])
    path = f"{place}.{_BY_OUTSIDE_NAME.get(name, name)}" if dot else place
    if path in _TEXTS | _FLAGS:
        return path
    message = f"{field[:80]!r} cannot be corrected; {suggest(path, FIELDS)}"
    raise InvalidResource("the body is not valid", [FieldError("field", message)])


def read_value(field: str, text: str) -> Any:
    """Return what `text`, typed by a person, means as the value of `field`.

    A number for metrics, true or false for flags, JSON where anything may stand (or the text
    itself), else the text. What is no such value is returned as it is, and refused later.

    Examples
    --------
    >>> read_value("metrics.accuracy", "0.91"), read_value("parameters.depth", "3")
    (0.91, '3')
    """
    field = canonical_field(field)
    try:
        if field.startswith("metrics."):
            return float(text) if math.isfinite(float(text)) else text
        if field in _FLAGS or field.startswith("feature_configuration."):
            return json.loads(text, parse_constant=_refuse)
    except ValueError:
        return text
    return text


def _refuse(name: str) -> None:
    raise ValueError(f"{name} is no JSON")


def _is_metric(field: str, value: Any) -> bool:
    return field.startswith("metrics.") and value is not None


def _check_value(field: str, value: Any) -> list[FieldError]:
    if value is None:
        return []
    place = field.partition(".")[0]
    if place == "metrics":
        good, wanted = _is_number(value), "a finite number, or null to remove it"
    elif place == "feature_configuration":
        size = len(json.dumps(value))
        good, wanted = size <= _MAX_TEXT, f"at most {_MAX_TEXT:,} characters of JSON"
    elif field in _FLAGS:
        good, wanted = isinstance(value, bool), "true, false or null"
    else:
        good = isinstance(value, str) and len(value) <= _MAX_TEXT
        wanted = f"text of at most {_MAX_TEXT:,} characters, or null to remove it"
    return [] if good else [FieldError("value", f"of {field} must be {wanted}")]


def _is_number(value: Any) -> bool:
    if isinstance(value, bool) or not isinstance(value, int | float):
        return False
    try:
        return math.isfinite(float(value))
    except OverflowError:
        return False
