"""Counts into evidence: what one second of traffic adds to what is known.

Called by the analysis controller through :mod:`modelplane.decisions.analysis`, for all running
rollouts at once. It never judges, and it forgets nothing that a verdict may need.

A tick that was absorbed before changes nothing. Within one call the order of the ticks does not
matter; between calls a gateway's ticks must come in rising sequence, as gateways send them.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from itertools import takewhile

import numpy as np

from modelplane.decisions.analysis_evidence import (
    MAX_REPLICAS,
    MAX_SEQUENCES,
    EvidenceState,
    MetricEvidence,
    ReplicaEvidence,
    start_metric,
)
from modelplane.decisions.analysis_inputs import (
    ERRORS,
    LABEL_FEED,
    LATENCY,
    NOTHING,
    AnalysisSettings,
    Outcomes,
    Tick,
    VersionCounts,
)
from modelplane.decisions.analysis_numbers import absorb_numbers, add_earlier
from modelplane.decisions.analysis_slices import add_to_slices, slice_rows, track_slices
from modelplane.decisions.analysis_warm_up import arm_warm_metrics, renew_latency_thresholds
from modelplane.stats.betting import FloatArray
from modelplane.stats.dispersion import (
    DispersionState,
    split_dispersion,
    stack_dispersion,
    update_dispersion,
    update_with_series,
)
from modelplane.stats.latency import QUANTILES, exceedances, merge_histograms
from modelplane.stats.replicas import counts_without_each
from modelplane.stats.sequential import HARM_BETS, HARM_ONLY, SequentialState, update
from modelplane.stats.sequential_rows import split, stack

RATE_MEMORY_S = 30.0
_NO_THRESHOLDS = [math.inf] * len(QUANTILES)


def absorb(
    state: EvidenceState, ticks: Sequence[Tick], settings: AnalysisSettings
) -> EvidenceState:
    """Add ticks to one rollout's evidence; see :func:`absorb_many`."""
    return absorb_many([state], [ticks], [settings])[0]


def absorb_many(
    states: Sequence[EvidenceState],
    ticks: Sequence[Sequence[Tick]],
    settings: Sequence[AnalysisSettings],
) -> list[EvidenceState]:
    """Add ticks to the evidence of many rollouts in a few array operations.

    Parameters
    ----------
    states, ticks, settings
        One entry for each rollout.

    Returns
    -------
    list of EvidenceState
        The same as :func:`absorb` gives one by one; a rollout without new ticks keeps its state.
    """
    result = list(states)
    waiting = [_new_ticks(state, batch) for state, batch in zip(states, ticks, strict=True)]
    moved = [index for index, batch in enumerate(waiting) if batch]
    for index in moved:
        state = _with_metrics(result[index], settings[index])
        state = track_slices(state, settings[index].slices)
        result[index], waiting[index] = _absorb_history(state, waiting[index])
    for turn in range(max(map(len, waiting), default=0)):
        chosen = [index for index in moved if turn < len(waiting[index])]
        absorbed = _absorb_one_each(
            [result[index] for index in chosen], [waiting[index][turn] for index in chosen]
        )
        for index, state in zip(chosen, absorbed, strict=True):
            result[index] = state
    for index in moved:
        result[index] = arm_warm_metrics(result[index], settings[index])
        result[index] = renew_latency_thresholds(result[index], settings[index])
    return result


def _new_ticks(state: EvidenceState, ticks: Sequence[Tick]) -> list[Tick]:
    """Ticks above the last sequence of their gateway boot, each once, in order of time."""
    if not ticks:
        return []
    last = dict(state.sequences)
    if len(ticks) == 1:  # as nearly always
        (tick,) = ticks
        return [tick] if tick.sequence > last.get((tick.proxy, tick.boot_id), -1) else []
    accepted = []
    for tick in sorted(ticks, key=lambda tick: tick.sequence):
        position = (tick.proxy, tick.boot_id)
        if tick.sequence > last.get(position, -1):
            last[position] = tick.sequence
            accepted.append(tick)
    return sorted(accepted, key=lambda tick: (tick.at, tick.proxy, tick.boot_id, tick.sequence))


