"""The check ``latency``: the real model server under load, alone and beside the champion.

Called by `stages.running`. Asks the version's own example over and over on its Unix socket: no
gateway and no network are in what it measures, and a model that remembers answers looks faster
than it is.
"""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from modelplane.resources.checks import LatencyCheck
from modelplane.resources.gate_run import (
    Finding,
    Measurement,
    ServedModel,
    StageOutcome,
    StageTask,
)
from modelplane.stages.examples import example_request
from modelplane.stages.failures import CheckImpossible
from modelplane.stages.load import Answers, Target, combine, run_load
from modelplane.stages.workspace import RunningModel, Workspace

PERCENTILES: dict[str, float] = {
    "latency_p50_s": 0.50,
    "latency_p95_s": 0.95,
    "latency_p99_s": 0.99,
}

CONFIDENCE = 0.95
_BLOCK_REQUESTS = 100
_MIN_BLOCKS = 8
_MAX_BLOCKS = 40
_RESAMPLES = 2000
_RESAMPLED_VALUES = 100_000_000
_SEED = 20_240_229


async def run(task: StageTask, workspace: Workspace) -> StageOutcome:
    """Put the candidate under load and hold what it does against the thresholds.

    With `max_slowdown` the champion runs beside it and both are asked in turns, in blocks in the
    order candidate, champion, champion, candidate: whatever slows the machine down slows both. The
    candidate passes when the upper bound of how much slower its p95 is, as a part of the
    champion's, is at most `max_slowdown`. The bound is that of a 95 % percentile bootstrap over
    pairs of neighbouring blocks (B. Efron and R. J. Tibshirani, *An Introduction to the
    Bootstrap*, 1993, section 13.3), so a short noisy run does not pass for want of evidence.

    Any request that is not answered with 200 fails the stage.

    Raises
    ------
    CheckImpossible
        A version cannot be served, or nobody knows what to ask it.
    """
    check = task.stage.configuration
    assert isinstance(check, LatencyCheck)
    compared = check.max_slowdown is not None and task.champion is not None
    async with AsyncExitStack() as stack:
        candidate = await stack.enter_async_context(
            workspace.serve(task.candidate, workspace.candidate_dir)
        )
        own = _Side(candidate, target_of(candidate, task.candidate))
        if not compared:
            await own.warm_up(check)
            await own.ask(check.requests, check.concurrency)
            return judge(check, own.measured(), None)
        assert task.champion is not None
        if workspace.champion_dir is None:
            raise CheckImpossible("the champion's files were not given to this job")
        champion = await stack.enter_async_context(
            workspace.serve(task.champion, workspace.champion_dir, name="champion")
        )
        other = _Side(champion, target_of(champion, task.champion))
        for side in (own, other):
            await side.warm_up(check)
        for number, size in enumerate(block_sizes(check.requests)):
            for side in (own, other) if number % 2 == 0 else (other, own):
                await side.ask(size, check.concurrency)
        return judge(check, own.measured(), other.measured())


def target_of(model: RunningModel, served: ServedModel) -> Target:
    """Return what a version is asked."""
    body = json.dumps(example_request(served), separators=(",", ":")).encode()
    return Target(model.socket, model.infer_path, body)


