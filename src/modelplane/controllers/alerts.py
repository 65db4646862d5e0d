"""Evaluates alert rules over what modelplane measures, where no Prometheus is configured.

Woken by `measuring` after each set of samples. What it finds goes through `decisions.alerts` into
Alert resources, all of one evaluation in one transaction; what rules record becomes part of the
next set. Alerts hold all the memory there is: a control plane that restarts goes on where it was.
Tells nobody (`alert_notices` does) and repairs nothing (playbooks do).
"""

from __future__ import annotations

import asyncio
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Protocol

import structlog

from modelplane.controllers.loop import Fence
from modelplane.decisions.alert_rules import (
    INTERVAL_S,
    WAITS,
    FoundAlert,
    PlannedRule,
    find_alerts,
    find_excess,
    make_records,
    plan_rules,
    recorded_names,
    rule_of,
    status_of,
)
from modelplane.decisions.alerts import (
    AWAY,
    Observation,
    close_for_rule,
    decide_alert,
    find_forgotten,
    fingerprint,
    pass_over,
)
from modelplane.decisions.series import Sample
from modelplane.decisions.told_alerts import settle_alert
from modelplane.errors import Conflict, ModelplaneError, TransientError
from modelplane.ports.alerting import QueryRefused, Result
from modelplane.ports.clock import Clock
from modelplane.ports.series import SeriesRing
from modelplane.ports.store import Store, Transaction
from modelplane.resources.alerting import (
    Alert,
    AlertRules,
    AlertRulesSpec,
    AlertSpec,
    AlertStatus,
)
from modelplane.resources.meta import Metadata, Subject

SUBJECT = Subject(name="system:alerts")
_TRIES = 3
_EVALUATED = "alerts.evaluated"
_NOTE_EVERY = timedelta(seconds=10)
"""How often it is stored that rules are evaluated, while an alert is pending."""

_GRACE_S = 0.5
"""A set that comes this much early is in time for its group."""

_log = structlog.get_logger(__name__)
RuleKey = tuple[str, str, int]


class SeriesQuerier(Protocol):
    """Answers expressions about a moment; `adapters.metrics.querying` does."""

    def query_at(self, expression: str, at: datetime) -> Sequence[Result] | QueryRefused:
        """Evaluate; raises `TransientError` where it reaches back too far yet."""


@dataclass(slots=True)
class _State:
    """What is known of rules and alerts, and what the last evaluations gave.

    ``found`` and ``records`` are by rule; a rule that was not evaluated since the start is in
    neither, and of its alerts nothing is known.
    """

    version: int = -1
    rules: Mapping[str, AlertRules] = field(default_factory=dict)
    alerts: Mapping[str, Alert] = field(default_factory=dict)
    planned: Sequence[PlannedRule] = ()
    recorded: frozenset[str] = frozenset()
    due_at: dict[tuple[str, str], datetime] = field(default_factory=dict)
    found: dict[RuleKey, Mapping[str, FoundAlert]] = field(default_factory=dict)
    records: dict[RuleKey, Sequence[Sample]] = field(default_factory=dict)
    failures: dict[RuleKey, str] = field(default_factory=dict)
    waiting: set[RuleKey] = field(default_factory=set)


