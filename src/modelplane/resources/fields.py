"""Walks the resource types: which fields a part has, what they hold, what they are called.

Called by `manifest` (nearest names, places of rules) and `explain`. Pure reflection over the
pydantic models; it must not hold knowledge of any single kind.
"""

from __future__ import annotations

import difflib
import types
from collections.abc import Iterable, Sequence
from typing import Annotated, Any, Union, get_args, get_origin

from pydantic.fields import FieldInfo

from modelplane.resources.meta import Part

_LONGEST = 64
"""Letters of a word that are compared: the comparison's time grows with their square."""


def outside_name(name: str, field: FieldInfo) -> str:
    """Return a field's name in manifests (camelCase)."""
    return field.alias or name


def fields_of(part: type[Part]) -> dict[str, FieldInfo]:
    """Return the fields of a part by their names in manifests, in order."""
    return {outside_name(name, field): field for name, field in part.model_fields.items()}


def part_of(annotation: Any) -> type[Part] | None:
    """Return the part that a field of this type holds, itself or as items; None for values."""
    if isinstance(annotation, type) and issubclass(annotation, Part):
        return annotation
    origin = get_origin(annotation)
    if origin in {Union, types.UnionType, tuple, list, dict, Annotated}:
        found = (part_of(argument) for argument in get_args(annotation))
        return next(filter(None, found), None)
    return None


def part_at(part: type[Part] | None, location: Sequence[str | int]) -> type[Part] | None:
    """Return the part at `location` below `part`; None when there is none."""
    for step in location:
        if part is None:
            return None
        if isinstance(step, int):
            continue
        field = fields_of(part).get(step)
        part = part_of(field.annotation) if field else None
    return part


def nearest(word: str, known: Iterable[str]) -> str:
    """Return the known name that is most like `word`, ignoring case.

    Examples
    --------
    >>> nearest("replcas", ["replicas", "version"])
    'replicas'
    """
    by_case = {name.lower(): name for name in known}
    matches = difflib.get_close_matches(word[:_LONGEST].lower(), by_case, n=1, cutoff=0.0)
    return by_case[matches[0]] if matches else ""


def suggest(word: str, known: Iterable[str]) -> str:
    """Say which known name was probably meant, in words that follow a semicolon."""
    names = sorted(known)
    if not names:
        return "it takes no fields"
    name = nearest(word, names)
    alike = difflib.SequenceMatcher(None, word[:_LONGEST].lower(), name.lower()).ratio()
    if alike >= 0.6:
        return f"did you mean {name!r}?"
    return f"the nearest known name is {name!r}; known are {', '.join(names)}"
