"""What each kind and field means, told from the resource types themselves.

Called by ``modelplane explain`` and by the generator of docs/resources, so that both say the
same. Pure reflection: descriptions live at the fields, never here.
"""

from __future__ import annotations

import inspect
import json
import types
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Annotated, Any, Literal, Union, get_args, get_origin

from pydantic import AwareDatetime, BeforeValidator
from pydantic.fields import FieldInfo

from modelplane.errors import NotFound
from modelplane.resources.fields import fields_of, part_of, suggest
from modelplane.resources.kinds import KINDS, find_kind
from modelplane.resources.meta import Part, Resource
from modelplane.resources.quantities import (
    format_duration,
    format_size,
    parse_duration,
    parse_percent,
    parse_size,
)

_QUANTITIES = {parse_duration: "duration", parse_percent: "percentage", parse_size: "size"}
_PLAIN = {
    str: "text",
    bool: "true or false",
    int: "whole number",
    float: "number",
    datetime: "time",
    AwareDatetime: "time",
    dict: "map",
    Any: "anything",
}
_BOUNDS = (("ge", "at least"), ("gt", "above"), ("le", "at most"), ("lt", "below"))

ALSO_WRITTEN: dict[str, str] = {
    "metadata.environment": "metadata.namespace, spec.environment",
    "spec.version": "spec.modelVersion",
    "spec.strategy": "a word (canary, allAtOnce), or a key beside metadata",
    "spec.strategy.canary.steps": "one step: canary.traffic or spec.canaryTraffic, such as 10%",
    "spec.strategy.canary.analysis.metrics": "names alone: [errors, latency]",
    "spec.stages": "words: [validate:accuracy, approve:security_scan]; `pipeline:` for the whole",
    "spec.triggers": "names alone: [on_model_push]; beside `pipeline:`",
}
"""Other spellings that the manifest reader takes for a field of a declared kind, by its path."""

_FILLED_IN = {"modeldeployment.spec.model": "the deployment's name"}
"""Required fields that the manifest reader fills in when they are absent, and with what."""


@dataclass(frozen=True, slots=True)
class ExplainedField:
    """One field (or a whole kind) with what lies below it.

    Attributes
    ----------
    path
        From the kind down: ``modeldeployment.spec.strategy``.
    type
        In words: ``text``, ``duration``, ``list of percentage``, ``'auto' or …``.
    default
        As written in a manifest; empty when there is none or it follows from the rest.
    limits
        In words: ``at least 1, at most 100``; may be empty.
    also_written
        Other spellings that are read as this field; may be empty.
    fields
        What it holds, in order; empty for plain values.
    """

    path: str
    name: str
    type: str
    description: str
    required: bool = False
    default: str = ""
    limits: str = ""
    also_written: str = ""
    fields: tuple[ExplainedField, ...] = ()

    def walk(self) -> Iterator[ExplainedField]:
        """Yield this field and all below it, in order."""
        yield self
        for field in self.fields:
            yield from field.walk()

    def to_dict(self) -> dict[str, Any]:
        """Return JSON types; empty values left out."""
        data = {
            "path": self.path,
            "type": self.type,
            "description": self.description,
            "required": self.required,
            "default": self.default,
            "limits": self.limits,
            "alsoWritten": self.also_written,
            "fields": [field.to_dict() for field in self.fields],
        }
        return {key: value for key, value in data.items() if value}


def explain(path: str) -> ExplainedField:
    """Return what stands at `path`: a kind in any spelling, then fields parted by dots.

    Raises
    ------
    NotFound
        When there is no such kind or field; names the nearest.

    Examples
    --------
    >>> explain("modeldeployment.spec.replicas").type
    'whole number'
    """
    word, *steps = path.strip().split(".")
    kind = find_kind(word)
    if kind is None:
        raise NotFound(f"no kind {word!r}", hint=suggest(word, KINDS))
    found = explain_kind(kind)
    for step in steps:
        below = {field.name.lower(): field for field in found.fields}
        plain = step.split("[", 1)[0].lower()
        if plain not in below:
            names = [field.name for field in found.fields]
            raise NotFound(f"{found.path} has no field {step!r}", hint=suggest(step, names))
        found = below[plain]
    return found