def block_sizes(requests: int) -> list[int]:
    """Return how many requests each block has: of one size, but for the last ones.

    Examples
    --------
    >>> block_sizes(2000)[:3], len(block_sizes(2000)), block_sizes(20)
    ([100, 100, 100], 20, [3, 3, 3, 3, 2, 2, 2, 2])
    """
    blocks = min(_MAX_BLOCKS, max(_MIN_BLOCKS, requests // _BLOCK_REQUESTS))
    small, more = divmod(requests, blocks)
    return [small + 1] * more + [small] * (blocks - more)


@dataclass(frozen=True, slots=True)
class Measured:
    """What one version did under load.

    Attributes
    ----------
    blocks
        The answers, block by block.
    peak_memory_bytes, cold_start_s
        Of its server.
    """

    blocks: Sequence[Answers]
    peak_memory_bytes: int
    cold_start_s: float


class _Side:
    """One of the versions, being asked."""

    def __init__(self, model: RunningModel, target: Target) -> None:
        self._model = model
        self._target = target
        self._blocks: list[Answers] = []

    async def warm_up(self, check: LatencyCheck) -> None:
        if check.warm_up:
            await run_load(self._target, requests=check.warm_up, concurrency=check.concurrency)

    async def ask(self, requests: int, concurrency: int) -> None:
        answers = await run_load(self._target, requests=requests, concurrency=concurrency)
        self._blocks.append(answers)

    def measured(self) -> Measured:
        return Measured(self._blocks, self._model.peak_memory_bytes(), self._model.cold_start_s)


def judge(check: LatencyCheck, candidate: Measured, champion: Measured | None) -> StageOutcome:
    """Hold what was measured against the thresholds.

    Parameters
    ----------
    check
        The thresholds.
    candidate, champion
        What both did; with a champion, block for block beside each other.
    """
    answers = combine(list(candidate.blocks))
    values = _values(candidate, answers)
    beside = {} if champion is None else _values(champion, combine(list(champion.blocks)))
    limits = {
        "latency_p50_s": check.p50_s,
        "latency_p95_s": check.p95_s,
        "latency_p99_s": check.p99_s,
        "peak_memory_bytes": check.max_memory,
        "cold_start_s": check.cold_start_s,
    }
    measurements = [
        _measure(name, value, len(answers.latencies_s), limits.get(name), beside.get(name))
        if name != "throughput_rps"
        else _measure_throughput(value, check, beside.get(name))
        for name, value in values.items()
    ]
    findings = _findings(check, answers, champion)
    if champion is not None and check.max_slowdown is not None and "latency_p95_s" in values:
        measurements.append(_measure_slowdown(check.max_slowdown, candidate, champion))
    failed = [m.name for m in measurements if m.passed is False]
    errors = [finding for finding in findings if finding.severity == "error"]
    return StageOutcome(
        passed=not failed and not errors,
        message=_describe(values, measurements, errors),
        measurements=tuple(measurements),
        findings=tuple(findings),
        details=_details(check, answers, len(candidate.blocks)),
    )


def _values(measured: Measured, answers: Answers) -> dict[str, float]:
    """Return the metrics; those of latency only where something was answered."""
    values: dict[str, float] = {}
    if len(answers.latencies_s):
        values = {name: percentile(answers.latencies_s, p) for name, p in PERCENTILES.items()}
    values["throughput_rps"] = answers.throughput_rps
    values["peak_memory_bytes"] = float(measured.peak_memory_bytes)
    values["cold_start_s"] = measured.cold_start_s
    return values


def _measure(
    name: str, value: float, rows: int, at_most: float | None, beside: float | None
) -> Measurement:
    return Measurement(
        name=name,
        value=value,
        rows=rows if name in PERCENTILES else None,
        at_most=at_most,
        champion=beside,
        difference=None if beside is None else value - beside,
        passed=None if at_most is None else value <= at_most,
    )


def _measure_throughput(value: float, check: LatencyCheck, beside: float | None) -> Measurement:
    at_least = check.min_throughput_rps
    return Measurement(
        name="throughput_rps",
        value=value,
        at_least=at_least,
        champion=beside,
        difference=None if beside is None else value - beside,
        passed=None if at_least is None else value >= at_least,
    )


def _measure_slowdown(max_slowdown: float, candidate: Measured, champion: Measured) -> Measurement:
    own = [block.latencies_s for block in candidate.blocks]
    other = [block.latencies_s for block in champion.blocks]
    if not sum(map(len, other)):
        raise CheckImpossible("the champion answered none of the requests: nothing to compare with")
    slowdown, lower, upper = slowdown_interval(own, other)
    return Measurement(
        name="latency_p95_slowdown",
        value=slowdown,
        at_most=max_slowdown,
        difference=slowdown,
        lower=lower,
        upper=upper,
        passed=upper <= max_slowdown,
    )


def slowdown_interval(
    own: Sequence[NDArray[np.float64]], other: Sequence[NDArray[np.float64]]
) -> tuple[float, float, float]:
    """Return how much slower the p95 of `own` is than that of `other`, and its 95 % interval.

    Parameters
    ----------
    own, other
        Latencies in seconds, block for block beside each other; blocks may be empty.

    Returns
    -------
    tuple
        The p95 of `own` over that of `other`, less one: 0.2 is a fifth slower; then the bounds of
        the percentile bootstrap over pairs of blocks. The same blocks give the same interval.
    """
    pairs = [(a, b) for a, b in zip(own, other, strict=True) if len(a) and len(b)]
    if not pairs:
        raise CheckImpossible("there is no pair of blocks with answers from both versions")
    random = np.random.default_rng(_SEED)
    values = sum(len(a) + len(b) for a, b in pairs)
    # Long runs are exact enough with fewer: half a minute for the last digit is not worth it.
    ratios = np.empty(max(200, min(_RESAMPLES, _RESAMPLED_VALUES // values)))
    for number in range(len(ratios)):
        chosen = random.integers(0, len(pairs), len(pairs))
        ratios[number] = _ratio([pairs[index] for index in chosen])
    tail = (1 - CONFIDENCE) / 2
    lower, upper = np.quantile(ratios, [tail, 1 - tail])
    return _ratio(pairs) - 1, float(lower) - 1, float(upper) - 1


def _ratio(pairs: Sequence[tuple[NDArray[np.float64], NDArray[np.float64]]]) -> float:
    own = percentile(np.concatenate([pair[0] for pair in pairs]), 0.95)
    other = percentile(np.concatenate([pair[1] for pair in pairs]), 0.95)
    return own / max(other, 1e-9)


def percentile(latencies_s: NDArray[np.float64], part: float) -> float:
    """Return the nearest rank: the smallest value that so large a part did not exceed.

    What `numpy.quantile` calls ``inverted_cdf``, ten times as fast.

    Examples
    --------
    >>> percentile(np.array([3.0, 1.0, 2.0, 4.0]), 0.5)
    2.0
    """
    rank = max(0, math.ceil(part * len(latencies_s) - 1e-9) - 1)
    return float(np.partition(latencies_s, rank)[rank])


def _findings(check: LatencyCheck, answers: Answers, champion: Measured | None) -> list[Finding]:
    findings = [
        Finding(severity="error", code="errors_under_load", message=f"{count:,} times: {words}")
        for words, count in answers.failures.most_common(10)
    ]
    if champion is None and check.max_slowdown is not None:
        message = "maxSlowdown was not looked at: there is no champion to compare with"
        findings.append(Finding(severity="info", code="no_champion", message=message))
    if champion is not None and (failed := sum(combine(list(champion.blocks)).failures.values())):
        message = f"{failed:,} requests to the champion failed; the others were compared"
        findings.append(Finding(severity="warning", code="champion_errors", message=message))
    return findings


def _describe(
    values: dict[str, float], measurements: Sequence[Measurement], errors: Sequence[Finding]
) -> str:
    texts = [f"requests failed under load: {error.message}" for error in errors[:1]]
    texts += [_miss(measurement) for measurement in measurements if measurement.passed is False]
    if texts:
        return "; ".join(texts)
    p50, p95, p99 = (1000 * values[name] for name in PERCENTILES)
    rate = values["throughput_rps"]
    return f"p50 {p50:.3g} ms, p95 {p95:.3g} ms, p99 {p99:.3g} ms at {rate:,.0f} requests/s"


def _miss(measurement: Measurement) -> str:
    name, value = measurement.name, measurement.value
    if measurement.at_least is not None:
        return f"{name} is {value:.4g}, at least {measurement.at_least:.4g} is asked"
    if measurement.upper is not None:
        return (
            f"{name} is {value:.1%} and may be {measurement.upper:.1%}, "
            f"at most {measurement.at_most:.1%} is allowed"
        )
    return f"{name} is {value:.4g}, at most {measurement.at_most:.4g} is allowed"


def _details(check: LatencyCheck, answers: Answers, blocks: int) -> dict[str, Any]:
    return {
        "requests": check.requests,
        "concurrency": check.concurrency,
        "warmUp": check.warm_up,
        "answered": len(answers.latencies_s),
        "failed": sum(answers.failures.values()),
        "blocks": blocks,
        "percentiles": "nearest rank",
    }
