"""What models predicted and what turned out to be true, joined.

The API writes (predictions from agents and from KServe, labels from anybody), analysis, drift and
people read. Data, not state: it stands outside the change log and the audit log, in a store of
its own, and is deleted when its retention is over.
The types are those of `decisions.predictions`.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from typing import Protocol

from modelplane.decisions.feedback import Said
from modelplane.decisions.predictions import (
    Label,
    LabelFate,
    Outcome,
    Place,
    Prediction,
    StoredSketch,
    Tally,
    Value,
)

__all__ = [
    "MAX_WAITING",
    "Label",
    "LabelFate",
    "Outcome",
    "Place",
    "Prediction",
    "Predictions",
    "StoredSketch",
    "Tally",
    "Value",
]

MAX_WAITING = 100_000
"""How many labels of a deployment may wait for their predictions."""


class Predictions(Protocol):
    """A bounded store of predictions and their outcomes. Everything runs off the event loop."""

    async def add(self, predictions: Sequence[Prediction]) -> int:
        """Keep them durably; return how many were new.

        One that is there changes nothing, nor does one from before what `expire` deleted.
        """

    async def add_dropped(self, place: Place, count: int) -> None:
        """Note predictions that were lost before they came here."""

    async def label(
        self, environment: str, deployment: str, labels: Sequence[Label]
    ) -> Sequence[LabelFate]:
        """Join labels with predictions, those that come later too; one fate each.

        The first label of a prediction stands.
        """

    async def outcomes(
        self,
        environment: str,
        deployment: str,
        *,
        after: int = 0,
        limit: int = 10_000,
        since: datetime | None = None,
    ) -> Sequence[Outcome]:
        """Return outcomes above a sequence, oldest first; only of what was predicted `since`."""

    async def tallies(
        self, environment: str, deployment: str, *, since: datetime, horizon_s: float
    ) -> Sequence[Tally]:
        """Count what was predicted since then, by place."""

    async def totals(self, environment: str, deployment: str) -> Sequence[Tally]:
        """Count everything there ever was, by place, what was deleted included; cheap.

        The counts of what is due are 0.
        """

    async def rows(
        self, environment: str, deployment: str, *, since: datetime, until: datetime, limit: int
    ) -> Sequence[Prediction]:
        """Return stored predictions with inputs and outputs, oldest first."""

    async def said(
        self, environment: str, deployment: str, predictions: Sequence[Prediction]
    ) -> Sequence[Said]:
        """Return the label and the reward of each prediction, None where there is none."""

    async def put_sketches(self, sketches: Sequence[StoredSketch]) -> None:
        """Keep sketches; one of the same place, minute and column takes the place of the old."""

    async def sketches(
        self, environment: str, deployment: str, *, since: datetime, until: datetime
    ) -> Sequence[StoredSketch]:
        """Return the sketches of these minutes, oldest first."""

    async def expire(self, environment: str, deployment: str, before: datetime) -> int:
        """Delete what was predicted before, with its labels; return how many predictions."""

    async def forget_waiting(self, environment: str, deployment: str, before: datetime) -> int:
        """Delete labels that came before and have found no prediction; return how many."""

    async def deployments(self) -> Sequence[tuple[str, str]]:
        """Return (environment, deployment) of all that have predictions, labels or sketches."""
