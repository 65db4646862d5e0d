"""Texts in playbooks: ``{{ $labels.replica }}`` and ``{{ $value }}`` filled in. Pure.

Called by the decisions about steps, and when a playbook is applied. Other than in the annotations
of alerts a label that is missing is an error: a step must not act on a name that is half empty.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from modelplane.errors import FieldError
from modelplane.resources.meta import Part
from modelplane.resources.playbook import PlaybookSpec

_PLACE = re.compile(r"\{\{\s*(?:\$labels\.([a-zA-Z_][a-zA-Z0-9_]*)|(\$value))\s*\}\}")
_BRACES = re.compile(r"\{\{|\}\}")


class Unfilled(ValueError):
    """A text names what the alert does not have; the message says what."""


def fill(
    text: str,
    labels: Mapping[str, str],
    value: float | None = None,
    *,
    quote: Callable[[str], str] = str,
) -> str:
    """Return `text` with the alert's labels and value in it.

    Parameters
    ----------
    text
        With ``{{ $labels.NAME }}`` and ``{{ $value }}``.
    labels, value
        Of the alert.
    quote
        Applied to each label's value: what stands in a query must not end its string.

    Raises
    ------
    Unfilled
        The alert has no such label, or no value.

    Examples
    --------
    >>> fill("{{ $labels.environment }}/x", {"environment": "staging"})
    'staging/x'
    """

    def replace(match: re.Match[str]) -> str:
        name = match[1]
        if name is None:
            if value is None:
                raise Unfilled("the alert has no value")
            return f"{value:g}"
        if not labels.get(name):
            raise Unfilled(f"the alert has no label {name!r}")
        return quote(labels[name])

    return _PLACE.sub(replace, text)


def fill_query(expression: str, labels: Mapping[str, str], value: float | None = None) -> str:
    r"""Return a PromQL expression with labels in it as they may stand in its strings.

    Examples
    --------
    >>> fill_query('up{job="{{ $labels.job }}"} == 1', {"job": 'a"b'})
    'up{job="a\\"b"} == 1'
    """
    return fill(expression, labels, value, quote=_escape)


def _escape(text: str) -> str:
    return text.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")


def with_sample(text: str) -> str:
    """Return `text` as it could be for some alert: for whoever checks what comes of it.

    Examples
    --------
    >>> with_sample('up{job="{{ $labels.job }}"} > {{ $value }}')
    'up{job="x"} > 1'
    """
    return _PLACE.sub(lambda match: "x" if match[1] else "1", text)


def labels_in(text: str) -> tuple[str, ...]:
    """Return the labels that a text names."""
    return tuple(match[1] for match in _PLACE.finditer(text) if match[1])


def only_label_in(text: str) -> str | None:
    """Return the label that is all of a text; None when it is another text."""
    match = _PLACE.fullmatch(text.strip())
    return match[1] if match is not None else None


def find_text_faults(spec: PlaybookSpec) -> list[FieldError]:
    """Return what could never be filled in: other templates than the two that there are."""
    faults = []
    for index, step in enumerate(spec.steps):
        for path, text in _texts(step.configuration, f"spec.steps[{index}].{step.kind}"):
            if _BRACES.search(_PLACE.sub("", text)):
                faults.append(FieldError(path, _KNOWN))
    if spec.verify.expr is not None and _BRACES.search(_PLACE.sub("", spec.verify.expr)):
        faults.append(FieldError("spec.verify.expr", _KNOWN))
    return faults


_KNOWN = "in double braces only {{ $labels.NAME }} and {{ $value }} are known"


def _texts(part: Part, path: str) -> Iterator[tuple[str, str]]:
    for name in type(part).model_fields:
        yield from _walk(getattr(part, name), f"{path}.{name}")


def _walk(value: Any, path: str) -> Iterator[tuple[str, str]]:
    if isinstance(value, str):
        yield path, value
    elif isinstance(value, dict):
        for name, inner in value.items():
            yield from _walk(inner, f"{path}.{name}")
    elif isinstance(value, list | tuple):
        for index, inner in enumerate(value):
            yield from _walk(inner, f"{path}[{index}]")


def fill_all(value: Any, labels: Mapping[str, str], measured: float | None) -> Any:
    """Return JSON `value` with every text in it filled in; raises as `fill` does."""
    if isinstance(value, str):
        return fill(value, labels, measured)
    if isinstance(value, dict):
        return {name: fill_all(inner, labels, measured) for name, inner in value.items()}
    if isinstance(value, list | tuple):
        return [fill_all(inner, labels, measured) for inner in value]
    return value
