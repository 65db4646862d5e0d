"""A gateway does what the splits say, says so, and outlives the agent."""

from __future__ import annotations

import socket

from modelplane.decisions.routing import RoutePlan
from modelplane.resources.environment import GatewayJwt
from modelplane.resources.revision import Revision
from modelplane.resources.traffic_split import TrafficSplit
from tests.agent.world import World


def read(world: World, split: TrafficSplit) -> TrafficSplit:
    return world.control_plane.read(split)


def weights(world: World) -> list[int]:
    return [variant.weight for variant in world.gateway.served["fraud"].variants]


def two_revisions(world: World) -> tuple[Revision, Revision]:
    return world.revision("1.0.0"), world.revision("2.0.0")


async def start(world: World) -> TrafficSplit:
    """An agent whose gateway serves one revision."""
    world.put_environment()
    split = world.put_split((two_revisions(world)[0], 100))
    world.start_agent()
    await world.until(lambda: read(world, split).status.accepted_generation == 1)
    return read(world, split)


async def test_a_split_is_served_and_acknowledged(world: World) -> None:
    split = await start(world)
    assert weights(world) == [10_000]
    assert split.status.accepted_at is not None
    stable, candidate = two_revisions(world)
    world.put_split((stable, 75), (candidate, 25), rollout="ro-1", step=1)
    await world.until(lambda: read(world, split).status.accepted_generation == 2)
    assert weights(world) == [7500, 2500]
    assert world.gateway.served["fraud"].candidates[0].cluster == f"fraud.{candidate.short}"


async def test_a_refused_split_is_told_and_the_one_before_stays(world: World) -> None:
    split = await start(world)
    world.gateway.refuse = lambda plan: "no such cluster" if len(plan.variants) > 1 else None
    stable, candidate = two_revisions(world)
    world.put_split((stable, 75), (candidate, 25))
    await world.until(lambda: read(world, split).status.refused_generation == 2)
    status = read(world, split).status
    assert (status.accepted_generation, status.message) == (1, "no such cluster")
    assert weights(world) == [10_000]


async def test_a_split_that_no_gateway_can_do_is_refused(world: World) -> None:
    split = await start(world)
    stable, candidate = two_revisions(world)
    world.put_split((stable, 80), (candidate, 80))
    await world.until(lambda: read(world, split).status.refused_generation == 2)
    assert "160" in read(world, split).status.message
    assert weights(world) == [10_000]


async def test_a_deleted_split_is_withdrawn(world: World) -> None:
    split = await start(world)
    world.control_plane.remove(split)
    await world.until(lambda: "fraud" not in world.gateway.served)


async def test_a_status_that_was_lost_is_reported_again(world: World) -> None:
    split = await start(world)
    world.control_plane.put(split.with_status(accepted_generation=0, accepted_at=None))
    await world.until(lambda: read(world, split).status.accepted_generation == 1)


async def test_a_dead_proxy_is_started_at_once(world: World) -> None:
    await start(world)
    world.machine.end("gateway-production", -9)
    await world.settle(1)
    assert world.running("gateway-") == ["gateway-production"]
    starts = [spec for spec in world.machine.started if spec.name == "gateway-production"]
    assert len(starts) == 2


async def test_a_proxy_that_keeps_dying_is_not_started_in_a_loop(world: World) -> None:
    world.machine.behave = lambda spec: 1 if spec.name.startswith("gateway") else None
    world.put_environment()
    world.start_agent()
    await world.settle(60)
    assert 5 < len(world.machine.started) < 30


async def test_the_next_agent_takes_the_proxy_back_with_its_plans(world: World) -> None:
    split = await start(world)
    await world.kill_agent()
    assert world.running("gateway-") == ["gateway-production"]
    world.start_agent()
    await world.until(lambda: len(world.gateways) == 2)
    assert [plan.generation for plan in world.gateway.first_plans] == [split.metadata.generation]
    await world.settle(2)
    assert len(world.machine.started) == 1, "it was taken back, not started"


