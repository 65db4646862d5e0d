"""Approvals over HTTP: answers, delegations, one-time links, and what is told of them."""

from __future__ import annotations

import asyncio
import html
import re
from collections.abc import AsyncIterator
from typing import Any

import httpx
import pytest
import pytest_asyncio

from modelplane.api.approval_page import HEADERS
from modelplane.api.identity import make_token
from modelplane.decisions.approval_links import Link, make_link, seal_link
from modelplane.decisions.approvals import ask_approvals
from modelplane.ports.store import Transaction
from modelplane.resources.approval import Approval
from modelplane.resources.gate_run import (
    Measurement,
    StageOutcome,
    StageResult,
    StageResultSpec,
)
from modelplane.resources.meta import Metadata, Subject
from modelplane.resources.notification import Notification
from modelplane.resources.role import RoleBinding, RoleBindingSpec
from modelplane.resources.token import Token
from tests.api.world import ADMIN, READER, World, make_world
from tests.decisions.approval_samples import petition, policy

KEY = b"a key of this control plane"
NAME = "fraud-1.risk"
SYSTEM = Subject(name="system:test", groups=("admin",))
TOKENS = {
    "ana": ("leads",),
    "ben": ("leads",),
    "author": ("leads",),
    "requester": ("leads",),
    "dan": ("deputies",),
    "outsider": ("visitors",),
}
HOSTILE = '<script>alert("x")</script>'


@pytest_asyncio.fixture
async def world() -> AsyncIterator[World]:
    async with make_world(link_key=KEY) as made:
        transaction = Transaction(SYSTEM)
        for name, groups in TOKENS.items():
            transaction.create(make_token(name, groups, f"secret-of-{name}"))
        binding = RoleBindingSpec(role="approver", groups=("leads", "deputies"))
        transaction.create(RoleBinding(metadata=Metadata(name="approvers"), spec=binding))
        transaction.create(policy())
        await made.store.commit(transaction)
        yield made


async def ask(world: World, **spec: Any) -> Approval:
    """Ask for one approval, as a promotion would."""
    about = petition()
    state = ask_approvals(about, [policy(**spec)], [], now=world.clock.now())
    transaction = Transaction(SYSTEM)
    transaction.create(state.create[0])
    (written,) = await world.store.commit(transaction)
    assert isinstance(written, Approval)
    return written


async def answer(
    world: World, who: str, verb: str = "approve", reason: str = "because", **body: Any
) -> httpx.Response:
    return await world.call(
        "POST",
        f"/approvals/{NAME}:{verb}",
        {"reason": reason, **body},
        token=f"secret-of-{who}",
        environment="staging",
    )


async def approval(world: World) -> Approval:
    return await world.store.get(Approval, NAME, "staging")


# -- answers ----------------------------------------------------------------------------------


async def test_an_answer_closes_the_question_and_is_audited(world: World) -> None:
    await ask(world)
    response = await answer(world, "ana", reason="worth it")
    assert response.status_code == 200
    assert response.json()["status"]["phase"] == "Approved"
    record = (await world.store.audit(last=1))[0]
    assert (record.subject, record.action, record.reason) == ("ana", "approval.approve", "worth it")
    assert (record.kind, record.environment, record.name) == ("Approval", "staging", NAME)
    again = await answer(world, "ben")
    assert (again.status_code, again.json()["code"]) == (409, "conflict")


@pytest.mark.parametrize(
    ("who", "verb", "reason", "status", "says"),
    [
        ("author", "approve", "x", 403, "made fraud 2.0.0"),
        ("requester", "reject", "x", 403, "asked for promotion"),
        ("dan", "approve", "x", 403, "policy risk names group leads"),
        ("outsider", "approve", "x", 403, "rule default-deny"),
        ("reader", "approve", "x", 403, "rule default-deny"),
        ("admin", "approve", "x", 403, "policy risk names group leads"),
        ("ana", "reject", "", 422, "needs a reason"),
        ("ana", "reject", "   ", 422, "needs a reason"),
        ("ana", "approve", "x" * 10_000, 422, "too long"),
        ("ana", "postpone", "x", 404, "no action"),
    ],
)
async def test_answers_that_do_not_count_change_nothing(
    world: World, who: str, verb: str, reason: str, status: int, says: str
) -> None:
    await ask(world)
    before = await world.store.audit()
    response = await answer(world, who, verb, reason)
    assert response.status_code == status, response.text
    assert says in response.text
    assert (await approval(world)).status.decisions == ()
    assert await world.store.audit() == before


async def test_other_fields_and_unknown_approvals_are_refused(world: World) -> None:
    await ask(world)
    assert (await answer(world, "ana", force=True)).status_code == 422
    missing = await world.call("POST", "/approvals/none:approve", {}, token="secret-of-ana")
    assert missing.status_code == 404


