"""Predictions and labels in memory, for tests and simulations.

Implements `ports.predictions.Predictions`. Nothing survives the process.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta

from modelplane.decisions.feedback import Said, meet
from modelplane.ports.clock import Clock
from modelplane.ports.predictions import (
    MAX_WAITING,
    Label,
    LabelFate,
    Outcome,
    Place,
    Prediction,
    StoredSketch,
    Tally,
    Value,
)


@dataclass
class _Kept:
    """A prediction with what is known about it."""

    prediction: Prediction
    label: Value = None
    reward: float | None = None


@dataclass
class _Truth:
    """What was said about one name."""

    label: Value
    reward: float | None
    received_at: datetime
    is_joined: bool = False


@dataclass
class _Scope:
    """All of one deployment."""

    kept: dict[tuple[Place, str, int], _Kept] = field(default_factory=dict)
    by_name: dict[tuple[str, int], list[_Kept]] = field(default_factory=lambda: defaultdict(list))
    truths: dict[tuple[str, int], _Truth] = field(default_factory=dict)
    outcomes: list[tuple[int, _Kept, Value, float | None]] = field(default_factory=list)
    dropped: list[tuple[datetime, Place, int]] = field(default_factory=list)
    totals: dict[Place, Tally] = field(default_factory=dict)
    sketches: dict[tuple[Place, datetime, str], StoredSketch] = field(default_factory=dict)
    expired_before: datetime | None = None
    sequence: int = 0


class InMemoryPredictions:
    """See `ports.predictions.Predictions`.

    Parameters
    ----------
    clock
        Tells when labels came and what is due.
    max_waiting
        How many labels of a deployment may wait for their predictions.
    """

    def __init__(self, clock: Clock, *, max_waiting: int = MAX_WAITING) -> None:
        self._clock = clock
        self._max_waiting = max_waiting
        self._scopes: dict[tuple[str, str], _Scope] = defaultdict(_Scope)

    async def add(self, predictions: Sequence[Prediction]) -> int:
        """Keep them; return how many were new."""
        return sum(self._add(prediction) for prediction in predictions)

    async def add_dropped(self, place: Place, count: int) -> None:
        """Note predictions that were lost before they came here."""
        scope = self._scopes[place.environment, place.deployment]
        scope.dropped.append((self._clock.now(), place, count))
        _count(scope, place, dropped=count)

    async def label(
        self, environment: str, deployment: str, labels: Sequence[Label]
    ) -> Sequence[LabelFate]:
        """Join labels with predictions; one fate each."""
        scope = self._scopes[environment, deployment]
        return [self._label(scope, label) for label in labels]

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
        scope = self._read(environment, deployment)
        found = [
            entry
            for entry in scope.outcomes
            if entry[0] > after and (since is None or entry[1].prediction.at >= since)
        ][:limit]
        return [_outcome(scope, *entry) for entry in found]

    async def tallies(
        self, environment: str, deployment: str, *, since: datetime, horizon_s: float
    ) -> Sequence[Tally]:
        """Count what was predicted since then, by place."""
        scope = self._read(environment, deployment)
        due_at = self._clock.now() - timedelta(seconds=horizon_s)
        counts: dict[Place, Tally] = {}
        for kept in scope.kept.values():
            place, at = kept.prediction.place, kept.prediction.at
            if at >= since:
                found = counts.get(place, Tally(place))
                counts[place] = replace(
                    found,
                    predictions=found.predictions + 1,
                    labelled=found.labelled + (kept.label is not None),
                    rewarded=found.rewarded + (kept.reward is not None),
                    due=found.due + (at < due_at),
                    due_labelled=found.due_labelled + (at < due_at and kept.label is not None),
                )
        for at, place, count in scope.dropped:
            if at >= since:
                found = counts.get(place, Tally(place))
                counts[place] = replace(found, dropped=found.dropped + count)
        return list(counts.values())

    async def totals(self, environment: str, deployment: str) -> Sequence[Tally]:
        """Count everything there ever was, by place."""
        return list(self._read(environment, deployment).totals.values())

    async def rows(
        self, environment: str, deployment: str, *, since: datetime, until: datetime, limit: int
    ) -> Sequence[Prediction]:
        """Return stored predictions with inputs and outputs, oldest first."""
        kept = self._read(environment, deployment).kept.values()
        found = [k.prediction for k in kept if since <= k.prediction.at < until]
        return sorted(found, key=lambda made: (made.at, made.request_id, made.row))[:limit]

    async def said(
        self, environment: str, deployment: str, predictions: Sequence[Prediction]
    ) -> Sequence[Said]:
        """Return the label and the reward of each prediction, None where there is none."""
        kept = self._read(environment, deployment).kept
        found = [kept.get((made.place, made.request_id, made.row)) for made in predictions]
        return [(entry.label, entry.reward) if entry else (None, None) for entry in found]

    async def put_sketches(self, sketches: Sequence[StoredSketch]) -> None:
        """Keep sketches; one of the same place, minute and column takes the place of the old."""
        for sketch in sketches:
            scope = self._scopes[sketch.place.environment, sketch.place.deployment]
            scope.sketches[sketch.place, sketch.minute, sketch.column] = sketch

    async def sketches(
        self, environment: str, deployment: str, *, since: datetime, until: datetime
    ) -> Sequence[StoredSketch]:
        """Return the sketches of these minutes, oldest first."""
        kept = self._read(environment, deployment).sketches.values()
        found = [sketch for sketch in kept if since <= sketch.minute < until]
        return sorted(found, key=lambda sketch: (sketch.minute, sketch.column))

    async def expire(self, environment: str, deployment: str, before: datetime) -> int:
        """Delete what was predicted before, with its labels; return how many predictions."""
        if (environment, deployment) not in self._scopes:
            return 0
        scope = self._scopes[environment, deployment]
        gone = {key for key, kept in scope.kept.items() if kept.prediction.at < before}
        kept = [entry for key, entry in scope.kept.items() if key not in gone]
        scope.kept = {key: entry for key, entry in scope.kept.items() if key not in gone}
        scope.by_name = defaultdict(list)
        for entry in kept:
            for name in _names(entry.prediction):
                scope.by_name[name].append(entry)
        scope.truths = {n: t for n, t in scope.truths.items() if t.received_at >= before}
        scope.outcomes = [o for o in scope.outcomes if o[1].prediction.at >= before]
        scope.sketches = {k: s for k, s in scope.sketches.items() if s.minute >= before}
        scope.dropped = [entry for entry in scope.dropped if entry[0] >= before]
        scope.expired_before = max(scope.expired_before or before, before)
        return len(gone)

    async def forget_waiting(self, environment: str, deployment: str, before: datetime) -> int:
        """Delete labels that came before and have found no prediction; return how many."""
        scope = self._read(environment, deployment)
        gone = [n for n, t in scope.truths.items() if not t.is_joined and t.received_at < before]
        for name in gone:
            del scope.truths[name]
        return len(gone)

    async def deployments(self) -> Sequence[tuple[str, str]]:
        """Return (environment, deployment) of all that have predictions, labels or sketches."""
        return [
            name
            for name, scope in self._scopes.items()
            if scope.kept or scope.truths or scope.sketches
        ]

    def _read(self, environment: str, deployment: str) -> _Scope:
        """Return what there is of a deployment; asking makes none known."""
        return self._scopes.get((environment, deployment), _Scope())

    def _add(self, prediction: Prediction) -> int:
        place = prediction.place
        scope = self._scopes[place.environment, place.deployment]
        identity = (place, prediction.request_id, prediction.row)
        is_past = scope.expired_before is not None and prediction.at < scope.expired_before
        if identity in scope.kept or is_past:
            return 0
        kept = scope.kept[identity] = _Kept(prediction)
        _count(scope, place, predictions=1)
        for name in _names(prediction):
            scope.by_name[name].append(kept)
            if (truth := scope.truths.get(name)) is not None:
                _join(scope, kept, truth.label, truth.reward)
                truth.is_joined = True
        return 1

    def _label(self, scope: _Scope, label: Label) -> LabelFate:
        name, now = (label.name, label.row), self._clock.now()
        found, truth = scope.by_name.get(name, []), scope.truths.get(name)
        said = [(kept.label, kept.reward) for kept in found]
        news = meet([*said, *([(truth.label, truth.reward)] if truth else [])], label)
        if news != "new":
            return news
        if truth is None:
            if not found and label.at and scope.expired_before and label.at < scope.expired_before:
                return "too_late"
            if not found and self._is_full(scope):
                return "no_room"
            truth = scope.truths[name] = _Truth(None, None, now)
        truth.label = label.label if truth.label is None else truth.label
        truth.reward = label.reward if truth.reward is None else truth.reward
        truth.is_joined = truth.is_joined or bool(found)
        for kept in found:
            _join(scope, kept, label.label, label.reward)
        return "joined" if found else "waiting"

    def _is_full(self, scope: _Scope) -> bool:
        if len(scope.truths) < self._max_waiting:
            return False
        return sum(not truth.is_joined for truth in scope.truths.values()) >= self._max_waiting


def _names(prediction: Prediction) -> Iterator[tuple[str, int]]:
    yield prediction.request_id, prediction.row
    key = (prediction.key, prediction.key_row)
    if prediction.key and key != (prediction.request_id, prediction.row):
        yield key


def _join(scope: _Scope, kept: _Kept, label: Value, reward: float | None) -> None:
    """Give a prediction what it does not have yet."""
    new_label = label if kept.label is None else None
    new_reward = reward if kept.reward is None else None
    if new_label is None and new_reward is None:
        return
    kept.label = new_label if new_label is not None else kept.label
    kept.reward = new_reward if new_reward is not None else kept.reward
    scope.sequence += 1
    scope.outcomes.append((scope.sequence, kept, new_label, new_reward))
    _count(
        scope,
        kept.prediction.place,
        labelled=int(new_label is not None),
        rewarded=int(new_reward is not None),
    )


def _count(scope: _Scope, place: Place, **added: int) -> None:
    found = scope.totals.get(place, Tally(place))
    counts = {name: getattr(found, name) + count for name, count in added.items()}
    scope.totals[place] = replace(found, **counts)


def _outcome(
    scope: _Scope, sequence: int, kept: _Kept, label: Value, reward: float | None
) -> Outcome:
    made = kept.prediction
    twins = scope.by_name[made.request_id, made.row]
    is_pair = made.place.mirrored or any(
        t.prediction.place.mirrored and t.prediction.request_id == made.request_id for t in twins
    )
    return Outcome(
        sequence,
        made.place,
        made.at,
        made.predicted,
        made.score,
        label,
        reward,
        made.parts,
        f"{made.request_id}/{made.row}" if is_pair else "",
    )
