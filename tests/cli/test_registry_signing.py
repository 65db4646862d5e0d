"""``registry keygen``, ``sign`` and ``verify-signature``, against the real API."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from modelplane.cli.main import app
from modelplane.cli.session import Session
from modelplane.client import Client
from tests.api.world import ADMIN, make_world, serve

Run = Callable[..., Awaitable[Result]]


@pytest.fixture
async def run(tmp_path: Path) -> AsyncIterator[Run]:
    """Return a function that runs a command line on a machine without modelplane's own key."""
    async with make_world() as world, serve(world) as url:
        await world.push("fraud", "1.0.0")

        def connect(*_: object) -> Client:
            return Client(url, ADMIN, state=tmp_path / "elsewhere")

        async def run_command(*words: str) -> Result:
            session = Session(connector=connect)
            return await asyncio.to_thread(CliRunner().invoke, app, list(words), obj=session)

        yield run_command


async def test_from_a_key_to_a_verified_signature(run: Run, tmp_path: Path) -> None:
    key, public, other = tmp_path / "key.pem", tmp_path / "key.pub", tmp_path / "other.pem"

    made = await run("registry", "keygen", str(key), "-o", "json")
    assert made.exit_code == 0, made.output
    name = json.loads(made.stdout)["keyId"]
    assert (await run("registry", "keygen", str(other))).exit_code == 0
    again = await run("registry", "keygen", str(key))
    assert again.exit_code != 0
    assert "never replaced" in again.output

    verify = ("registry", "verify-signature", "fraud@1.0.0", "--key")
    unsigned = await run(*verify, str(public))
    assert (unsigned.exit_code, "no signature" in unsigned.output) == (8, True)
    signed = await run("registry", "sign", "fraud@1.0.0", "--key", str(key))
    assert signed.exit_code == 0, signed.output
    assert f"signed by {name[:12]}" in signed.output
    good = await run(*verify, str(public), "-o", "json")
    assert json.loads(good.stdout) == {"verified": True, "keyId": name, "message": ""}
    assert (await run(*verify, str(other.with_suffix(".pub")))).exit_code == 8
    assert (await run(*verify, str(other.with_suffix(".pub")), "--key", str(key))).exit_code == 0


async def test_without_a_key_it_says_what_to_do(run: Run) -> None:
    refused = await run("registry", "sign", "fraud@1.0.0")

    assert refused.exit_code != 0
    assert "name another with --key" in refused.output
