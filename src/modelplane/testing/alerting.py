"""A Prometheus and an Alertmanager that are only memory: for tests of what speaks with them.

Implement `ports.alerting.RuleServer` and `ports.alerting.AlertReceiver`; what their users would do
stands below the port's methods. They can be away.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime

from modelplane.decisions.alerts import fingerprint
from modelplane.errors import TerminalError, TransientError
from modelplane.ports.alerting import (
    PostedAlert,
    QueryRefused,
    Result,
    RuleHealth,
    ServedAlert,
    ServedSilence,
)
from modelplane.resources.alerting import AlertRulesSpec, Matcher


def _names(spec: AlertRulesSpec) -> list[tuple[str, str]]:
    """Return group and name of each rule; of several of one name only the first."""
    named = [(g.name, rule.alert or rule.record or "") for g in spec.groups for rule in g.rules]
    return list(dict.fromkeys(named))


@dataclass
class FakeRuleServer:
    """Rules in memory, of which those whose expression ends with ``(`` are refused.

    Attributes
    ----------
    is_away
        Whether nothing is answered.
    rules
        What is evaluated.
    answers
        Results by expression.
    served
        The alerts there are.
    published
        How often something was published.
    """

    is_away: bool = False
    rules: dict[str, AlertRulesSpec] = field(default_factory=dict)
    answers: dict[str, Sequence[Result]] = field(default_factory=dict)
    served: list[ServedAlert] = field(default_factory=list)
    faults: dict[str, str] = field(default_factory=dict)
    published: int = 0

    async def query(self, expression: str) -> Sequence[Result] | QueryRefused:
        """Return the answer that was given for `expression`."""
        self._answer()
        if _is_wrong(expression):
            return QueryRefused("parse error: unclosed left parenthesis")
        return self.answers.get(expression, [])

    async def publish(self, rules: Mapping[str, AlertRulesSpec]) -> Mapping[str, str]:
        """Take the rules that are not refused."""
        self._answer()
        self.published += 1
        refused = {
            name: "it refuses the file"
            for name, spec in rules.items()
            if any(_is_wrong(rule.expr) for group in spec.groups for rule in group.rules)
        }
        kept = {n: old for n, old in self.rules.items() if n in refused}
        self.rules = {**{n: spec for n, spec in rules.items() if n not in refused}, **kept}
        return refused

    async def health(self) -> Sequence[RuleHealth]:
        """Return that all rules are well, except those with a fault."""
        self._answer()
        return [
            RuleHealth(name, group, rule, self.faults.get(rule, ""))
            for name, spec in self.rules.items()
            for group, rule in _names(spec)
        ]

    async def alerts(self) -> Sequence[ServedAlert]:
        """Return the alerts there are."""
        self._answer()
        return list(self.served)

    def _answer(self) -> None:
        if self.is_away:
            raise TransientError("Prometheus cannot be reached: ConnectError")


def _is_wrong(expression: str) -> bool:
    return expression.endswith("(")


@dataclass
class FakeAlertmanager:
    """Alerts and silences in memory.

    Attributes
    ----------
    now
        Returns the time.
    is_away
        Whether nothing is answered.
    posts
        Everything that was posted, in order.
    alerts
        What is known, by the fingerprint of the labels.
    kept
        All silences, by id.
    """

    now: Callable[[], datetime]
    is_away: bool = False
    posts: list[PostedAlert] = field(default_factory=list)
    alerts: dict[str, PostedAlert] = field(default_factory=dict)
    kept: dict[str, ServedSilence] = field(default_factory=dict)
    _ids: itertools.count[int] = field(default_factory=lambda: itertools.count(1))

    async def post(self, alerts: Sequence[PostedAlert]) -> None:
        """Take the alerts."""
        self._answer()
        self.posts += alerts
        self.alerts.update({fingerprint(alert.labels): alert for alert in alerts})

    async def silence(
        self,
        matchers: Sequence[Matcher],
        *,
        starts_at: datetime,
        ends_at: datetime,
        created_by: str,
        comment: str,
        id: str = "",
    ) -> str:
        """Make a silence; one whose matchers change is another, as there."""
        self._answer()
        if all(matcher.matches_nothing_given for matcher in matchers):
            raise TerminalError("Alertmanager refuses the silence: it matches everything")
        before = self.kept.get(id)
        if before is not None and before.ends_at > self.now():
            if before.matchers == tuple(matchers):
                after = replace(before, ends_at=ends_at, comment=comment, created_by=created_by)
                self.kept[id] = after
                return id
            await self.expire_silence(id)
        made = f"00000000-0000-0000-0000-{next(self._ids):012d}"
        begins = max(starts_at, self.now())
        kept = ServedSilence(made, tuple(matchers), begins, ends_at, created_by, comment)
        self.kept[made] = kept
        return made

    async def silences(self) -> Sequence[ServedSilence]:
        """Return those that are not over."""
        self._answer()
        return [silence for silence in self.kept.values() if silence.ends_at > self.now()]

    async def expire_silence(self, id: str) -> None:
        """End a silence now."""
        self._answer()
        if id in self.kept:
            self.kept[id] = replace(self.kept[id], ends_at=min(self.kept[id].ends_at, self.now()))

    def active(self) -> list[PostedAlert]:
        """Return the alerts that have not ended."""
        return [a for a in self.alerts.values() if a.ends_at is None or a.ends_at > self.now()]

    def _answer(self) -> None:
        if self.is_away:
            raise TransientError("Alertmanager cannot be reached: ConnectError")