def explain_kind(kind: type[Resource[Any, Any]]) -> ExplainedField:
    """Return a kind with all its fields."""
    path = kind.__name__.lower()
    return ExplainedField(
        path=path,
        name=kind.__name__,
        type="kind",
        description=summary(kind),
        fields=_explain_part(kind, path, (kind,)),
    )


def summary(subject: type) -> str:
    """Return the first paragraph of a type's docstring on one line."""
    text = inspect.getdoc(subject) or ""
    return " ".join(text.split("\n\n", 1)[0].split())


def _explain_part(
    part: type[Part], path: str, above: Sequence[type[Part]]
) -> tuple[ExplainedField, ...]:
    return tuple(
        _explain_field(f"{path}.{name}", name, field, above)
        for name, field in fields_of(part).items()
    )


def _explain_field(
    path: str, name: str, field: FieldInfo, above: Sequence[type[Part]]
) -> ExplainedField:
    part = part_of(field.annotation)
    kind = above[0]
    within = path.partition(".")[2]
    readable = issubclass(kind, Resource) and kind.declared
    also_written = ALSO_WRITTEN.get(within, "") if readable else ""
    if within == "metadata.environment" and issubclass(kind, Resource) and not kind.scoped:
        also_written = ""
    constant = within in {"apiVersion", "kind"}
    below = part if part is not None and part not in above else None
    return ExplainedField(
        path=path,
        name=name,
        type=_type_in_words(field.annotation, field.metadata),
        description=field.description or (summary(part) if part else ""),
        required=path not in _FILLED_IN and (field.is_required() or constant),
        default="" if constant else _FILLED_IN.get(path) or _default_in_words(field),
        limits=_limits_in_words(field.metadata),
        also_written=also_written,
        fields=_explain_part(below, path, (*above, below)) if below else (),
    )


def _type_in_words(annotation: Any, metadata: Sequence[Any] = ()) -> str:
    for item in metadata:
        if isinstance(item, BeforeValidator) and item.func in _QUANTITIES:
            return _QUANTITIES[item.func]
    origin, arguments = get_origin(annotation), get_args(annotation)
    if origin is Annotated:
        return _type_in_words(arguments[0], arguments[1:])
    if origin is Literal:
        return " | ".join(str(argument) for argument in arguments)
    if origin in {Union, types.UnionType}:
        words = [_type_in_words(item) for item in arguments if item is not type(None)]
        return " or ".join(words)
    if origin in {tuple, list}:
        return f"list of {_type_in_words(arguments[0])}"
    if origin is dict:
        return f"map of {_type_in_words(arguments[1])}"
    if isinstance(annotation, type) and issubclass(annotation, Part):
        return "map of fields"
    return _PLAIN.get(annotation, str(annotation))


def _default_in_words(field: FieldInfo) -> str:
    if field.is_required():
        return ""
    default = field.get_default(call_default_factory=True, validated_data={})
    words = _type_in_words(field.annotation, field.metadata)
    if default is None or default in ("", (), {}) or isinstance(default, Part):
        return ""
    if words == "duration":
        return format_duration(default)
    if words == "size":
        return format_size(default)
    if isinstance(default, tuple):
        items = [item.to_dict() if isinstance(item, Part) else item for item in default]
        return json.dumps(items)
    if isinstance(default, bool):
        return str(default).lower()
    return f"{default:g}" if isinstance(default, float) else str(default)


def _limits_in_words(metadata: Sequence[Any]) -> str:
    limits = [
        f"{words} {getattr(item, name):g}"
        for item in metadata
        for name, words in _BOUNDS
        if getattr(item, name, None) is not None
    ]
    patterns = [item.pattern for item in metadata if getattr(item, "pattern", None)]
    return ", ".join([*limits, *(f"of the form {pattern}" for pattern in patterns)])
