"""How commands are run in tests: in process, against a control plane in memory."""

from __future__ import annotations

from collections.abc import Callable
from datetime import timedelta

import pytest
from typer.testing import CliRunner, Result

from modelplane.cli.main import app
from modelplane.cli.session import Session
from tests.cli.fakes import NOW, FakeClient

Run = Callable[..., Result]


@pytest.fixture
def client() -> FakeClient:
    return FakeClient()


@pytest.fixture
def run(client: FakeClient, monkeypatch: pytest.MonkeyPatch) -> Run:
    """Return a function that runs a command line; time passes only while a command waits."""
    for name in ("MODELPLANE_STATE", "MODELPLANE_URL", "MODELPLANE_TOKEN", "MODELPLANE_CONFIG"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("COLUMNS", "80")
    now = [NOW]

    def sleep(seconds: float) -> None:
        now[0] += timedelta(seconds=seconds)

    def run_command(*words: str, input: str | None = None) -> Result:
        session = Session(connector=lambda url, state: client, now=lambda: now[0], sleep=sleep)
        return CliRunner().invoke(app, list(words), obj=session, input=input)

    return run_command