async def test_two_of_a_quorum_may_answer_at_the_same_time(world: World) -> None:
    await ask(world, quorum=2)
    both = await asyncio.gather(answer(world, "ana"), answer(world, "ben"), answer(world, "ana"))
    assert sorted(response.status_code for response in both) == [200, 200, 409]
    closed = await approval(world)
    assert closed.status.phase == "Approved"
    assert sorted(d.subject for d in closed.status.decisions) == ["ana", "ben"]


async def test_channels_hear_of_the_outcome(world: World) -> None:
    hook = {"webhook": {"url": "http://127.0.0.1:9/in"}}
    await world.ok("PUT", "/notification-channels/team", {"spec": hook})
    await ask(world, quorum=2)
    await answer(world, "ana")
    assert (await world.store.list(Notification))[0] == []
    await answer(world, "ben", "reject", "no data")
    ((told,), _) = await world.store.list(Notification)
    assert told.spec.event.type == "approval.rejected"
    assert told.spec.event.data["message"] == "rejected by ben: no data"
    answers = told.spec.event.data["answers"]
    assert [(a["subject"], a["decision"]) for a in answers] == [
        ("ana", "approve"), ("ben", "reject"),
    ]  # fmt: skip


async def test_who_asks_sees_what_waits_for_them(world: World) -> None:
    await ask(world)
    waiting = {}
    for who in TOKENS:
        response = await world.call("GET", "/approvals:mine", token=f"secret-of-{who}")
        waiting[who] = len(response.json().get("items", ()))
    assert waiting == {
        "ana": 1, "ben": 1, "author": 0, "requester": 0, "dan": 0, "outsider": 0,
    }  # fmt: skip
    await world.ok("DELETE", "/role-bindings/approvers")
    without_role = await world.call("GET", "/approvals:mine", token="secret-of-ana")
    assert without_role.status_code == 403
    binding = {"role": "approver", "groups": ["leads"], "environments": ["production"]}
    await world.ok("PUT", "/role-bindings/elsewhere", {"spec": binding})
    elsewhere = await world.call("GET", "/approvals:mine", token="secret-of-ana")
    assert elsewhere.json()["items"] == []
    binding["environments"] = ["staging"]
    await world.ok("PUT", "/role-bindings/here", {"spec": binding})
    here = await world.call("GET", "/approvals:mine", token="secret-of-ana")
    assert len(here.json()["items"]) == 1
    await answer(world, "ana")
    listed = await world.call("GET", "/approvals:mine", token="secret-of-ben")
    assert listed.json()["items"] == []


# -- delegations ------------------------------------------------------------------------------


async def delegate(world: World, who: str, **body: Any) -> httpx.Response:
    given = {"to": "dan", "until": "2d", **body}
    return await world.call("POST", "/delegations", given, token=f"secret-of-{who}")


async def test_an_approver_delegates_and_takes_it_back(world: World) -> None:
    await ask(world)
    made = await delegate(world, "ana")
    assert made.status_code == 201, made.text
    assert made.json()["spec"]["delegator"] == "ana"
    longer = await delegate(world, "ana", until="3d")
    assert longer.json()["metadata"]["name"] == made.json()["metadata"]["name"]
    assert len((await world.ok("GET", "/delegations"))["items"]) == 1
    path = f"/delegations/{made.json()['metadata']['name']}:revoke"
    assert (await world.call("POST", path, {}, token="secret-of-ben")).status_code == 403
    assert (await answer(world, "dan")).status_code == 200
    said = (await approval(world)).status.decisions[0]
    assert (said.subject, said.on_behalf_of) == ("dan", "ana")
    assert (await world.call("POST", path, {}, token="secret-of-ana")).status_code == 200
    assert (await world.ok("GET", "/delegations"))["items"] == []


async def test_a_delegation_ends_by_itself(world: World) -> None:
    await ask(world)
    await delegate(world, "ana")
    world.clock.step(2 * 86400)
    assert (await answer(world, "dan")).status_code == 403


async def test_an_admin_ends_delegations_of_others(world: World) -> None:
    name = (await delegate(world, "ana")).json()["metadata"]["name"]
    assert (await world.call("POST", f"/delegations/{name}:revoke", {})).status_code == 200


