"""Has a Prometheus evaluate the alert rules, and takes the alerts that it finds.

In place of `controllers.alerts`, which evaluates them here. A reconciler of AlertRules whose one
key is all of them publishes them and reports how they fare; `run` asks for alerts each second.
What a Prometheus that cannot be reached does not say is no news: alerts stay as they are.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime, timedelta
from typing import Any

import structlog

from modelplane.controllers.loop import Fence
from modelplane.decisions.alerts import find_forgotten
from modelplane.decisions.told_alerts import ToldAlert, settle_alert, take_alert
from modelplane.errors import Conflict, ModelplaneError, TransientError
from modelplane.ports.alerting import RuleHealth, RuleServer, ServedAlert
from modelplane.ports.clock import Clock
from modelplane.ports.store import Store, Transaction
from modelplane.resources.alerting import Alert, AlertRules, RuleStatus
from modelplane.resources.meta import Condition, Resource, ResourceKey, Subject, set_condition

SUBJECT = Subject(name="system:prometheus")
START = ResourceKey("AlertRules", None, "*")
EVERY_S = 10.0
POLL_S = 1.0
DOUBT = timedelta(seconds=60)
"""After Prometheus was away: so long its evaluations may not have caught up, and an alert that it
does not tell of may still be there."""

MAX_GOING_ON = 10_000
"""Alerts that are not over; what Prometheus tells beyond them is not taken."""

_log = structlog.get_logger(__name__)


class RuleServerController:
    """Keeps one Prometheus supplied with rules.

    Parameters
    ----------
    store, fence, clock
        The ports.
    server
        The Prometheus.
    """

    name = "rule-server"
    kinds: Sequence[type[Resource[Any, Any]]] = (AlertRules,)

    def __init__(self, store: Store, fence: Fence, clock: Clock, server: RuleServer) -> None:
        self._store = store
        self._fence = fence
        self._clock = clock
        self._server = server
        self._current: dict[str, Alert] = {}
        self._current_at = -1
        self._doubt_until: datetime | None = None
        self._is_away = False
        self._left_out = 0
        self._unreadable: set[str] = set()

    def keys(self, resource: Resource[Any, Any]) -> Iterable[ResourceKey]:
        """All rules are published together."""
        yield START

    async def reconcile(self, key: ResourceKey) -> float | None:
        """Publish the rules and report how they fare; return when to look again."""
        rules, _ = await self._store.list(AlertRules)
        _ = self._fence.lease
        try:
            refused = await self._server.publish({r.metadata.name: r.spec for r in rules})
            health = await self._server.health()
        except TransientError as error:
            for one in rules:
                await self._report(one, _away(one, str(error)), "Unreachable", str(error))
            return max(1.0, error.retry_after_s)
        for one in rules:
            fault = refused.get(one.metadata.name, "")
            await self._report(one, _fares(one, fault, health), "Refused" if fault else "", fault)
        # What was never evaluated is looked at soon: the first evaluation says how it fares.
        return EVERY_S

    async def run(self) -> None:
        """Take the alerts that Prometheus has, each second, for ever."""
        while True:
            await self._fence.held.wait()
            try:
                await self.poll()
            except Conflict:
                self._current_at = -1
            except ModelplaneError as error:
                self._note_absence(error)
            except Exception as error:
                _log.error("prometheus.broken", exc_info=error)
            await self._clock.sleep(POLL_S)

    async def poll(self) -> None:
        """Take the alerts once. Raises `TransientError` when Prometheus does not answer."""
        served = {told.name: told for told in map(_told, await self._server.alerts())}
        self._is_away = False
        now = self._clock.now()
        current = await self._load()
        self._unreadable &= served.keys()
        may_be_gone = self._doubt_until is None or now >= self._doubt_until
        going_on = {name for name, one in current.items() if one.status.phase != "Resolved"}
        for name, told in served.items():
            if name in going_on or len(going_on) < MAX_GOING_ON:
                going_on.add(name)
                await self._take(current.get(name), told, now)
        self._note_excess(len(served.keys() - going_on))
        for name, alert in current.items():
            if alert.spec.source == "alertmanager":
                settled = alert.with_(status=settle_alert(alert, now))
                if settled != alert:
                    await self._put(settled, "it rests")
            elif name not in served and may_be_gone:
                gone = ToldAlert("prometheus", alert.spec.labels, "Resolved", now)
                await self._take(alert, gone, now)
        await self._forget([one for name, one in current.items() if name not in served], now)

    async def _take(self, current: Alert | None, told: ToldAlert, now: datetime) -> None:
        try:
            after = take_alert(current, told, now)
        except ValueError as error:  # newer ones allow names of labels that are none here
            if told.name not in self._unreadable:
                self._unreadable.add(told.name)
                _log.warning("prometheus.alert_unreadable", alert=told.name, error=str(error)[:200])
            return
        if after is not None:
            await self._put(after, "Prometheus says so")

    async def _put(self, alert: Alert, reason: str) -> None:
        transaction = Transaction(SUBJECT, reason, fence=self._fence.lease)
        transaction.put(alert, f"alert.{alert.status.phase.lower()}")
        await self._store.commit(transaction)

    async def _forget(self, alerts: Sequence[Alert], now: datetime) -> None:
        transaction = Transaction(SUBJECT, "kept long enough", fence=self._fence.lease)
        for alert in find_forgotten(alerts, now):
            transaction.delete(alert, "remove")
        if transaction:
            await self._store.commit(transaction)

    async def _load(self) -> Mapping[str, Alert]:
        """Return all alerts; they are read again only when some changed."""
        if self._store.newest_version((Alert,)) > self._current_at:
            alerts, self._current_at = await self._store.list(Alert)
            self._current = {alert.metadata.name: alert for alert in alerts}
        return self._current

    def _note_excess(self, count: int) -> None:
        if count and not self._left_out:
            _log.warning("prometheus.too_many_alerts", left_out=count, most=MAX_GOING_ON)
        self._left_out = count

    def _note_absence(self, error: ModelplaneError) -> None:
        self._doubt_until = self._clock.now() + DOUBT
        if not self._is_away:
            _log.warning("prometheus.away", error=str(error))
        self._is_away = True

    async def _report(
        self, rules: AlertRules, found: tuple[RuleStatus, ...], reason: str, message: str
    ) -> None:
        faulty = next((rule for rule in found if rule.message), None)
        if not reason and faulty is not None:
            reason, message = "RuleFails", f"{faulty.rule}: {faulty.message}"
        evaluated = Condition(
            type="Evaluated",
            status="False" if reason else "True",
            reason=reason or "ByPrometheus",
            message=message,
            observed_generation=rules.metadata.generation,
        )
        conditions = set_condition(rules.status.conditions, evaluated, self._clock.now())
        after = rules.with_status(rules=found, conditions=conditions)
        if after.status == rules.status:
            return
        transaction = Transaction(SUBJECT, message, fence=self._fence.lease)
        transaction.update(after, "report")
        try:
            await self._store.commit(transaction)
        except Conflict:  # they were changed, which brings them back here
            _log.debug("rules.changed_meanwhile", rules=rules.metadata.name)


def _told(served: ServedAlert) -> ToldAlert:
    return ToldAlert(
        source="prometheus",
        labels=served.labels,
        phase="Firing" if served.is_firing else "Pending",
        since=served.active_at,
        rules=served.rules,
        value=served.value,
        annotations=served.annotations,
    )


def _away(rules: AlertRules, message: str) -> tuple[RuleStatus, ...]:
    """What was published goes on being evaluated, as far as anybody knows."""
    if rules.status.rules and all(r.evaluated_by == "prometheus" for r in rules.status.rules):
        return rules.status.rules
    return _each(rules, lambda group, name: RuleStatus(group=group, rule=name, message=message))


def _fares(rules: AlertRules, fault: str, health: Sequence[RuleHealth]) -> tuple[RuleStatus, ...]:
    name = rules.metadata.name
    faults = {(h.group, h.rule): h.fault for h in health if h.rules == name}

    def status(group: str, rule: str) -> RuleStatus:
        if fault:
            return RuleStatus(group=group, rule=rule, evaluated_by="nobody", message=fault)
        found = faults.get((group, rule), "")
        return RuleStatus(group=group, rule=rule, evaluated_by="prometheus", message=found)

    return _each(rules, status)


def _each(rules: AlertRules, make: Any) -> tuple[RuleStatus, ...]:
    return tuple(
        make(group.name, rule.alert or rule.record or "")
        for group in rules.spec.groups
        for rule in group.rules
    )
