"""Labels and rewards: read from a body, and what becomes of one that meets another. Pure.

Called by the API (`read_feedback`) and by the stores of predictions (`meet`).
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import Any, Literal

from modelplane.decisions.predictions import Label, Value
from modelplane.errors import FieldError, InvalidResource

MAX_LABELS = 10_000
"""Most labels in one body."""

MAX_NAME_CHARS = 500
MAX_TEXT_CHARS = 1_000
MAX_ROW = 2**31 - 1
_FIELDS = frozenset({"requestId", "key", "row", "label", "reward", "at"})

Said = tuple[Value, float | None]
"""A label and a reward; None where nothing was said."""


def meet(said: Iterable[Said], label: Label) -> Literal["new", "known", "contradicts"]:
    """Tell whether a label says something new, given everything said under its name before.

    Examples
    --------
    >>> meet([(1, None)], Label("r", label=1.0))
    'known'
    >>> meet([(1, None)], Label("r", label=0))
    'contradicts'
    >>> meet([(1, None)], Label("r", label=1, reward=3.5))
    'new'
    """
    is_known, is_first = True, True
    for old_label, old_reward in said:
        is_first = False
        for old, new in ((old_label, label.label), (old_reward, label.reward)):
            if new is None:
                continue
            if old is None:
                is_known = False
            elif old != new:
                return "contradicts"
    return "new" if is_first or not is_known else "known"


@dataclass(frozen=True, slots=True)
class Feedback:
    """A body of labels.

    Attributes
    ----------
    labels
        Those that are well formed.
    positions
        Where each of them stood in the body, from 0.
    faults
        Of the others: path (``labels[3].reward``) and what is wrong.
    """

    deployment: str
    environment: str | None
    labels: Sequence[Label]
    positions: Sequence[int]
    faults: Sequence[FieldError]


def with_numbers(feedback: Feedback) -> Feedback:
    """Return feedback of a regression: labels that say no number are faults.

    One of them would stand, be no error that counts, and keep the right one away.
    """
    kept: list[tuple[Label, int]] = []
    faults = list(feedback.faults)
    for label, position in zip(feedback.labels, feedback.positions, strict=True):
        if isinstance(label.label, str) and not _is_number(label.label):
            path = f"labels[{position}].label"
            faults.append(FieldError(path, "must be a number: the task is regression"))
        else:
            kept.append((label, position))
    return replace(
        feedback,
        labels=[label for label, _ in kept],
        positions=[position for _, position in kept],
        faults=faults,
    )


def _is_number(text: str) -> bool:
    try:
        return math.isfinite(float(text))
    except ValueError:
        return False


def read_feedback(data: Mapping[str, Any]) -> Feedback:
    """Read ``{deployment, environment?, labels: [{requestId | key, row?, label?, reward?, at?}]}``.

    One bad label spoils no other.

    Raises
    ------
    InvalidResource
        The body as a whole has another form, or holds too many.
    """
    faults = [
        FieldError(name[:80], "unknown field; known are deployment, environment, labels")
        for name in data
        if name not in {"deployment", "environment", "labels"}
    ]
    deployment, environment = data.get("deployment"), data.get("environment")
    items = data.get("labels")
    if not isinstance(deployment, str) or not deployment:
        faults.append(FieldError("deployment", "must be the name of a deployment"))
    if environment is not None and not isinstance(environment, str):
        faults.append(FieldError("environment", "must be the name of an environment"))
    if not isinstance(items, list):
        faults.append(FieldError("labels", "must be a list"))
    elif len(items) > MAX_LABELS:
        faults.append(FieldError("labels", f"holds {len(items)}; send {MAX_LABELS} at the most"))
    if faults:
        raise InvalidResource("the body is no feedback; nothing was kept", faults)
    assert isinstance(items, list)
    labels, positions = [], []
    for position, item in enumerate(items):
        found = read_label(item, f"labels[{position}]")
        if isinstance(found, Label):
            labels.append(found)
            positions.append(position)
        else:
            faults.append(found)
    return Feedback(str(deployment), environment, labels, positions, faults)


def read_label(item: object, path: str) -> Label | FieldError:
    """Read one label, or say what is wrong with it."""
    if not isinstance(item, dict):
        return FieldError(path, "must be an object")
    for name in item:
        if name not in _FIELDS:
            known = ", ".join(sorted(_FIELDS))
            return FieldError(f"{path}.{str(name)[:80]}", f"unknown field; known are {known}")
    request_id, key = item.get("requestId"), item.get("key")
    if (request_id is None) == (key is None):
        return FieldError(path, "give requestId or key, one of the two")
    name, field = (request_id, "requestId") if request_id is not None else (key, "key")
    if not isinstance(name, str) or not 0 < len(name) <= MAX_NAME_CHARS:
        return FieldError(f"{path}.{field}", f"must be text of 1 to {MAX_NAME_CHARS} characters")
    row, label, reward = item.get("row"), item.get("label"), item.get("reward")
    if row is not None and (type(row) is not int or not 0 <= row <= MAX_ROW):
        return FieldError(f"{path}.row", "must be a whole number from 0")
    if not _is_value(label):
        return FieldError(f"{path}.label", "must be text, a number, true or false")
    if reward is not None and (type(reward) not in (int, float) or not _is_value(reward)):
        return FieldError(f"{path}.reward", "must be a number")
    if label is None and reward is None:
        return FieldError(path, "has neither label nor reward")
    at = read_moment(item.get("at"))
    if at is None and item.get("at") is not None:
        return FieldError(f"{path}.at", "must be a time such as 2026-01-05T09:00:00Z")
    return Label(name, row or 0, label, float(reward) if reward is not None else None, at)


def _is_value(value: object) -> bool:
    if isinstance(value, str):
        return len(value) <= MAX_TEXT_CHARS
    if isinstance(value, float):
        return math.isfinite(value)
    if isinstance(value, int):
        return abs(value) < 2**63
    return value is None


def read_moment(value: object) -> datetime | None:
    """Return the time an RFC 3339 text names, in UTC; None of anything else.

    Examples
    --------
    >>> read_moment("2026-01-05T10:00:00+01:00")
    datetime.datetime(2026, 1, 5, 9, 0, tzinfo=datetime.timezone.utc)
    """
    if not isinstance(value, str):
        return None
    try:
        at = datetime.fromisoformat(value)
        return at.astimezone(UTC) if at.tzinfo is not None else None
    except (ValueError, OverflowError):
        return None
