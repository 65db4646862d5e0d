"""Alerts when things go wrong: two files of one rule, a rule that breaks, races, set clocks."""

from __future__ import annotations

from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from modelplane.controllers.alert_notices import AlertNoticeController
from modelplane.decisions import alerts as alert_decisions
from modelplane.decisions.alert_notices import KEEP_TAKEN
from modelplane.decisions.alerts import REST
from modelplane.decisions.series import sample
from modelplane.decisions.silence_delivery import END_ANNOTATION
from modelplane.decisions.told_alerts import ToldAlert, take_alert
from modelplane.errors import Conflict
from modelplane.ports.store import Transaction
from modelplane.resources.alerting import Alert, AlertRules, Silence, SilenceSpec
from modelplane.resources.meta import Metadata
from modelplane.resources.notification import Notification
from tests.controllers.test_alerting import ANA, DOWN, Watch, replica, watching


async def phases(watch: Watch) -> dict[str, str]:
    return {one.spec.alert: one.status.phase for one in (await watch.store.list(Alert))[0]}


async def test_two_files_with_the_same_rule_give_one_alert(tmp_path: Path) -> None:
    async with watching(tmp_path) as watch:
        await watch.declare(DOWN, name="mine")
        await watch.declare(DOWN, name="shipped")
        await watch.declare({"alert": "Up", "expr": "modelplane_replica_up == 1"}, name="third")
        await watch.pass_s(2, replica(0))
        first = await watch.find()
        assert (first.spec.rules, first.status.phase) == ("mine", "Firing")
        transaction = Transaction(ANA)
        transaction.delete(await watch.store.get(AlertRules, "mine"))
        await watch.store.commit(transaction)
        await watch.pass_s(2, replica(0))
        other = await watch.find()
        assert (other.spec.rules, other.status.phase, other.status.episode) == (
            "shipped", "Firing", 1,
        )  # fmt: skip
        await watch.pass_s(1, replica(1))
        assert await phases(watch) == {"Down": "Resolved", "Up": "Firing"}


async def test_a_rule_that_breaks_leaves_the_others_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with watching(tmp_path) as watch:
        await watch.declare({"alert": "Odd", "expr": "modelplane_jobs > 0"}, DOWN)
        ask = watch.querier.query_at

        def query_at(expression: str, at: Any) -> Any:
            if "jobs" in expression:
                raise ZeroDivisionError
            return ask(expression, at)

        monkeypatch.setattr(watch.querier, "query_at", query_at)
        await watch.pass_s(1, replica(0))
        assert await phases(watch) == {"Down": "Firing"}
        rules = await watch.store.get(AlertRules, "own")
        assert "ZeroDivisionError" in rules.status.rules[0].message


async def test_what_a_rule_recorded_is_gone_when_it_fails(tmp_path: Path) -> None:
    async with watching(tmp_path) as watch:
        text = "modelplane_jobs / ignoring (phase) modelplane_notifications_pending"
        await watch.declare({"record": "a:b", "expr": text})
        pending = sample("modelplane_notifications_pending", 2)
        running, waiting = (sample("modelplane_jobs", 4, phase=p) for p in ("Running", "Pending"))
        await watch.pass_s(2, pending, running)
        assert len(await watch.alerts.records()) == 1
        await watch.pass_s(1, pending, running, waiting)  # no longer one to one
        assert await watch.alerts.records() == []


async def test_an_alert_stays_while_its_series_cannot_be_told_apart(tmp_path: Path) -> None:
    async with watching(tmp_path) as watch:
        await watch.declare({**DOWN, "labels": {"replica": "any"}})
        await watch.pass_s(1, replica(0, "a"))
        await watch.pass_s(2, replica(0, "a"), replica(0, "b"))
        assert await phases(watch) == {"Down": "Firing"}
        rules = await watch.store.get(AlertRules, "own")
        assert "same labels" in rules.status.rules[0].message


