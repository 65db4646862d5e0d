"""A Prometheus is kept supplied with rules, and its alerts become ours."""

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from modelplane.adapters.store.sqlite import SqliteStore
from modelplane.controllers import rule_server
from modelplane.controllers.loop import LEASE_NAME, Fence
from modelplane.controllers.rule_server import START, RuleServerController
from modelplane.decisions.alerts import KEEP_RESOLVED
from modelplane.errors import TransientError
from modelplane.ports.alerting import ServedAlert
from modelplane.ports.store import Transaction
from modelplane.resources.alerting import Alert, AlertPhase, AlertRules, AlertRulesSpec
from modelplane.resources.meta import Condition, Metadata, Subject
from modelplane.testing.alerting import FakeRuleServer
from modelplane.testing.clock import ManualClock
from tests.controllers.stores import open_store

SOMEBODY = Subject(name="test")


@dataclass
class Plane:
    store: SqliteStore
    clock: ManualClock
    fence: Fence
    server: FakeRuleServer = field(default_factory=FakeRuleServer)
    controller: RuleServerController = field(init=False)

    def __post_init__(self) -> None:
        self.controller = RuleServerController(self.store, self.fence, self.clock, self.server)

    async def apply(self, name: str, expr: str = "up == 0") -> None:
        group = {"name": "g", "rules": [{"alert": "Down", "expr": expr}]}
        spec = AlertRulesSpec.model_validate({"groups": [group]})
        before = await self.store.find(AlertRules, name)
        made = AlertRules(metadata=Metadata(name=name), spec=spec)
        transaction = Transaction(SOMEBODY)
        transaction.put(before.with_(spec=spec) if before else made, "apply")
        await self.store.commit(transaction)

    async def delete(self, name: str) -> None:
        transaction = Transaction(SOMEBODY)
        transaction.delete(await self.store.get(AlertRules, name))
        await self.store.commit(transaction)

    async def condition(self, name: str) -> Condition:
        [condition] = (await self.store.get(AlertRules, name)).status.conditions
        return condition

    def serve(self, *firing: bool) -> None:
        """Have the alert fire (True) or pend (False); nothing: it is not there."""
        labels = {"alertname": "Down", "deployment": "fraud"}
        since = self.clock.now()
        self.server.served = [ServedAlert("ours", labels, {}, one, since, 0.0) for one in firing]

    async def phases(self) -> list[AlertPhase]:
        return [alert.status.phase for alert in (await self.store.list(Alert))[0]]


@pytest.fixture
async def plane(tmp_path: Path) -> AsyncIterator[Plane]:
    async with open_store(tmp_path) as (store, clock):
        fence = Fence()
        fence.set(await store.claim(LEASE_NAME, "test", 1e9))
        yield Plane(store, clock, fence)


async def test_rules_are_published_and_say_who_evaluates_them(plane: Plane) -> None:
    await plane.apply("ours")
    await plane.controller.reconcile(START)
    assert list(plane.server.rules) == ["ours"]
    stored = await plane.store.get(AlertRules, "ours")
    [rule] = stored.status.rules
    assert (rule.group, rule.rule, rule.evaluated_by, rule.message) == (
        "g", "Down", "prometheus", "",
    )  # fmt: skip
    version = stored.metadata.resource_version
    await plane.controller.reconcile(START)
    assert (await plane.store.get(AlertRules, "ours")).metadata.resource_version == version
    await plane.delete("ours")
    await plane.controller.reconcile(START)
    assert plane.server.rules == {}


async def test_rules_that_are_refused_say_so_and_the_ones_before_go_on(plane: Plane) -> None:
    await plane.apply("ours")
    await plane.controller.reconcile(START)
    before = dict(plane.server.rules)
    wrong = (await plane.store.get(AlertRules, "ours")).spec
    rule = wrong.groups[0].rules[0].with_(expr="sum(")
    group = wrong.groups[0].with_(rules=(rule,))
    plane.server.rules = before
    plane.server.publish = _refuse  # type: ignore[method-assign]
    await plane.controller.reconcile(START)
    condition = await plane.condition("ours")
    assert (condition.status, condition.reason) == ("False", "Refused")
    assert "sum(" in condition.message
    assert plane.server.rules == before
    assert group.rules[0].expr == "sum("


