"""How much sooner harm to one part of the users is found when parts are judged by themselves.

Run by ``python -m bench`` and alone. Twenty parts of the users; one of them has a tenth of the
traffic, the others share the rest. Two versions at 50 % each, 100 requests/s, errors alone with 1 %
in stable; the candidate fails 5 % of the one part, or is healthy. Independent failures, an hour at
the most. Measures only; judges nothing.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from modelplane.decisions.analysis_reading import MIN_FAILURES_PER_PHI
from modelplane.decisions.analysis_slices import PRIOR_TRIALS
from modelplane.stats.sequential import HARM_ONLY, SequentialState, arm, e_value, new_state, update

PARTS = 20
HARMED_SHARE = 0.1
RATE = 0.01
SHIFT = 0.00025
REQUESTS_PER_S = 100
PHI = 1.15

Array = NDArray[Any]


def _known(shape: tuple[int, ...], trials: float) -> SequentialState:
    state = new_state(HARM_ONLY, shape)
    state.history[..., 2] = trials
    state.history[..., 3] = trials * RATE
    return arm(state, SHIFT)


def simulate(
    candidate_rate: float, runs: int, seconds: int, seed: int = 3, weight: float = 0.5
) -> dict[str, float | None]:
    """Return how often and when the total alone, and the total with its parts, show harm.

    Parameters
    ----------
    candidate_rate
        The candidate's failure rate in the harmed part; elsewhere it is stable's.
    """
    random = np.random.default_rng(seed)
    shares = np.array([HARMED_SHARE] + [(1 - HARMED_SHARE) / (PARTS - 1)] * (PARTS - 1))
    rates = np.array([candidate_rate] + [RATE] * (PARTS - 1))
    whole = _known((runs,), 50_000)
    parts = _known((runs, PARTS), PRIOR_TRIALS)
    found: dict[str, Array] = {
        name: np.full(runs, np.nan) for name in ("total", "with_parts", "named")
    }
    for second in range(1, seconds + 1):
        n_c = random.poisson(REQUESTS_PER_S * weight * shares, (runs, PARTS))
        n_b = random.poisson(REQUESTS_PER_S * (1 - weight) * shares, (runs, PARTS))
        counts = np.stack(
            [n_c, random.binomial(n_c, rates), n_b, random.binomial(n_b, RATE)], axis=-1
        )
        whole, parts = update(whole, counts.sum(axis=1)), update(parts, counts)
        e_whole, e_parts = _counted(whole), _counted(parts)
        shown = {
            "total": e_whole >= 20,
            "with_parts": e_whole / 2 + e_parts.mean(axis=1) / 2 >= 20,
            "named": e_parts[:, 0] >= 20 * PARTS,
        }
        for name, now in shown.items():
            found[name] = np.where(np.isnan(found[name]) & now, second, found[name])
    result: dict[str, float | None] = {}
    for name, at in found.items():
        is_found = ~np.isnan(at)
        result[f"{name}_share"] = round(float(is_found.mean()), 4)
        result[f"{name}_s"] = float(np.mean(at[is_found])) if is_found.any() else None
    return result


def _counted(state: SequentialState) -> Array:
    failures = state.history[..., 1] + state.pending[..., 1]
    values: Array = np.where(failures >= MIN_FAILURES_PER_PHI * PHI, e_value(state, PHI), 0.0)
    return values


def run(runs: int = 100) -> dict[str, Any]:
    """Simulate a harmed part and a healthy candidate.

    Returns
    -------
    dict
        ``harmed`` and ``healthy``: the share of runs in which the total alone, the total with its
        parts, and the harmed part by its name showed harm, and the mean seconds until then.
    """
    return {
        "runs": runs,
        "harmed": simulate(0.05, runs, 1500),
        "healthy": simulate(RATE, runs, 600),
    }


if __name__ == "__main__":
    for name, value in run().items():
        print(f"{name:10} {value}")