def _absorb_history(state: EvidenceState, ticks: list[Tick]) -> tuple[EvidenceState, list[Tick]]:
    """Absorb what stable did before any candidate request, all at once.

    A rollout starts with up to half an hour of such ticks. While everything warms up only their
    sums and stable's scatter matter. Returns the ticks that remain.
    """
    count = sum(1 for _ in takewhile(_is_stable_alone, ticks))
    if count < 2 or any(metric.armed for metric in state.metrics):
        return state, ticks
    history = ticks[:count]
    metrics = tuple(_with_history(metric, history) for metric in state.metrics)
    if state.slices:
        rows = np.sum([slice_rows(state, tick) for tick in history], axis=0)
        state = replace(state, slice_tests=update(state.slice_tests, rows))
    for tick in history:
        state = _with_tick(state, tick, metrics, (state.leave_one_out, state.slice_tests))
    return state, ticks[count:]


def _is_stable_alone(tick: Tick) -> bool:
    return tick.candidate == VersionCounts() and tick.labels is None


def _with_history(metric: MetricEvidence, ticks: Sequence[Tick]) -> MetricEvidence:
    if metric.name == LATENCY:
        histogram = metric.stable_latency
        for tick in ticks:
            histogram = merge_histograms(histogram, tick.stable.latency)
        added = sum(sum(tick.stable.latency.values()) for tick in ticks)
        return replace(metric, stable=metric.stable.plus(added, 0), stable_latency=histogram)
    counted = [_outcomes(tick.stable, metric.name) for tick in ticks]
    trials, failures = [one.trials for one in counted], [one.failures for one in counted]
    seconds = [math.floor(tick.at.timestamp()) for tick in ticks]
    return replace(
        metric,
        stable=metric.stable.plus(sum(trials), sum(failures)),
        tests=update(metric.tests, [[0, 0, sum(trials), sum(failures)]]),
        dispersion=update_with_series(metric.dispersion, seconds, trials, failures),
    )


def _absorb_one_each(states: Sequence[EvidenceState], ticks: Sequence[Tick]) -> list[EvidenceState]:
    """One tick for each state, updated together."""
    states = [_with_replicas(state, tick) for state, tick in zip(states, ticks, strict=True)]
    pairs = [
        (metric, tick)
        for state, tick in zip(states, ticks, strict=True)
        for metric in state.metrics
    ]
    outcomes = iter(_absorb_outcomes([pair for pair in pairs if pair[0].name != LATENCY]))
    latencies = iter(_absorb_latencies([pair for pair in pairs if pair[0].name == LATENCY]))
    harm_tests = _absorb_harm_tests(states, ticks)
    result = []
    for state, tick, tests in zip(states, ticks, harm_tests, strict=True):
        metrics = tuple(
            next(latencies if metric.name == LATENCY else outcomes) for metric in state.metrics
        )
        if tick.labels is None:
            result.append(_with_tick(state, tick, metrics, tests))
        else:
            metrics = tuple(absorb_numbers(metric, tick.labels) for metric in metrics)
            sequences = _with_sequence(state.sequences, tick)
            result.append(replace(state, metrics=metrics, sequences=sequences))
    return result


def _absorb_outcomes(pairs: Sequence[tuple[MetricEvidence, Tick]]) -> list[MetricEvidence]:
    """Yes/no outcomes, one row each."""
    pairs = [(add_earlier(metric, tick), tick) for metric, tick in pairs]
    counted = [
        (_outcomes(tick.candidate, metric.name), _outcomes(tick.stable, metric.name))
        for metric, tick in pairs
    ]
    counts = np.array(
        [(c.trials, c.failures, b.trials, b.failures) for c, b in counted], dtype=np.float64
    ).reshape(-1, 4)
    tests, dispersions = _update_rows(pairs, counts)
    return [
        MetricEvidence(
            metric.name,
            metric.margin,
            metric.thresholds,
            metric.stable.plus(stable.trials, stable.failures),
            metric.candidate.plus(candidate.trials, candidate.failures),
            test,
            dispersion,
            metric.stable_latency,
            metric.candidate_latency,
            means=metric.means,
        )
        for (metric, _), (candidate, stable), test, dispersion in zip(
            pairs, counted, tests, dispersions, strict=True
        )
    ]


