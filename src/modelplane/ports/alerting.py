"""Who evaluates alert rules, and who else is told of alerts.

A `Querier` answers PromQL: a Prometheus that is configured, or modelplane itself over what it
measures. `RuleServer` is a Prometheus that is given rules; `AlertReceiver` an Alertmanager.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Protocol

from modelplane.decisions.alert_delivery import PostedAlert as PostedAlert  # noqa: PLC0414 (callers of the port meet it here)
from modelplane.decisions.silence_delivery import ServedSilence as ServedSilence  # noqa: PLC0414
from modelplane.resources.alerting import AlertRulesSpec, Matcher


@dataclass(frozen=True, slots=True)
class Result:
    """One element of an expression's result; a condition holds when there is any."""

    labels: Mapping[str, str]
    value: float


@dataclass(frozen=True, slots=True)
class QueryRefused:
    """An expression that cannot be answered, and why: it is wrong, or needs a Prometheus."""

    message: str


class Querier(Protocol):
    """Answers PromQL about now."""

    async def query(self, expression: str) -> Sequence[Result] | QueryRefused:
        """Evaluate now. Raises `TransientError` when nobody answers."""


@dataclass(frozen=True, slots=True)
class ServedAlert:
    """An alert as a Prometheus has it.

    Attributes
    ----------
    rules
        Name of the AlertRules it comes from.
    labels
        Its labels, ``alertname`` among them; the mark that `publish` adds is left out.
    """

    rules: str
    labels: Mapping[str, str]
    annotations: Mapping[str, str]
    is_firing: bool
    active_at: datetime
    value: float | None


@dataclass(frozen=True, slots=True)
class RuleHealth:
    """How a Prometheus fares with one rule of an AlertRules; no fault: well."""

    rules: str
    group: str
    rule: str
    fault: str = ""


class RuleServer(Querier, Protocol):
    """A Prometheus that evaluates our rules."""

    async def publish(self, rules: Mapping[str, AlertRulesSpec]) -> Mapping[str, str]:
        """Make it evaluate exactly these, by name, and no others of ours.

        Return those that it refuses, and why; what it had under these names before goes on.
        Raises `TransientError` when it does not answer: everything from before goes on.
        """

    async def health(self) -> Sequence[RuleHealth]:
        """Return how it fares with our rules."""

    async def alerts(self) -> Sequence[ServedAlert]:
        """Return the alerts of our rules that are pending or firing."""


class AlertReceiver(Protocol):
    """An Alertmanager."""

    async def post(self, alerts: Sequence[PostedAlert]) -> None:
        """Tell it; raises `TransientError` when it does not take them."""

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
        """Make a silence, or change the one of that id; return its id, which may be another.

        Raises `TerminalError` when it refuses the silence.
        """

    async def silences(self) -> Sequence[ServedSilence]:
        """Return those that hold or will."""

    async def expire_silence(self, id: str) -> None:
        """End a silence; one that is over already is no error."""
