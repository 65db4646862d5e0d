"""What training needs from outside: data to look at, and services that train.

Implemented by adapters (`adapters.blobs.watched_data`, `adapters.notify.training`) and used by
the controllers of training.
"""

from __future__ import annotations

from typing import Protocol

from modelplane.decisions.training_runs import ServiceAnswer
from modelplane.resources.dataset import DatasetReference
from modelplane.resources.training import TrainingRun, WatchedData


class DataPlaces(Protocol):
    """Looks at data that lies outside the registry; changes nothing there.

    Both raise `ModelplaneError` when it cannot be looked at, and keep time-outs of their own.
    """

    async def fingerprint(self, data: WatchedData) -> str | None:
        """Return what tells a change at little cost (names, sizes, times); None: nothing is there.

        The same fingerprint may be trusted to be the same data, once nobody writes to it.
        """

    async def describe(self, data: WatchedData) -> DatasetReference:
        """Return what the data is, with its digest; reads as much of it as that takes."""


class TrainingService(Protocol):
    """Trains somewhere else when it is told to; expected failures are answers, not raised."""

    async def start(self, run: TrainingRun) -> ServiceAnswer:
        """Tell it to train; told again of the same run it must do nothing twice."""

    async def ask(self, run: TrainingRun) -> ServiceAnswer:
        """Ask the address that it gave how it goes."""

    async def cancel(self, run: TrainingRun) -> None:
        """Tell the address that it gave that nobody waits any more; whatever it says."""
