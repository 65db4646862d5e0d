"""What model servers say of themselves arrives with the telemetry and disturbs nothing."""

from __future__ import annotations

from typing import Any

import pytest

from modelplane.ports.servers import Readiness, Scrape
from modelplane.resources.replica import Replica
from modelplane.resources.telemetry import ScrapedMetrics
from tests.agent.test_gateways import start
from tests.agent.test_replicas import make_ready, status
from tests.agent.world import World

pytestmark = pytest.mark.slow


def scraped(world: World) -> list[ScrapedMetrics]:
    return [scrape for batch in world.control_plane.batches for scrape in batch.scraped]


async def serve(world: World, **runtime: Any) -> Replica:
    """A gateway, and one replica with that runtime."""
    await start(world)
    return await make_ready(world, revision=world.revision(**runtime))


async def test_each_scrape_is_sent_once(world: World) -> None:
    await serve(world, metrics_endpoint="/metrics")
    began = world.clock.now()
    await world.settle(47)  # the telemetry may take the third one a second later
    revision = world.revision(metrics_endpoint="/metrics")
    found = scraped(world)
    assert len(found) == 3, "every 15 s"
    assert {(one.deployment, one.replica, one.revision) for one in found} == {
        ("fraud", "fraud-a-0", revision.short)
    }
    assert found[0].samples == {"rows_total": 7.0}
    assert [one.error for one in found] == ["", "", ""]
    assert began < found[0].at < found[1].at
    (socket, path), *_ = world.servers.scrapes
    assert path == "/metrics"
    (spec,) = (one for one in world.machine.started if one.name.startswith("replica-"))
    assert str(socket) == spec.command[1]


async def test_only_ready_replicas_with_an_endpoint_are_scraped(world: World) -> None:
    await serve(world)
    world.put_replica("fraud-b-0", revision=world.revision("2.0.0", metrics_endpoint="/m"))
    world.servers.default_readiness = Readiness.NOT_READY
    await world.settle(32)
    assert world.servers.scrapes == []
    world.servers.default_readiness = Readiness.READY
    await world.until(lambda: bool(scraped(world)))
    assert {one.replica for one in scraped(world)} == {"fraud-b-0"}


@pytest.mark.parametrize(
    ("told", "error"),
    [
        (Scrape(error="GET /metrics was answered 404"), "GET /metrics was answered 404"),
        (RuntimeError("a surprise"), "the scrape failed: RuntimeError"),
        (Scrape({"nothing": float("nan")}), "the scrape failed: ValidationError"),
    ],
)
async def test_a_failing_scrape_is_told_and_disturbs_nothing(
    world: World, told: Scrape | Exception, error: str
) -> None:
    world.servers.told = told
    replica = await serve(world, metrics_endpoint="/metrics")
    before = len(world.control_plane.batches)
    await world.until(lambda: bool(scraped(world)))
    assert (scraped(world)[0].samples, scraped(world)[0].error) == ({}, error)
    world.servers.told = Scrape({"rows_total": 8.0})
    await world.until(lambda: scraped(world)[-1].error == "")
    assert status(world, replica).phase == "Ready"
    assert len(world.control_plane.batches) >= before + 15, "the counts go on"