@pytest.mark.parametrize(
    ("who", "body", "status", "path"),
    [
        ("ana", {"to": "ana"}, 422, "to"),
        ("ana", {"to": "nobody"}, 422, "to"),
        ("ana", {"to": ""}, 422, "to"),
        ("ana", {"to": "../admin"}, 422, "to"),
        ("ana", {"until": ""}, 422, "until"),
        ("ana", {"until": "soon"}, 422, "until"),
        ("ana", {"until": "2020-01-01T00:00:00Z"}, 422, "until"),
        ("ana", {"until": "2030-01-01T00:00:00Z"}, 422, "until"),
        ("ana", {"until": "2026-12-24T18:00:00"}, 422, "until"),
        ("ana", {"policies": ["none"]}, 422, "policies[0]"),
        ("ana", {"policies": [7]}, 422, "spec.policies[0]"),
        ("ana", {"reason": "x" * 2001}, 422, "reason"),
        ("ana", {"forever": True}, 422, "forever"),
        ("dan", {"to": "ben"}, 403, None),
        ("outsider", {}, 403, None),
    ],
)
async def test_delegations_that_are_not_valid_are_refused(
    world: World, who: str, body: Any, status: int, path: str | None
) -> None:
    response = await delegate(world, who, **body)
    assert response.status_code == status, response.text
    if path is not None:
        assert path in [fault["path"] for fault in response.json()["fields"]]
    assert (await world.ok("GET", "/delegations"))["items"] == []


# -- one-time links ---------------------------------------------------------------------------


def token_for(asked: Approval, subject: str = "ana", notification: str = "n-1") -> str:
    return seal_link(make_link(asked, subject, notification), KEY)


async def look(world: World, token: str) -> httpx.Response:
    return await world.http.get(f"/approvals/links/{token}")


async def click(
    world: World, token: str, decision: str = "approve", reason: str = "fine"
) -> httpx.Response:
    form = {"decision": decision, "reason": reason}
    return await world.http.post(f"/approvals/links/{token}", data=form)


async def test_looking_at_a_link_changes_nothing(world: World) -> None:
    asked = await ask(world)
    before = await world.store.audit()
    for _ in range(3):
        page = await look(world, token_for(asked))
        assert page.status_code == 200
    assert "Approve fraud 2.0.0 for staging?" in page.text
    assert await world.store.audit() == before
    head = await world.http.head(f"/approvals/links/{token_for(asked)}")
    assert head.status_code == 405


async def test_a_link_answers_once_as_its_subject(world: World) -> None:
    asked = await ask(world)
    token = token_for(asked)
    done = await click(world, token, reason="worth it")
    assert done.status_code == 200
    assert "approved by ana" in done.text
    said = (await approval(world)).status.decisions[0]
    assert (said.subject, said.reason) == ("ana", "worth it")
    assert said.link == make_link(asked, "ana", "n-1").id
    record = (await world.store.audit(last=1))[0]
    assert (record.subject, record.action) == ("ana", "approval.approve")
    assert token not in record.to_dict().__repr__()
    for used in (await click(world, token, "reject"), await look(world, token)):
        assert used.status_code == 409
        assert "answers once" in used.text
    assert len((await approval(world)).status.decisions) == 1


async def test_a_link_rejects_with_a_reason(world: World) -> None:
    asked = await ask(world)
    assert (await click(world, token_for(asked), "reject", "")).status_code == 422
    assert (await click(world, token_for(asked), "reject", "x" * 10_000)).status_code == 422
    assert (await click(world, token_for(asked), "postpone")).status_code == 422
    assert (await approval(world)).status.decisions == ()
    assert (await click(world, token_for(asked), "reject", "no data")).status_code == 200
    assert (await approval(world)).status.phase == "Rejected"


async def test_a_forged_or_altered_link_is_refused(world: World) -> None:
    asked = await ask(world)
    token = token_for(asked)
    text, seal = token.split(".")
    others = [
        seal_link(make_link(asked, "ana", "n-1"), b"another key"),
        f"{text}.{seal[:-2]}AA",
        f"{text[:-2]}AA.{seal}",
        text,
        "x",
        "%00",
        "a" * 5000,
    ]
    for forged in others:
        for response in (await look(world, forged), await click(world, forged)):
            assert response.status_code == 403, forged
            assert "not one of ours" in response.text
    assert (await approval(world)).status.decisions == ()


async def test_a_link_ends_with_the_question(world: World) -> None:
    asked = await ask(world)
    world.clock.step(7 * 86400)
    for response in (
        await look(world, token_for(asked)),
        await click(world, token_for(asked)),
    ):
        assert response.status_code == 410


async def test_a_void_question_is_not_answered(world: World) -> None:
    asked = await ask(world)
    transaction = Transaction(SYSTEM)
    transaction.update(asked.with_status(phase="Void", message="the evidence has changed"))
    await world.store.commit(transaction)
    for response in (
        await look(world, token_for(asked)),
        await click(world, token_for(asked)),
    ):
        assert response.status_code == 409
        assert "the evidence has changed" in response.text


