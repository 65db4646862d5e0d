"""The answers of stable and of a shadow to the same requests, brought together and compared.

Called by `agent.comparing`, which reads what the model servers kept. Pure: time is an argument.
An answer waits for its partner for some seconds and no longer, and only so many wait: what never
finds one (its request was not copied, another version answered it, the shadow is slow) costs a
comparison and nothing else.

Errors are not compared. The gateway counts them, and one failure should not be evidence twice.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from modelplane.decisions.answers import compare_answers
from modelplane.resources.telemetry import MAX_EXAMPLE_CHARS, MAX_EXAMPLES
from modelplane.resources.traffic_split import DEFAULT_RULE

WAIT_S = 30.0
"""How long an answer waits for its partner."""

MAX_WAITING = 4096
"""Answers of one side that wait."""

MAX_WAITING_VALUES = 500_000
"""Values in the answers of one side that wait."""

_TEXT_CHARS = 32
"""Of text, that take as much memory as a number in a list."""

_SIDES = ("by stable", "by the shadow")
Side = Literal["stable", "shadow"]


@dataclass(frozen=True, slots=True)
class KeptAnswer:
    """One answer that a model server kept.

    Attributes
    ----------
    name
        ``RULE/ID``: the routing rule of the request, and what tells it apart; the copy of a
        request has the same name.
    status
        HTTP status.
    answer
        The Open Inference Protocol's document; None unless the status is 200.
    """

    name: str
    status: int
    answer: Mapping[str, Any] | None = None

    @property
    def values(self) -> int:
        """How many values it holds, about; long texts count for several."""
        total, left = 1, list[Any](self.answer.values() if self.answer else ())
        while left:
            part = left.pop()
            if isinstance(part, list | dict):
                total += len(part)
                parts = part.values() if isinstance(part, dict) else part
                left += [below for below in parts if isinstance(below, list | dict | str)]
            elif isinstance(part, str):
                total += len(part) // _TEXT_CHARS
        return total


@dataclass(frozen=True, slots=True)
class Comparison:
    """How many pairs were compared, how many of them differ, and a few that do, in words."""

    compared: int = 0
    different: int = 0
    examples: tuple[str, ...] = ()

    def plus(self, other: Comparison) -> Comparison:
        """Return both together."""
        return Comparison(
            self.compared + other.compared,
            self.different + other.different,
            (*self.examples, *other.examples)[:MAX_EXAMPLES],
        )


@dataclass(slots=True)
class _Waiting:
    """Answers of one side that have no partner yet, oldest first."""

    answers: OrderedDict[str, tuple[float, KeptAnswer]] = field(default_factory=OrderedDict)
    values: int = 0

    def add(self, answer: KeptAnswer, now_s: float) -> None:
        self.take(answer.name)  # a second try at the same request: the last answer was given
        self.answers[answer.name] = now_s, answer
        self.values += answer.values
        while len(self.answers) > MAX_WAITING or self.values > MAX_WAITING_VALUES:
            self._forget_oldest()

    def take(self, name: str) -> KeptAnswer | None:
        _, answer = self.answers.pop(name, (0.0, None))
        if answer is not None:
            self.values -= answer.values
        return answer

    def expire(self, now_s: float) -> None:
        while self.answers and next(iter(self.answers.values()))[0] < now_s - WAIT_S:
            self._forget_oldest()

    def _forget_oldest(self) -> None:
        _, (_, answer) = self.answers.popitem(last=False)
        self.values -= answer.values


class Pairs:
    """Pairs the answers of stable and of one shadow, and compares each pair once."""

    def __init__(self) -> None:
        self._waiting: dict[Side, _Waiting] = {"stable": _Waiting(), "shadow": _Waiting()}

    def add(
        self, side: Side, answers: Iterable[KeptAnswer], *, tolerance: float, now_s: float
    ) -> dict[str, Comparison]:
        """Take the answers of one side; return what could be compared, by routing rule.

        Parameters
        ----------
        side
            Who gave them.
        answers
            In the order they were given.
        tolerance
            Of real numbers; see `decisions.answers.compare_answers`.
        now_s
            A clock that never goes back.
        """
        ours = self._waiting[side]
        others = self._waiting["shadow" if side == "stable" else "stable"]
        found: dict[str, Comparison] = {}
        for answer in answers:
            other = others.take(answer.name)
            if other is None:
                ours.add(answer, now_s)
                continue
            pair = (answer, other) if side == "stable" else (other, answer)
            comparison = compare_pair(*pair, tolerance=tolerance)
            if comparison is not None:
                rule = rule_of(answer.name)
                found[rule] = found.get(rule, Comparison()).plus(comparison)
        for waiting in self._waiting.values():
            waiting.expire(now_s)
        return found

    @property
    def waiting(self) -> int:
        """Answers that have no partner yet."""
        return sum(len(side.answers) for side in self._waiting.values())


def rule_of(name: str) -> str:
    """Return the routing rule in the name of an answer.

    Examples
    --------
    >>> rule_of("rule-1f3a/7.1795"), rule_of("7.1795")
    ('rule-1f3a', 'default')
    """
    rule, slash, _ = name.partition("/")
    return rule if slash else DEFAULT_RULE


def compare_pair(stable: KeptAnswer, shadow: KeptAnswer, *, tolerance: float) -> Comparison | None:
    """Return whether two answers to one request differ; None when one of them failed."""
    if stable.status >= 500 or shadow.status >= 500:
        return None
    if stable.status != shadow.status:
        what = f"status {stable.status} of stable, {shadow.status} of the shadow"
    elif stable.answer is None or shadow.answer is None:
        return Comparison(compared=1)
    else:
        found = compare_answers(stable.answer, shadow.answer, tolerance, sides=_SIDES)
        if not found:
            return Comparison(compared=1)
        what = f"{found[0].where}: {found[0].message}"
        if len(found) > 1:
            what += f", and {len(found) - 1} more"
    return Comparison(1, 1, (what[:MAX_EXAMPLE_CHARS],))


def keeps_answers(artifact_format: str) -> bool:
    """Whether the model server of a format keeps answers to be compared.

    Servers that are a command of their own speak the Open Inference Protocol and no more.
    """
    return artifact_format != "command"
