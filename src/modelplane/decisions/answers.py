"""Whether two inference answers say the same. Pure.

Called by the check `parity` and for the copies of requests that a shadow gets (`comparison`);
outputs are compared by name, whatever their order.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import chain
from typing import Any


@dataclass(frozen=True, slots=True)
class Difference:
    """One way in which an answer is not the reference.

    Attributes
    ----------
    where
        ``output`` or ``output[position]``.
    message
        What differs.
    values
        How many values it stands for: 1, or all of an output.
    """

    where: str
    message: str
    values: int = 1


def compare_answers(
    reference: Mapping[str, Any],
    other: Mapping[str, Any],
    tolerance: float,
    *,
    sides: tuple[str, str] = ("there", "here"),
) -> list[Difference]:
    """Return how `other` differs from `reference`.

    Parameters
    ----------
    reference, other
        Answers of the Open Inference Protocol.
    tolerance
        Of real numbers: relative, and absolute below 1. Whole numbers, text and truth values,
        names, shapes and datatypes must be equal; NaN (null) is equal to NaN.
    sides
        What the two are called in messages.

    Examples
    --------
    >>> one = {"outputs": [{"name": "y", "datatype": "FP64", "shape": [2], "data": [1.0, 2.0]}]}
    >>> two = {"outputs": [{"name": "y", "datatype": "FP64", "shape": [2], "data": [1.0, 2.5]}]}
    >>> compare_answers(one, two, 1e-9)
    [Difference(where='y[1]', message='2.0 there, 2.5 here', values=1)]
    """
    ours, theirs = _by_name(reference), _by_name(other)
    found = []
    for name in sorted(ours.keys() | theirs.keys()):
        if name not in theirs or name not in ours:
            which = "is missing" if name in ours else "is not in the reference"
            size = len(_flat((ours if name in ours else theirs)[name].get("data")))
            found.append(Difference(name, which, max(1, size)))
            continue
        found += _compare_outputs(name, (ours[name], theirs[name]), tolerance, sides)
    return found


def _by_name(answer: Mapping[str, Any]) -> dict[str, Mapping[str, Any]]:
    outputs = answer.get("outputs")
    if not isinstance(outputs, list):
        return {}
    return {str(one.get("name")): one for one in outputs if isinstance(one, dict)}


def _compare_outputs(
    name: str,
    outputs: tuple[Mapping[str, Any], Mapping[str, Any]],
    tolerance: float,
    sides: tuple[str, str],
) -> list[Difference]:
    (ours, theirs), (there, here) = outputs, sides
    left, right = _flat(ours.get("data")), _flat(theirs.get("data"))
    for part in ("datatype", "shape"):
        if ours.get(part) != theirs.get(part):
            message = f"{part} {ours.get(part)} {there}, {theirs.get(part)} {here}"
            return [Difference(name, message, max(1, len(left)))]
    if len(left) != len(right):
        message = f"{len(left)} values {there}, {len(right)} {here}"
        return [Difference(name, message, max(1, len(left)))]
    is_real = str(ours.get("datatype")).startswith("FP")
    return [
        Difference(f"{name}[{position}]", f"{one!r:.100} {there}, {two!r:.100} {here}")
        for position, (one, two) in enumerate(zip(left, right, strict=True))
        if not _equal(one, two, tolerance if is_real else None)
    ]


def _flat(data: Any) -> Sequence[Any]:
    flat: list[Any] = data if isinstance(data, list) else []
    while flat and all(isinstance(part, list) for part in flat):
        flat = list(chain.from_iterable(flat))
    return flat


def _equal(one: Any, two: Any, tolerance: float | None) -> bool:
    if tolerance is None or one is None or two is None:
        return bool(one == two) and type(one) is type(two)
    if isinstance(one, int | float) and isinstance(two, int | float):
        try:
            return math.isclose(one, two, rel_tol=tolerance, abs_tol=tolerance)
        except OverflowError:  # JSON's whole numbers have no bound
            return one == two
    return False