class AlertController:
    """Evaluates all rules for ever.

    Parameters
    ----------
    ring
        Says when the newest set was taken.
    querier
        Answers over it; it asks this controller for `recorded`.
    external_url
        Where people reach modelplane, for templates and links.
    """

    def __init__(
        self,
        store: Store,
        ring: SeriesRing,
        querier: SeriesQuerier,
        fence: Fence,
        clock: Clock,
        *,
        external_url: str = "",
    ) -> None:
        self._store = store
        self._ring = ring
        self._querier = querier
        self._fence = fence
        self._clock = clock
        self._external_url = external_url.rstrip("/")
        self._state = _State()
        self._evaluated_at: datetime | None = None
        self._noted_at: datetime | None = None
        self._measured = asyncio.Event()

    def recorded(self) -> frozenset[str]:
        """Return the names of the series that rules record."""
        return self._state.recorded

    async def records(self) -> Sequence[Sample]:
        """Return what rules recorded last, for the next set of samples."""
        return [sample for samples in self._state.records.values() for sample in samples]

    def wake(self) -> None:
        """There is a new set of samples."""
        self._measured.set()

    async def run(self) -> None:
        """Evaluate after each set of samples, for ever."""
        while True:
            await self._measured.wait()
            self._measured.clear()
            await self._fence.held.wait()
            try:
                await self.evaluate()
            except Conflict:
                self._state.version = -1  # somebody wrote meanwhile; the next evaluation decides
            except ModelplaneError as error:
                _log.warning("alerts.failed", error=str(error))
            except Exception as error:
                _log.error("alerts.broken", exc_info=error)
                await self._clock.sleep(1.0)

    async def evaluate(self) -> None:
        """Evaluate the groups that are due at the newest set, and write what changed."""
        at, _ = self._ring.latest()
        await self._load()
        if at is None or at == self._evaluated_at:
            return
        await self._pass_over_absence(at)
        self._evaluated_at = at
        evaluated = {planned.key for planned in self._due(at) if self._try_rule(planned, at)}
        for last in (False,) * (_TRIES - 1) + (True,):
            held = self._held()
            transaction = Transaction(SUBJECT, fence=self._fence.lease)
            self._decide(transaction, evaluated, held, at)
            self._close_orphans(transaction, held, at)
            self._show(transaction)
            self._note(transaction, at)
            try:
                if transaction:
                    await self._store.commit(transaction)
            except Conflict:  # decide anew: the next evaluation of a group may be minutes away
                if last:
                    raise
                self._state.version = -1
                await self._load()
            else:
                return

    async def _pass_over_absence(self, at: datetime) -> None:
        """Leave out of what alerts wait for the time in which nobody evaluated."""
        if self._evaluated_at is not None and at - self._evaluated_at <= AWAY:
            return
        stored = (await self._store.evidence([_EVALUATED])).get(_EVALUATED)
        known = [datetime.fromisoformat(stored["at"])] if stored is not None else []
        last = max([*known, *([self._evaluated_at] if self._evaluated_at else [])], default=at)
        transaction = Transaction(SUBJECT, "nobody evaluated rules", fence=self._fence.lease)
        for alert in self._state.alerts.values():
            status = pass_over(alert.status, last, at)
            if alert.spec.source == "modelplane" and status != alert.status:
                transaction.update(alert.with_(status=status), "alert.pending")
        if transaction:
            self._note(transaction, at)
            await self._store.commit(transaction)
            await self._load()

    def _note(self, transaction: Transaction, at: datetime) -> None:
        """Store that rules are evaluated now, for whoever does after us."""
        is_pending = any(one.status.phase == "Pending" for one in self._state.alerts.values())
        if is_pending and (self._noted_at is None or abs(at - self._noted_at) >= _NOTE_EVERY):
            transaction.put_evidence(_EVALUATED, {"at": at.isoformat()})
            self._noted_at = at

    async def _load(self) -> None:
        """Read rules and alerts again when any of them changed."""
        kinds = (AlertRules, Alert)
        version = self._store.newest_version(kinds)
        state = self._state
        if version == state.version:
            return
        rules, _ = await self._store.list(AlertRules)
        alerts, _ = await self._store.list(Alert)
        state.version = version
        state.alerts = {alert.metadata.name: alert for alert in alerts}
        named = {one.metadata.name: one for one in rules}
        if {n: r.spec for n, r in named.items()} != {n: r.spec for n, r in state.rules.items()}:
            self._plan({name: one.spec for name, one in named.items()})
        state.rules = named

    def _plan(self, specs: Mapping[str, AlertRulesSpec]) -> None:
        """Take in other rules; what is known of those that did not change stays."""
        state, before = self._state, self._state.planned
        state.recorded = recorded_names(list(specs.values()))
        state.planned = tuple(plan_rules(specs, state.recorded))
        now = {planned.key: planned for planned in state.planned}
        for planned in before:
            if now.get(planned.key) != planned:
                self._forget(planned.key)

    def _forget(self, key: RuleKey) -> None:
        for of_rules in (self._state.found, self._state.records, self._state.failures):
            of_rules.pop(key, None)
        self._state.waiting.discard(key)

    def _due(self, at: datetime) -> Iterable[PlannedRule]:
        due: dict[tuple[str, str], bool] = {}
        for planned in self._state.planned:
            group = (planned.rules, planned.group.name)
            if group not in due:
                interval_s = planned.group.interval_s or INTERVAL_S
                wait_s = (self._state.due_at.get(group, at) - at).total_seconds()
                # Further away than its interval: the clock was set back, or the interval changed.
                due[group] = wait_s <= _GRACE_S or wait_s > interval_s
                if due[group]:
                    self._state.due_at[group] = at + timedelta(seconds=interval_s)
            if due[group] and not planned.fault:
                yield planned

    def _try_rule(self, planned: PlannedRule, at: datetime) -> bool:
        """Take in what one rule gives now, whatever that is; return whether it was evaluated."""
        try:
            return self._evaluate_rule(planned, at)
        except Exception as error:  # all other rules go on
            message = f"it cannot be evaluated: {type(error).__name__}"
            if self._state.failures.get(planned.key) != message:
                _log.error("alerts.rule_broken", rule=planned.key, exc_info=error)
            self._state.failures[planned.key] = message
            return False

    def _evaluate_rule(self, planned: PlannedRule, at: datetime) -> bool:
        state, key = self._state, planned.key
        state.records.pop(key, None)  # what it recorded before is not what is now
        moment = at - timedelta(seconds=planned.group.query_offset_s)
        try:
            answer = self._querier.query_at(planned.rule.expr, moment)
        except TransientError:
            state.waiting.add(key)
            return False
        state.waiting.discard(key)
        if isinstance(answer, QueryRefused):
            state.failures[key] = answer.message
            return False
        elements = [(result.labels, result.value) for result in answer]
        if planned.rule.record:
            records = make_records(planned, elements)
            if isinstance(records, str):
                state.failures[key] = records
                return False
            state.records[key] = records
        elif excess := find_excess(planned, len(elements)):
            state.failures[key] = excess
            state.found[key] = {}
            return True
        else:
            found = find_alerts(planned, elements, self._external_url)
            if isinstance(found, str):
                state.failures[key] = found
                return False
            state.found[key] = found
        state.failures.pop(key, None)
        return True

    def _held(self) -> Mapping[str, tuple[PlannedRule, FoundAlert]]:
        """Return all alerts whose condition holds, by name.

        Rules of several AlertRules may give the same alert: it stays with those it is of.
        """
        held: dict[str, tuple[PlannedRule, FoundAlert]] = {}
        for planned in self._state.planned:
            for name, found in self._state.found.get(planned.key, {}).items():
                alert = self._state.alerts.get(name)
                owner = alert.spec.rules if alert is not None else ""
                if name not in held or held[name][0].rules != owner == planned.rules:
                    held[name] = (planned, found)
        return held

    def _decide(
        self,
        transaction: Transaction,
        evaluated: set[RuleKey],
        held: Mapping[str, tuple[PlannedRule, FoundAlert]],
        at: datetime,
    ) -> None:
        """Move the alerts of the rules that were evaluated."""
        state = self._state
        for name, (planned, found) in held.items():
            if planned.key in evaluated:
                self._move(transaction, state.alerts.get(name), planned, found, at)
        by_name: dict[tuple[str, str], list[PlannedRule]] = {}
        for planned in state.planned:
            if planned.rule.alert and not planned.fault:
                by_name.setdefault((planned.rules, planned.name), []).append(planned)
        for name, alert in state.alerts.items():
            rules = by_name.get((alert.spec.rules, alert.spec.alert), ())
            if name in held or not all(planned.key in state.found for planned in rules):
                continue
            rule = rule_of(rules, alert.spec.labels)
            if rule is not None and rule.key in evaluated:
                self._move(transaction, alert, rule, None, at)

    def _move(
        self,
        transaction: Transaction,
        alert: Alert | None,
        planned: PlannedRule,
        found: FoundAlert | None,
        at: datetime,
    ) -> None:
        if alert is not None and alert.spec.source == "alertmanager" and found is None:
            return  # somebody else tells of it
        value = found.value if found is not None else None
        seen = Observation(at, value, found.annotations if found is not None else {})
        before = alert.status if alert is not None else None
        status = decide_alert(before, planned.rule, seen)
        is_taken_over = (
            found is not None and alert is not None and alert.spec.rules != planned.rules
        )
        if status is None or (status == before and not is_taken_over):
            return
        if found is not None:
            spec = self._spec(planned, found)
            url = f"{self._external_url}/api/v1/alert-rules/{planned.rules}"
            status = status.with_(generator_url=url if self._external_url else "")
            name = found.name
        else:
            assert alert is not None
            spec, name = alert.spec, alert.metadata.name
        self._write(transaction, alert, name, spec, status)

    def _spec(self, planned: PlannedRule, found: FoundAlert) -> AlertSpec:
        return AlertSpec(
            alert=planned.name,
            source="modelplane",
            rules=planned.rules,
            labels=dict(found.labels),
            fingerprint=fingerprint(found.labels),
        )

    def _write(
        self,
        transaction: Transaction,
        alert: Alert | None,
        name: str,
        spec: AlertSpec,
        status: AlertStatus,
    ) -> None:
        action = f"alert.{status.phase.lower()}"
        if alert is None:
            made = Alert(metadata=Metadata(name=name), spec=spec, status=status)
            transaction.create(made, action)
        else:
            transaction.update(alert.with_(spec=spec, status=status), action)

    def _close_orphans(self, transaction: Transaction, held: Collection[str], at: datetime) -> None:
        """End alerts whose rules are gone, and forget those that are long over."""
        evaluated = {(one.rules, one.name) for one in self._state.planned if not one.fault}
        moved = {*held, *(resource.metadata.name for resource, _, _ in transaction.puts)}
        rest = [one for name, one in self._state.alerts.items() if name not in moved]
        for alert in find_forgotten(rest, self._clock.now()):
            transaction.delete(alert, "remove")
        for alert in rest:
            if alert.status.phase == "Resolved":
                continue
            if alert.spec.source == "alertmanager":
                status = settle_alert(alert, at)
                if status != alert.status:
                    transaction.update(alert.with_(status=status), f"alert.{status.phase.lower()}")
            elif (alert.spec.rules, alert.spec.alert) not in evaluated:
                status = close_for_rule(alert.status, at, "nobody evaluates its rule any more")
                transaction.update(alert.with_(status=status), "alert.resolved")

    def _show(self, transaction: Transaction) -> None:
        by_rules: dict[str, list[PlannedRule]] = {}
        for planned in self._state.planned:
            by_rules.setdefault(planned.rules, []).append(planned)
        for name, resource in self._state.rules.items():
            planned_rules = by_rules.get(name, [])
            messages = dict.fromkeys(self._state.waiting, WAITS) | self._state.failures
            status = status_of(resource, planned_rules, messages, self._clock.now())
            if status != resource.status:
                transaction.update(resource.with_(status=status), "report")
