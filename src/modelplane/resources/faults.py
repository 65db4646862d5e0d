"""Validation errors in plain words: what was expected, what was written, what would be right.

Called by `manifest`. Turns pydantic's errors about the canonical form into (location, message)
pairs; the caller knows where each value was written. Pure.
"""

from __future__ import annotations

from collections.abc import Iterable
from itertools import groupby
from typing import Any

from pydantic import ValidationError
from pydantic_core import ErrorDetails

from modelplane.resources.documents import Location
from modelplane.resources.fields import fields_of, part_at, suggest
from modelplane.resources.meta import Part
from modelplane.resources.strategy import Analysis, CanaryStrategy

MAX_FAULTS = 50
"""Faults told at once; the rest of a hopeless document is left for the next reading."""

_EXPECTED = {
    "int": "a whole number",
    "float": "a number",
    "string": "text",
    "bool": "true or false",
    "dict": "a map",
    "model": "a map of fields",
    "dataclass": "a map of fields",
    "tuple": "a list",
    "list": "a list",
    "datetime": "a time like 2025-01-31T12:00:00Z",
}
_BOUNDS = {
    "greater_than": ("above", "gt"),
    "greater_than_equal": ("at least", "ge"),
    "less_than": ("below", "lt"),
    "less_than_equal": ("at most", "le"),
}
_FOLLOWS = frozenset({"literal_error", "too_short"})
"""Faults that say nothing when there are some deeper."""

_RULED_FIELD: dict[type[Part], str] = {CanaryStrategy: "steps", Analysis: "metrics"}
"""Which field the rule of a whole part is about."""

_EXTRA_NAMES: dict[type[Part], tuple[str, ...]] = {CanaryStrategy: ("traffic",)}
"""Names that may be written besides the part's own fields."""


def describe_faults(
    error: ValidationError, kind: type[Part], data: Any
) -> list[tuple[Location, str]]:
    """Return the location in `data` and a message for each fault.

    Alternatives of one field (``auto`` or a list) are told together.
    """
    details_of_faults = error.errors(include_url=False)[:MAX_FAULTS]
    found = [(_place(details["loc"], data), details) for details in details_of_faults]
    described = []
    for location, group in groupby(found, key=lambda pair: pair[0]):
        faults = [details for _, details in group]
        deeper = [other for other, _ in found if other[: len(location)] == location != other]
        if deeper and all(fault["type"] in _FOLLOWS for fault in faults):
            continue  # the other alternative was meant, or its only item has the fault
        described.append(_describe(location, faults, kind))
    return described


def _place(loc: Iterable[str | int], data: Any) -> Location:
    """Return an error's location without the names of the alternatives in it."""
    parts = list(loc)
    place: list[str | int] = []
    for index, part in enumerate(parts):
        if isinstance(data, dict) and isinstance(part, str):
            is_last = index == len(parts) - 1
            if part in data or is_last:
                place.append(part)
                data = data.get(part)
        elif isinstance(data, list) and isinstance(part, int):
            place.append(part)
            data = data[part] if part < len(data) else None
    return tuple(place)


def _describe(
    location: Location, faults: list[ErrorDetails], kind: type[Part]
) -> tuple[Location, str]:
    first = faults[0]
    if first["type"] == "extra_forbidden":
        part = part_at(kind, location[:-1])
        known = (*fields_of(part), *_EXTRA_NAMES.get(part, ())) if part else ()
        return location, f"unknown field; {suggest(str(location[-1]), known)}"
    if first["type"] == "missing":
        return location, "required"
    if first["type"] == "value_error":
        ruled = part_at(kind, location) if isinstance(first["input"], dict) else None
        field = _RULED_FIELD.get(ruled) if ruled else None
        message = str(first.get("ctx", {}).get("error", first["msg"]))
        return ((*location, field) if field else location), message
    expected = " or ".join(dict.fromkeys(_expectation(fault) for fault in faults))
    return location, f"must be {expected}, got {_show(first['input'])}"


def _expectation(fault: ErrorDetails) -> str:
    kind, context = fault["type"], fault.get("ctx", {})
    if kind in _BOUNDS:
        words, key = _BOUNDS[kind]
        return f"{words} {context[key]:g}"
    if kind == "literal_error":
        return str(context["expected"])
    if kind == "string_pattern_mismatch":
        return f"text of the form {context['pattern']}"
    if kind in {"string_too_long", "too_long"}:
        return f"of length {context['max_length']} at the most"
    if kind in {"string_too_short", "too_short"}:
        return "not empty" if context["min_length"] == 1 else f"longer ({context['min_length']})"
    return _EXPECTED.get(kind.split("_", 1)[0], fault["msg"][0].lower() + fault["msg"][1:])


def _show(value: object) -> str:
    """Say what was written, short."""
    if isinstance(value, dict):
        return "a map"
    if isinstance(value, list | tuple):
        return "a list" if value else "an empty list"
    if value is None:
        return "nothing"
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, int | float):
        return f"the number {value}"
    text = str(value)
    return f"the text {text[:60]!r}" + ("…" if len(text) > 60 else "")
