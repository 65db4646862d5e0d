"""Whether a version was reproduced: what each step found, compared and judged. Pure.

Called by ``modelplane reproduce``. Runs nothing and reads nothing: records, answers of model
servers and findings come in, findings and the verdict go out.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from modelplane.decisions.datasets import clean_dataset_name
from modelplane.resources.dataset import DatasetReference
from modelplane.resources.model import Training

Outcome = Literal["match", "differs", "not reproducible"]
Step = Literal[
    "code", "data", "environment", "command", "artifact", "parameters", "metrics", "predictions"
]
Result = Literal["reproduced", "reproduced with other bytes", "not reproduced"]

UNKNOWN = "unknown"
_SHOWN = 5
_SEPARATORS = re.compile(r"[-_.]+")


@dataclass(frozen=True, slots=True)
class Finding:
    """What one step found.

    Attributes
    ----------
    step
        Which step.
    outcome
        As recorded; otherwise than recorded; or it cannot be told or had.
    message
        What was found, and why it is not as recorded.
    details
        The same for programs: JSON types only.
    """

    step: Step
    outcome: Outcome
    message: str
    details: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Verdict:
    """The whole: the result in words, and what keeps it from being more.

    Attributes
    ----------
    result
        ``reproduced`` when predictions and bytes are as recorded, ``reproduced with other
        bytes`` when the predictions are, ``not reproduced`` otherwise.
    reasons
        The messages of all that is not as recorded, each after its step; those of a result that
        is reproduced are reservations.
    """

    result: Result
    reasons: tuple[str, ...] = ()

    @property
    def reproduced(self) -> bool:
        """Whether the predictions are those of the recorded version."""
        return self.result != "not reproduced"

    def __str__(self) -> str:
        if not self.reasons:
            return self.result
        link = ", although " if self.reproduced else ": "
        return f"{self.result}{link}{'; '.join(self.reasons)}"


def judge(findings: Sequence[Finding]) -> Verdict:
    """Return the verdict: predictions decide, everything else explains.

    Examples
    --------
    >>> print(judge([Finding("artifact", "differs", "other bytes"),
    ...              Finding("predictions", "match", "10 values agree")]))
    reproduced with other bytes
    >>> print(judge([Finding("code", "not reproducible", "no commit was recorded")]))
    not reproduced: code: no commit was recorded
    """
    outcomes = {finding.step: finding.outcome for finding in findings}
    same = outcomes.get("predictions") == "match"
    skipped = {"artifact"} if same else set()
    reasons = tuple(
        f"{finding.step}: {finding.message}"
        for finding in findings
        if finding.outcome != "match" and finding.step not in skipped
    )
    if not same:
        return Verdict("not reproduced", reasons or ("predictions: they were not compared",))
    identical = outcomes.get("artifact") == "match"
    return Verdict("reproduced" if identical else "reproduced with other bytes", reasons)


def settle_data(
    before: Sequence[Finding],
    recorded: Sequence[DatasetReference],
    found: Sequence[DatasetReference],
) -> tuple[Finding, ...]:
    """Return what is known of data after the run: what it read counts more than what lay there.

    Parameters
    ----------
    before
        What was found for each of `recorded` before the run.
    recorded, found
        The data of the recorded version, and of the one that the run made.
    """
    digests = {clean_dataset_name(data.name): data.digest for data in found}
    settled = []
    for finding, data in zip(before, recorded, strict=True):
        digest = digests.get(clean_dataset_name(data.name), UNKNOWN)
        if UNKNOWN in {digest, data.digest} or (digest == data.digest) == (
            finding.outcome == "match"
        ):
            settled.append(finding)
            continue
        details = {"name": data.name, "recorded": data.digest, "found": digest}
        if digest == data.digest:
            message = f"{data.name}: the run read the same data"
            settled.append(Finding("data", "match", message, details))
        else:
            message = f"{data.name}: the run read other data than was recorded"
            settled.append(Finding("data", "differs", message, details))
    return tuple(settled)


def compare_artifacts(recorded: str | None, found: str) -> Finding:
    """Compare the digests of the recorded artifact and of the new one."""
    details = {"recorded": recorded, "found": found}
    if recorded is None:
        return Finding("artifact", "not reproducible", "the version has no files here", details)
    if recorded == found:
        return Finding("artifact", "match", f"the same bytes: {_short(found)}", details)
    message = f"other bytes: {_short(found)}, recorded {_short(recorded)}"
    return Finding("artifact", "differs", message, details)


def compare_parameters(recorded: Mapping[str, str], found: Mapping[str, str]) -> Finding | None:
    """Compare training parameters, which are text; None when there are none."""
    if not recorded and not found:
        return None
    other = [
        f"{name} {found.get(name, 'missing')}, recorded {recorded.get(name, 'none')}"
        for name in sorted({*recorded, *found})
        if recorded.get(name) != found.get(name)
    ]
    details = {"recorded": dict(recorded), "found": dict(found)}
    if other:
        return Finding("parameters", "differs", shorten(other), details)
    return Finding("parameters", "match", count(len(recorded), "parameter"), details)


def compare_metrics(
    recorded: Mapping[str, float], found: Mapping[str, float], tolerance: float
) -> Finding | None:
    """Compare offline metrics as `agree` does; None when there are none."""
    if not recorded and not found:
        return None
    other = []
    for name in sorted({*recorded, *found}):
        before, now = recorded.get(name), found.get(name)
        if before is None or now is None or not agree(before, now, tolerance):
            other.append(f"{name} {_number(now)}, recorded {_number(before)}")
    details = {"recorded": dict(recorded), "found": dict(found)}
    if other:
        return Finding("metrics", "differs", shorten(other), details)
    return Finding("metrics", "match", count(len(recorded), "metric"), details)


def agree(recorded: float, found: float, tolerance: float) -> bool:
    """Return whether two numbers are the same within `tolerance`.

    They are when ``|found - recorded| <= tolerance * max(1, |recorded|)``: absolute for small
    numbers, relative for large ones. NaN agrees with NaN, an infinity with itself.

    Examples
    --------
    >>> agree(0.5, 0.5000001, 1e-6), agree(1e9, 1e9 + 100, 1e-6), agree(0.5, 0.6, 1e-6)
    (True, True, False)
    """
    if recorded == found or (math.isnan(recorded) and math.isnan(found)):
        return True
    if not (math.isfinite(recorded) and math.isfinite(found)):
        return False
    return abs(found - recorded) <= tolerance * max(1.0, abs(recorded))


def compare_predictions(
    recorded: Sequence[Mapping[str, Any]], found: Sequence[Mapping[str, Any]], tolerance: float
) -> Finding:
    """Compare the answers of two model servers to the same requests, in their order.

    Parameters
    ----------
    recorded, found
        Open Inference Protocol answers, of the recorded artifact and of the new one.
    tolerance
        See `agree`; text and truth values must be equal.

    Returns
    -------
    Finding
        With details ``values``, ``differing``, ``maxAbsolute`` and ``maxRelative``: the largest
        differences between two finite numbers, the second in units of the recorded one.
    """
    tally = _Tally(tolerance)
    if len(recorded) != len(found):
        tally.faults.append(f"{len(found)} answers, recorded {len(recorded)}")
    for before, now in zip(recorded, found, strict=False):
        tally.add_answer(before, now)
    details = {
        "values": tally.values,
        "differing": tally.differing,
        "maxAbsolute": tally.max_absolute,
        "maxRelative": tally.max_relative,
        "tolerance": tolerance,
    }
    spread = f"at most {tally.max_absolute:.3g} apart ({tally.max_relative:.3g} relative)"
    if tally.faults:
        return Finding("predictions", "differs", shorten(tally.faults), details)
    if tally.differing:
        message = f"{tally.differing:,} of {count(tally.values, 'value')} differ, {spread}"
        return Finding("predictions", "differs", message, details)
    if not tally.values:
        message = "the answers hold no values to compare"
        return Finding("predictions", "not reproducible", message, details)
    asked = count(len(recorded), "request")
    message = f"{count(tally.values, 'value')} from {asked}, {spread}"
    return Finding("predictions", "match", message, details)


class _Tally:
    """Counts what agrees and what does not, over all outputs of all answers."""

    def __init__(self, tolerance: float) -> None:
        self._tolerance = tolerance
        self.values = 0
        self.differing = 0
        self.max_absolute = 0.0
        self.max_relative = 0.0
        self.faults: list[str] = []

    def add_answer(self, recorded: Mapping[str, Any], found: Mapping[str, Any]) -> None:
        before, now = _outputs(recorded), _outputs(found)
        for name in sorted({*before, *now}):
            if name not in before or name not in now:
                which = "recorded" if name in before else "new"
                self.faults.append(f"only the {which} version gives the output {name!r}")
                continue
            self._add_output(name, before[name], now[name])

    def _add_output(self, name: str, recorded: Mapping[str, Any], found: Mapping[str, Any]) -> None:
        before, now = list(flatten(recorded.get("data"))), list(flatten(found.get("data")))
        if recorded.get("shape") != found.get("shape") or len(before) != len(now):
            shapes = f"{found.get('shape')}, recorded {recorded.get('shape')}"
            self.faults.append(f"the output {name!r} has the shape {shapes}")
            return
        for pair in zip(before, now, strict=True):
            self._add_pair(*pair)

    def _add_pair(self, recorded: Any, found: Any) -> None:
        self.values += 1
        if not (_is_number(recorded) and _is_number(found)):
            self.differing += recorded != found
            return
        before, now = float(recorded), float(found)
        self.differing += not agree(before, now, self._tolerance)
        apart = abs(now - before)
        if math.isfinite(apart):
            self.max_absolute = max(self.max_absolute, apart)
            relative = apart / abs(before) if before else (0.0 if not apart else math.inf)
            if math.isfinite(relative):
                self.max_relative = max(self.max_relative, relative)


def _outputs(answer: Mapping[str, Any]) -> dict[str, Mapping[str, Any]]:
    return {str(output.get("name")): output for output in answer.get("outputs") or ()}


def flatten(data: Any) -> Iterator[Any]:
    """Yield the values of nested lists in row-major order."""
    if isinstance(data, list | tuple):
        for part in data:
            yield from flatten(part)
    else:
        yield data


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def compare_environments(recorded: Training, python: str, packages: Mapping[str, str]) -> Finding:
    """Compare the recorded Python and packages with those that a run has.

    Packages that only the run has are not counted against it.
    """
    if recorded.python == UNKNOWN and not recorded.packages:
        return Finding("environment", "not reproducible", "no environment was recorded")
    have = {normalize(name): version for name, version in packages.items()}
    other = [
        f"{name} {have.get(normalize(name), 'missing')}, recorded {version}"
        for name, version in recorded.packages.items()
        if have.get(normalize(name)) != version
    ]
    details = {"python": python, "recordedPython": recorded.python, "differing": other}
    if python != recorded.python:
        other.insert(0, f"Python {python}, recorded {recorded.python}")
    if other:
        return Finding("environment", "differs", shorten(other), details)
    message = f"Python {python}, {count(len(recorded.packages), 'package')}"
    return Finding("environment", "match", message, details)


def normalize(name: str) -> str:
    """Return a distribution's name as package indexes compare it (PEP 503).

    Examples
    --------
    >>> normalize("Scikit_Learn")
    'scikit-learn'
    """
    return _SEPARATORS.sub("-", name).lower()


def count(number: int, noun: str) -> str:
    """Return a count in words.

    Examples
    --------
    >>> count(1, "value"), count(2000, "value")
    ('1 value', '2,000 values')
    """
    return f"{number:,} {noun}" if number == 1 else f"{number:,} {noun}s"


def shorten(texts: Iterable[str]) -> str:
    """Return texts on one line, the first few of many."""
    known = list(texts)
    more = [f"and {len(known) - _SHOWN:,} more"] if len(known) > _SHOWN else []
    return "; ".join([*known[:_SHOWN], *more])


def _number(value: float | None) -> str:
    return "none" if value is None else f"{value:.6g}"


def _short(digest: str) -> str:
    return digest.removeprefix("sha256:")[:12]