async def test_a_restart_ends_no_alert_of_a_rule_that_looks_at_the_past(tmp_path: Path) -> None:
    async with watching(tmp_path) as watch:
        await watch.declare(DOWN, query_offset="5s")
        await watch.pass_s(8, replica(0))
        watch.restart(forget=True)
        await watch.pass_s(4, replica(0))
        assert await phases(watch) == {"Down": "Firing"}, "nothing is known yet of that moment"
        await watch.pass_s(8, replica(1))
        assert await phases(watch) == {"Down": "Resolved"}


async def test_time_in_which_nobody_evaluated_does_not_count(tmp_path: Path) -> None:
    async with watching(tmp_path) as watch:
        await watch.declare({**DOWN, "for": "2m"})
        await watch.pass_s(61, replica(0))
        watch.restart(forget=True)
        watch.clock.step(3600)
        await watch.pass_s(50, replica(0))
        assert await phases(watch) == {"Down": "Pending"}, "one minute, and then another"
        await watch.pass_s(25, replica(0))
        assert await phases(watch) == {"Down": "Firing"}


async def test_an_alert_that_had_just_begun_begins_again_after_an_absence(tmp_path: Path) -> None:
    async with watching(tmp_path) as watch:
        await watch.declare({**DOWN, "for": "10s"})
        await watch.pass_s(5, replica(0))
        await watch.pass_s(3600, replica(1))
        await watch.pass_s(1, replica(0))  # that rules are evaluated was stored an hour ago
        watch.restart(forget=True)
        watch.clock.step(7200)
        await watch.pass_s(10, replica(0))
        assert (await watch.find()).status.phase == "Pending"
        await watch.pass_s(2, replica(0))
        assert (await watch.find()).status.phase == "Firing"


async def test_a_lost_race_costs_a_rare_evaluation_nothing(tmp_path: Path) -> None:
    async with watching(tmp_path) as watch:
        await watch.declare(DOWN, interval="10m")
        await watch.pass_s(1, replica(1))
        watch.clock.step(599)
        real, races = watch.store.commit, [1]

        async def lose_once(transaction: Transaction) -> Any:
            if races:
                races.pop()
                raise Conflict("somebody was faster")
            return await real(transaction)

        watch.store.commit = lose_once  # type: ignore[method-assign]
        await watch.pass_s(1, replica(0))
        assert await phases(watch) == {"Down": "Firing"}


async def test_rules_of_one_name_are_judged_each_at_its_own_evaluations(tmp_path: Path) -> None:
    async with watching(tmp_path) as watch:
        await watch.declare({**DOWN, "for": "15s"}, name="rare", interval="10s")
        await watch.declare({**DOWN, "labels": {"often": "yes"}}, name="often")
        await watch.pass_s(16, replica(0))
        found = {one.spec.rules: one.status.phase for one in (await watch.store.list(Alert))[0]}
        assert found == {"rare": "Pending", "often": "Firing"}
        await watch.pass_s(5, replica(0))
        found = {one.spec.rules: one.status.phase for one in (await watch.store.list(Alert))[0]}
        assert found == {"rare": "Firing", "often": "Firing"}


async def test_a_clock_that_is_set_back_stops_nothing(tmp_path: Path) -> None:
    async with watching(tmp_path) as watch:
        await watch.declare(DOWN)
        await watch.pass_s(3, replica(1))
        watch.clock.step(-3600)
        await watch.pass_s(2, replica(0))
        assert await phases(watch) == {"Down": "Firing"}


async def test_a_value_in_a_label_makes_no_end_of_alerts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(alert_decisions, "MAX_RESOLVED", 5)
    async with watching(tmp_path) as watch:
        rule = {"alert": "Jobs", "expr": "modelplane_jobs", "labels": {"v": "{{ $value }}"}}
        await watch.declare(rule)
        for count in range(20):
            await watch.pass_s(1, sample("modelplane_jobs", count, phase="Pending"))
        kept = [one.spec.labels["v"] for one in (await watch.store.list(Alert))[0]]
        assert len(kept) <= 7
        assert {"19", "18", "17"} <= set(kept), "the newest are kept"


