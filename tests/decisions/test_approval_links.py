"""One-time links: what they say is sealed, and they answer one open question once."""

from __future__ import annotations

import base64
import json
from datetime import timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from modelplane.decisions.approval_answers import (
    Answer,
    Representation,
    answer_approval,
    expire,
    void,
)
from modelplane.decisions.approval_links import (
    LinkExpired,
    LinkForged,
    LinkUsed,
    check_link,
    make_link,
    open_link,
    seal_link,
)
from modelplane.resources.approval import Approval
from tests.decisions.approval_samples import ANA, NOW, asked, petition

KEY = b"a key of this control plane"
LINK = make_link(asked(), "ana", "n-1")
TOKEN = seal_link(LINK, KEY)


def answered(approval: Approval, link: str | None = None) -> Approval:
    given_ = Answer(ANA, "approve", "", NOW, link)
    return answer_approval(approval, given_, Representation())


def test_a_link_says_what_was_sealed() -> None:
    link = open_link(TOKEN, KEY, NOW)
    assert link == LINK
    assert (link.name, link.environment, link.subject) == ("fraud-1.risk", "staging", "ana")
    assert check_link(link, asked()) == asked()


def test_a_notification_that_is_sent_twice_carries_one_link() -> None:
    assert make_link(asked(), "ana", "n-1") == LINK
    assert make_link(asked(), "ana", "n-2").id != LINK.id
    assert make_link(asked(), "ben", "n-1").id != LINK.id


@given(place=st.integers(0, len(TOKEN) - 1), character=st.characters(codec="ascii"))
def test_no_altered_token_opens(place: int, character: str) -> None:
    altered = TOKEN[:place] + character + TOKEN[place + 1 :]
    if altered != TOKEN:
        with pytest.raises(LinkForged):
            open_link(altered, KEY, NOW)


@given(st.text(max_size=200))
def test_no_made_up_token_opens(token: str) -> None:
    with pytest.raises(LinkForged):
        open_link(token, KEY, NOW)


@pytest.mark.parametrize("key", [b"", b"another key"])
def test_the_key_decides(key: bytes) -> None:
    with pytest.raises(LinkForged):
        open_link(TOKEN, key, NOW)
    with pytest.raises(LinkForged):
        open_link(seal_link(LINK, b""), b"", NOW)


def test_another_payload_under_the_same_seal_is_forged() -> None:
    text, seal = TOKEN.split(".")
    said = json.loads(base64.urlsafe_b64decode(text + "=="))
    said["subject"] = "mallory"
    forged = base64.urlsafe_b64encode(json.dumps(said).encode()).decode().rstrip("=")
    with pytest.raises(LinkForged):
        open_link(f"{forged}.{seal}", KEY, NOW)
    with pytest.raises(LinkForged):
        open_link(TOKEN + "A" * 5000, KEY, NOW)


def test_a_link_ends_with_the_question() -> None:
    assert open_link(TOKEN, KEY, NOW + timedelta(days=7, seconds=-1)) == LINK
    with pytest.raises(LinkExpired) as expired:
        open_link(TOKEN, KEY, NOW + timedelta(days=7))
    assert expired.value.status == 410


def test_a_used_link_does_nothing() -> None:
    used = answered(asked(quorum=2), LINK.id)
    with pytest.raises(LinkUsed, match="answers once"):
        check_link(LINK, used)
    check_link(make_link(asked(), "ben", "n-2"), used)


def test_what_is_closed_gone_or_changed_is_not_answered() -> None:
    late = expire(asked(), NOW + timedelta(days=8))
    other_uid = asked(uid="uid-b")
    other_revision = asked(petition(version="3.0.0"))
    other_evidence = asked(petition(evidence="e2"))
    closed = (answered(asked()), void(asked(), "the evidence has changed", NOW), late)
    for approval in (*closed, None, other_uid, other_revision, other_evidence):
        with pytest.raises(LinkUsed) as refused:
            check_link(LINK, approval)
        assert refused.value.status == 409
