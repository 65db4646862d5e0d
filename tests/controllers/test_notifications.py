"""The outbox: what is written with a change arrives, however often who is in between dies."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from modelplane.adapters.notify.webhook import WebhookNotifier
from modelplane.adapters.store.sqlite import SqliteStore
from modelplane.controllers.loop import LEASE_NAME, Fence
from modelplane.controllers.notifications import LinkMaker, NotificationController
from modelplane.decisions.approval_links import open_link
from modelplane.decisions.notifications import Delivery, approval_event, replay
from modelplane.errors import Conflict
from modelplane.ports.notifier import Message
from modelplane.ports.outbox import add_notifications
from modelplane.ports.store import Transaction
from modelplane.resources.meta import Metadata, Subject
from modelplane.resources.model import Model
from modelplane.resources.notification import (
    Event,
    EventType,
    Notification,
    NotificationChannel,
    NotificationChannelSpec,
)
from modelplane.testing.clock import ManualClock
from modelplane.testing.notifier import FakeNotifier
from tests.controllers.stores import open_store
from tests.decisions.approval_samples import asked
from tests.receivers import http_receiver

ANA = Subject(name="ana", groups=("admin",))
KEY = b"a key of this control plane"
URL = "https://modelplane.example.org/"


class Post:
    """The sender on the real store, with a manual clock and a notifier in memory."""

    def __init__(self, store: SqliteStore, clock: ManualClock) -> None:
        self.store = store
        self.clock = clock
        self.fence = Fence()
        self.notifier = FakeNotifier()
        self.controller = self.make_controller(self.notifier)

    def make_controller(self, notifier: Any) -> NotificationController:
        return NotificationController(
            self.store,
            self.fence,
            self.clock,
            notifiers={"webhook": notifier, "slack": notifier, "email": notifier},
            links=LinkMaker(URL, KEY),
        )

    async def take_lease(self) -> None:
        self.fence.set(await self.store.claim(LEASE_NAME, "one", 40 * 86400))

    async def declare(self, name: str = "team", **spec: Any) -> None:
        given = {"webhook": {"url": "http://127.0.0.1:9/in"}, **spec}
        channel = NotificationChannel(
            metadata=Metadata(name=name), spec=NotificationChannelSpec.model_validate(given)
        )
        transaction = Transaction(ANA)
        transaction.create(channel)
        await self.store.commit(transaction)

    async def happen(self, **fields: Any) -> Event:
        """Change something, and tell of it in the same transaction."""
        subject = "Promotion production/fraud-1"
        event = Event(
            **{"type": "promotion.done", "subject": subject, "at": self.clock.now(), **fields}
        )
        transaction = Transaction(ANA)
        transaction.create(Model(metadata=Metadata(name=f"m-{self.store.newest_version()}")))
        await add_notifications(self.store, transaction, event)
        await self.store.commit(transaction)
        return event

    async def notifications(self) -> list[Notification]:
        return list((await self.store.list(Notification))[0])

    async def only(self) -> Notification:
        (notification,) = await self.notifications()
        return notification

    async def send(self) -> float | None:
        """Reconcile each notification once; return when the last one is due again."""
        after_s = None
        for notification in await self.notifications():
            after_s = await self.controller.reconcile(notification.key)
        return after_s


@asynccontextmanager
async def open_post(directory: Path) -> AsyncIterator[Post]:
    async with open_store(directory) as (store, clock):
        post = Post(store, clock)
        await post.take_lease()
        yield post


async def test_an_event_is_written_for_each_channel_that_wants_it_once(tmp_path: Path) -> None:
    async with open_post(tmp_path) as post:
        await post.declare("all")
        await post.declare("done", events=["promotion.done"])
        await post.declare("failed", events=["promotion.failed"])
        event = await post.happen()
        assert sorted(n.spec.channel for n in await post.notifications()) == ["all", "done"]
        transaction = Transaction(ANA)
        await add_notifications(post.store, transaction, event)
        assert not transaction
        other = event.with_(subject="Promotion production/fraud-2")
        await add_notifications(post.store, transaction, other)
        await add_notifications(post.store, transaction, other)
        await post.store.commit(transaction)
        assert len(await post.notifications()) == 4


async def test_with_the_change_the_message_is_lost_too(tmp_path: Path) -> None:
    async with open_post(tmp_path) as post:
        await post.declare()
        transaction = Transaction(ANA)
        transaction.create(Model(metadata=Metadata(name="fraud")))
        await post.store.commit(transaction)
        again = Transaction(ANA)
        again.create(Model(metadata=Metadata(name="fraud")))
        event = Event(type="gate.failed", subject="x", at=post.clock.now())
        await add_notifications(post.store, again, event)
        with pytest.raises(Conflict):
            await post.store.commit(again)
        assert await post.notifications() == []


async def test_what_is_sent_is_delivered_kept_a_week_and_removed(tmp_path: Path) -> None:
    async with open_post(tmp_path) as post:
        await post.declare()
        await post.happen(team="риск")
        await post.send()
        ((name, message),) = post.notifier.sent
        assert (name, message.source, message.link) == ("team", URL, None)
        assert message.event.team == "риск"
        assert (await post.only()).status.phase == "Delivered"
        assert await post.send() == pytest.approx(7 * 86400)
        assert post.notifier.attempts == 1
        post.clock.step(7 * 86400)
        await post.send()
        assert await post.notifications() == []


async def test_a_process_that_died_after_sending_sends_it_again_under_the_same_id(
    tmp_path: Path,
) -> None:
    async with open_post(tmp_path) as post:
        await post.declare()
        await post.happen()
        commit, post.store.commit = post.store.commit, _die  # type: ignore[method-assign]
        with pytest.raises(KeyboardInterrupt):
            await post.send()
        post.store.commit = commit  # type: ignore[method-assign]
        assert (await post.only()).status.attempts == 0
        post.controller = post.make_controller(post.notifier)
        await post.send()
        first, second = (message for _, message in post.notifier.sent)
        assert first == second
        assert (await post.only()).status.phase == "Delivered"


async def _die(transaction: Transaction) -> Any:
    raise KeyboardInterrupt


async def test_a_receiver_that_is_away_gets_it_when_it_is_back(tmp_path: Path) -> None:
    async with open_post(tmp_path) as post:
        await post.declare()
        await post.happen()
        post.notifier.trouble = Delivery("unavailable", "no connection")
        waits = []
        for _ in range(6):
            await post.send()
            wait_s = await post.send()  # too early: nothing is tried
            assert wait_s is not None
            waits.append(round(wait_s))
            post.clock.step(wait_s)
        assert waits == [1, 2, 4, 8, 16, 32]
        assert post.notifier.attempts == 6
        status = (await post.only()).status
        assert (status.phase, status.message) == ("Pending", "no connection")
        post.notifier.trouble = None
        await post.send()
        assert (await post.only()).status.phase == "Delivered"


async def test_dead_letters_are_replayed(tmp_path: Path) -> None:
    async with open_post(tmp_path) as post:
        await post.declare()
        await post.happen()
        post.notifier.trouble = Delivery("refused", "the receiver answered 404")
        for _ in range(5):
            await post.send()
            post.clock.step(900)
        dead = await post.only()
        assert dead.status.phase == "Dead"
        await post.send()
        assert post.notifier.attempts == 5
        transaction = Transaction(ANA)
        transaction.update(replay(dead), "replay")
        await post.store.commit(transaction)
        post.notifier.trouble = None
        await post.send()
        assert (await post.only()).status.phase == "Delivered"
        assert post.notifier.sent[0][1].id == dead.spec.id


async def test_a_channel_that_is_gone_or_a_sender_that_breaks_ends_nothing_else(
    tmp_path: Path,
) -> None:
    class Broken(FakeNotifier):
        async def send(self, channel: NotificationChannel, message: Message) -> Delivery:
            raise RuntimeError("https://hooks.example.org/secret")

    async with open_post(tmp_path) as post:
        await post.declare()
        await post.happen()
        post.controller = post.make_controller(Broken())
        await post.send()
        status = (await post.only()).status
        assert status.message == "the sender itself failed: RuntimeError"
        channel = await post.store.get(NotificationChannel, "team")
        transaction = Transaction(ANA)
        transaction.delete(channel)
        await post.store.commit(transaction)
        post.clock.step(2)
        await post.send()
        assert (await post.only()).status.message == "there is no channel 'team' any more"


async def test_without_the_lease_nothing_is_sent(tmp_path: Path) -> None:
    async with open_post(tmp_path) as post:
        await post.declare()
        await post.happen()
        post.fence.set(None)
        with pytest.raises(Conflict):
            await post.send()
        assert post.notifier.attempts == 0


async def test_a_receiver_that_hangs_holds_up_no_other(tmp_path: Path) -> None:
    class Hanging(FakeNotifier):
        async def send(self, channel: NotificationChannel, message: Message) -> Delivery:
            if channel.metadata.name == "slow":
                await released.wait()
            return await super().send(channel, message)

    released = asyncio.Event()
    async with open_post(tmp_path) as post:
        await post.declare("slow", events=["gate.failed"])
        await post.declare("quick", events=["gate.passed"])
        notifier = Hanging()
        post.controller = post.make_controller(notifier)
        for number in range(4):
            await post.happen(type="gate.failed", subject=str(number))
        await post.happen(type="gate.passed")
        keys = [n.key for n in await post.notifications() if n.spec.channel == "slow"]
        stuck = [asyncio.create_task(post.controller.reconcile(key)) for key in keys]
        done, _ = await asyncio.wait(stuck, timeout=1, return_when=asyncio.FIRST_COMPLETED)
        assert [task.result() for task in done] == [1.0] * len(done)
        await post.send()
        assert [name for name, _ in notifier.sent] == ["quick"]
        released.set()
        await asyncio.gather(*stuck)


async def test_links_are_in_requests_for_approval_and_nowhere_else(tmp_path: Path) -> None:
    async with open_post(tmp_path) as post:
        await post.declare("ana", approver="ana")
        await post.declare("everybody")
        approval = asked(uid="")
        transaction = Transaction(ANA)
        transaction.create(approval)
        events: tuple[EventType, ...] = ("approval.requested", "approval.void")
        for of_type in events:
            event = approval_event(approval, of_type, post.clock.now())
            await add_notifications(post.store, transaction, event)
        await post.store.commit(transaction)
        await post.send()
        links = {(name, m.event.type): m.link for name, m in post.notifier.sent}
        link = links.pop(("ana", "approval.requested"))
        assert link is not None
        assert set(links.values()) == {None}
        assert link.startswith("https://modelplane.example.org/approvals/links/")
        token = link.rpartition("/")[2]
        stored = approval.spec.requested_at + timedelta(days=1)
        assert open_link(token, KEY, stored).subject == "ana"
        kept = json.dumps([n.to_dict() for n in await post.notifications()])
        log = json.dumps([record.to_dict() for record in await post.store.audit()])
        for text in (kept, log):
            assert "links/" not in text
            assert token not in text
            assert token.partition(".")[2] not in text


async def test_no_link_is_sent_to_what_is_closed(tmp_path: Path) -> None:
    async with open_post(tmp_path) as post:
        await post.declare("ana", approver="ana")
        approval = asked(uid="").with_status(phase="Void")
        transaction = Transaction(ANA)
        transaction.create(approval)
        event = approval_event(approval, "approval.requested", post.clock.now())
        await add_notifications(post.store, transaction, event)
        await post.store.commit(transaction)
        await post.send()
        assert [message.link for _, message in post.notifier.sent] == [None]


async def test_a_real_receiver_that_was_down_gets_everything(tmp_path: Path) -> None:
    async with open_post(tmp_path) as post, http_receiver() as server:
        await post.declare(webhook={"url": server.url})
        notifier = WebhookNotifier(lambda name: None, post.clock)
        post.controller = post.make_controller(notifier)
        await server.stop()
        for number in range(3):
            await post.happen(subject=str(number))
        await post.send()
        assert {n.status.phase for n in await post.notifications()} == {"Pending"}
        await server.start()
        server.mood = "failing"
        post.clock.step(1)
        await post.send()
        server.mood = "well"
        post.clock.step(2)
        await post.send()
        assert {n.status.phase for n in await post.notifications()} == {"Delivered"}
        assert sorted(json.loads(body)["subject"] for _, body in server.received) == list("012")
        await post.controller.close()
