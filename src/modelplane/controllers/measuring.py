"""Measures everything of the catalogue once a second.

Takes samples from what gateways told, from resources (it follows the change log), and from the
sources that wiring hands in (predictions, quality, drift, what rules record); puts them into the
ring as one set and wakes whoever evaluates it. Writes nothing to the store, and runs without the
controllers' lease: every control plane tells what it sees.
"""

from __future__ import annotations

import asyncio
import math
from collections.abc import Awaitable, Callable, Mapping, Sequence
from datetime import datetime, timedelta

import structlog

from modelplane.decisions.judgements import read_judgement
from modelplane.decisions.resource_series import KINDS, ResourceSeries
from modelplane.decisions.series import BY_NAME, Sample, sample
from modelplane.decisions.telemetry_series import TelemetrySeries
from modelplane.errors import Conflict, ModelplaneError
from modelplane.ports.clock import Clock
from modelplane.ports.predictions import Predictions, Tally
from modelplane.ports.series import SeriesRing
from modelplane.ports.store import Store
from modelplane.resources.model_deployment import ModelDeployment
from modelplane.resources.rollout import Judgement

EVERY_S = 1.0
SOURCE_TIMEOUT_S = 5.0
"""How long a source may take; then its last samples stand in for it once more."""

TALLY_EVERY_S = 10.0
"""How often predictions are counted: that asks a database."""

_log = structlog.get_logger(__name__)

Source = Callable[[], Awaitable[Sequence[Sample]]]


class MeasuringController:
    """Takes a set of samples each second, for ever.

    Parameters
    ----------
    store, ring, clock
        The ports.
    telemetry
        Knows what gateways told.
    """

    def __init__(
        self,
        store: Store,
        ring: SeriesRing,
        telemetry: TelemetrySeries,
        clock: Clock,
    ) -> None:
        self._store = store
        self._ring = ring
        self._telemetry = telemetry
        self._clock = clock
        self._sources: dict[str, Source] = {}
        self._listeners: list[Callable[[], None]] = []
        self._resources = ResourceSeries()
        self._since: int | None = None
        self._counters = Counters()
        self._asking: dict[str, asyncio.Task[Sequence[Sample]]] = {}
        self._last: dict[str, Sequence[Sample]] = {}

    @property
    def deployments(self) -> Sequence[ModelDeployment]:
        """All deployments, as of the last set."""
        return self._resources.deployments

    def add_source(self, name: str, source: Source) -> None:
        """Take further samples: of series of the catalogue, or that rules record.

        ``name`` is for logs. One that takes long or fails holds up nothing.
        """
        self._sources[name] = source

    def add_listener(self, listener: Callable[[], None]) -> None:
        """Call something after each set."""
        self._listeners.append(listener)

    async def run(self) -> None:
        """Measure for ever."""
        while True:
            began_s = self._clock.monotonic_s()
            try:
                await self.measure()
            except ModelplaneError as error:
                _log.warning("measuring.failed", error=str(error))
            except Exception as error:
                _log.error("measuring.broken", exc_info=error)
            took_s = self._clock.monotonic_s() - began_s
            await self._clock.sleep(max(EVERY_S - took_s, EVERY_S / 10))

    async def measure(self) -> None:
        """Take one set."""
        await self._follow()
        judgements = await self._judgements()
        now = self._clock.now()
        samples = [
            *self._telemetry.samples(self._resources.versions, now),
            *self._resources.samples(judgements),
            *await self._ask_sources(),
        ]
        self._ring.record(now, self._counters.keep_rising(samples))
        for listener in self._listeners:
            listener()

    async def _follow(self) -> None:
        """Bring the resources up to date from the change log."""
        if self._since is None:
            await self._read_all()
            return
        try:
            while True:
                page = await self._store.changes(self._since, KINDS)
                for change in page.changes:
                    if change.type == "delete":
                        self._resources.remove(change.resource)
                    else:
                        self._resources.put(change.resource)
                self._since = page.through
                if not page.more:
                    return
        except Conflict:  # the log no longer reaches back so far
            self._since = None
            await self._read_all()

    async def _read_all(self) -> None:
        self._resources.begin()
        oldest: int | None = None
        for kind in KINDS:
            resources, version = await self._store.list(kind)
            oldest = version if oldest is None else min(oldest, version)
            for resource in resources:
                self._resources.put(resource)
        self._since = oldest or 0

    async def _judgements(self) -> Mapping[str, Judgement]:
        uids = [rollout.metadata.uid for rollout in self._resources.running]
        if not uids:
            return {}
        found = await self._store.evidence(uids)
        read = {uid: read_judgement(evidence) for uid, evidence in found.items()}
        return {uid: judgement for uid, judgement in read.items() if judgement is not None}

    async def _ask_sources(self) -> Sequence[Sample]:
        """Return what the sources say; one that is slow or fails says what it said last.

        A source that still works on the last question is not asked again.
        """
        for name, source in self._sources.items():
            if name not in self._asking:
                self._asking[name] = asyncio.ensure_future(_ask(source))
        if self._asking:
            await asyncio.wait(self._asking.values(), timeout=EVERY_S / 2)
        for name, task in list(self._asking.items()):
            if not task.done():
                continue
            del self._asking[name]
            error = task.exception()
            if error is None:
                self._last[name] = task.result()
            else:
                self._last.pop(name, None)  # what nobody knows is absent, not as it was
                _log.warning("measuring.source_failed", source=name, error=repr(error))
        return [one for samples in self._last.values() for one in samples]


