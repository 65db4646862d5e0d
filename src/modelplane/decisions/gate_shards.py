"""A large suite in parts: how its cases are cut, and how the parts become one outcome. Pure.

Called by `decisions.gates`. Cut by longest processing time first (Graham 1969, "Bounds on
multiprocessing timing anomalies"): the slowest part takes at most 4/3 of the best possible time.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence

from modelplane.resources.gate_run import Finding, Measurement, StageOutcome, TestCase

_MAX_CASES, _MAX_FINDINGS, _MAX_MEASUREMENTS = 5000, 1000, 2000
_MAX_MESSAGE = 2000


def cut_cases(
    cases: Sequence[str], shards: int, durations_s: Mapping[str, float]
) -> tuple[tuple[str, ...], ...]:
    """Return the cases of each shard; none is empty, and each case is in one.

    Parameters
    ----------
    cases
        Names; one that stands twice counts once.
    shards
        At most so many.
    durations_s
        How long cases took before; one that is not known counts as the mean of the others.

    Examples
    --------
    >>> cut_cases(["a", "b", "c"], 2, {"a": 3.0, "b": 1.0, "c": 1.0})
    (('a',), ('b', 'c'))
    """
    every = list(dict.fromkeys(cases))
    known = [durations_s[case] for case in every if case in durations_s]
    mean = math.fsum(known) / len(known) if known else 1.0
    loads = [0.0] * max(1, min(shards, len(every)))
    place: dict[str, int] = {}
    for case in sorted(every, key=lambda case: -durations_s.get(case, mean)):
        lightest = min(range(len(loads)), key=lambda index: (loads[index], index))
        place[case] = lightest
        # A case of no measurable time still takes a turn: else all of them go to one shard.
        loads[lightest] += max(durations_s.get(case, mean), 1e-9)
    parts = (tuple(case for case in every if place[case] == i) for i in range(len(loads)))
    return tuple(part for part in parts if part)


def merge_outcomes(outcomes: Sequence[StageOutcome]) -> StageOutcome:
    """Return what the shards found as one outcome; that of a single one as it is.

    It passed when every shard did. Cases and findings follow each other. A metric is the mean of
    the shards that report it, weighted by their cases; what each shard said stands beside it with
    the slice ``shard=N``.
    """
    if len(outcomes) == 1:
        return outcomes[0]
    cases = [case for outcome in outcomes for case in outcome.cases]
    findings = [finding for outcome in outcomes for finding in outcome.findings]
    if len(cases) > _MAX_CASES:
        message = f"only {_MAX_CASES} of {len(cases)} cases are kept, the failed ones first"
        cases.sort(key=lambda case: case.passed)
        findings.insert(0, Finding(severity="warning", code="cases-left-out", message=message))
    return StageOutcome(
        passed=all(outcome.passed for outcome in outcomes),
        message=_message(outcomes, cases),
        measurements=tuple(_measurements(outcomes))[:_MAX_MEASUREMENTS],
        findings=tuple(findings[:_MAX_FINDINGS]),
        cases=tuple(cases[:_MAX_CASES]),
        details={"shards": len(outcomes)},
    )


def _message(outcomes: Sequence[StageOutcome], cases: Sequence[TestCase]) -> str:
    said = [outcome.message for outcome in outcomes if not outcome.passed and outcome.message]
    if said:
        return "; ".join(dict.fromkeys(said))[:_MAX_MESSAGE]
    passed = sum(case.passed for case in cases)
    counted = f"{passed} of {len(cases)} cases passed, " if cases else ""
    return f"{counted}in {len(outcomes)} shards"


def _measurements(outcomes: Sequence[StageOutcome]) -> Iterable[Measurement]:
    """Yield the mean of each metric over the shards, then what each shard said."""
    weights = [max(1, len(outcome.cases)) for outcome in outcomes]
    by_name: dict[str, list[tuple[int, Measurement]]] = {}
    for weight, outcome in zip(weights, outcomes, strict=True):
        for measurement in outcome.measurements:
            if not measurement.slice:
                by_name.setdefault(measurement.name, []).append((weight, measurement))
    for name, found in by_name.items():
        total = sum(weight for weight, _ in found)
        value = math.fsum(weight * m.value for weight, m in found) / total
        yield Measurement(name=name, value=value)
    for index, outcome in enumerate(outcomes):
        for measurement in outcome.measurements:
            cut = ",".join(part for part in (measurement.slice, f"shard={index}") if part)
            yield measurement.with_(slice=cut)


def case_durations(
    shards: Sequence[Sequence[str]], outcomes: Sequence[StageOutcome], times_s: Sequence[float]
) -> dict[str, float]:
    """Return how long each case took, to cut the suite by the next time, seconds.

    What the report says of the case; where it does not name it, an equal part of the time of its
    shard that the others leave over.

    Parameters
    ----------
    shards
        The cases of each.
    outcomes, times_s
        What each shard found, and how long its job took.
    """
    durations: dict[str, float] = {}
    for cases, outcome, time_s in zip(shards, outcomes, times_s, strict=True):
        told = {case.name: case.duration_s for case in outcome.cases if case.duration_s > 0}
        known = {case: told[case] for case in cases if case in told}
        unknown = [case for case in cases if case not in known]
        left_s = max(0.0, time_s - math.fsum(known.values()))
        durations |= known | {case: left_s / len(unknown) for case in unknown}
    return durations