async def test_an_alertmanagers_alert_that_flaps_is_over_when_it_rests(tmp_path: Path) -> None:
    async with watching(tmp_path) as watch:
        labels = {"alertname": "Disk"}
        for turn in range(6):
            watch.clock.step(10)
            now = watch.clock.now()
            told = ToldAlert("alertmanager", labels, "Resolved" if turn % 2 else "Firing", now)
            alerts, _ = await watch.store.list(Alert)
            after = take_alert(alerts[0] if alerts else None, told, now)
            if after is not None:
                await watch.commit(after)
        assert (await watch.find()).status.flapping
        await watch.pass_s(int(REST.total_seconds()) - 10, replica(1))
        assert (await watch.find()).status.phase == "Firing"
        await watch.pass_s(20, replica(1))
        assert (await watch.find()).status.phase == "Resolved"


async def events(watch: Watch) -> list[str]:
    await watch.tell()
    sent, _ = await watch.store.list(Notification)
    sent = sorted(sent, key=lambda one: (one.spec.event.at, one.spec.event.type))
    return [one.spec.event.type.removeprefix("alert.") for one in sent]


async def test_what_is_over_before_anybody_looked_is_told_nevertheless(tmp_path: Path) -> None:
    async with watching(tmp_path) as watch:
        await watch.declare(DOWN)
        await watch.pass_s(1, replica(0))
        await watch.pass_s(1, replica(1))
        assert await events(watch) == ["firing", "resolved"]
        assert await events(watch) == ["firing", "resolved"], "once"


async def test_an_end_is_told_though_the_next_episode_has_begun(tmp_path: Path) -> None:
    async with watching(tmp_path) as watch:
        await watch.declare({**DOWN, "for": "3s"})
        await watch.pass_s(4, replica(0))
        assert await events(watch) == ["firing"]
        await watch.pass_s(1, replica(1))
        await watch.pass_s(1, replica(0))
        assert (await watch.find()).status.phase == "Pending"
        assert await events(watch) == ["firing", "resolved"]
        await watch.pass_s(3, replica(0))
        await watch.pass_s(1, replica(1))
        await watch.pass_s(1, replica(0))
        assert (await watch.find()).status.phase == "Pending"
        assert await events(watch) == ["firing", "resolved"] * 2, "a whole episode unseen"
        await watch.pass_s(1, replica(1))
        assert await events(watch) == ["firing", "resolved"] * 2, "the last one never fired"


def quiet(watch: Watch, **changes: Any) -> Silence:
    spec = {
        "matchers": ['alertname="Down"'],
        "endsAt": watch.clock.now() + timedelta(minutes=1),
        "comment": "new disks",
    }
    metadata = Metadata(name="quiet", **changes)
    return Silence(metadata=metadata, spec=SilenceSpec.model_validate(spec))


async def test_what_was_over_while_it_was_silenced_is_told_to_nobody(tmp_path: Path) -> None:
    async with watching(tmp_path) as watch:
        await watch.declare(DOWN)
        await watch.commit(quiet(watch))
        await watch.pass_s(1, replica(0))
        assert await events(watch) == []
        await watch.pass_s(1, replica(1))
        watch.clock.step(120)
        assert await events(watch) == []
        watch.notices = AlertNoticeController(watch.store, watch.fence, watch.clock)
        assert await events(watch) == []


async def test_a_silence_taken_from_an_alertmanager_is_not_kept_for_ever(tmp_path: Path) -> None:
    async with watching(tmp_path) as watch:
        ends = (watch.clock.now() + timedelta(minutes=1)).isoformat()
        taken = quiet(watch, annotations={END_ANNOTATION: ends})
        await watch.commit(taken)
        watch.clock.step(61)
        wait_s = await watch.notices.reconcile(taken.key)
        assert wait_s == pytest.approx(KEEP_TAKEN.total_seconds() - 1)
        watch.clock.step(KEEP_TAKEN.total_seconds())
        await watch.notices.reconcile(taken.key)
        assert await watch.store.find(Silence, "quiet") is None
