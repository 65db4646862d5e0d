"""When a process that ended is started again. Pure.

Called by the agent for model servers and gateways and by the supervisor for its two processes.
Times are seconds on any clock that never goes back.
"""

from __future__ import annotations

from dataclasses import dataclass, replace


@dataclass(frozen=True, slots=True)
class RestartPolicy:
    """How patient one is.

    Attributes
    ----------
    first_delay_s, max_delay_s
        The wait after the first exit in a row, which doubles with each further one up to the
        greatest.
    settled_after_s
        A process that ran so long begins a new row.
    max_early_exits
        After so many exits before it was ever ready it is given up; None: never.
    """

    first_delay_s: float = 0.2
    max_delay_s: float = 30.0
    settled_after_s: float = 60.0
    max_early_exits: int | None = None


@dataclass(frozen=True, slots=True)
class RestartHistory:
    """What happened to a process so far.

    Attributes
    ----------
    was_ready
        Whether it ever was; then it is never given up.
    early_exits
        Exits before it ever was ready.
    exits_in_row
        Exits since it last ran for long.
    last_exit_at_s
        When it last ended.
    """

    was_ready: bool = False
    early_exits: int = 0
    exits_in_row: int = 0
    last_exit_at_s: float | None = None


@dataclass(frozen=True, slots=True)
class StartAfter:
    """Start it after a wait of ``delay_s`` seconds; 0 means now."""

    delay_s: float


@dataclass(frozen=True, slots=True)
class GiveUp:
    """It will not become ready."""

    early_exits: int


def record_exit(
    history: RestartHistory, policy: RestartPolicy, *, started_at_s: float, ended_at_s: float
) -> RestartHistory:
    """Return the history after one more exit of a process that was started then."""
    settled = ended_at_s - started_at_s >= policy.settled_after_s
    return replace(
        history,
        early_exits=history.early_exits + (not history.was_ready),
        exits_in_row=1 if settled else history.exits_in_row + 1,
        last_exit_at_s=ended_at_s,
    )


def decide_restart(
    history: RestartHistory, policy: RestartPolicy, *, now_s: float
) -> StartAfter | GiveUp:
    """Decide whether and when to start a process that does not run.

    Examples
    --------
    >>> twice = RestartHistory(was_ready=True, exits_in_row=2, last_exit_at_s=100.0)
    >>> decide_restart(twice, RestartPolicy(), now_s=100.1)
    StartAfter(delay_s=0.3)
    """
    limit = policy.max_early_exits
    if not history.was_ready and limit is not None and history.early_exits >= limit:
        return GiveUp(history.early_exits)
    if history.last_exit_at_s is None:
        return StartAfter(0.0)
    # Beyond 2^30 the delay is at its greatest for any sensible policy.
    doublings = min(max(history.exits_in_row - 1, 0), 30)
    delay_s = min(policy.first_delay_s * 2**doublings, policy.max_delay_s)
    left_s = history.last_exit_at_s + delay_s - now_s
    return StartAfter(round(min(max(left_s, 0.0), policy.max_delay_s), 6))
