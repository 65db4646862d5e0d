"""A share that is at least so great: a lower bound of one proportion, valid at every look.

Called by ``modelplane.decisions.analysis`` for the answers of a shadow that differ from stable's.
Works on sums alone, so it needs no state of its own.

For each share ``p`` wealth is bet against "at most ``p`` of the answers differ". A bet on the odds
``r > 1`` times as high multiplies its wealth by ``r / (1 + (r - 1) p)`` at a difference and by
``1 / (1 + (r - 1) p)`` otherwise; that is at most 1 on average whenever the true share, which may
move, stays at most ``p``. The mean over several ``r`` falls as ``p`` rises, and the bound is the
``p`` where it reaches ``1 / beta``.

References
----------
Robbins, "Statistical methods related to the law of the iterated logarithm", Annals of
Mathematical Statistics 41 (1970): mixtures of likelihood ratios as bounds at every look.
Waudby-Smith and Ramdas, "Estimating means of bounded random variables by betting", Journal of the
Royal Statistical Society B 86 (2024): the bets, and the bound made of all shares not rejected.
"""

from __future__ import annotations

import math

import numpy as np

from modelplane.stats.betting import log_mean_exp

_ODDS_FACTORS = np.geomspace(1.05, 10_000, 40)
_PARTS, _ROUNDS = 50, 4  # each round narrows the bound to a fiftieth


def share_lower_bound(successes: int, trials: int, beta: float = 0.05) -> float:
    """Lower bound of a share at level ``1 - beta``; 0 while nothing can be said.

    Parameters
    ----------
    successes, trials
        Whole numbers, ``0 <= successes <= trials``.
    beta
        Greatest probability that the bound ever lies above the truth, in (0, 1).

    Examples
    --------
    >>> share_lower_bound(0, 1000)
    0.0
    >>> 0.02 < share_lower_bound(50, 1000) < 0.05
    True
    """
    target = math.log(1 / beta)
    log_gain = successes * np.log(_ODDS_FACTORS)
    if float(log_mean_exp(log_gain)) < target:
        return 0.0
    low, high = 0.0, successes / trials
    for _ in range(_ROUNDS):
        shares = np.linspace(low, high, _PARTS + 1)
        log_wealth = log_gain - trials * np.log1p((_ODDS_FACTORS - 1) * shares[:, None])
        is_rejected = log_mean_exp(log_wealth) >= target
        last = int(np.flatnonzero(is_rejected)[-1])
        low, high = float(shares[last]), float(shares[min(last + 1, _PARTS)])
    return low
