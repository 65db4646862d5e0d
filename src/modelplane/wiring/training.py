"""Where training meets the data it watches and the services that train.

Called by `wiring.controllers`.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass

from modelplane.adapters.blobs.watched_data import WatchedPlaces
from modelplane.adapters.notify.training import HttpTrainingService
from modelplane.controllers.loop import Fence
from modelplane.controllers.training_data import DataWatcher
from modelplane.controllers.training_runs import TrainingRunController
from modelplane.controllers.training_triggers import TrainingTriggerController
from modelplane.ports.clock import Clock
from modelplane.ports.store import Store
from modelplane.resources.meta import ResourceKey
from modelplane.resources.training import TrainingTrigger


@dataclass(frozen=True, slots=True)
class TrainingControllers:
    """What begins trainings and sees them through."""

    triggers: TrainingTriggerController
    runs: TrainingRunController
    watcher: DataWatcher
    places: WatchedPlaces
    service: HttpTrainingService

    async def run(self) -> None:
        """Wait; when cancelled, watch nothing any more and let go of connections."""
        try:
            await asyncio.Event().wait()
        finally:
            self.watcher.close()
            self.places.close()
            await self.service.close()


def make_training_controllers(
    store: Store,
    fence: Fence,
    clock: Clock,
    *,
    secret: Callable[[str], str | None],
    source: str,
    wake: Callable[[ResourceKey], None],
) -> TrainingControllers:
    """Return the controllers of training.

    Parameters
    ----------
    store, fence, clock
        The ports.
    secret
        Returns a secret by its name, or None.
    source
        The address of this modelplane, in events.
    wake
        Has the controller of triggers look at one.
    """
    places = WatchedPlaces()

    def changed(trigger: str) -> None:
        wake(ResourceKey(TrainingTrigger.__name__, None, trigger))

    watcher = DataWatcher(places, clock, changed)
    service = HttpTrainingService(secret, clock, source=source)
    return TrainingControllers(
        TrainingTriggerController(store, fence, clock, watcher),
        TrainingRunController(store, fence, clock, service),
        watcher,
        places,
        service,
    )
