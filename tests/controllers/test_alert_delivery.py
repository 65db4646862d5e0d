"""An Alertmanager hears of alerts and of their ends, whatever dies in between."""

from __future__ import annotations

import random
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from modelplane.adapters.store.sqlite import SqliteStore
from modelplane.controllers.alert_delivery import AlertDeliveryController
from modelplane.controllers.loop import LEASE_NAME, Fence
from modelplane.controllers.silence_delivery import START, SilenceDeliveryController
from modelplane.decisions.alert_delivery import CLOSING_ANNOTATION, SOURCE_LABEL
from modelplane.decisions.told_alerts import ToldAlert, take_alert
from modelplane.errors import TerminalError, TransientError
from modelplane.ports.store import Transaction
from modelplane.resources.alerting import Alert, AlertPhase, AlertSource, Silence, SilenceSpec
from modelplane.resources.meta import Metadata, ResourceKey, Subject
from modelplane.testing.alerting import FakeAlertmanager
from modelplane.testing.clock import ManualClock
from tests.controllers.stores import open_store

KEY = ResourceKey("Alert", None, "*")
SOMEBODY = Subject(name="test")


@dataclass
class Plane:
    store: SqliteStore
    clock: ManualClock
    fence: Fence
    receiver: FakeAlertmanager
    delivery: AlertDeliveryController = field(init=False)
    silencing: SilenceDeliveryController = field(init=False)

    def __post_init__(self) -> None:
        self.restart()

    def restart(self) -> None:
        """Begin anew with what is stored."""
        args = (self.store, self.fence, self.clock, self.receiver)
        self.delivery = AlertDeliveryController(*args, public_url="http://plane")
        self.silencing = SilenceDeliveryController(*args, instance="0123456789ab")

    async def becomes(
        self, phase: AlertPhase, name: str = "Down", source: AlertSource = "modelplane"
    ) -> Alert:
        told = ToldAlert(source, {"alertname": name}, phase, self.clock.now(), "ours", 1.0)
        after = take_alert(await self.store.find(Alert, told.name), told, self.clock.now())
        assert after is not None
        written: Alert = await self.write(after)
        return written

    async def write(self, resource: Any) -> Any:
        transaction = Transaction(SOMEBODY)
        transaction.put(resource, "test")
        [written] = await self.store.commit(transaction)
        return written

    async def tell(self) -> float | None:
        return await self.delivery.reconcile(KEY)

    async def bring_together(self) -> None:
        for silence in (await self.store.list(Silence))[0]:
            list(self.silencing.keys(silence))
        await self.silencing.reconcile(START)

    def active(self) -> list[str]:
        return sorted(alert.labels["alertname"] for alert in self.receiver.active())


@pytest.fixture
async def plane(tmp_path: Path) -> AsyncIterator[Plane]:
    async with open_store(tmp_path) as (store, clock):
        fence = Fence()
        fence.set(await store.claim(LEASE_NAME, "test", 1e9))
        yield Plane(store, clock, fence, FakeAlertmanager(clock.now))


async def test_an_alert_is_told_of_while_it_fires_and_ended_with_what_was_done(
    plane: Plane,
) -> None:
    alert = await plane.becomes("Firing")
    assert await plane.tell() == 60.0
    [posted] = plane.receiver.posts
    assert posted.labels == {"alertname": "Down", SOURCE_LABEL: "ours"}
    assert posted.starts_at == alert.status.fired_at
    assert posted.generator_url == f"http://plane/api/v1/alerts/{alert.metadata.name}"
    await plane.clock.advance(30)
    assert await plane.tell() == 30.0
    assert len(plane.receiver.posts) == 1
    await plane.clock.advance(30)
    await plane.tell()
    assert len(plane.receiver.posts) == 2
    current = await plane.store.get(Alert, alert.metadata.name)
    await plane.write(current.with_status(closing="restarted fraud-0"))
    await plane.becomes("Resolved")
    assert await plane.tell() is None
    assert plane.active() == []
    assert plane.receiver.posts[-1].annotations == {CLOSING_ANNOTATION: "restarted fraud-0"}
    await plane.tell()
    assert len(plane.receiver.posts) == 3


async def test_what_was_done_is_told_when_it_is_known_only_afterwards(plane: Plane) -> None:
    await plane.becomes("Firing")
    await plane.tell()
    ended = await plane.becomes("Resolved")
    await plane.tell()
    current = await plane.store.get(Alert, ended.metadata.name)
    await plane.write(current.with_status(closing="rolled back"))
    await plane.tell()
    assert plane.receiver.posts[-1].annotations == {CLOSING_ANNOTATION: "rolled back"}
    assert plane.active() == []


async def test_pending_alerts_and_those_from_an_alertmanager_are_not_told_of(plane: Plane) -> None:
    await plane.becomes("Pending")
    await plane.becomes("Firing", "Theirs", "alertmanager")
    assert await plane.tell() is None
    assert plane.receiver.posts == []


