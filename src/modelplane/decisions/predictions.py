"""What a model predicted, and what turned out to be true. Pure data.

Made by `decisions.prediction_events`, kept behind `ports.predictions`, judged by what reads
outcomes.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, Literal

Value = str | int | float | bool | None


@dataclass(frozen=True, slots=True)
class Place:
    """Who predicted: one revision of one deployment, under one routing rule.

    Attributes
    ----------
    revision
        Short digest; of what KServe logs, the name of its component's revision.
    rule
        The routing rule of the request; empty: the default one.
    mirrored
        Whether the request was a copy, so that nobody got the answer.
    """

    environment: str
    deployment: str
    version: str
    revision: str = ""
    rule: str = ""
    mirrored: bool = False


@dataclass(frozen=True, slots=True)
class Prediction:
    """One row of one answered request.

    Attributes
    ----------
    request_id, row
        Together they name it; rows count from 0 within a request.
    key
        What labels may name it by besides; empty: only the request id.
    key_row
        Which of the rows of its request that have this key it is, from 0: 0 where each row has a
        key of its own, `row` where all have the same.
    predicted
        The label or the number; None when the answer holds none that is understood.
    score
        Probability of the positive label, 0 to 1.
    parts
        Slices that it belongs to, such as ``user.region=west``.
    inputs, outputs
        By name, one value each (or a list, for what is no scalar); what is redacted is left out.
    """

    request_id: str
    row: int
    place: Place
    at: datetime
    predicted: Value = None
    score: float | None = None
    latency_s: float | None = None
    key: str = ""
    key_row: int = 0
    parts: tuple[str, ...] = ()
    inputs: Mapping[str, Any] = field(default_factory=dict)
    outputs: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Label:
    """The truth about one prediction, or the reward that it brought; at least one of the two.

    ``name`` is a request id or a join key; ``row`` is the prediction's `row`, or its `key_row`.
    All predictions of that name get it: the mirrored twin's, and what is asked again under a key.
    """

    name: str
    row: int = 0
    label: Value = None
    reward: float | None = None
    at: datetime | None = None


LabelFate = Literal["joined", "waiting", "known", "contradicts", "too_late", "no_room"]
"""``waiting``: its prediction is not known (yet). ``known``: said before, the same.
``contradicts``: something else was said before, which stands. ``too_late``: dated before anything
that is still kept. ``no_room``: too many wait already; it was not kept."""


@dataclass(frozen=True, slots=True)
class Outcome:
    """A prediction with what turned out; sequences rise in the order of joining.

    One for each joining: where the reward comes after the label there are two, and each holds
    only what was new. ``pair`` names the request and row (``REQUEST/ROW``) of a prediction of
    which there is a mirrored twin when it is read, and of every mirrored one.
    """

    sequence: int
    place: Place
    predicted_at: datetime
    predicted: Value
    score: float | None
    label: Value
    reward: float | None
    parts: tuple[str, ...] = ()
    pair: str = ""


@dataclass(frozen=True, slots=True)
class Tally:
    """How many predictions there were of a place, and how many of them have labels.

    ``due`` are those older than the horizon, of which labels should have come.
    """

    place: Place
    predictions: int = 0
    labelled: int = 0
    rewarded: int = 0
    due: int = 0
    due_labelled: int = 0
    dropped: int = 0


@dataclass(frozen=True, slots=True)
class StoredSketch:
    """What `decisions.drift` made of one column in one minute of one place; merges by adding."""

    place: Place
    minute: datetime
    column: str
    sketch: Mapping[str, Any]
