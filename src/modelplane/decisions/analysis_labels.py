"""Labels into evidence: what turned out of predictions becomes counts that analysis can bet on.

Called by the analysis controller with what the store of predictions joined since it last asked,
and by the simulation. Pure; it keeps nothing and judges nothing.

What becomes of which metric:

========= ======================== ============================
metric    trial                    failure, or badness
========= ======================== ============================
accuracy  a labelled prediction    the label is another one
precision predicted positive       the label is not positive
recall    truly positive           not predicted positive
loss      a labelled prediction    the error, in its range
reward    a prediction's reward    what is missing to the best
========= ======================== ============================

Why late labels in any order leave the test valid. A bet is fixed by what was revealed before, so
all that must hold is: of what is revealed next, the candidate's fail no more often than stable's
if the candidate is no worse. When and in which order labels come may depend on anything, on what
they say too (a fraud that was missed shows late), as long as it does so in the same way for both
versions and is compared at the same age. Hence predictions are compared with those made about the
same time (a *cohort*), never new ones with old ones; stable's from before the candidate met
anyone only tell what is normal; only requests under the same rule count; and what comes after the
horizon is left out. Sequences count once, in rising order.

Two limits. Values of one version that find none of the other in their cohort wait for the next
one, up to a hundred trials. And where labels are delayed differently for the two versions (a team
that reviews one of them first), no test that looks early can be valid.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Protocol

from modelplane.decisions.analysis_inputs import (
    LABEL_FEED,
    LABEL_METRICS,
    LOSS,
    NOTHING,
    REWARD,
    LabelCounts,
    Numbers,
    Outcomes,
    Tick,
    VersionCounts,
)
from modelplane.decisions.routing import OVERRIDE_RULE
from modelplane.resources.monitoring import Labels, ValueRange
from modelplane.resources.traffic_split import DEFAULT_RULE
from modelplane.stats.rewards import scale

FEED_BOOT = "labels"
COHORT_S = 60.0
MAX_COHORTS = 30
"""In one page of labels; those of a longer time get wider cohorts."""

PAIRED = frozenset({"accuracy", "recall", LOSS})
"""What a shadow's answer and stable's to the same request are compared by, one by one."""

Value = str | int | float | bool | None


class Answered(Protocol):
    """Who predicted; `ports.predictions.Place` is one."""

    @property
    def revision(self) -> str: ...
    @property
    def rule(self) -> str: ...
    @property
    def mirrored(self) -> bool: ...


class Labelled(Protocol):
    """A prediction with what turned out; `ports.predictions.Outcome` is one."""

    @property
    def sequence(self) -> int: ...
    @property
    def place(self) -> Answered: ...
    @property
    def predicted_at(self) -> datetime: ...
    @property
    def predicted(self) -> Value: ...
    @property
    def score(self) -> float | None: ...
    @property
    def label(self) -> Value: ...
    @property
    def reward(self) -> float | None: ...
    @property
    def pair(self) -> str: ...


@dataclass(frozen=True, slots=True)
class LabelCase:
    """Whose labels are read, and how.

    Attributes
    ----------
    environment
        Names the feed.
    stable, candidate
        Short digests of the two revisions.
    metrics
        Those of the rollout; only what needs labels matters.
    labels
        How the deployment reads labels.
    rule
        The routing rule that both are judged under.
    is_shadow
        Whether the candidate gets copies only.
    began
        When the candidate first met anyone; None: not yet.
    """

    environment: str
    stable: str
    candidate: str
    metrics: tuple[str, ...]
    labels: Labels
    rule: str = DEFAULT_RULE
    is_shadow: bool = False
    began: datetime | None = None


def needs_labels(metrics: Iterable[str]) -> bool:
    """Whether any of the metrics is judged by labels or rewards."""
    return not LABEL_METRICS.isdisjoint(metrics)


def feed_of(environment: str) -> tuple[str, str]:
    """Return what labels are remembered by among the sequences of gateways."""
    return f"{LABEL_FEED}{environment}", FEED_BOOT


def same(left: Value, right: Value) -> bool:
    """Whether a prediction and a label say the same: 1, 1.0, true and "1" do.

    Examples
    --------
    >>> same(1, "1"), same("delayed", "on time"), same(True, 1.0)
    (True, False, True)
    """
    return left == right or _plain(left) == _plain(right)


def _plain(value: Value) -> str:
    if isinstance(value, bool):
        return str(int(value))
    if isinstance(value, float) and value.is_integer():
        return str(int(value))
    return str(value)


def label_ticks(case: LabelCase, outcomes: Sequence[Labelled], *, now: datetime) -> list[Tick]:
    """Return what labels say of one rollout, cohort by cohort.

    Parameters
    ----------
    outcomes
        In rising order of sequence, all above the last tick's.
    now
        When they were read; they count as having come then.

    Returns
    -------
    list of Tick
        The last one carries the last sequence, also when nothing concerns the rollout.
    """
    if not outcomes:
        return []
    cohorts: dict[int, _Cohort] = defaultdict(_Cohort)
    width_s = _width_s(outcomes)
    for outcome in outcomes:
        role = _role_of(case, outcome, now)
        if role is not None:
            number = math.floor(outcome.predicted_at.timestamp() / width_s)
            cohorts[number].add(case, role, outcome)
    last = outcomes[-1].sequence
    proxy, boot_id = feed_of(case.environment)
    made = [(number, cohorts[number]) for number in sorted(cohorts)] or [(0, _Cohort())]
    return [
        Tick(
            proxy=proxy,
            boot_id=boot_id,
            sequence=last - (len(made) - 1 - index),
            at=now,
            step_id=None,
            stable=VersionCounts(outcomes=dict(cohort.outcomes["stable"])),
            candidate=VersionCounts(outcomes=dict(cohort.outcomes["candidate"])),
            seconds=0.0,
            labels=LabelCounts(
                datetime.fromtimestamp(number * width_s, UTC),
                earlier=dict(cohort.outcomes["earlier"]),
                numbers=cohort.finished_numbers(),
            ),
        )
        for index, (number, cohort) in enumerate(made)
    ]


def _width_s(outcomes: Sequence[Labelled]) -> float:
    times = [outcome.predicted_at.timestamp() for outcome in outcomes]
    return max(COHORT_S, math.ceil((max(times) - min(times)) / (MAX_COHORTS - 1)))


def _role_of(case: LabelCase, outcome: Labelled, now: datetime) -> str | None:
    """``stable``, ``candidate``, ``earlier``, or None for what does not count."""
    place = outcome.place
    if (now - outcome.predicted_at).total_seconds() > case.labels.horizon_s:
        return None
    rule = place.rule or DEFAULT_RULE
    every_rule = case.is_shadow and case.rule == DEFAULT_RULE and rule != OVERRIDE_RULE
    if rule != case.rule and not every_rule:
        return None
    is_earlier = case.began is None or outcome.predicted_at < case.began
    if place.revision == case.stable and not place.mirrored:
        return "earlier" if is_earlier else "stable"
    if place.revision == case.candidate and place.mirrored == case.is_shadow and not is_earlier:
        return "candidate"
    return None


@dataclass(slots=True)
class _Cohort:
    """Predictions of about the same time that labels have come for."""

    outcomes: dict[str, dict[str, Outcomes]] = field(default_factory=lambda: defaultdict(dict))
    numbers: dict[str, dict[str, list[float]]] = field(
        default_factory=lambda: defaultdict(lambda: defaultdict(list))
    )
    halves: dict[tuple[str, str], dict[str, float]] = field(
        default_factory=lambda: defaultdict(dict)
    )

    def add(self, case: LabelCase, role: str, outcome: Labelled) -> None:
        """Add one prediction to each metric that it is a trial of."""
        for name in case.metrics:
            badness = _badness(name, case.labels, outcome)
            if badness is None:
                continue
            if case.is_shadow and name in PAIRED:
                if role == "earlier":
                    self.numbers[name]["earlier"].append(badness)
                elif outcome.pair:
                    self.halves[name, outcome.pair][role] = badness
            elif name in {LOSS, REWARD}:
                self.numbers[name][role].append(badness)
            else:
                found = self.outcomes[role].get(name, NOTHING)
                self.outcomes[role][name] = found.plus(1, int(badness))

    def finished_numbers(self) -> dict[str, Numbers]:
        """Return numbers by metric; a half whose other one is not here is left out."""
        pairs: dict[str, list[tuple[float, float]]] = defaultdict(list)
        for (name, _), roles in self.halves.items():
            if len(roles) == 2:
                pairs[name].append((roles["candidate"], roles["stable"]))
        return {
            name: Numbers(
                earlier=tuple(self.numbers[name]["earlier"]),
                stable=tuple(self.numbers[name]["stable"]),
                candidate=tuple(self.numbers[name]["candidate"]),
                pairs=tuple(pairs[name]),
            )
            for name in sorted({*self.numbers, *pairs})
        }


def _badness(name: str, labels: Labels, outcome: Labelled) -> float | None:
    """Return 0 to 1, or None where the prediction is no trial of the metric."""
    if name == REWARD:
        if outcome.reward is None or labels.reward is None:
            return None
        return _scaled(outcome.reward, labels.reward, higher_is_better=True)
    if outcome.label is None or name not in LABEL_METRICS:
        return None
    if name == LOSS:
        return _loss(labels, outcome)
    if outcome.predicted is None:
        return None
    is_positive, is_truly = (
        same(value, labels.positive) for value in (outcome.predicted, outcome.label)
    )
    if name == "precision":
        return float(not is_truly) if is_positive else None
    if name == "recall":
        return float(not is_positive) if is_truly else None
    return float(not same(outcome.predicted, outcome.label))


def _loss(labels: Labels, outcome: Labelled) -> float | None:
    """The absolute error in its range; without one the squared error of the probability."""
    if labels.loss is not None:
        error = absolute_error(outcome.predicted, outcome.label)
        return None if error is None else _scaled(error, labels.loss, higher_is_better=False)
    if outcome.score is None:
        return None
    truth = float(same(outcome.label, labels.positive))
    return round((min(max(outcome.score, 0.0), 1.0) - truth) ** 2, 4)


def absolute_error(predicted: Value, label: Value) -> float | None:
    """Return how far a predicted number was off; None where either is no number."""
    numbers = [_number(value) for value in (predicted, label)]
    if numbers[0] is None or numbers[1] is None:
        return None
    return abs(numbers[0] - numbers[1])


def _number(value: Value) -> float | None:
    if value is None:
        return None
    try:
        number = float(value)
    except ValueError:
        return None
    return number if math.isfinite(number) else None


def _scaled(value: float, bounds: ValueRange, *, higher_is_better: bool) -> float:
    # Four digits: what is recorded is what was judged.
    return round(scale(value, bounds.low, bounds.high, higher_is_better=higher_is_better), 4)
