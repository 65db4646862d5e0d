"""Judges all running rollouts once a second, in one vectorised step.

Reads telemetry, updates each rollout's evidence, stores evidence, judgement and what they came
from together in one fenced transaction, and wakes the rollout controller where the judgement
changed. Moves nothing itself: the rollout controller reads the stored judgement.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from typing import Any

import structlog

from modelplane.controllers.loop import Fence
from modelplane.decisions.analysis import (
    AnalysisSettings,
    AnalysisVerdict,
    EvidenceState,
    LabelCase,
    RampSettings,
    Tick,
    VersionCounts,
    absorb_many,
    allowed_weight_pct,
    feed_of,
    judge_many,
    label_ticks,
    needs_labels,
    settings_of,
    start_evidence,
    tick_from_batch,
)
from modelplane.decisions.judgements import judge_evidence
from modelplane.decisions.recordings import KEPT_ROLLOUTS, Recording, chunk_name
from modelplane.decisions.rollout_canary import ramp_steps
from modelplane.decisions.traffic import rule_name
from modelplane.errors import InvalidResource, ModelplaneError
from modelplane.ports.clock import Clock
from modelplane.ports.metrics import Metrics
from modelplane.ports.predictions import Predictions
from modelplane.ports.store import Store, Transaction
from modelplane.resources.meta import ResourceKey, Subject
from modelplane.resources.model_deployment import ModelDeployment
from modelplane.resources.rollout import Judgement, Rollout
from modelplane.resources.strategy import Strategy
from modelplane.resources.telemetry import TelemetryBatch

_log = structlog.get_logger(__name__)

SUBJECT = Subject(name="system:analysis")
TICK_S = 1.0
LOOK_BACK = 8
"""Rollouts before one that are looked at: several may run beside each other."""

HISTORY_S = 1800.0
"""How far back stable's ordinary scatter is learned from, when a rollout begins."""


@dataclass(frozen=True, slots=True)
class _Case:
    """One running rollout, with what judging it needs."""

    rollout: Rollout
    deployment: ModelDeployment
    settings: AnalysisSettings
    strategy: Strategy
    beside: Mapping[str, str]

    @property
    def uid(self) -> str:
        return self.rollout.metadata.uid

    @property
    def steps(self) -> tuple[float, ...]:
        """Weights of its ramp in percent; empty where the weight follows no evidence."""
        return ramp_steps(self.strategy.canary) if self.strategy.canary is not None else ()

    @property
    def rule(self) -> str:
        """The routing rule that both versions are counted under."""
        return rule_name(self.strategy.predicate)

    @property
    def compared_under(self) -> str:
        """What the evidence is of: another rule, or pairs instead of arms, is other evidence."""
        labels = self.labels
        return f"{self.rule}/pairs" if labels is not None and labels.is_shadow else self.rule

    @property
    def labels(self) -> LabelCase | None:
        """How labels of its predictions are read; None where no metric needs any."""
        names = tuple(metric.name for metric in self.settings.metrics)
        spec, status = self.rollout.spec, self.rollout.status
        if spec.stable is None or not needs_labels(names):
            return None
        return LabelCase(
            environment=self.rollout.metadata.environment or "",
            stable=spec.stable.short,
            candidate=spec.candidate.short,
            metrics=names,
            labels=self.deployment.spec.labels,
            rule=self.rule,
            is_shadow=self.strategy.shadow is not None,
            began=status.ramp_started_at,
        )


@dataclass(frozen=True, slots=True)
class _Judged:
    """One running rollout with what has arrived, what is known by it, and what that says."""

    case: _Case
    ticks: Sequence[Tick]
    state: EvidenceState
    verdict: AnalysisVerdict


