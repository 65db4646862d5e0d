"""Watches for drift: counts what was predicted, and looks at each window a few times.

Runs beside the loop. Wiring has the store of predictions tell it what was kept (`note`). Decides
nothing itself (`decisions.drift`). What it knows is evidence, written with each look; rollouts
read it there, `samples` are its series. A version's reference is the profile of its training data
for the columns that has, and its first window of traffic for all others, the output among them.
"""

from __future__ import annotations

import asyncio
from collections import defaultdict, deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any, Literal

import numpy as np
import structlog
from pydantic import ValidationError

from modelplane.controllers.drift_sketches import Sketches, merge_slots
from modelplane.controllers.loop import Fence
from modelplane.controllers.running import load_running
from modelplane.decisions.drift import (
    KEPT_VERSIONS,
    SLOTS_PER_WINDOW,
    describe,
    floor_to,
    judge,
    look_level,
    slot_s,
    step_s,
)
from modelplane.decisions.drift_profile import (
    OUTPUT,
    OUTPUT_SCORE,
    Cells,
    count_cells,
    gather,
    make_profile,
)
from modelplane.decisions.drift_report import (
    VersionDrift,
    profile_key,
    record_key,
    traffic_key,
)
from modelplane.decisions.hooks import watches_drift
from modelplane.decisions.series import Sample, sample
from modelplane.errors import ModelplaneError
from modelplane.ports.clock import Clock
from modelplane.ports.predictions import Prediction, Predictions
from modelplane.ports.store import Store, Transaction
from modelplane.resources.data_profile import ColumnProfile, DataProfile
from modelplane.resources.meta import ResourceKey, Subject
from modelplane.resources.model_deployment import ModelDeployment
from modelplane.resources.monitoring import DriftWatch
from modelplane.resources.traffic_policy import TrafficPolicy
from modelplane.stats.drift import dispersion

_log = structlog.get_logger(__name__)

SUBJECT = Subject(name="system:drift")
TICK_S = 1.0
LATE_S = 3.0
"""A window is looked at so long after its end: predictions come by way of the agent."""

MAX_QUEUED = 200_000
"""Predictions that may wait to be counted; more are passed over."""

MAX_LEARNED = 20_000
"""Predictions that a reference is made of at the most."""

_PAGE = 5_000
_PAGES = 40

Place = tuple[str, str]
Origin = Literal["data", "traffic"]


@dataclass(frozen=True, slots=True)
class _Reference:
    """What a version is compared with: its training data, and its first window of traffic."""

    data: DataProfile | None
    traffic: DataProfile | None

    def columns(self, watched: _Watched) -> dict[str, tuple[ColumnProfile, Origin]]:
        """Return the reference of each feature that is watched; training data goes first."""
        found: dict[str, tuple[ColumnProfile, Origin]] = {}
        if self.data is not None:
            found = {c.name: (c, self.data.origin) for c in self.data.columns}
        if self.traffic is not None:  # what no request had in the first window is no input
            found = {
                c.name: found.get(c.name, (c, self.traffic.origin)) for c in self.traffic.columns
            }
        return {name: column for name, column in found.items() if watched.has(name)}

    @property
    def names(self) -> frozenset[str]:
        """What there was in the first window."""
        return frozenset(c.name for c in self.traffic.columns) if self.traffic else frozenset()


@dataclass
class _Watched:
    """One deployment that is watched, with what is known of it."""

    deployment: ModelDeployment
    watch: DriftWatch
    versions: dict[str, VersionDrift] = field(default_factory=dict)
    references: dict[str, _Reference] = field(default_factory=dict)
    known: list[str] = field(default_factory=list)
    looked_at: datetime | None = None

    def has(self, feature: str) -> bool:
        """Whether a feature is watched, and kept of predictions."""
        log = self.deployment.spec.predictions
        if log is None or (self.watch.features and feature not in self.watch.features):
            return False
        if feature in {OUTPUT, OUTPUT_SCORE}:
            return True
        return log.inputs and feature not in log.redact


