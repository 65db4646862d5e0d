"""From a measurement to an alert that people hear of: rules, restarts, silences, notifications.

Real store, real ring, a manual clock; nothing sleeps.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from modelplane.adapters.metrics.querying import RingQuerier
from modelplane.adapters.metrics.series import MemorySeriesRing
from modelplane.adapters.store.sqlite import SqliteStore
from modelplane.controllers.alert_notices import AlertNoticeController
from modelplane.controllers.alerts import AlertController
from modelplane.controllers.loop import LEASE_NAME, Fence
from modelplane.decisions.series import Sample, sample
from modelplane.errors import Conflict, TransientError
from modelplane.ports.alerting import QueryRefused
from modelplane.ports.store import Transaction
from modelplane.resources.alerting import (
    Alert,
    AlertRules,
    AlertRulesSpec,
    Silence,
    SilenceSpec,
)
from modelplane.resources.meta import Metadata, Subject
from modelplane.resources.notification import (
    Notification,
    NotificationChannel,
    NotificationChannelSpec,
)
from modelplane.testing.clock import ManualClock
from tests.controllers.stores import open_store

ANA = Subject(name="ana", groups=("admin",))
DOWN = {"alert": "Down", "expr": "modelplane_replica_up == 0"}


def replica(value: float, name: str = "fraud-0") -> Sample:
    labels = {"environment": "production", "deployment": "fraud", "version": "2.0.0"}
    return sample("modelplane_replica_up", value, replica=name, **labels)


class Watch:
    """A control plane that only evaluates rules."""

    def __init__(self, store: SqliteStore, clock: ManualClock) -> None:
        self.store = store
        self.clock = clock
        self.fence = Fence()
        self.ring = MemorySeriesRing()
        self.restart()
        self.notices = AlertNoticeController(store, self.fence, clock)

    def restart(self, *, forget: bool = False) -> None:
        """Make the controller anew; with `forget` what was measured is gone, too."""
        if forget:
            self.ring = MemorySeriesRing()
        self.querier = RingQuerier(self.ring)
        self.alerts = AlertController(
            self.store, self.ring, self.querier, self.fence, self.clock, external_url="http://mp"
        )
        self.querier.recorded = self.alerts.recorded

    async def declare(self, *rules: dict[str, Any], name: str = "own", **group: Any) -> None:
        groups = [{"name": "g", "rules": list(rules), **group}]
        spec = AlertRulesSpec.model_validate({"groups": groups})
        existing = await self.store.find(AlertRules, name)
        made = AlertRules(metadata=Metadata(name=name), spec=spec)
        await self.commit(made if existing is None else existing.with_(spec=spec))

    async def commit(self, resource: Any) -> None:
        transaction = Transaction(ANA)
        transaction.put(resource, "apply")
        await self.store.commit(transaction)

    async def pass_s(self, seconds: int, *samples: Sample) -> None:
        """Let seconds pass, with a set of samples and an evaluation at each."""
        for _ in range(seconds):
            self.clock.step(1)
            self.ring.record(self.clock.now(), [*samples, *await self.alerts.records()])
            await self.alerts.evaluate()

    async def find(self) -> Alert:
        (alert,) = (await self.store.list(Alert))[0]
        return alert

    async def tell(self) -> Sequence[str]:
        """Run the notices until nothing changes; return the types of all notifications."""
        for kind in (Silence, Alert):
            for resource in (await self.store.list(kind))[0]:
                await self.notices.reconcile(resource.key)
        sent, _ = await self.store.list(Notification)
        return sorted(one.spec.event.type for one in sent)


@asynccontextmanager
async def watching(directory: Path) -> AsyncIterator[Watch]:
    async with open_store(directory) as (store, clock):
        watch = Watch(store, clock)
        watch.fence.set(await store.claim(LEASE_NAME, "one", 90 * 86_400))
        channel = {"webhook": {"url": "http://127.0.0.1:9/in"}}
        await watch.commit(
            NotificationChannel(
                metadata=Metadata(name="team"),
                spec=NotificationChannelSpec.model_validate(channel),
            )
        )
        yield watch


async def test_a_breach_fires_with_the_first_set_that_shows_it(tmp_path: Path) -> None:
    async with watching(tmp_path) as watch:
        await watch.declare(DOWN)
        await watch.pass_s(3, replica(1))
        assert (await watch.store.list(Alert))[0] == []
        await watch.pass_s(1, replica(0))
        alert = await watch.find()
        assert alert.status.phase == "Firing"
        assert alert.status.active_at == alert.status.fired_at == watch.clock.now()
        assert alert.spec.labels["alertname"] == "Down"
        assert alert.status.generator_url == "http://mp/api/v1/alert-rules/own"
        await watch.pass_s(1, replica(1))
        assert (await watch.find()).status.phase == "Resolved"


async def test_a_restart_keeps_since_when_it_is_pending_and_firing(tmp_path: Path) -> None:
    async with watching(tmp_path) as watch:
        await watch.declare({**DOWN, "for": "2m"})
        await watch.pass_s(60, replica(0))
        since = (await watch.find()).status.active_at
        watch.restart(forget=True)
        await watch.alerts.evaluate()
        assert (await watch.find()).status.phase == "Pending", "not measured is not over"
        await watch.pass_s(60, replica(0))
        assert (await watch.find()).status.phase == "Pending"
        await watch.pass_s(1, replica(0))
        fired = await watch.find()
        assert (fired.status.phase, fired.status.active_at) == ("Firing", since)
        watch.restart(forget=True)
        await watch.pass_s(1, replica(0))
        assert (await watch.find()).status == fired.status


async def test_a_series_that_is_gone_is_a_gap(tmp_path: Path) -> None:
    async with watching(tmp_path) as watch:
        await watch.declare({**DOWN, "for": "10s"})
        await watch.pass_s(9, replica(0))
        await watch.pass_s(1)
        await watch.pass_s(10, replica(0))
        assert (await watch.find()).status.phase == "Pending"


async def test_rules_that_look_back_wait_until_there_is_something_to_see(tmp_path: Path) -> None:
    async with watching(tmp_path) as watch:
        text = "min_over_time(modelplane_replica_up[30s]) == 0"
        await watch.declare({"alert": "WasDown", "expr": text})
        await watch.pass_s(5, replica(0))
        assert (await watch.store.list(Alert))[0] == []
        rules = await watch.store.get(AlertRules, "own")
        assert rules.status.conditions[0].reason == "Waiting"
        await watch.pass_s(26, replica(1))
        assert (await watch.find()).status.phase == "Firing"
        watch.restart(forget=True)
        await watch.pass_s(5, replica(1))
        assert (await watch.find()).status.phase == "Firing", "nobody knows yet that it is over"
        await watch.pass_s(26, replica(1))
        assert (await watch.find()).status.phase == "Resolved"


async def test_what_rules_record_can_be_asked_for_from_the_next_set_on(tmp_path: Path) -> None:
    async with watching(tmp_path) as watch:
        record = {"record": "deployment:down", "expr": "count by (deployment) "
                  "(modelplane_replica_up == 0)", "labels": {"kept": "yes"}}  # fmt: skip
        await watch.declare(record, {"alert": "Many", "expr": "deployment:down > 1"})
        await watch.pass_s(2, replica(0, "a"), replica(0, "b"))
        alert = await watch.find()
        assert alert.spec.labels == {"alertname": "Many", "deployment": "fraud", "kept": "yes"}
        assert alert.status.value == 2
        assert await watch.querier.query("deployment:down") != []


async def test_a_rule_that_goes_takes_its_alerts_with_it(tmp_path: Path) -> None:
    async with watching(tmp_path) as watch:
        await watch.declare(DOWN)
        await watch.pass_s(1, replica(0))
        await watch.declare({"alert": "Other", "expr": "modelplane_replica_up == 5"})
        await watch.pass_s(1, replica(0))
        status = (await watch.find()).status
        assert (status.phase, status.history[-1].message) == (
            "Resolved", "nobody evaluates its rule any more",
        )  # fmt: skip


async def test_two_rules_of_one_name_have_alerts_of_their_own(tmp_path: Path) -> None:
    async with watching(tmp_path) as watch:
        jobs = "modelplane_jobs{phase='Pending'} > "
        await watch.declare(
            {"alert": "Busy", "expr": f"{jobs} 9", "labels": {"severity": "page"}},
            {"alert": "Busy", "expr": f"{jobs} 1", "labels": {"severity": "mail"},
             "keep_firing_for": "5s"},
        )  # fmt: skip
        await watch.pass_s(1, sample("modelplane_jobs", 20, phase="Pending"))
        await watch.pass_s(1, sample("modelplane_jobs", 5, phase="Pending"))
        alerts, _ = await watch.store.list(Alert)
        phases = {one.spec.labels["severity"]: one.status.phase for one in alerts}
        assert phases == {"page": "Resolved", "mail": "Firing"}
        await watch.pass_s(4, sample("modelplane_jobs", 0, phase="Pending"))
        alerts, _ = await watch.store.list(Alert)
        phases = {one.spec.labels["severity"]: one.status.phase for one in alerts}
        assert phases["mail"] == "Firing", "its own keep_firing_for counts"


async def test_a_rule_that_needs_a_prometheus_is_evaluated_by_nobody_and_says_so(
    tmp_path: Path,
) -> None:
    async with watching(tmp_path) as watch:
        await watch.declare(DOWN, {"alert": "Node", "expr": "node_load1 > 3"})
        await watch.pass_s(1, replica(1))
        rules = await watch.store.get(AlertRules, "own")
        assert [one.evaluated_by for one in rules.status.rules] == ["modelplane", "nobody"]
        assert rules.status.rules[1].message == (
            "it needs a Prometheus: modelplane does not measure node_load1"
        )
        version = rules.metadata.resource_version
        await watch.pass_s(5, replica(1))
        again = await watch.store.get(AlertRules, "own")
        assert again.metadata.resource_version == version, "what is so is written once"


async def test_a_group_is_evaluated_as_often_as_it_says(tmp_path: Path) -> None:
    async with watching(tmp_path) as watch:
        await watch.declare(DOWN, interval="10s")
        await watch.pass_s(1, replica(1))
        await watch.pass_s(9, replica(0))
        assert (await watch.store.list(Alert))[0] == []
        await watch.pass_s(1, replica(0))
        assert (await watch.find()).status.phase == "Firing"


async def test_who_writes_meanwhile_costs_one_evaluation_and_nothing_else(tmp_path: Path) -> None:
    async with watching(tmp_path) as watch:
        await watch.declare({**DOWN, "for": "3s"})
        await watch.pass_s(2, replica(0))

        real = watch.store.commit

        async def lose(transaction: Transaction) -> Any:
            raise Conflict("somebody was faster")

        watch.store.commit = lose  # type: ignore[method-assign]
        with pytest.raises(Conflict):
            await watch.pass_s(2, replica(0))
        watch.store.commit = real  # type: ignore[method-assign]
        await watch.pass_s(2, replica(0))
        assert (await watch.find()).status.phase == "Firing"


async def test_people_are_told_once_when_it_begins_and_once_when_it_is_over(tmp_path: Path) -> None:
    async with watching(tmp_path) as watch:
        await watch.declare({**DOWN, "annotations": {"summary": "{{ $labels.replica }} is down"}})
        await watch.pass_s(1, replica(0))
        assert await watch.tell() == ["alert.firing"]
        await watch.pass_s(3, replica(0))
        assert await watch.tell() == ["alert.firing"]
        (sent,) = (await watch.store.list(Notification))[0]
        assert sent.spec.event.data["message"] == "fraud-0 is down"
        assert sent.spec.event.environment == "production"
        await watch.pass_s(1, replica(1))
        assert await watch.tell() == ["alert.firing", "alert.resolved"]
        assert await watch.tell() == ["alert.firing", "alert.resolved"]


async def test_a_flapping_series_tells_people_once_more_and_then_rests(tmp_path: Path) -> None:
    async with watching(tmp_path) as watch:
        await watch.declare(DOWN)
        told: list[int] = []
        for turn in range(60):
            await watch.pass_s(10, replica(turn % 2))
            told.append(len(await watch.tell()))
        assert told[4:] == [5] * 56, "five changes, the last of them said to be flapping"
        events = [one.spec.event for one in (await watch.store.list(Notification))[0]]
        assert sum(event.data["flapping"] for event in events) == 1
        await watch.pass_s(301, replica(1))
        assert len(await watch.tell()) == 6
        assert (await watch.find()).status.phase == "Resolved"


async def test_a_silence_keeps_people_from_being_told_until_it_ends(tmp_path: Path) -> None:
    async with watching(tmp_path) as watch:
        await watch.declare(DOWN)
        quiet = Silence(
            metadata=Metadata(name="quiet"),
            spec=SilenceSpec.model_validate({
                "matchers": ['alertname="Down"', 'deployment=~"fr.*"'],
                "endsAt": watch.clock.now() + timedelta(minutes=1),
                "comment": "new disks",
            }),
        )  # fmt: skip
        await watch.commit(quiet)
        await watch.pass_s(1, replica(0))
        assert await watch.tell() == []
        assert (await watch.find()).status.silenced_by == "quiet"
        assert (await watch.store.get(Silence, "quiet")).status.phase == "Active"
        assert await watch.notices.reconcile(quiet.key) == pytest.approx(59)
        await watch.pass_s(60, replica(0))
        assert await watch.tell() == ["alert.firing"]
        assert (await watch.find()).status.silenced_by == ""
        assert (await watch.store.get(Silence, "quiet")).status.phase == "Expired"


async def test_a_crash_between_alert_and_notice_loses_no_notice(tmp_path: Path) -> None:
    async with watching(tmp_path) as watch:
        await watch.declare(DOWN)
        await watch.pass_s(1, replica(0))
        watch.restart(forget=True)  # before anybody was told
        watch.notices = AlertNoticeController(watch.store, watch.fence, watch.clock)
        assert await watch.tell() == ["alert.firing"]


async def test_an_alert_that_is_long_over_is_forgotten(tmp_path: Path) -> None:
    async with watching(tmp_path) as watch:
        await watch.declare(DOWN)
        await watch.pass_s(1, replica(0))
        await watch.pass_s(1, replica(1))
        watch.clock.step(31 * 86_400)
        await watch.pass_s(1, replica(1))
        assert (await watch.store.list(Alert))[0] == []


async def test_the_querier_refuses_with_the_reason(tmp_path: Path) -> None:
    async with watching(tmp_path) as watch:
        with pytest.raises(TransientError, match="nothing has been measured"):
            await watch.querier.query("modelplane_jobs")
        await watch.pass_s(1, replica(1))
        for text, why in (
            ("up == = 1", "not PromQL: line 1, column 7"),
            ("up", "needs a Prometheus"),
            ("modelplane_replica_up / on (deployment) modelplane_jobs", ""),
        ):
            answer = await watch.querier.query(text)
            if why:
                assert isinstance(answer, QueryRefused)
                assert why in answer.message
            else:
                assert answer == []
        with pytest.raises(TransientError, match="reaches 60 s back"):
            await watch.querier.query("rate(modelplane_requests_total[1m])")