class AnalysisController:
    """Runs beside the loop; `wake` is told the deployments whose judgement changed.

    Without `predictions` no metric that needs labels can be measured.
    """

    def __init__(
        self,
        store: Store,
        metrics: Metrics,
        fence: Fence,
        clock: Clock,
        *,
        wake: Callable[[ResourceKey], None],
        predictions: Predictions | None = None,
    ) -> None:
        self._store = store
        self._predictions = predictions
        self._metrics = metrics
        self._fence = fence
        self._clock = clock
        self._wake = wake
        self._running: dict[str, Rollout] = {}
        self._evidence: dict[str, EvidenceState] = {}
        self._judgements: dict[str, Judgement] = {}
        self._recordings: dict[str, Recording] = {}
        self._examples: dict[str, tuple[str, ...]] = {}

    async def run(self) -> None:
        """Judge once a second, for ever."""
        async with asyncio.TaskGroup() as group:
            group.create_task(self._follow(), name="analysis-follow")
            group.create_task(self._tick_forever(), name="analysis-tick")

    async def _follow(self) -> None:
        """Keep the set of running rollouts."""
        while True:
            try:
                rollouts, since = await self._store.list(Rollout)
                self._running = {r.metadata.uid: r for r in rollouts if not r.finished}
                async for change in self._store.watch(since, (Rollout,)):
                    uid, rollout = change.resource.metadata.uid, change.resource
                    if change.type == "put" and isinstance(rollout, Rollout):
                        self._running[uid] = rollout
                    if change.type == "delete" or (
                        isinstance(rollout, Rollout) and rollout.finished
                    ):
                        self._running.pop(uid, None)
                        self._evidence.pop(uid, None)
                        self._judgements.pop(uid, None)
                        self._recordings.pop(uid, None)
                        self._examples.pop(uid, None)
            except ModelplaneError as error:
                _log.warning("analysis.follow_failed", error=str(error))
                await self._clock.sleep(1.0)

    async def _tick_forever(self) -> None:
        due_s = self._clock.monotonic_s()
        while True:
            await self._fence.held.wait()
            try:
                await self.tick()
            except ModelplaneError as error:
                self._evidence.clear()  # read again what is stored
                self._recordings.clear()
                _log.warning("analysis.tick_failed", error=str(error))
            due_s = max(due_s + TICK_S, self._clock.monotonic_s())
            await self._clock.sleep(due_s - self._clock.monotonic_s())

    async def tick(self) -> None:
        """Absorb what has arrived and judge; what was absorbed before changes nothing."""
        now = self._clock.now()
        positions = self._metrics.positions()
        cases = await self._cases()
        states = await self._states(cases)
        ticks = [
            [*self._ticks(case, state), *await self._label_ticks(case, state)]
            for case, state in zip(cases, states, strict=True)
        ]
        settings = [case.settings for case in cases]
        if cases:
            absorbed = await asyncio.to_thread(absorb_many, states, ticks, settings)
            verdicts = await asyncio.to_thread(judge_many, absorbed, settings, now)
            judged = [_Judged(*row) for row in zip(cases, ticks, absorbed, verdicts, strict=True)]
            await self._keep(judged)
        for (proxy, boot_id), sequence in positions.items():
            self._metrics.confirm(proxy, boot_id, sequence)

    async def _cases(self) -> list[_Case]:
        cases = []
        for rollout in list(self._running.values()):
            strategy = rollout.status.strategy
            analysis = strategy.analysis if strategy is not None else None
            if rollout.spec.stable is None or strategy is None or analysis is None:
                continue
            deployment = await self._store.find(
                ModelDeployment, rollout.spec.deployment, rollout.metadata.environment
            )
            if deployment is None:
                continue
            beside = self._rules_beside(rollout, strategy)
            settings = settings_of(analysis, deployment.spec.labels)
            settings = replace(settings, slices=(*settings.slices, *beside.values()))
            cases.append(_Case(rollout, deployment, settings, strategy, beside))
        return cases

    def _rules_beside(self, rollout: Rollout, strategy: Strategy) -> dict[str, str]:
        """Return the rules under which users meet the candidate besides its own, as parts.

        Without a predicate it is met under those of the other rollouts too. Harm there is judged
        as harm to a part of the users is.
        """
        if strategy.predicate or strategy.shadow is not None:
            return {}
        place = (rollout.metadata.environment, rollout.spec.deployment)
        predicates = {
            other.status.strategy.predicate
            for other in self._running.values()
            if other.status.strategy is not None
            and (other.metadata.environment, other.spec.deployment) == place
        }
        return {rule_name(text): f"under {text}" for text in sorted(predicates) if text}

    async def _states(self, cases: Sequence[_Case]) -> list[EvidenceState]:
        unknown = [case for case in cases if case.uid not in self._evidence]
        stored = await self._store.evidence([case.uid for case in unknown]) if unknown else {}
        for case in unknown:
            record = stored.get(case.uid) or {}
            state = _read_state(record)
            if state is None:
                state = start_evidence(case.uid, case.settings, await self._history(case))
                state = replace(state, rule=case.compared_under)
            self._evidence[case.uid] = state
            # What a process before wrote stays as it is: this one begins a chunk of its own.
            self._recordings[case.uid] = Recording(index=int(record.get("chunks", 0)))
        return [_of_rule(self._evidence[case.uid], case) for case in cases]

    async def _history(self, case: _Case) -> EvidenceState | None:
        """Return the evidence of a rollout before, which knows how stable's failures scatter.

        Under another predicate stable answers other requests, which may scatter otherwise; and
        one that runs beside knows no more than this one.
        """
        for back in range(1, LOOK_BACK + 1):
            rollout = await self._before(case.rollout, back)
            strategy = rollout.status.strategy if rollout is not None else None
            if rollout is None or strategy is None or not rollout.finished:
                continue
            if rule_name(strategy.predicate) == case.rule:
                stored = await self._store.evidence([rollout.metadata.uid])
                state = _read_state(stored.get(rollout.metadata.uid))
                if state is not None:
                    return state
        return None

    async def _before(self, rollout: Rollout, back: int) -> Rollout | None:
        """Return the deployment's rollout of so many ordinals before."""
        name = f"{rollout.spec.deployment}-{rollout.spec.ordinal - back}"
        return await self._store.find(Rollout, name, rollout.metadata.environment)

    def _ticks(self, case: _Case, state: EvidenceState) -> list[Tick]:
        rollout = case.rollout
        created = rollout.metadata.created_at or self._clock.now()
        batches = self._metrics.batches(
            rollout.metadata.environment or "",
            rollout.spec.deployment,
            since=created - timedelta(seconds=HISTORY_S),
            after=state.sequences,
        )
        for batch in batches:
            self._note_examples(case, batch)
        return [_tick(case, batch, created) for batch in batches]

    async def _label_ticks(self, case: _Case, state: EvidenceState) -> list[Tick]:
        """Return what labels have come; a store that does not answer holds up nothing else."""
        labels, created = case.labels, case.rollout.metadata.created_at
        if labels is None or self._predictions is None or created is None:
            return []
        after = state.sequences.get(feed_of(labels.environment), 0)
        since = created - timedelta(seconds=HISTORY_S)
        try:
            outcomes = await self._predictions.outcomes(
                labels.environment, case.rollout.spec.deployment, after=after, since=since
            )
        except ModelplaneError as error:
            _log.warning("analysis.labels_failed", rollout=case.uid, error=str(error))
            return []
        return await asyncio.to_thread(label_ticks, labels, outcomes, now=self._clock.now())

    def _note_examples(self, case: _Case, batch: TelemetryBatch) -> None:
        """Keep the newest examples of a shadow's answers that differ, for people to read."""
        spec = case.rollout.spec
        for sample in batch.samples:
            named = (sample.deployment, sample.revision) == (spec.deployment, spec.candidate.short)
            if sample.examples and named:
                self._examples[case.uid] = sample.examples

    async def _keep(self, judged: Sequence[_Judged]) -> None:
        transaction = Transaction(SUBJECT, fence=self._fence.lease)
        woken = []
        kept: dict[str, tuple[EvidenceState, Judgement]] = {}
        for one in judged:
            uid = one.case.uid
            if uid not in self._recordings:
                continue  # it finished while it was judged
            judgement = judge_evidence(
                one.state,
                one.verdict,
                _allowed_weight_pct(one.case, one.state.request_rate_rps, one.verdict),
            )
            if judgement is not None:
                judgement = judgement.with_(examples=self._examples.get(uid, ()))
            if judgement is None or (
                one.state is self._evidence.get(uid) and judgement == self._judgements.get(uid)
            ):
                continue
            self._record(transaction, one, judgement)
            kept[uid] = (one.state, judgement)
            if _differs(judgement, self._judgements.get(uid)):
                woken.append(one.case.deployment.key)
            if uid not in self._judgements:
                await self._drop_old_recording(transaction, one.case.rollout)
        if transaction:
            await self._store.commit(transaction)
        for uid, (state, judgement) in kept.items():
            self._evidence[uid] = state
            self._judgements[uid] = judgement
        for key in woken:
            self._wake(key)

    def _record(self, transaction: Transaction, judged: _Judged, judgement: Judgement) -> None:
        uid = judged.case.uid
        recording = self._recordings[uid]
        if judged.ticks:
            chunk = recording.add(judged.ticks)
            transaction.put_evidence(chunk_name(uid, recording.index), chunk)
        record = {
            "state": judged.state.to_dict(),
            "judgement": judgement.to_dict(),
            "chunks": recording.index + 1,
        }
        transaction.put_evidence(uid, record)

    async def _drop_old_recording(self, transaction: Transaction, rollout: Rollout) -> None:
        """Bound what is kept: recordings of rollouts before the newest twenty go.

        Of those that still ran when their turn came, a few are looked at again.
        """
        for back in range(KEPT_ROLLOUTS, KEPT_ROLLOUTS + LOOK_BACK):
            old = await self._before(rollout, back)
            if old is None or not old.finished:
                continue
            uid = old.metadata.uid
            stored = (await self._store.evidence([uid])).get(uid) or {}
            for index in range(int(stored.get("chunks", 0))):
                transaction.put_evidence(chunk_name(uid, index), None)


