"""ca: the authorities as people see them."""

from __future__ import annotations

import json
from datetime import UTC, datetime

import pytest

from modelplane.errors import Conflict
from modelplane.resources.certificates import AuthoritiesStatus, AuthorityStatus
from tests.cli.conftest import Run
from tests.cli.fakes import FakeClient

AT = datetime(2025, 3, 1, 12, tzinfo=UTC)
STANDING = AuthoritiesStatus(
    trust_domain="modelplane-1234abcd",
    certificate_life_s=3600,
    authorities=(
        AuthorityStatus(
            number=1, phase="signing", since=AT, until=AT.replace(minute=5), fingerprint="ab" * 32
        ),
        AuthorityStatus(
            number=2,
            phase="joining",
            since=AT,
            until=AT.replace(minute=5),
            fingerprint="cd" * 32,
        ),
    ),
)


def test_the_authorities_are_shown(
    run: Run, client: FakeClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(client, "authorities", lambda: STANDING)
    result = run("ca", "status")
    lines = result.stdout.splitlines()
    assert lines[0].split() == ["AUTHORITY", "PHASE", "SINCE", "UNTIL", "FINGERPRINT"]
    assert [line.split()[:2] for line in lines[1:]] == [["1", "signing"], ["2", "joining"]]
    assert "certificates live for 1h" in result.stderr
    told = json.loads(run("ca", "status", "-o", "json").stdout)
    assert told["authorities"][1]["fingerprint"] == "cd" * 32


def test_without_mutual_tls_there_is_none(
    run: Run, client: FakeClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    nothing = AuthoritiesStatus(certificate_life_s=3600)
    monkeypatch.setattr(client, "authorities", lambda: nothing)
    assert "there is no authority yet" in run("ca", "status").stdout


def test_a_handover_is_begun_once(
    run: Run, client: FakeClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    reasons: list[str] = []

    def rotate(*, reason: str = "") -> AuthoritiesStatus:
        if reasons:
            raise Conflict("authority 2 is joining already", hint="rotate again once it signs")
        reasons.append(reason)
        return STANDING

    monkeypatch.setattr(client, "rotate_authority", rotate)
    assert run("ca", "rotate", "--reason", "yearly").exit_code == 0
    assert reasons == ["yearly"]
    again = run("ca", "rotate")
    assert again.exit_code == Conflict.exit_code
    assert "joining already" in again.stderr