async def test_it_serves_without_a_control_plane(world: World) -> None:
    await start(world)
    await world.kill_agent()
    world.machine.entries.clear()
    world.control_plane.set_away(True)
    world.start_agent()
    await world.until(lambda: world.running("gateway-") == ["gateway-production"])
    assert weights(world) == [10_000]


async def test_a_refused_split_is_not_what_the_next_agent_begins_with(world: World) -> None:
    split = await start(world)
    world.gateway.refuse = lambda plan: "no" if plan.generation == 2 else None
    stable, candidate = two_revisions(world)
    world.put_split((stable, 75), (candidate, 25))
    await world.until(lambda: read(world, split).status.refused_generation == 2)
    await world.kill_agent()
    world.start_agent()
    await world.until(lambda: len(world.gateways) == 2)
    assert [plan.generation for plan in world.gateway.first_plans] == [1]


async def test_what_was_deleted_while_no_agent_ran_is_withdrawn(world: World) -> None:
    split = await start(world)
    await world.kill_agent()
    world.control_plane.remove(split)
    world.start_agent()
    await world.until(lambda: len(world.gateways) == 2 and "fraud" not in world.gateway.served)


async def test_another_port_restarts_the_gateway_gracefully(world: World) -> None:
    await start(world)
    first = world.gateway
    world.put_environment(port=world.port + 1 if world.port < 65535 else world.port - 1)
    await world.until(lambda: len(world.gateways) == 2 and len(world.machine.started) == 2)
    assert first.draining
    assert not first.serving
    assert weights(world) == [10_000]


async def test_a_port_that_changed_while_no_agent_ran_is_noticed(world: World) -> None:
    await start(world)
    await world.kill_agent()
    world.put_environment(port=world.port + 1 if world.port < 65535 else world.port - 1)
    world.start_agent()
    await world.until(lambda: len(world.machine.started) == 2)


async def test_tokens_that_were_declared_while_no_agent_ran_are_asked_for(world: World) -> None:
    await start(world)
    await world.kill_agent()
    # As if it had been killed between hearing of them and acting on it.
    (world.places.agent_dir / "cache.jsonl").unlink()
    jwt = GatewayJwt(issuer="https://issuer", jwks_file="/keys.json")
    environment = world.put_environment()
    gateway = environment.spec.gateway.with_(jwt=jwt)
    world.control_plane.put(environment.with_spec(gateway=gateway))
    world.start_agent()
    await world.until(lambda: len(world.machine.started) == 2)


async def test_a_port_in_use_is_a_fault_with_a_way_out(world: World) -> None:
    with socket.socket() as other:
        other.bind(("127.0.0.1", world.port))
        other.listen()
        world.put_environment()
        world.start_agent()
        await world.settle(2)
        assert world.agent is not None
        fault = world.agent.faults()["production"]
        assert f"127.0.0.1:{world.port}" in fault
        assert "--production-port" in fault
        assert world.machine.started == []
    await world.until(lambda: world.running("gateway-") == ["gateway-production"])
    assert world.agent.faults() == {}


async def test_a_deleted_environment_ends_its_gateway(world: World) -> None:
    environment = world.put_environment()
    world.start_agent()
    await world.until(lambda: world.running("gateway-") == ["gateway-production"])
    world.control_plane.remove(environment)
    await world.until(lambda: world.running() == [])


async def test_the_first_plans_come_before_configuration_is_served(world: World) -> None:
    seen: list[list[RoutePlan]] = []
    split = await start(world)
    await world.kill_agent()
    made = world._make_gateway

    def make(environment: object, plans: object) -> object:
        gateway = made(environment, plans)  # type: ignore[arg-type]
        start_serving = gateway.start

        async def spy() -> None:
            seen.append(list(gateway.published) or list(gateway.first_plans))
            await start_serving()

        gateway.start = spy  # type: ignore[method-assign]
        return gateway

    world._make_gateway = make  # type: ignore[method-assign,assignment]
    world.start_agent()
    await world.until(lambda: bool(seen))
    assert [plan.generation for plan in seen[0]] == [split.metadata.generation]
