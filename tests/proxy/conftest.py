"""One Envoy for each module of end-to-end tests of the gateway."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest_asyncio

from tests.proxy.gateway import Gateway, gateway


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def running() -> AsyncIterator[Gateway]:
    """A gateway that runs, shared by the tests of a module; each uses deployments of its own."""
    async with gateway() as one:
        yield one
