"""A replica that is asked to restart does so once, whatever dies meanwhile."""

from __future__ import annotations

from dataclasses import replace

from modelplane.ports.processes import ProcessSpec
from modelplane.ports.servers import Readiness
from modelplane.resources.replica import Replica
from tests.agent.test_replicas import make_ready, status
from tests.agent.world import World


def ask(world: World, replica: Replica, wish: str) -> None:
    now = world.control_plane.read(replica)
    world.control_plane.put(now.with_spec(restart=wish))


async def obeyed(world: World, replica: Replica, wish: str) -> None:
    await world.until(
        lambda: (status(world, replica).restarted, status(world, replica).phase) == (wish, "Ready")
    )


async def test_it_ends_and_starts_again_once(world: World) -> None:
    replica = await make_ready(world)
    pid = status(world, replica).pid
    ask(world, replica, "repair-1.restart")
    await obeyed(world, replica, "repair-1.restart")
    await world.settle(30)
    assert len(world.machine.started) == 2
    assert status(world, replica).pid != pid
    assert status(world, replica).restarts == 1
    phases = [s.phase for kind, _, s in world.control_plane.statuses if kind == "Replica"]
    assert "NotReady" in phases, "the gateway is told before the server ends"


async def test_the_same_wish_again_changes_nothing_and_another_one_does(world: World) -> None:
    replica = await make_ready(world)
    ask(world, replica, "repair-1.restart")
    await obeyed(world, replica, "repair-1.restart")
    ask(world, replica, "repair-1.restart")
    await world.settle(30)
    assert len(world.machine.started) == 2
    ask(world, replica, "repair-2.restart")
    await obeyed(world, replica, "repair-2.restart")
    assert len(world.machine.started) == 3


async def test_one_that_failed_for_good_is_tried_again(world: World) -> None:
    def fail(spec: ProcessSpec) -> int:
        return 3

    world.machine.behave = fail
    world.servers.default_readiness = Readiness.NO_ANSWER
    replica = world.put_replica()
    world.start_agent()
    await world.until(lambda: status(world, replica).phase == "Failed")
    started = len(world.machine.started)
    world.machine.behave = lambda spec: None
    world.servers.default_readiness = Readiness.READY
    ask(world, replica, "repair-1.restart")
    await obeyed(world, replica, "repair-1.restart")
    assert len(world.machine.started) == started + 1


async def test_one_that_hangs_is_ended(world: World) -> None:
    replica = await make_ready(world)
    world.servers.default_readiness = Readiness.NO_ANSWER
    await world.until(lambda: status(world, replica).phase == "NotReady")
    world.servers.default_readiness = Readiness.READY
    ask(world, replica, "repair-1.restart")
    await obeyed(world, replica, "repair-1.restart")
    assert len(world.machine.started) == 2


async def test_an_agent_that_dies_before_it_reports_does_not_restart_twice(world: World) -> None:
    replica = await make_ready(world)
    await world.kill_agent()
    ask(world, replica, "repair-1.restart")
    # It was obeyed: the process knows, the status does not.
    entry = world.machine.entries[world.machine.started[-1].name]
    labels = {**entry.process.labels, "restart": "repair-1.restart"}
    entry.process = replace(entry.process, labels=labels)
    world.start_agent()
    await obeyed(world, replica, "repair-1.restart")
    assert len(world.machine.started) == 1