def _absorb_latencies(pairs: Sequence[tuple[MetricEvidence, Tick]]) -> list[MetricEvidence]:
    """Latencies, one row for each quantile; the rows see nothing while the metric warms up."""
    stable_us = [[t.stable_us for t in m.thresholds] or _NO_THRESHOLDS for m, _ in pairs]
    candidate_us = [[t.candidate_us for t in m.thresholds] or _NO_THRESHOLDS for m, _ in pairs]
    n_b, k_b = exceedances([tick.stable.latency for _, tick in pairs], stable_us)
    n_c, k_c = exceedances([tick.candidate.latency for _, tick in pairs], candidate_us)
    armed = np.array([metric.armed for metric, _ in pairs], dtype=np.float64)
    columns = np.broadcast_arrays((armed * n_c)[:, None], k_c, (armed * n_b)[:, None], k_b)
    tests, dispersions = _update_rows(pairs, np.stack(columns, axis=-1).reshape(-1, 4))
    return [
        MetricEvidence(
            metric.name,
            metric.margin,
            metric.thresholds,
            metric.stable.plus(round(stable), 0),
            metric.candidate.plus(round(candidate), 0),
            test,
            dispersion,
            merge_histograms(metric.stable_latency, tick.stable.latency),
            merge_histograms(metric.candidate_latency, tick.candidate.latency),
            metric.settled_latency,
            metric.settled_requests,
            metric.renewed_at,
        )
        for (metric, tick), stable, candidate, test, dispersion in zip(
            pairs, n_b.tolist(), n_c.tolist(), tests, dispersions, strict=True
        )
    ]


def _update_rows(
    pairs: Sequence[tuple[MetricEvidence, Tick]], counts: FloatArray
) -> tuple[list[SequentialState], list[DispersionState]]:
    """Tests and dispersions of metrics that have the same number of rows."""
    if not pairs:
        return [], []
    rows = len(counts) // len(pairs)
    sizes = [rows] * len(pairs)
    tests = update(stack([metric.tests for metric, _ in pairs]), counts)
    seconds = np.repeat([_second_of(tick) for _, tick in pairs], rows)
    dispersions = update_dispersion(
        stack_dispersion([metric.dispersion for metric, _ in pairs]),
        seconds,
        counts[:, 2],
        counts[:, 3],
    )
    return split(tests, sizes), split_dispersion(dispersions, sizes)


def _second_of(tick: Tick) -> int:
    """The second that failures scatter over: of labels, when their predictions were made."""
    at = tick.at if tick.labels is None else tick.labels.predicted_at
    return math.floor(at.timestamp())


def _absorb_harm_tests(
    states: Sequence[EvidenceState], ticks: Sequence[Tick]
) -> Sequence[tuple[SequentialState, SequentialState]]:
    """The harm tests of errors without each candidate replica, and in each slice."""
    tests: list[SequentialState] = []
    counts: list[tuple[float, float, float, float]] = []
    for state, tick in zip(states, ticks, strict=True):
        if state.replicas:
            tests.append(state.leave_one_out)
            counts.extend(_replica_rows(state, tick))
        if state.slices:
            tests.append(state.slice_tests)
            counts.extend(slice_rows(state, tick))
    sizes = [len(one.fixed) for one in tests]
    after = iter(split(update(stack(tests), counts), sizes) if tests else ())
    return [
        (
            next(after) if state.replicas else state.leave_one_out,
            next(after) if state.slices else state.slice_tests,
        )
        for state in states
    ]


def _replica_rows(state: EvidenceState, tick: Tick) -> Sequence[tuple[float, float, float, float]]:
    stable, candidate = tick.stable, tick.candidate
    whole = (candidate.requests, candidate.failures, stable.requests, stable.failures)
    attempts = [candidate.replicas.get(replica.name, NOTHING) for replica in state.replicas]
    return counts_without_each(whole, [(one.trials, one.failures) for one in attempts])


def _outcomes(version: VersionCounts, name: str) -> Outcomes:
    if name == ERRORS:
        return Outcomes(version.requests, version.failures)
    return version.outcomes.get(name, NOTHING)


