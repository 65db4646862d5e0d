"""Looks at watched data again and again, and tells the triggers when it has settled.

Used by `controllers.training_triggers`. One task for each address of a trigger, so that a place
that hangs holds up no other. Data is taken when two looks in a row found the same: a file that is
being written is not. Nothing is stored here; after a restart everything is looked at anew, and the
trigger knows by the digest whether that is news.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import structlog

from modelplane.decisions.datasets import has_digest
from modelplane.errors import ModelplaneError
from modelplane.ports.clock import Clock
from modelplane.ports.training import DataPlaces
from modelplane.resources.dataset import DatasetReference
from modelplane.resources.training import WatchedData

_log = structlog.get_logger(__name__)

_NOTHING = "nothing"


@dataclass(frozen=True, slots=True)
class Sighting:
    """What lies at an address, settled: data, nothing at all, or why it cannot be read."""

    reference: DatasetReference | None = None
    fault: str = ""


@dataclass(slots=True)
class DataLook:
    """The looks at one address.

    Attributes
    ----------
    before
        What the last look found; empty before the first.
    taken
        What the sighting was made from.
    sighting
        What the trigger is told; None until something has settled.
    """

    data: WatchedData
    before: str = ""
    taken: str = ""
    sighting: Sighting | None = None

    async def look(self, places: DataPlaces) -> bool:
        """Look once; return whether there is something new to tell."""
        try:
            return await self._look(places)
        except ModelplaneError as error:
            # What was taken before stays known: the fault passes, and then nothing has changed.
            found = Sighting(fault=str(error)[:500])
            is_new = found != self.sighting
            self.sighting, self.before, self.taken = found, "", ""
            return is_new

    async def _look(self, places: DataPlaces) -> bool:
        found = await places.fingerprint(self.data) or _NOTHING
        # Nothing at the first look is nothing: it cannot be half of something.
        is_first = not self.before and not self.taken
        settled = found == self.before or (is_first and found == _NOTHING)
        self.before = found
        if not settled or found == self.taken:
            return False
        reference = None
        if found != _NOTHING:
            reference = await places.describe(self.data)
            if (await places.fingerprint(self.data) or _NOTHING) != found:
                self.before = ""  # it was written to while it was read
                return False
            if not has_digest(reference):
                self.taken = found
                return self._tell(Sighting(fault="no digest of it can be had"))
        self.taken = found
        return self._tell(Sighting(reference))

    def _tell(self, sighting: Sighting) -> bool:
        is_new, self.sighting = sighting != self.sighting, sighting
        return is_new


@dataclass(slots=True)
class _Watch:
    """What is watched for one trigger."""

    declared: tuple[WatchedData, ...] = ()
    looks: dict[str, DataLook] = field(default_factory=dict)
    tasks: list[asyncio.Task[None]] = field(default_factory=list)


class DataWatcher:
    """Watches the data of all triggers.

    Parameters
    ----------
    places
        Where data is looked at.
    clock
        Waits between looks.
    changed
        Told the name of a trigger for which there is something new.
    """

    def __init__(self, places: DataPlaces, clock: Clock, changed: Callable[[str], None]) -> None:
        self._places = places
        self._clock = clock
        self._changed = changed
        self._watches: dict[str, _Watch] = {}

    def watch(self, trigger: str, declared: Sequence[WatchedData]) -> None:
        """Watch exactly this for a trigger; nothing when it is the same as before."""
        watch = self._watches.get(trigger)
        if watch is None and not declared:
            return
        if watch is not None and watch.declared == tuple(declared):
            return
        self._stop(trigger)
        if not declared:
            return
        watch = self._watches[trigger] = _Watch(tuple(declared))
        for data in declared:
            look = watch.looks[data.uri] = DataLook(data)
            task = asyncio.create_task(self._follow(trigger, look), name=f"watch {data.uri}")
            watch.tasks.append(task)

    def sightings(self, trigger: str) -> dict[str, Sighting]:
        """Return what is known of a trigger's data, by address; absent: not settled yet."""
        watch = self._watches.get(trigger)
        looks = watch.looks if watch is not None else {}
        return {uri: look.sighting for uri, look in looks.items() if look.sighting is not None}

    def close(self) -> None:
        """Watch nothing any more."""
        for trigger in list(self._watches):
            self._stop(trigger)

    def _stop(self, trigger: str) -> None:
        watch = self._watches.pop(trigger, None)
        for task in watch.tasks if watch is not None else ():
            task.cancel()

    async def _follow(self, trigger: str, look: DataLook) -> None:
        while True:
            try:
                if await look.look(self._places):
                    self._changed(trigger)
            except Exception as error:
                _log.exception("watched_data.failed", trigger=trigger, error=str(error))
            await self._clock.sleep(look.data.every_s)