async def test_an_end_that_could_not_be_told_is_told_after_a_restart(plane: Plane) -> None:
    await plane.becomes("Firing")
    await plane.tell()
    plane.receiver.is_away = True
    await plane.becomes("Resolved")
    with pytest.raises(TransientError):
        await plane.tell()
    plane.restart()
    plane.receiver.is_away = False
    assert plane.active() == ["Down"]
    await plane.tell()
    assert plane.active() == []


async def test_without_modelplane_an_alert_ends_by_itself(plane: Plane) -> None:
    await plane.becomes("Firing")
    await plane.tell()
    await plane.clock.advance(5 * 60)
    assert plane.active() == []


async def test_that_it_was_told_is_stored_at_the_beginning_and_the_end_alone(plane: Plane) -> None:
    alert = await plane.becomes("Firing")
    for _ in range(10):
        await plane.tell()
        await plane.clock.advance(60)
    await plane.becomes("Resolved")
    await plane.tell()
    records = await plane.store.audit(kind="Alert", name=alert.metadata.name)
    assert [r.action for r in records] == ["test", "tell", "test", "tell"]


@pytest.mark.parametrize("seed", range(20))
async def test_whatever_dies_in_between_no_alert_hangs_there(plane: Plane, seed: int) -> None:
    """Alerts come and go; Alertmanager and modelplane do too, at any moment."""
    chance = random.Random(seed)
    names = ("A", "B", "C")
    phases: dict[str, AlertPhase] = dict.fromkeys(names, "Resolved")
    for _ in range(40):
        name = chance.choice(names)
        phases[name] = "Resolved" if phases[name] == "Firing" else "Firing"
        await plane.becomes(phases[name], name)
        await plane.clock.advance(chance.choice((1, 30, 400)))
        plane.receiver.is_away = chance.random() < 0.4
        lease = plane.fence.lease
        if chance.random() < 0.3:  # it dies after the post, before that is written down
            plane.receiver.post = _then_lose(plane, plane.receiver)  # type: ignore[method-assign]
        try:
            await plane.tell()
        except Exception:
            plane.restart()
        plane.receiver.__dict__.pop("post", None)
        plane.fence.set(lease)
    plane.receiver.is_away = False
    await plane.tell()
    stored, _ = await plane.store.list(Alert)
    firing = sorted(alert.spec.alert for alert in stored if alert.status.phase == "Firing")
    assert plane.active() == firing


def _then_lose(plane: Plane, receiver: FakeAlertmanager) -> Any:
    async def post(alerts: Any) -> None:
        await FakeAlertmanager.post(receiver, alerts)
        plane.fence.set(None)

    return post


# Silences ----------------------------------------------------------------------------------------


async def silence(plane: Plane, name: str = "night") -> Silence:
    spec = SilenceSpec.model_validate(
        {
            "matchers": ['alertname="Down"'],
            "ends_at": plane.clock.now() + timedelta(hours=1),
            "created_by": "ada",
            "comment": "we know",
        }
    )
    made: Silence = await plane.write(Silence(metadata=Metadata(name=name), spec=spec))
    return made


async def test_a_silence_made_here_is_there_once_and_ends_with_its_resource(plane: Plane) -> None:
    made = await silence(plane)
    await plane.bring_together()
    await plane.bring_together()
    plane.restart()
    await plane.bring_together()
    [there] = await plane.receiver.silences()
    stored = await plane.store.get(Silence, "night")
    assert stored.status.alertmanager_id == there.id
    assert there.created_by == f"ada via modelplane 0123456789ab/{made.metadata.uid}"
    transaction = Transaction(SOMEBODY)
    transaction.delete(stored)
    await plane.store.commit(transaction)
    plane.restart()
    await plane.bring_together()
    assert await plane.receiver.silences() == []


async def _refuse(matchers: object, **spec: object) -> str:
    raise TerminalError("Alertmanager refuses the silence: start time must be before end time")


async def test_one_that_is_refused_there_says_so_here(plane: Plane) -> None:
    await silence(plane)
    plane.receiver.silence = _refuse  # type: ignore[method-assign]
    await plane.bring_together()
    stored = await plane.store.get(Silence, "night")
    assert "refuses the silence" in stored.status.message


async def test_a_silence_made_there_is_here_and_deleting_it_here_ends_it_there(
    plane: Plane,
) -> None:
    until = plane.clock.now() + timedelta(hours=1)
    matchers = SilenceSpec.model_validate(
        {"matchers": ['alertname="Down"'], "ends_at": until, "comment": "c"}
    ).matchers
    await plane.receiver.silence(
        matchers, starts_at=plane.clock.now(), ends_at=until, created_by="bob", comment="theirs"
    )
    await plane.bring_together()
    [taken], _ = await plane.store.list(Silence)
    assert (taken.spec.created_by, taken.spec.comment) == ("bob", "theirs")
    await plane.bring_together()
    transaction = Transaction(SOMEBODY)
    transaction.delete(taken)
    await plane.store.commit(transaction)
    await plane.bring_together()
    assert await plane.receiver.silences() == []
    assert (await plane.store.list(Silence))[0] == []