async def _ask(source: Source) -> Sequence[Sample]:
    async with asyncio.timeout(SOURCE_TIMEOUT_S):
        return await source()


class Counters:
    """Keeps counters from falling while the process lives.

    What is counted may begin anew (a replica) or be forgotten (old predictions); of such a
    counter only the increases count. Values that are no numbers are left out.
    """

    def __init__(self) -> None:
        self._seen: dict[tuple[str, tuple[tuple[str, str], ...]], tuple[float, float]] = {}

    def keep_rising(self, samples: Sequence[Sample]) -> Sequence[Sample]:
        """Return `samples` with counters that never fall."""
        kept = []
        for one in samples:
            if math.isnan(one.value):
                continue
            series = BY_NAME.get(one.name)
            if series is None or series.type != "counter":
                kept.append(one)
                continue
            key = (one.name, tuple(sorted(one.labels.items())))
            raw, shown = self._seen.get(key, (one.value, one.value))
            shown += max(0.0, one.value - raw)
            self._seen[key] = (one.value, shown)
            kept.append(Sample(one.name, one.labels, shown))
        return kept


class PredictionSeries:
    """What the store of predictions counts, as a source of samples.

    Parameters
    ----------
    deployments
        Returns all deployments; those that log predictions are asked about.
    """

    def __init__(
        self,
        predictions: Predictions,
        deployments: Callable[[], Sequence[ModelDeployment]],
        clock: Clock,
    ) -> None:
        self._predictions = predictions
        self._deployments = deployments
        self._clock = clock
        self._began_at: datetime = clock.now()
        self._next_s = 0.0
        self._samples: Sequence[Sample] = ()

    async def samples(self) -> Sequence[Sample]:
        """Return the samples; they are up to `TALLY_EVERY_S` old."""
        now_s = self._clock.monotonic_s()
        if now_s < self._next_s:
            return self._samples
        found: list[Sample] = []
        for deployment in self._deployments():
            if deployment.spec.predictions is None:
                continue
            tallies = await self._predictions.tallies(
                deployment.metadata.environment or "",
                deployment.metadata.name,
                since=self._began_at - timedelta(seconds=2 * deployment.spec.labels.horizon_s),
                horizon_s=deployment.spec.labels.horizon_s,
            )
            found += tally_samples(tallies)
        self._samples, self._next_s = found, now_s + TALLY_EVERY_S
        return found


def tally_samples(tallies: Sequence[Tally]) -> Sequence[Sample]:
    """Return the samples of the tallies of one deployment; those of one version are added up."""
    by_version: dict[tuple[str, str, str], list[Tally]] = {}
    for tally in tallies:
        place = tally.place
        key = (place.environment, place.deployment, place.version)
        by_version.setdefault(key, []).append(tally)
    samples = []
    for (environment, deployment, version), own in by_version.items():
        labels = {"environment": environment, "deployment": deployment, "version": version}
        for name, value in (
            ("modelplane_predictions_total", sum(tally.predictions for tally in own)),
            ("modelplane_predictions_dropped_total", sum(tally.dropped for tally in own)),
            ("modelplane_labels_total", sum(tally.labelled for tally in own)),
        ):
            samples.append(sample(name, float(value), **labels))
        due = sum(tally.due for tally in own)
        if due:
            ratio = sum(tally.due_labelled for tally in own) / due
            samples.append(sample("modelplane_labels_due_ratio", ratio, **labels))
    return samples
