"""How many requests a verdict needs, and what so many can show: arithmetic for people who wait.

Called by ``modelplane.decisions.analysis`` for the status line and by
``modelplane.decisions.preflight`` before a rollout begins. Nothing is decided by these numbers. A
request here is one to either version, split between them by ``candidate_share``.
"""

from __future__ import annotations

import math
from statistics import NormalDist

from modelplane.stats.betting import null_projection


def requests_needed(
    stable_rate: float, candidate_share: float, margin: float, beta: float = 0.05
) -> float:
    """Requests until the margin test passes a candidate that is as good as stable.

    ``ln(1/beta) [2 p (1-p) / (w (1-w) margin^2) + 1 / (w margin)]``: the normal term of two
    Bernoulli streams plus what rare failures cost; within about 15 % of simulated means, while
    half of all candidates pass after three quarters of it.

    Parameters
    ----------
    stable_rate
        Stable's failure rate ``p``, in [0, 1).
    candidate_share
        Share ``w`` of requests that go to the candidate, in (0, 1).
    margin
        How much worse the candidate may be, in (0, 1).

    Examples
    --------
    >>> round(requests_needed(0.0, 0.5, 0.0025))
    2397
    """
    spread = candidate_share * (1 - candidate_share)
    normal = 2 * stable_rate * (1 - stable_rate) / (spread * margin**2)
    return math.log(1 / beta) * (normal + 1 / (candidate_share * margin))


def growth_per_request(candidate_rate: float, stable_rate: float, candidate_share: float) -> float:
    """Greatest log-wealth that one request brings on average against "the same rate".

    The Kullback-Leibler divergence of both versions' outcomes from their common mean.

    Examples
    --------
    >>> growth_per_request(0.05, 0.05, 0.5)
    0.0
    >>> round(growth_per_request(0.01, 0.05, 0.5), 4)
    0.0075
    """
    mean = candidate_share * candidate_rate + (1 - candidate_share) * stable_rate
    return candidate_share * _divergence(candidate_rate, mean) + (
        1 - candidate_share
    ) * _divergence(stable_rate, mean)


def _divergence(p: float, q: float) -> float:
    result = p * math.log(p / q) if p > 0 else 0.0
    if p < 1:
        result += (1 - p) * math.log((1 - p) / (1 - q))
    return max(result, 0.0)


def still_needed(total: float, log_wealth: float, beta: float = 0.05) -> float:
    """What is left of ``total`` requests when some evidence is there already.

    ``log_wealth`` is the test's, divided by phi; below zero it makes the wait longer.

    Examples
    --------
    >>> import math
    >>> round(still_needed(1000, math.log(20) / 2))
    500
    """
    target = math.log(1 / beta)
    return max(0.0, total * (target - log_wealth) / target)


def harm_growth_per_request(
    candidate_rate: float, stable_rate: float, null_shift: float, candidate_share: float
) -> float:
    """Greatest log-wealth that one request brings on average against "at most so much worse".

    The divergence of both versions' outcomes from the nearest point of the null
    ``p_c = p_b + null_shift``; see :func:`modelplane.stats.betting.null_projection`.

    Examples
    --------
    >>> harm_growth_per_request(0.01, 0.01, 0.001, 0.5)
    0.0
    >>> round(harm_growth_per_request(0.05, 0.01, 0.0, 0.5), 4)
    0.0075
    """
    if candidate_rate <= stable_rate + null_shift:
        return 0.0
    q_c, q_b = null_projection(candidate_rate, stable_rate, null_shift, candidate_share)
    return candidate_share * _divergence(candidate_rate, float(q_c)) + (
        1 - candidate_share
    ) * _divergence(stable_rate, float(q_b))


def growth_for_power(target: float, power: float) -> float:
    """Expected log-wealth with which a test reaches ``target`` with a given probability.

    The log-wealth of a good bet scatters about normally, with twice its mean as variance, so
    ``G - z sqrt(2 G) = target``. It is looked at all the time and not only at the end, so the
    true power is a little higher.

    Examples
    --------
    >>> round(growth_for_power(6.0, 0.5), 6)
    6.0
    >>> round(growth_for_power(6.0, 0.8), 1)
    9.7
    """
    z = NormalDist().inv_cdf(power)
    return ((z * math.sqrt(2) + math.sqrt(2 * z * z + 4 * target)) / 2) ** 2
