"""Rows of sequential tests put together, taken apart, and written down.

Called by ``modelplane.decisions.analysis``, which stores the state of one rollout at a time and
updates those of all rollouts together. Says nothing about what the numbers mean.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import Any

import numpy as np

from modelplane.stats.sequential import PLANS, SequentialState


def stack(states: Sequence[SequentialState]) -> SequentialState:
    """Rows of several states of one plan, one after another along the first axis.

    Raises
    ------
    ValueError
        If the plans differ.
    """
    plan = states[0].plan
    if any(state.plan is not plan for state in states):
        raise ValueError("states of different plans cannot be stacked")
    return SequentialState(
        plan,
        np.concatenate([state.log_wealth for state in states]),
        np.concatenate([state.pending for state in states]),
        np.concatenate([state.history for state in states]),
        np.concatenate([state.fixed for state in states]),
    )


def split(state: SequentialState, sizes: Sequence[int]) -> list[SequentialState]:
    """Undo :func:`stack`: states with the given numbers of rows, which share memory."""
    edges = np.concatenate([[0], np.cumsum(sizes)]).tolist()
    return [
        SequentialState(
            state.plan,
            state.log_wealth[start:stop],
            state.pending[start:stop],
            state.history[start:stop],
            state.fixed[start:stop],
        )
        for start, stop in pairwise(edges)
    ]


def row_to_dict(state: SequentialState, row: int) -> dict[str, Any]:
    """One row as plain numbers and lists, for storage; :func:`row_from_dict` reads it exactly.

    Examples
    --------
    >>> from modelplane.stats.sequential import HARM_ONLY, arm, new_state, update
    >>> state = update(arm(new_state(HARM_ONLY), 0.001), [[20, 3, 30, 1]])
    >>> again = row_from_dict(row_to_dict(state, 0))
    >>> bool((again.log_wealth == state.log_wealth).all())
    True
    """
    return {
        "plan": state.plan.name,
        "log_wealth": state.log_wealth[row].tolist(),
        "pending": state.pending[row].tolist(),
        "history": state.history[row].tolist(),
        "fixed": [None if np.isnan(value) else value for value in state.fixed[row].tolist()],
    }


def row_from_dict(record: Mapping[str, Any]) -> SequentialState:
    """State of one row from :func:`row_to_dict`'s record.

    Raises
    ------
    ValueError
        If the record does not have the numbers that its plan needs.
    """
    plan = PLANS[record["plan"]]
    wealth = np.array([record["log_wealth"]], dtype=np.float64)
    if wealth.shape != (1, plan.bets):
        raise ValueError(
            f"a {plan.name} row holds {plan.bets} bets, the record has {wealth.shape[-1]}"
        )
    fixed = [np.nan if value is None else value for value in record["fixed"]]
    return SequentialState(
        plan=plan,
        log_wealth=wealth,
        pending=np.array([record["pending"]], dtype=np.float64).reshape(1, 4),
        history=np.array([record["history"]], dtype=np.float64).reshape(1, 4),
        fixed=np.array([fixed], dtype=np.float64).reshape(1, 2),
    )
