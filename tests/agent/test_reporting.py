"""What the agent reports arrives, whatever becomes of the rest."""

from __future__ import annotations

import asyncio
from typing import Any

from modelplane.adapters.clock import SystemClock
from modelplane.agent.reporting import Reporter
from modelplane.errors import InvalidResource
from modelplane.resources.job import Job, JobSpec, JobStatus
from modelplane.resources.meta import Metadata


class Refusing:
    """A control plane that never takes the status of one job."""

    def __init__(self) -> None:
        self.taken: list[str] = []

    async def put_status(self, resource: Any) -> Any:
        if resource.metadata.name == "bad":
            raise InvalidResource("the body is not valid")
        self.taken.append(resource.metadata.name)
        return resource


async def test_one_status_that_is_refused_holds_up_no_other() -> None:
    plane = Refusing()
    reporter = Reporter(plane, SystemClock())  # type: ignore[arg-type]
    for name in ("bad", "first", "second"):
        metadata = Metadata(name=name, environment="staging")
        reporter.report(Job(metadata=metadata, spec=JobSpec(command=("true",))), JobStatus())
    running = asyncio.create_task(reporter.run())
    try:
        async with asyncio.timeout(20):
            while len(plane.taken) < 2:  # noqa: ASYNC110
                await asyncio.sleep(0.01)
    finally:
        running.cancel()
    assert plane.taken == ["first", "second"]