class DriftController:
    """Runs beside the loop; `wake` is told the deployments where drift began or ended."""

    def __init__(
        self,
        store: Store,
        predictions: Predictions,
        fence: Fence,
        clock: Clock,
        wake: Callable[[ResourceKey], None] = lambda key: None,
    ) -> None:
        self._store = store
        self._predictions = predictions
        self._fence = fence
        self._clock = clock
        self._wake = wake
        self._queue: deque[Prediction] = deque()
        self._passed_over = 0
        self._watched: dict[Place, _Watched] = {}
        self._sketches = Sketches(predictions)

    def note(self, made: Sequence[Prediction]) -> None:
        """Take predictions that were kept; returns at once."""
        room = MAX_QUEUED - len(self._queue)
        self._queue.extend(made[:room])
        self._passed_over += max(0, len(made) - room)

    async def samples(self) -> Sequence[Sample]:
        """Return the series of drift."""
        found = []
        for (environment, deployment), watched in self._watched.items():
            for version in watched.versions.values():
                for feature in version.features:
                    labels = {
                        "environment": environment,
                        "deployment": deployment,
                        "version": version.version,
                        "feature": feature.feature,
                    }
                    if feature.psi is not None:
                        found.append(sample("modelplane_drift_psi", feature.psi, **labels))
                    detected = float(feature.is_drifted)
                    found.append(sample("modelplane_drift_detected", detected, **labels))
                    found.append(
                        sample("modelplane_drift_missing_ratio", feature.missing, **labels)
                    )
        return found

    async def run(self) -> None:
        """Count and look, for ever."""
        while True:
            await self._fence.held.wait()
            try:
                await self.tick()
            except ModelplaneError as error:
                _log.warning("drift.tick_failed", error=str(error))
            except Exception as error:
                _log.error("drift.broken", exc_info=error)
            await self._clock.sleep(TICK_S)

    async def tick(self) -> None:
        """Count what came, and look where it is time."""
        await self._follow()
        await self._count()
        now = self._clock.now()
        for watched in list(self._watched.values()):
            at = floor_to(now - timedelta(seconds=LATE_S), step_s(watched.watch.window_s))
            if watched.looked_at is None or at > watched.looked_at:
                watched.looked_at = at
                try:
                    await self._look(watched, at)
                except ModelplaneError as error:  # the next look says more than this one would
                    name = watched.deployment.metadata.name
                    _log.warning("drift.look_failed", deployment=name, error=str(error))

    async def _follow(self) -> None:
        """Bring up to date which deployments are watched, and for what."""
        deployments, _ = await self._store.list(ModelDeployment)
        policies, _ = await self._store.list(TrafficPolicy)
        hooked = {
            (policy.metadata.environment, policy.spec.deployment)
            for policy in policies
            if watches_drift(policy.spec.monitoring_hooks)
        }
        found: dict[Place, _Watched] = {}
        for deployment in deployments:
            spec = deployment.spec
            place = (deployment.metadata.environment or "", deployment.metadata.name)
            watch = spec.drift or (DriftWatch() if place in hooked else None)
            if watch is None or spec.predictions is None:
                continue
            known = self._watched.get(place)
            if known is None or known.deployment.metadata.uid != deployment.metadata.uid:
                known = await self._read(deployment, watch)
            known.deployment, known.watch = deployment, watch
            found[place] = known
        there = {(d.metadata.environment or "", d.metadata.name) for d in deployments}
        before, self._watched = self._watched, found
        await self._forget([known for place, known in before.items() if place not in there])

    async def _forget(self, gone: Sequence[_Watched]) -> None:
        """Delete what was known of deployments that were deleted."""
        transaction = Transaction(SUBJECT, fence=self._fence.lease)
        for watched in gone:
            meta = watched.deployment.metadata
            transaction.put_evidence(record_key(meta.environment or "", meta.name), None)
            for version in watched.known:
                key = traffic_key(meta.environment or "", meta.name, version)
                transaction.put_evidence(key, None)
        if transaction:
            await self._store.commit(transaction)

    async def _read(self, deployment: ModelDeployment, watch: DriftWatch) -> _Watched:
        key = record_key(deployment.metadata.environment or "", deployment.metadata.name)
        record = (await self._store.evidence([key])).get(key) or {}
        watched = _Watched(deployment, watch)
        if record.get("uid") == deployment.metadata.uid:
            for name, told in record.get("versions", {}).items():
                try:
                    watched.versions[name] = VersionDrift.model_validate(told)
                except ValidationError:
                    _log.warning("drift.record_unreadable", deployment=deployment.metadata.name)
            watched.known = [str(name) for name in record.get("references", ())]
        return watched

    async def _reference(self, watched: _Watched, version: str) -> _Reference:
        known = watched.references.get(version)
        if known is not None:
            return known
        meta, model = watched.deployment.metadata, watched.deployment.spec.model
        data = profile_key(f"{model}@{version}")
        traffic = traffic_key(meta.environment or "", meta.name, version)
        stored = await self._store.evidence([data, traffic])
        # What a deployment of this name left that was deleted is none of this one's.
        own = stored.get(traffic) if version in watched.known else None
        found = _Reference(_profile(stored.get(data)), _profile(own))
        watched.references[version] = found
        return found

    async def _count(self) -> None:
        if self._passed_over:
            _log.warning("drift.predictions_passed_over", count=self._passed_over)
            self._passed_over = 0
        made = [self._queue.popleft() for _ in range(len(self._queue))]
        by_version: dict[tuple[str, str, str], list[Prediction]] = defaultdict(list)
        for prediction in made:
            place = prediction.place
            if (place.environment, place.deployment) in self._watched:
                by_version[place.environment, place.deployment, place.version].append(prediction)
        for (environment, deployment, version), together in by_version.items():
            watched = self._watched[environment, deployment]
            reference = await self._reference(watched, version)
            state = watched.versions.get(version) or VersionDrift(version=version)
            if state.learning_since is None:
                begin = min(prediction.at for prediction in together)
                watched.versions[version] = state.with_(learning_since=begin)
            columns = {name: column for name, (column, _) in reference.columns(watched).items()}
            await asyncio.to_thread(
                self._sketches.count,
                together,
                columns,
                slot_s(watched.watch.window_s),
                expected=reference.names,
            )
        if by_version:
            await self._sketches.flush()

    async def _look(self, watched: _Watched, at: datetime) -> None:
        """Look at the window that ends at `at`, and write what was found."""
        meta, watch = watched.deployment.metadata, watched.watch
        environment, since = meta.environment or "", at - timedelta(seconds=watch.window_s)
        sketches = await self._predictions.sketches(environment, meta.name, since=since, until=at)
        before = {name: version.drifted for name, version in watched.versions.items()}
        transaction = Transaction(SUBJECT, fence=self._fence.lease)
        live = await self._live(watched)
        found: dict[str, VersionDrift] = {}
        for version in live:
            state = watched.versions.get(version) or VersionDrift(version=version)
            reference = await self._reference(watched, version)
            if reference.traffic is None:
                await self._learn(watched, state, at, transaction)
                reference = watched.references[version]
            columns = reference.columns(watched)
            slots = merge_slots(
                sketches, version, {n: column for n, (column, _) in columns.items()}
            )
            judged = await asyncio.to_thread(_judge, state, columns, slots, watch, at)
            found[version] = judged.with_(
                data=reference.data.name or "training data" if reference.data else "",
                traffic_at=reference.traffic.at if reference.traffic else None,
            )
        for version in watched.known[:-KEPT_VERSIONS]:
            transaction.put_evidence(traffic_key(environment, meta.name, version), None)
        watched.known = watched.known[-KEPT_VERSIONS:]
        watched.versions = found
        record = {
            "uid": meta.uid,
            "versions": {name: version.to_dict() for name, version in found.items()},
            "references": watched.known,
        }
        transaction.put_evidence(record_key(environment, meta.name), record)
        await self._store.commit(transaction)
        if any(version.drifted != before.get(name, ()) for name, version in found.items()):
            self._wake(watched.deployment.key)

    async def _live(self, watched: _Watched) -> list[str]:
        stable = watched.deployment.status.stable
        running = await load_running(self._store, watched.deployment)
        names = [stable.version] if stable is not None else []
        return list(dict.fromkeys([*names, *(r.spec.candidate.version for r in running)]))

    async def _learn(
        self, watched: _Watched, state: VersionDrift, at: datetime, transaction: Transaction
    ) -> None:
        """Make the reference of a version's first window, once that is over and has enough rows."""
        since, watch = state.learning_since, watched.watch
        if since is None or (at - since).total_seconds() < watch.window_s:
            return
        made = await self._first(watched, state.version, since, at)
        if len(made) < watch.min_rows:
            return
        profile = await asyncio.to_thread(_profile_traffic, made, at)
        watched.references[state.version] = _Reference(
            watched.references[state.version].data, profile
        )
        watched.known = [*(name for name in watched.known if name != state.version), state.version]
        meta = watched.deployment.metadata
        key = traffic_key(meta.environment or "", meta.name, state.version)
        transaction.put_evidence(key, profile.to_dict())
        _log.info("drift.reference", deployment=meta.name, version=state.version, rows=len(made))

    async def _first(
        self, watched: _Watched, version: str, since: datetime, until: datetime
    ) -> list[Prediction]:
        meta, found = watched.deployment.metadata, list[Prediction]()
        for _ in range(_PAGES):
            page = await self._predictions.rows(
                meta.environment or "", meta.name, since=since, until=until, limit=_PAGE
            )
            found += [prediction for prediction in page if prediction.place.version == version]
            if len(page) < _PAGE or len(found) >= MAX_LEARNED:
                break
            since = page[-1].at + timedelta(microseconds=1)
        return found[:MAX_LEARNED]


