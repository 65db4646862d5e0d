"""The agent comes back, goes on alone, and stops what it should."""

from __future__ import annotations

from modelplane.resources.replica import Replica
from tests.agent.test_gateways import start, two_revisions
from tests.agent.world import World


def phase(world: World, replica: Replica) -> str:
    return world.control_plane.read(replica).status.phase


async def everything(world: World) -> Replica:
    """A gateway, a ready replica and a running job."""
    await start(world)
    replica = world.put_replica(name="r0")
    world.put_job()
    await world.until(lambda: phase(world, replica) == "Ready" and len(world.running()) == 3)
    return replica


async def test_killed_it_leaves_all_running_and_takes_all_back(world: World) -> None:
    replica = await everything(world)
    running = world.running()
    await world.kill_agent()
    await world.settle(5)
    assert world.running() == running
    world.start_agent()
    await world.settle(5)
    assert world.running() == running
    assert len(world.machine.started) == 3
    assert phase(world, replica) == "Ready"
    phases = [s.phase for kind, _, s in world.control_plane.statuses if kind == "Replica"]
    assert "NotReady" not in phases


async def test_asked_to_stop_it_stops_everything_gateways_first(world: World) -> None:
    replica = await everything(world)
    await world.stop_agent()
    assert world.running() == []
    assert world.gateway.draining
    order = [name.partition("-")[0] for name, _ in world.machine.signals]
    assert order[0] == "gateway"
    assert phase(world, replica) == "Ready", "it was stopped with the node, not by its spec"


async def test_after_a_stop_the_next_agent_starts_all_again(world: World) -> None:
    replica = await everything(world)
    address = world.control_plane.read(replica).status.address
    await world.stop_agent()
    world.start_agent()
    await world.until(lambda: len(world.running("replica-")) == 1)
    await world.until(lambda: phase(world, replica) == "Ready")
    assert world.control_plane.read(replica).status.address == address


async def test_it_can_leave_everything_to_the_next_agent(world: World) -> None:
    await everything(world)
    running = world.running()
    await world.stop_agent(leave_running=True)
    assert world.running() == running
    assert not world.gateway.draining


async def test_without_a_control_plane_it_restarts_what_dies(world: World) -> None:
    replica = await everything(world)
    world.control_plane.set_away(True)
    (name,) = world.running("replica-")
    world.machine.end(name, -11)
    await world.until(lambda: world.running("replica-") == [name], within_s=5)
    world.control_plane.set_away(False)
    await world.until(lambda: world.control_plane.read(replica).status.restarts == 1)
    assert phase(world, replica) == "Ready"


async def test_killed_while_the_control_plane_is_away_it_serves_on(world: World) -> None:
    await everything(world)
    world.control_plane.set_away(True)
    await world.kill_agent()
    world.machine.entries.clear()  # the machine went down, too
    world.start_agent()
    await world.until(lambda: len(world.running("replica-")) == 1)
    await world.until(lambda: len(world.running("gateway-")) == 1)
    assert world.gateway.served["fraud"].stable.version == "1.0.0"


async def test_an_expired_watch_lists_again_and_misses_nothing(world: World) -> None:
    split = await start(world)
    stable, candidate = two_revisions(world)
    world.control_plane.set_away(True)
    await world.settle(1)
    world.put_split((stable, 90), (candidate, 10))
    gone = world.put_replica(name="gone")
    world.control_plane.remove(gone)
    world.control_plane.expire_log()
    world.control_plane.set_away(False)
    await world.until(lambda: world.control_plane.read(split).status.accepted_generation == 2)
    assert world.running("replica-") == []


async def test_what_belongs_to_nobody_any_more_is_stopped(world: World) -> None:
    replica = await everything(world)
    await world.kill_agent()
    (world.places.agent_dir / "cache.jsonl").unlink()
    world.control_plane.remove(replica)
    for resource in list(world.control_plane.resources.values()):
        world.control_plane.remove(resource)
    world.start_agent()
    await world.until(lambda: world.running() == [])


async def test_statuses_wait_for_the_control_plane_and_the_last_counts(world: World) -> None:
    replica = await everything(world)
    reported = len(world.control_plane.statuses)
    world.control_plane.set_away(True)
    (name,) = world.running("replica-")
    for _ in range(3):
        world.machine.end(name, 1)
        await world.until(lambda: world.running("replica-") == [name], within_s=5)
        await world.settle(2)
    world.control_plane.set_away(False)
    await world.until(lambda: world.control_plane.read(replica).status.restarts == 3)
    new = [s for kind, _, s in world.control_plane.statuses[reported:] if kind == "Replica"]
    assert len(new) == 1, "what was overtaken is not sent"
