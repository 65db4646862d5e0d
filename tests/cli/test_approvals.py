"""``approve``, ``reject`` and ``approvals …`` as people type them."""

from __future__ import annotations

import json
from datetime import timedelta
from typing import Any

import httpx
import pytest

from modelplane.client import Client
from modelplane.errors import Conflict, Forbidden
from modelplane.resources.approval import Approval, ApprovalDecision, Delegation
from modelplane.resources.gate_run import Measurement, StageOutcome, StageResult, StageResultSpec
from modelplane.resources.meta import Metadata
from tests.cli.conftest import Run
from tests.cli.fakes import NOW, FakeClient
from tests.decisions.approval_samples import asked, delegation

OPEN = asked().with_spec(requested_at=NOW, expires_at=NOW + timedelta(days=7))
CLOSED = OPEN.with_(metadata=Metadata(name="fraud-0.risk", environment="production")).with_status(
    phase="Rejected", message="rejected by ben: no data"
)


class Answering(FakeClient):
    """Takes answers, and remembers them in `asked`."""

    def _answer(self, name: str, place: str, verb: str, reason: str) -> Approval:
        self.asked.append((verb, name, place, reason))
        said = ApprovalDecision(subject="ana", decision="approve", reason=reason, at=NOW)
        phase: Any = "Approved" if verb == "approve" else "Rejected"
        return self.get(Approval, name, place).with_status(
            phase=phase, message=f"{verb} by ana", decisions=(said,)
        )

    def approve(self, name: str, environment: str = "production", *, reason: str = "") -> Approval:
        return self._answer(name, environment, "approve", reason)

    def reject(self, name: str, environment: str = "production", *, reason: str) -> Approval:
        return self._answer(name, environment, "reject", reason)

    def my_approvals(self) -> tuple[Approval, ...]:
        return (OPEN,)

    def delegate(self, to: str, until: str, *, policies: Any = (), reason: str = "") -> Delegation:
        self.asked.append(("delegate", to, until, tuple(policies), reason))
        return delegation("ana", to, policies=tuple(policies))

    def revoke_delegation(self, name: str) -> Delegation:
        self.asked.append(("revoke", name))
        return delegation("ana", "dan")


@pytest.fixture
def client() -> FakeClient:
    outcome = StageOutcome(
        passed=True,
        message="better",
        measurements=(
            Measurement(name="accuracy", value=0.95, champion=0.93),
            Measurement(name="accuracy", value=0.5, slice="region=x"),
        ),
    )
    spec = StageResultSpec(
        key="k", inputs={}, check="accuracy", stage="quality", model="fraud", version="2.0.0",
        outcome=outcome, run="p-1", duration_s=1.0,
    )  # fmt: skip
    result = StageResult(metadata=Metadata(name="r1"), spec=spec)
    return Answering(OPEN, CLOSED, result)


def test_approvals_alone_lists_what_is_open(run: Run) -> None:
    for words in (("approvals",), ("approvals", "list"), ("approvals", "-o", "text")):
        result = run(*words)
        assert result.exit_code == 0, result.output
        assert "fraud-1.risk" in result.output
        assert "fraud-0.risk" not in result.output
        assert "0/1" in result.output


def test_all_mine_and_places(run: Run) -> None:
    assert "fraud-0.risk" in run("approvals", "--all").output
    assert "fraud-1.risk" not in run("approvals", "--all", "-e", "production").output
    mine = json.loads(run("approvals", "--mine", "-o", "json").stdout)
    assert [item["metadata"]["name"] for item in mine["items"]] == ["fraud-1.risk"]
    nothing = run("approvals", "--mine", "-e", "production")
    assert "nothing waits for you" in nothing.output


