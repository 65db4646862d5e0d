"""Evidence on parts of the traffic: one e-value for all of them, and which parts to name.

Called by ``modelplane.decisions.analysis``. A part that is harmed may hide in the average: five
times the errors of a tenth of the users move the whole by half. So half of the stake lies on the
whole and half on the parts, evenly. Holds no state and decides nothing.
"""

from __future__ import annotations

from collections.abc import Sequence


def combine(whole: float, parts: Sequence[float]) -> float:
    """E-value of the whole and its parts together: ``whole / 2 + mean(parts) / 2``.

    A mean of e-values is one whatever their dependence, so nothing has to be corrected for the
    number of parts, and every part's e-value may use the same requests as the whole's.

    Examples
    --------
    >>> combine(3.0, [1.0, 9.0]), combine(3.0, [])
    (4.0, 3.0)
    """
    return whole / 2 + sum(parts) / len(parts) / 2 if parts else whole


def name_parts(e_values: Sequence[float], alpha: float) -> tuple[bool, ...]:
    """Which nulls to reject so that of those rejected at most a share `alpha` is true on average.

    The e-BH procedure: with the e-values falling, the ``k`` greatest, for the greatest ``k`` with
    ``k e_k >= K / alpha``. It holds under any dependence.

    References
    ----------
    Wang and Ramdas, "False discovery rate control with e-values", Journal of the Royal
    Statistical Society B 84 (2022), section 4.

    Examples
    --------
    >>> name_parts([1.0, 30.0, 45.0], 0.1)
    (False, True, True)
    >>> name_parts([1.0, 1.0, 29.0], 0.1)
    (False, False, False)
    """
    falling = sorted(e_values, reverse=True)
    target = len(e_values) / alpha
    enough = [e for k, e in enumerate(falling, start=1) if k * e >= target]
    limit = enough[-1] if enough else float("inf")
    return tuple(e >= limit for e in e_values)
