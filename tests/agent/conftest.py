"""The world that each test of the agent plays in."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from tests.agent.world import World
from tests.ports import free_port


@pytest.fixture
async def world(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[World]:
    made = World(tmp_path, port=free_port())
    monkeypatch.setattr(asyncio, "to_thread", made.to_thread)
    yield made
    await made.close()