def _with_metrics(state: EvidenceState, settings: AnalysisSettings) -> EvidenceState:
    """Track what the settings name now; a metric that is new begins its warm-up."""
    names = [metric.name for metric in settings.judged_metrics()]
    if [metric.name for metric in state.metrics] == names:
        return state
    return replace(state, metrics=tuple(state.metric(name) or start_metric(name) for name in names))


def _with_replicas(state: EvidenceState, tick: Tick) -> EvidenceState:
    """Add a row for each candidate replica that was not seen before."""
    known = {replica.name for replica in state.replicas}
    if tick.candidate.replicas.keys() <= known:
        return state
    fresh = sorted(tick.candidate.replicas.keys() - known)[: MAX_REPLICAS - len(known)]
    errors = state.metric(ERRORS)
    if not fresh or errors is None:
        return state
    # Without a replica that had no request so far, the evidence is the whole evidence.
    harm_part = replace(
        errors.tests, plan=HARM_ONLY, log_wealth=errors.tests.log_wealth[:, :HARM_BETS]
    )
    return replace(
        state,
        replicas=(*state.replicas, *map(ReplicaEvidence, fresh)),
        leave_one_out=stack([state.leave_one_out, *([harm_part] * len(fresh))]),
    )


def _with_tick(
    state: EvidenceState,
    tick: Tick,
    metrics: tuple[MetricEvidence, ...],
    harm_tests: tuple[SequentialState, SequentialState],
) -> EvidenceState:
    """The state with the tick's metrics, harm tests, totals, times and sequence."""
    passed_s = tick.seconds
    if state.last_at is not None:
        passed_s = max(0.0, (tick.at - state.last_at).total_seconds())
    kept = math.exp(-passed_s / RATE_MEMORY_S)
    step_id, step_at = state.step_id, state.step_at
    step_stable, step_candidate = state.step_stable_requests, state.step_candidate_requests
    if tick.step_id is not None and tick.step_id >= step_id:
        if tick.step_id > step_id:
            step_id, step_at, step_stable, step_candidate = tick.step_id, None, 0, 0
        step_at = tick.at if step_at is None else max(step_at, tick.at)
        step_stable += tick.stable.requests
        step_candidate += tick.candidate.requests
    return EvidenceState(
        rollout_uid=state.rollout_uid,
        step_id=step_id,
        metrics=metrics,
        sequences=_with_sequence(state.sequences, tick),
        first_at=state.first_at or tick.at,
        last_at=tick.at if state.last_at is None else max(state.last_at, tick.at),
        step_at=step_at,
        step_stable_requests=step_stable,
        step_candidate_requests=step_candidate,
        recent_requests=state.recent_requests * kept
        + tick.stable.requests
        + tick.candidate.requests,
        recent_s=state.recent_s * kept + passed_s,
        stable=state.stable.plus(tick.stable),
        candidate=state.candidate.plus(tick.candidate),
        replicas=tuple(_with_attempts(replica, tick) for replica in state.replicas),
        leave_one_out=harm_tests[0],
        slices=add_to_slices(state.slices, tick),
        slice_tests=harm_tests[1],
        compared=_plus_pairs(state.compared, tick.candidate.compared),
        rule=state.rule,
    )


def _plus_pairs(compared: Outcomes, more: Outcomes) -> Outcomes:
    return compared.plus(more.trials, more.failures) if more.trials else compared


def _with_attempts(replica: ReplicaEvidence, tick: Tick) -> ReplicaEvidence:
    added = tick.candidate.replicas.get(replica.name)
    if added is None or not added.trials:
        return replica
    last_at = tick.at if replica.last_at is None else max(replica.last_at, tick.at)
    attempts = replica.attempts.plus(added.trials, added.failures)
    return ReplicaEvidence(replica.name, attempts, last_at)


def _with_sequence(
    sequences: Mapping[tuple[str, str], int], tick: Tick
) -> dict[tuple[str, str], int]:
    """The gateway boot of the tick comes last; the one heard longest ago may be forgotten."""
    result = dict(sequences)
    result.pop((tick.proxy, tick.boot_id), None)
    result[tick.proxy, tick.boot_id] = tick.sequence
    if len(result) > MAX_SEQUENCES:
        # Labels may be silent for days, and what was read of them must not be read again.
        result.pop(next(p for p in result if not p[0].startswith(LABEL_FEED)))
    return result