def test_show_puts_the_evidence_beside_the_question(run: Run) -> None:
    result = run("approvals", "show", "fraud-1.risk", "-e", "staging")
    assert result.exit_code == 0, result.output
    for text in ("group leads", "author", "requester", "accuracy=0.95 (champion 0.93)", "better"):
        assert text in result.output
    assert "0.5" not in result.output.replace("0.95", "")
    data = json.loads(
        run("approvals", "show", "fraud-1.risk", "-e", "staging", "-o", "json").stdout
    )
    assert data["approval"]["spec"]["policy"] == "risk"
    assert [r["spec"]["stage"] for r in data["results"]] == ["quality"]
    assert run("approvals", "show", "none").exit_code == 4


def test_answers(run: Run, client: FakeClient) -> None:
    done = run("approve", "fraud-1.risk", "-e", "staging", "--reason", "worth it")
    assert "approval/fraud-1.risk Approved" in done.output
    assert "Rejected" in run("reject", "fraud-0.risk", "--reason", "no").output
    assert client.asked == [
        ("approve", "fraud-1.risk", "staging", "worth it"),
        ("reject", "fraud-0.risk", "production", "no"),
    ]
    assert run("reject", "fraud-1.risk").exit_code == 2


def test_delegating(run: Run, client: FakeClient) -> None:
    made = run("approvals", "delegate", "--to", "dan", "--until", "2d", "--policy", "risk")
    assert made.exit_code == 0, made.output
    assert "dan answers for ana until 2026-03-03 12:00Z: risk" in made.output
    assert "modelplane approvals revoke d" in made.output
    assert "no longer" in run("approvals", "revoke", "d").output
    assert client.asked == [("delegate", "dan", "2d", ("risk",), ""), ("revoke", "d")]
    assert run("approvals", "delegate", "--to", "dan").exit_code == 2


def test_delegations_are_listed(run: Run, client: FakeClient) -> None:
    one = delegation("ana", "dan")
    client.resources[one.key] = one
    result = run("approvals", "delegations")
    assert result.exit_code == 0, result.output
    assert "dan" in result.output


def test_the_client_sends_what_the_api_takes() -> None:
    """The real client's requests, and how it reads answers."""
    seen: list[tuple[str, str, Any]] = []

    def serve(request: httpx.Request) -> httpx.Response:
        body = json.loads(request.content) if request.content else None
        seen.append((request.method, request.url.raw_path.decode(), body))
        if request.url.path.endswith(":mine"):
            return httpx.Response(200, json={"items": [OPEN.to_dict()]})
        if "/delegations" in request.url.path:
            return httpx.Response(201, json=delegation("ana", "dan").to_dict())
        if request.url.path.endswith(":reject"):
            problem = {"code": "forbidden", "detail": "no", "status": 403}
            return httpx.Response(403, json=problem)
        return httpx.Response(200, json=OPEN.to_dict())

    transport = httpx.MockTransport(serve)
    with Client("http://127.0.0.1:7080", "t", transport=transport) as client:
        assert client.approve("fraud-1.risk", "staging", reason="x") == OPEN
        with pytest.raises(Forbidden):
            client.reject("fraud-1.risk", reason="x")
        assert client.my_approvals() == (OPEN,)
        assert client.delegate("dan", "2d", policies=["risk"]).spec.delegate == "dan"
        client.revoke_delegation("d")
    assert seen == [
        ("POST", "/api/v1/approvals/fraud-1.risk:approve?environment=staging", {"reason": "x"}),
        ("POST", "/api/v1/approvals/fraud-1.risk:reject?environment=production", {"reason": "x"}),
        ("GET", "/api/v1/approvals:mine", None),
        (
            "POST",
            "/api/v1/delegations",
            {"to": "dan", "until": "2d", "policies": ["risk"], "reason": ""},
        ),
        ("POST", "/api/v1/delegations/d:revoke", {}),
    ]


def test_a_refusal_is_told_in_words(run: Run, client: FakeClient) -> None:
    client.play("Approval", Conflict("fraud-1.risk is Void already"))
    result = run("approve", "fraud-1.risk")
    assert result.exit_code == 5
    assert "is Void already" in result.output
