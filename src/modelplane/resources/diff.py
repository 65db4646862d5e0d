"""What differs between two states of a resource, field by field. Pure.

Called by ``modelplane diff`` with the canonical forms of what is there and what would be there.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Literal

from modelplane.resources.documents import Location, format_location

_ABSENT = object()


@dataclass(frozen=True, slots=True)
class FieldChange:
    """One difference.

    Attributes
    ----------
    path
        Where: ``spec.strategy.canary.steps[1]``.
    change
        ``added``, ``removed`` or ``changed``.
    before, after
        JSON values; None on the side where there is none.
    """

    path: str
    change: Literal["added", "removed", "changed"]
    before: Any = None
    after: Any = None


def diff(before: Mapping[str, Any] | None, after: Mapping[str, Any] | None) -> list[FieldChange]:
    """Return the differences from `before` to `after` in path order; None stands for nothing.

    Lists are compared as wholes: one changed step is a changed list of steps.

    Examples
    --------
    >>> [c.path for c in diff({"spec": {"a": 1, "b": 2}}, {"spec": {"a": 1, "b": 3}})]
    ['spec.b']
    """
    return list(_compare((), before or {}, after or {}))


def _compare(location: Location, before: Any, after: Any) -> Iterator[FieldChange]:
    if isinstance(before, Mapping) and isinstance(after, Mapping):
        for key in sorted({*before, *after}):
            inner = (*location, key)
            yield from _compare(inner, before.get(key, _ABSENT), after.get(key, _ABSENT))
        return
    path = format_location(location)
    if before is _ABSENT:
        yield from _spread(location, after)
    elif after is _ABSENT:
        yield FieldChange(path, "removed", before=before)
    elif before != after:
        yield FieldChange(path, "changed", before=before, after=after)


def _spread(location: Location, value: Any) -> Iterator[FieldChange]:
    """Tell an added map by its leaves."""
    if isinstance(value, Mapping) and value:
        for key in sorted(value):
            yield from _spread((*location, key), value[key])
        return
    yield FieldChange(format_location(location), "added", after=value)