def _profile(told: Mapping[str, Any] | None) -> DataProfile | None:
    if told is None:
        return None
    try:
        return DataProfile.model_validate(told)
    except ValidationError as error:
        _log.warning("drift.profile_unreadable", error=str(error).partition("\n")[0])
        return None


def _profile_traffic(made: Sequence[Prediction], at: datetime) -> DataProfile:
    """Return the reference that predictions make, with how much they scatter over time."""
    profile, left_out = make_profile(gather(made), len(made), origin="traffic")
    if left_out:
        _log.warning("drift.columns_left_out", columns=len(left_out))
    parts = [gather(part) for part in _cut(made, SLOTS_PER_WINDOW)]
    columns = []
    for column in profile.columns:
        cells = [
            count_cells(column, part.get(column.name) or [None] * len(next(iter(part.values()))))
            for part in parts
        ]
        scatter = float(dispersion(np.array([cells]))[0])
        columns.append(column.with_(scatter=scatter))
    return profile.with_(at=at, columns=tuple(columns))


def _cut(made: Sequence[Prediction], parts: int) -> list[Sequence[Prediction]]:
    length = max(1, -(-len(made) // parts))
    return [made[start : start + length] for start in range(0, len(made), length)]


def _judge(
    state: VersionDrift,
    columns: Mapping[str, tuple[ColumnProfile, Origin]],
    slots: Mapping[str, Sequence[Cells]],
    watch: DriftWatch,
    at: datetime,
) -> VersionDrift:
    """Return what a look at one version finds."""
    if not columns:
        message = (
            f"its first {watch.window_s:g} s with {watch.min_rows:,} rows become its reference"
        )
        return state.with_(state="learning", message=message, features=())
    before = {feature.feature: feature for feature in state.features}
    features = judge(list(columns.values()), slots, watch, before, at=at)
    verdict, message = describe(state.version, features, watch)
    return state.with_(
        state=verdict,
        message=message,
        window_from=at - timedelta(seconds=watch.window_s),
        window_until=at,
        rows=max((feature.rows for feature in features), default=0),
        threshold=watch.psi,
        level=look_level(watch),
        features=features,
    )