async def _refuse(rules: object) -> dict[str, str]:
    return {"ours": "it refuses the file: sum("}


async def test_a_rule_that_fails_there_says_why(plane: Plane) -> None:
    await plane.apply("ours")
    plane.server.faults["Down"] = "many-to-many matching not allowed"
    await plane.controller.reconcile(START)
    condition = await plane.condition("ours")
    assert (condition.reason, condition.status) == ("RuleFails", "False")
    assert "many-to-many" in condition.message


async def test_a_prometheus_that_is_away_is_no_news_of_alerts(plane: Plane) -> None:
    await plane.apply("ours")
    await plane.controller.reconcile(START)
    plane.serve(True)
    await plane.controller.poll()
    plane.server.is_away = True
    with pytest.raises(TransientError):
        await plane.controller.poll()
    assert await plane.phases() == ["Firing"]
    await plane.controller.reconcile(START)
    assert (await plane.condition("ours")).reason == "Unreachable"
    [rule] = (await plane.store.get(AlertRules, "ours")).status.rules
    assert rule.evaluated_by == "prometheus"  # it has them, as far as anybody knows


async def test_after_prometheus_was_away_its_silence_is_believed_later(plane: Plane) -> None:
    plane.serve(True)
    await plane.controller.poll()
    plane.controller._note_absence(TransientError("away"))
    plane.serve()
    await plane.controller.poll()
    assert await plane.phases() == ["Firing"]
    await plane.clock.advance(61)
    await plane.controller.poll()
    assert await plane.phases() == ["Resolved"]


async def test_alerts_go_from_pending_to_firing_to_resolved(plane: Plane) -> None:
    seen = []
    for firing in ((False,), (False,), (True,), (True,), ()):
        plane.serve(*firing)
        await plane.controller.poll()
        seen += await plane.phases()
        await plane.clock.advance(1)
    assert seen == ["Pending", "Pending", "Firing", "Firing", "Resolved"]
    [alert], _ = await plane.store.list(Alert)
    assert (alert.spec.source, alert.spec.rules, alert.status.episode) == ("prometheus", "ours", 1)
    records = await plane.store.audit(kind="Alert")
    assert [record.action for record in records] == [
        "alert.pending", "alert.firing", "alert.resolved",
    ]  # fmt: skip


async def test_alerts_that_are_long_over_are_forgotten(plane: Plane) -> None:
    plane.serve(True)
    await plane.controller.poll()
    plane.serve()
    await plane.controller.poll()
    await plane.clock.advance(KEEP_RESOLVED.total_seconds() + 1)
    await plane.controller.poll()
    assert await plane.phases() == []


async def test_an_alert_that_cannot_be_taken_keeps_no_other_out(plane: Plane) -> None:
    plane.serve(True)
    odd = {"alertname": "Odd", "http.status": "500"}  # Prometheus 3 allows such names
    strange = ServedAlert("ours", odd, {}, True, plane.clock.now(), 0.0)
    plane.server.served.insert(0, strange)
    await plane.controller.poll()
    assert await plane.phases() == ["Firing"]
    plane.clock.step(1)
    plane.server.served = [strange]
    await plane.controller.poll()
    assert await plane.phases() == ["Resolved"]


async def test_a_rule_with_very_many_alerts_has_bounds(
    plane: Plane, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(rule_server, "MAX_GOING_ON", 3)
    now = plane.clock.now()
    served = [
        ServedAlert("ours", {"alertname": "Down", "n": str(number)}, {}, True, now, 0.0)
        for number in range(5)
    ]
    plane.server.served = served
    await plane.controller.poll()
    assert await plane.phases() == ["Firing"] * 3
    plane.clock.step(1)
    plane.server.served = served[::-1]
    await plane.controller.poll()
    assert await plane.phases() == ["Firing"] * 3, "whoever is in stays in"
    plane.clock.step(1)
    plane.server.served = served[3:]
    await plane.controller.poll()
    plane.clock.step(1)
    await plane.controller.poll()
    assert sorted(await plane.phases()) == ["Firing"] * 2 + ["Resolved"] * 3
