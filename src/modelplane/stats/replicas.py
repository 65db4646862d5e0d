"""Is it the version or one of its replicas? Counts without each, and how failures gather.

Called by ``modelplane.decisions.analysis``. A plain test takes a broken replica for a broken
version every time. So harm must show without any one replica, and a replica is accused only when
the failures gather on it. Holds no state.
"""

from __future__ import annotations

import math
from collections.abc import Sequence


def counts_without_each(
    counts: Sequence[float], replica_counts: Sequence[Sequence[float]]
) -> list[tuple[float, float, float, float]]:
    """Counts as they would be without each candidate replica.

    Parameters
    ----------
    counts
        ``(n_c, k_c, n_b, k_b)`` of the whole candidate and stable.
    replica_counts
        Attempts and failed ones ``(n, k)`` of each replica. A request that is tried twice counts
        at two replicas, so these may sum to more than ``counts``; what no replica accounts for
        (a failure to connect) counts in every row.

    Returns
    -------
    list of tuple
        Counts for :func:`update`, one row for each replica that is left out.

    Examples
    --------
    >>> counts_without_each([11, 5, 90, 1], [[6, 4], [4, 0]])
    [(5, 1, 90, 1), (7, 5, 90, 1)]
    """
    n_c, k_c, n_b, k_b = counts
    trials = max(n_c, sum(n for n, _ in replica_counts))
    failures = max(k_c, sum(k for _, k in replica_counts))
    return [(trials - n, min(failures - k, trials - n), n_b, k_b) for n, k in replica_counts]


def gathering(failures: float, all_failures: float, share: float) -> float:
    """How surprising it is that one replica has so many of the failures; 0 when it is not.

    ``-ln`` of a bound on the probability that of ``all_failures`` at least ``failures`` fall on a
    replica that answers ``share`` of the attempts, if all replicas are alike: Hoeffding,
    "Probability inequalities for sums of bounded random variables", Journal of the American
    Statistical Association 58 (1963).

    Examples
    --------
    >>> round(gathering(9, 9, 1 / 3), 2), round(9 * math.log(3), 2)
    (9.89, 9.89)
    >>> gathering(3, 9, 1 / 3)
    0.0
    """
    if all_failures <= 0 or not 0 < share < 1:
        return 0.0
    part = failures / all_failures
    if part <= share:
        return 0.0
    divergence = part * math.log(part / share)
    if part < 1:
        divergence += (1 - part) * math.log((1 - part) / (1 - share))
    return all_failures * divergence
