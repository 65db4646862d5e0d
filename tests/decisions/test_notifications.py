"""Which channels hear of an event, and when a message is given up."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from modelplane.decisions.notification_text import clean, describe_event
from modelplane.decisions.notifications import (
    GIVE_UP_AFTER,
    MAX_REFUSALS,
    Delivery,
    approval_event,
    backoff_s,
    decide_delivery,
    kept_until,
    make_notification,
    replay,
    wants,
)
from modelplane.errors import Conflict
from modelplane.resources.meta import Metadata
from modelplane.resources.notification import (
    Event,
    Notification,
    NotificationChannel,
    NotificationChannelSpec,
    NotificationStatus,
)
from tests.decisions.approval_samples import NOW, asked

HOOK = {"webhook": {"url": "https://hooks.example.org/in"}}


def channel(name: str = "team", *, uid: str = "uid-c", **spec: Any) -> NotificationChannel:
    return NotificationChannel(
        metadata=Metadata(name=name, uid=uid),
        spec=NotificationChannelSpec.model_validate({**HOOK, **spec}),
    )


def event(**fields: Any) -> Event:
    given_: dict[str, Any] = {
        "type": "promotion.done",
        "subject": "Promotion production/fraud-1",
        "environment": "production",
        "team": "риск",
        "at": NOW,
        **fields,
    }
    return Event(**given_)


@pytest.mark.parametrize(
    ("spec", "wanted"),
    [
        ({}, True),
        ({"events": ["promotion.done"]}, True),
        ({"events": ["gate.failed"]}, False),
        ({"teams": ["риск", "other"]}, True),
        ({"teams": ["other"]}, False),
        ({"environments": ["production"]}, True),
        ({"environments": ["staging"]}, False),
        ({"events": ["promotion.done"], "teams": ["other"]}, False),
    ],
)
def test_channels_choose_by_type_team_and_environment(spec: Any, wanted: bool) -> None:
    assert wants(channel(**spec), event()) is wanted


def test_an_event_without_a_team_or_environment_reaches_those_who_did_not_choose() -> None:
    plain = event(team="", environment=None)
    assert wants(channel(), plain)
    assert not wants(channel(teams=["риск"]), plain)
    assert not wants(channel(environments=["production"]), plain)


@pytest.mark.parametrize(
    "spec",
    [
        {"webhook": None},
        {"slack": {"url": "https://slack.example.org"}},
        {"webhook": {"url": "ftp://x"}},
        {"webhook": {"url": "https://user:secret@x.org"}},
        {"webhook": {"url": "https://"}},
        {"webhook": {"url": "https://x.org/\r\nHost: y"}},
        {"webhook": None, "slack": {}},
        {"webhook": None, "slack": {"url": "https://a.org", "url_secret": "b"}},
        {
            "webhook": None,
            "approver": "ana",
            "email": {"host": "h", "from": "a@b.c", "to": ["a@b.c", "d@e.f"]},
        },
    ],
)
def test_a_channel_is_exactly_one_receiver_without_secrets(spec: dict[str, Any]) -> None:
    given_ = {name: value for name, value in {**HOOK, **spec}.items() if value is not None}
    with pytest.raises(ValidationError):
        NotificationChannelSpec.model_validate(given_)


def test_a_notification_follows_from_channel_and_event() -> None:
    one = make_notification(channel(), event())
    assert make_notification(channel(), event()) == one
    others = [
        make_notification(channel("other"), event()),
        make_notification(channel(uid="uid-d"), event()),
        make_notification(channel(), event(at=NOW + timedelta(microseconds=1))),
        make_notification(channel(), event(data={"a": 1})),
    ]
    assert len({n.metadata.name for n in (one, *others)}) == 5
    assert len({n.spec.id for n in (one, *others)}) == 5


def test_what_arrived_is_done() -> None:
    status = decide_delivery(NotificationStatus(), Delivery("delivered", "1 of 2"), NOW)
    assert (status.phase, status.attempts, status.delivered_at) == ("Delivered", 1, NOW)
    assert status.message == ""


def test_what_is_away_is_tried_for_a_day_ever_less_often() -> None:
    status, now, waits = NotificationStatus(), NOW, []
    while status.phase == "Pending":
        status = decide_delivery(status, Delivery("unavailable", "no connection"), now)
        if status.next_at is not None:
            waits.append((status.next_at - now).total_seconds())
            now = status.next_at
    assert status.phase == "Dead"
    assert waits == sorted(waits)
    assert (waits[0], waits[-1]) == (1.0, 900.0)
    assert GIVE_UP_AFTER <= now - NOW < GIVE_UP_AFTER + timedelta(minutes=15)
    assert status.attempts == len(waits) + 1 < 120


def test_who_refuses_is_not_asked_for_long() -> None:
    status = NotificationStatus()
    for attempt in range(1, MAX_REFUSALS + 1):
        status = decide_delivery(status, Delivery("refused", "answered 404"), NOW)
        assert status.phase == ("Dead" if attempt == MAX_REFUSALS else "Pending")
    assert status.message == "answered 404"


def test_a_dead_letter_begins_anew_under_the_same_id() -> None:
    dead = make_notification(channel(), event()).with_status(
        phase="Dead", attempts=5, since=NOW, message="answered 404"
    )
    again = replay(dead)
    assert again.status == NotificationStatus()
    assert again.spec == dead.spec
    status = decide_delivery(again.status, Delivery("unavailable"), NOW + timedelta(days=9))
    assert (status.phase, status.attempts) == ("Pending", 1)
    with pytest.raises(Conflict):
        replay(again)


@given(
    outcomes=st.lists(
        st.tuples(
            st.sampled_from(["delivered", "unavailable", "refused"]), st.integers(0, 200_000)
        ),
        min_size=1,
        max_size=20,
    )
)
def test_every_attempt_ends_delivered_dead_or_with_a_time_to_try_again(
    outcomes: list[tuple[Any, int]],
) -> None:
    status, now = NotificationStatus(), NOW
    for outcome, seconds in outcomes:
        now += timedelta(seconds=seconds)
        after = decide_delivery(status, Delivery(outcome, "x" * 1000), now)
        assert after.attempts == status.attempts + 1
        assert (after.phase == "Delivered") == (outcome == "delivered")
        assert (after.next_at is not None) == (after.phase == "Pending")
        assert after.next_at is None or after.next_at > now
        assert len(after.message) <= 300
        if after.phase != "Pending":
            return
        status = after


def test_finished_notifications_are_kept_for_a_while() -> None:
    one = make_notification(channel(), event())
    assert kept_until(one) is None
    delivered = one.with_status(phase="Delivered", delivered_at=NOW)
    assert kept_until(delivered) == NOW + timedelta(days=7)
    dead = one.with_status(phase="Dead")
    dead = dead.with_(metadata=dead.metadata.with_(updated_at=NOW))
    assert kept_until(dead) == NOW + timedelta(days=90)


@given(st.integers(1, 10_000))
def test_waits_are_bounded(attempts: int) -> None:
    assert 1.0 <= backoff_s(attempts) <= 900.0


def test_the_event_of_an_approval_tells_what_is_asked_and_no_secret() -> None:
    approval = asked()
    told = approval_event(approval, "approval.requested", NOW)
    assert told.subject == "Approval staging/fraud-1.risk"
    assert (told.data["model"], told.data["version"]) == ("fraud", "2.0.0")
    assert told.data["approvers"] == {"groups": ["leads"], "subjects": []}
    stored = Notification.model_validate(make_notification(channel(), told).to_dict())
    assert stored.spec.event.data == told.data
    wording = describe_event(told)
    assert wording.title == "Approval wanted: fraud 2.0.0 in staging"
    assert ("Requested by", "requester") in wording.facts


@given(st.text(max_size=2000))
def test_words_for_people_are_one_bounded_printable_line(text: str) -> None:
    shown = clean(text)
    assert len(shown) <= 500
    assert all(character.isprintable() for character in shown)
    told = describe_event(event(subject=text, data={"model": text, "message": text}))
    for line in (told.title, told.sentence, *(value for _, value in told.facts)):
        assert "\n" not in line
        assert "\r" not in line
