"""Errors in each declared part of the users: one harm test each, beside the whole's.

Called by :mod:`modelplane.decisions.analysis_absorb`. It keeps the tests and judges nothing.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from modelplane.decisions.analysis_evidence import EvidenceState, MetricEvidence, SliceEvidence
from modelplane.decisions.analysis_inputs import ERRORS, NOTHING, Outcomes, Tick
from modelplane.resources.strategy import MAX_SLICES
from modelplane.stats.sequential import HARM_ONLY, SequentialState, arm, new_state
from modelplane.stats.sequential_rows import stack

PRIOR_TRIALS = 50
"""A part's normal begins as so many trials at stable's rate everywhere: a part that is seldom seen
would else begin with a guess of one half."""


def track_slices(state: EvidenceState, names: Sequence[str]) -> EvidenceState:
    """Track what the settings name now; a part that is new begins without evidence."""
    if tuple(part.name for part in state.slices) == tuple(names[:MAX_SLICES]):
        return state
    known = {part.name: row for row, part in enumerate(state.slices)}
    errors = state.metric(ERRORS)
    parts, rows = [], []
    for name in names[:MAX_SLICES]:
        row = known.get(name)
        if row is not None:
            parts.append(state.slices[row])
            rows.append(_row(state.slice_tests, row))
        else:
            fresh = new_state(HARM_ONLY)
            armed = errors is not None and errors.armed
            parts.append(SliceEvidence(name))
            rows.append(arm_slices(fresh, errors) if armed and errors else fresh)
    tests = stack(rows) if rows else new_state(HARM_ONLY, 0)
    return replace(state, slices=tuple(parts), slice_tests=tests)


def arm_slices(tests: SequentialState, errors: MetricEvidence) -> SequentialState:
    """End the warm-up with that of errors everywhere, at the same boundary."""
    rate = float(errors.tests.stable_rate[0])
    history = tests.history + np.array([0.0, 0.0, PRIOR_TRIALS, PRIOR_TRIALS * rate])
    return arm(replace(tests, history=history), float(errors.tests.null_shift[0]))


def slice_rows(state: EvidenceState, tick: Tick) -> list[tuple[float, float, float, float]]:
    """Counts for the harm test of each part."""
    rows: list[tuple[float, float, float, float]] = []
    for part in state.slices:
        stable = tick.stable.slices.get(part.name, NOTHING)
        candidate = tick.candidate.slices.get(part.name, NOTHING)
        rows.append((candidate.trials, candidate.failures, stable.trials, stable.failures))
    return rows


def add_to_slices(slices: tuple[SliceEvidence, ...], tick: Tick) -> tuple[SliceEvidence, ...]:
    """Sums with those of the tick."""
    if not tick.stable.slices and not tick.candidate.slices:
        return slices
    return tuple(
        SliceEvidence(
            part.name,
            _plus(part.stable, tick.stable.slices.get(part.name)),
            _plus(part.candidate, tick.candidate.slices.get(part.name)),
        )
        for part in slices
    )


def _plus(sum_: Outcomes, more: Outcomes | None) -> Outcomes:
    return sum_.plus(more.trials, more.failures) if more is not None else sum_


def _row(tests: SequentialState, row: int) -> SequentialState:
    only = slice(row, row + 1)
    return SequentialState(
        tests.plan,
        tests.log_wealth[only],
        tests.pending[only],
        tests.history[only],
        tests.fixed[only],
    )