def _tick(case: _Case, batch: TelemetryBatch, created: datetime) -> Tick:
    spec = case.rollout.spec
    stable = spec.stable.short if spec.stable else ""
    tick = tick_from_batch(
        batch,
        spec.deployment,
        case.uid,
        stable,
        spec.candidate.short,
        rule=case.rule,
        is_mirrored=case.strategy.shadow is not None,
        beside=case.beside,
    )
    if batch.at <= created:
        # Before this rollout only stable's normal is of interest; the same revision may have
        # been a candidate before, and that is not evidence of this rollout.
        return replace(tick, candidate=VersionCounts(), step_id=None)
    return tick


def _of_rule(state: EvidenceState, case: _Case) -> EvidenceState:
    """Return `state`, or evidence that begins anew when what is compared was edited.

    Other users meet it then. What was counted before, which is not absorbed again, says nothing
    of them.
    """
    if state.rule == case.compared_under:
        return state
    fresh = start_evidence(case.uid, case.settings)
    return replace(fresh, sequences=state.sequences, rule=case.compared_under)


def _read_state(record: Mapping[str, Any] | None) -> EvidenceState | None:
    if not record or "state" not in record:
        return None
    try:
        return EvidenceState.from_dict(record["state"])
    except InvalidResource as error:
        _log.warning("analysis.evidence_unreadable", error=str(error))
        return None


def _allowed_weight_pct(case: _Case, rate_rps: float, verdict: AnalysisVerdict) -> float:
    if not case.steps:
        return 100.0
    ramp = RampSettings(weights_pct=case.steps, shielded=case.deployment.spec.idempotent)
    return allowed_weight_pct(rate_rps, verdict.ucb, verdict.stable_rate, ramp)


def _differs(new: Judgement, old: Judgement | None) -> bool:
    """Whether a decision could come out differently; counts alone do not matter."""
    if old is None:
        return True
    return any(
        getattr(new, name) != getattr(old, name)
        for name in ("step_id", "warm", "harm", "passes", "bad_replica", "allowed_weight_pct")
    )