@pytest.mark.parametrize(
    "who", ["author", "requester", "dan", "outsider", "nobody", "admin", "x y"]
)
async def test_a_link_gives_no_right_that_its_subject_lacks(world: World, who: str) -> None:
    asked = await ask(world)
    assert (await click(world, token_for(asked, who))).status_code == 403
    assert (await approval(world)).status.decisions == ()


async def test_with_the_token_the_links_of_its_subject_end(world: World) -> None:
    asked = await ask(world)
    token = await world.store.get(Token, "ana")
    transaction = Transaction(SYSTEM)
    transaction.delete(token)
    await world.store.commit(transaction)
    assert (await look(world, token_for(asked))).status_code == 403
    assert (await click(world, token_for(asked))).status_code == 403


async def test_without_a_key_there_are_no_links() -> None:
    async with make_world() as bare:
        asked = await ask(bare)
        token = seal_link(make_link(asked, "ana", "n-1"), b"")
        assert (await look(bare, token)).status_code == 403


async def test_the_page_shows_the_evidence_and_escapes_everything(world: World) -> None:
    asked = await ask(world)
    outcome = StageOutcome(
        passed=True,
        message=HOSTILE,
        measurements=(Measurement(name="accuracy", value=0.95, champion=0.93),),
    )
    result = StageResult(
        metadata=Metadata(name="r1"),
        spec=StageResultSpec(
            key="k", inputs={}, check="accuracy", stage=HOSTILE, model="fraud", version="2.0.0",
            outcome=outcome, run="p-1", duration_s=1.0,
        ),
    )  # fmt: skip
    hostile = asked.with_spec(author=HOSTILE, team=HOSTILE, requester=f"{HOSTILE}'\"")
    transaction = Transaction(SYSTEM)
    transaction.create(result)
    transaction.update(hostile)
    await world.store.commit(transaction)
    page = await look(world, token_for(asked))
    assert page.status_code == 200
    assert "<script" not in page.text
    assert html.escape(HOSTILE) in page.text
    assert "accuracy 0.95 (champion 0.93)" in page.text
    assert page.headers["content-type"] == "text/html; charset=utf-8"
    for name, value in HEADERS.items():
        assert page.headers[name] == value
    policy_of_page = page.headers["content-security-policy"]
    assert "default-src 'none'" in policy_of_page
    assert "unsafe" not in policy_of_page
    assert not re.search(r"\son\w+=|style=|src=|href=", page.text)


async def test_an_odd_form_makes_no_error_of_ours(world: World) -> None:
    asked = await ask(world)
    path = f"/approvals/links/{token_for(asked)}"
    for body in (b"", b"\xff\xfe", b"decision=%ff", b"&" * 1000, b"a=b&" * 1000, b"{}"):
        response = await world.http.post(path, content=body)
        assert response.status_code == 422, body
    assert (await world.http.post(path, content=b"x" * 100_000)).status_code == 413
    assert (await approval(world)).status.decisions == ()


def test_a_link_says_nothing_but_what_it_must() -> None:
    assert set(Link.model_fields) == {
        "id", "environment", "name", "uid", "revision", "evidence", "subject", "expires",
    }  # fmt: skip


# -- notifications ----------------------------------------------------------------------------


async def test_a_channel_is_tried_out_and_dead_letters_are_replayed(world: World) -> None:
    hook = {"webhook": {"url": "http://127.0.0.1:9/in"}, "events": ["gate.failed"]}
    await world.ok("PUT", "/notification-channels/team", {"spec": hook})
    sent = await world.ok("POST", "/notification-channels/team:test", {})
    name = sent["metadata"]["name"]
    assert sent["spec"]["event"]["type"] == "channel.test"
    early = await world.call("POST", f"/notifications/{name}:replay", {})
    assert early.status_code == 409
    transaction = Transaction(SYSTEM)
    stored = await world.store.get(Notification, name)
    transaction.update(stored.with_status(phase="Dead", attempts=5))
    await world.store.commit(transaction)
    again = await world.ok("POST", f"/notifications/{name}:replay", {})
    assert again["status"] == {"phase": "Pending", "attempts": 0, "message": ""}
    assert again["spec"] == sent["spec"]


@pytest.mark.parametrize("token", [READER, "secret-of-ana"])
async def test_who_may_not_sends_nothing(world: World, token: str) -> None:
    for path in ("/notification-channels/team:test", "/notifications/n:replay"):
        assert (await world.call("POST", path, {}, token=token)).status_code == 403


async def test_unknown_actions_and_names_are_answered(world: World) -> None:
    for path in (
        "/notification-channels/none:test",
        "/notifications/none:replay",
        "/notifications/none:delete",
        "/notification-channels/none:send",
        "/delegations/none:revoke",
    ):
        assert (await world.call("POST", path, {}, token=ADMIN)).status_code == 404
