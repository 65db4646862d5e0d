"""A replica goes from Pending to Ready, is kept so, and leaves without losing a request."""

from __future__ import annotations

from typing import Any

import pytest

from modelplane.ports.processes import ProcessSpec
from modelplane.ports.servers import Prediction, PreparationFailed, Readiness
from modelplane.resources.replica import Replica, ReplicaStatus
from tests.agent.world import World


def status(world: World, replica: Replica) -> ReplicaStatus:
    return world.control_plane.read(replica).status


async def make_ready(world: World, **spec: Any) -> Replica:
    replica = world.put_replica(**spec)
    if world.agent is None:
        world.start_agent()
    await world.until(lambda: status(world, replica).phase == "Ready")
    return world.control_plane.read(replica)


async def test_a_replica_becomes_ready_with_an_address(world: World) -> None:
    replica = await make_ready(world)
    found = status(world, replica)
    (spec,) = world.machine.started
    assert found.address == f"unix:{spec.command[1]}"
    assert found.pid is not None
    assert found.ready_at is not None
    assert found.smoke == "skipped"
    phases = [s.phase for kind, _, s in world.control_plane.statuses if kind == "Replica"]
    assert phases[-1] == "Ready"
    assert set(phases) <= {"Preparing", "Starting", "Ready"}


async def test_the_smoke_prediction_comes_before_readiness(world: World) -> None:
    example: dict[str, Any] = {"inputs": []}
    replica = await make_ready(world, input_example=example)
    assert world.servers.predictions == [example]
    assert status(world, replica).smoke == "passed"


async def test_a_failed_smoke_prediction_fails_the_replica(world: World) -> None:
    world.servers.prediction = Prediction(False, "the answer was 500: KeyError")
    replica = world.put_replica(input_example={"inputs": []})
    world.start_agent()
    await world.until(lambda: status(world, replica).phase == "Failed")
    assert status(world, replica).reason == "SmokeFailed"
    assert "KeyError" in status(world, replica).message
    assert world.running("replica-") == []


async def test_three_exits_before_ready_fail_it_with_the_log(world: World) -> None:
    def behave(spec: ProcessSpec) -> int:
        world.machine.logs[spec.name] = "line\n" * 60 + "ValueError: no such column"
        return 1

    world.machine.behave = behave
    world.servers.default_readiness = Readiness.NO_ANSWER
    replica = world.put_replica()
    world.start_agent()
    await world.until(lambda: status(world, replica).phase == "Failed")
    found = status(world, replica)
    assert found.reason == "StartFailed"
    assert "ValueError: no such column" in found.message
    assert len(found.log_tail.splitlines()) == 40
    assert len(world.machine.started) == 3
    await world.settle(60)
    assert len(world.machine.started) == 3, "a failed replica stays failed"


@pytest.mark.parametrize(
    ("code", "log", "reason", "starts"),
    [
        (3, "It loads only where pickles are allowed", "PickleNotAllowed", 1),
        (
            3,
            "cannot load the model: m.pkl is not within the pickle allowlist: it imports os.system",
            "PickleNotAllowed",
            1,
        ),
        (3, "expected one .onnx file", "StartFailed", 1),
        (1, "MemoryError: Unable to allocate 8 GiB", "OutOfMemory", 3),
        (-9, "", "OutOfMemory", 3),
        (127, "serve: not found", "StartFailed", 1),
    ],
)
async def test_the_reason_says_why_it_did_not_start(
    world: World, code: int, log: str, reason: str, starts: int
) -> None:
    def behave(spec: ProcessSpec) -> int:
        world.machine.logs[spec.name] = log
        return code

    world.machine.behave = behave
    world.servers.default_readiness = Readiness.NO_ANSWER
    replica = world.put_replica()
    world.start_agent()
    await world.until(lambda: status(world, replica).phase == "Failed")
    assert status(world, replica).reason == reason
    assert len(world.machine.started) == starts


async def test_one_that_is_never_ready_fails_in_time(world: World) -> None:
    world.servers.default_readiness = Readiness.NOT_READY
    replica = world.put_replica(revision=world.revision(start_timeout_s=20.0))
    world.start_agent()
    await world.settle(18)
    assert status(world, replica).phase == "Starting"
    await world.until(lambda: status(world, replica).phase == "Failed", within_s=10)
    assert status(world, replica).reason == "NotReadyInTime"
    assert "20s" in status(world, replica).message
    assert world.running("replica-") == []


async def test_an_environment_that_cannot_be_built_fails_it(world: World) -> None:
    world.servers.preparation = lambda _: PreparationFailed("no such package", "ERROR: nosuch")
    replica = world.put_replica()
    world.start_agent()
    await world.until(lambda: status(world, replica).phase == "Failed")
    found = status(world, replica)
    assert (found.reason, found.log_tail) == ("EnvironmentFailed", "ERROR: nosuch")
    assert world.machine.started == []


async def test_a_missing_artifact_fails_it(world: World) -> None:
    replica = world.put_replica()
    world.control_plane.artifacts.clear()
    world.start_agent()
    await world.until(lambda: status(world, replica).phase == "Failed")
    assert status(world, replica).reason == "ArtifactMissing"


async def test_an_artifact_that_changed_on_disk_is_downloaded_again(world: World) -> None:
    replica = await make_ready(world)
    digest = replica.spec.revision.artifact.digest.removeprefix("sha256:")
    folder = world.places.agent_dir / "artifacts" / digest
    (folder / "model.onnx").write_bytes(b"other bytes")
    await make_ready(world, name="fraud-a-1", index=1)
    assert (folder / "model.onnx").read_bytes() == b"model"


@pytest.mark.slow
async def test_one_that_was_ready_is_restarted_for_ever(world: World) -> None:
    replica = await make_ready(world)
    (name,) = world.running("replica-")
    world.servers.default_readiness = Readiness.NO_ANSWER
    world.machine.behave = lambda _: 1
    address = status(world, replica).address
    world.machine.end(name, 1)
    await world.settle(120)
    starts = len(world.machine.started)
    assert 5 <= starts <= 14, "with a wait that grows"
    assert status(world, replica).phase == "NotReady"
    assert status(world, replica).address == address, "it comes back at the same address"
    world.machine.behave = lambda _: None
    world.servers.default_readiness = Readiness.READY
    await world.until(lambda: status(world, replica).phase == "Ready", within_s=40)
    assert status(world, replica).address == address
    assert status(world, replica).restarts >= 5


async def test_a_crash_is_repaired_at_once(world: World) -> None:
    replica = await make_ready(world)
    (name,) = world.running("replica-")
    world.machine.end(name, -11)
    await world.until(lambda: status(world, replica).restarts == 1, within_s=1)
    await world.until(lambda: status(world, replica).phase == "Ready", within_s=1)


@pytest.mark.slow
async def test_three_refusals_make_it_not_ready_one_answer_ready(world: World) -> None:
    replica = await make_ready(world)
    world.servers.default_readiness = Readiness.NOT_READY
    await world.settle(1.5)
    assert status(world, replica).phase == "Ready", "one refusal is not enough"
    await world.settle(3)
    assert status(world, replica).phase == "NotReady"
    assert len(world.machine.started) == 1, "it answers, so it is left alone"
    await world.settle(60)
    assert len(world.machine.started) == 1
    world.servers.default_readiness = Readiness.READY
    await world.until(lambda: status(world, replica).phase == "Ready", within_s=3)


@pytest.mark.slow
async def test_one_that_answers_nothing_is_started_again(world: World) -> None:
    replica = await make_ready(world)
    world.servers.default_readiness = Readiness.NO_ANSWER
    await world.until(lambda: len(world.machine.started) == 2, within_s=40)
    world.servers.default_readiness = Readiness.READY
    await world.until(lambda: status(world, replica).phase == "Ready", within_s=3)


async def test_it_stops_only_after_the_gateway_has_left_it(world: World) -> None:
    world.put_environment()
    replica = await make_ready(world, name="r0")
    revision = replica.spec.revision
    world.put_split((revision, 100))
    await world.until(lambda: "fraud" in world.gateway.served)
    world.gateway.active = {f"fraud.{revision.short}": 1}
    world.control_plane.put(world.control_plane.read(replica).with_spec(stopped=True))
    await world.settle(5)
    assert status(world, replica).phase == "Draining"
    assert len(world.running("replica-")) == 1, "the gateway still names it"
    world.put_split((world.revision("2.0.0"), 100), renamed="r9")
    await world.settle(5)
    assert len(world.running("replica-")) == 1, "a request is in flight"
    world.gateway.active = {}
    await world.until(lambda: status(world, replica).phase == "Stopped", within_s=3)
    assert world.running("replica-") == []
    assert (status(world, replica).pid, status(world, replica).address) == (None, "")


async def test_a_deleted_replica_stops(world: World) -> None:
    replica = await make_ready(world)
    world.control_plane.remove(replica)
    await world.until(lambda: world.running("replica-") == [], within_s=3)


async def test_one_of_the_same_name_is_another_one(world: World) -> None:
    replica = await make_ready(world)
    first_socket = status(world, replica).address
    world.control_plane.remove(replica)
    again = world.put_replica()
    await world.until(lambda: status(world, again).phase == "Ready")
    assert status(world, again).address != first_socket
    await world.until(lambda: len(world.running("replica-")) == 1)


async def test_replicas_of_other_nodes_are_not_ours(world: World) -> None:
    world.put_replica(node="elsewhere")
    world.start_agent()
    await world.settle(3)
    assert world.machine.started == []


async def test_stopping_while_it_prepares_starts_nothing(world: World) -> None:
    replica = world.put_replica()
    world.control_plane.set_away(True)
    world.start_agent()
    await world.settle(2)
    world.control_plane.put(world.control_plane.read(replica).with_spec(stopped=True))
    world.control_plane.set_away(False)
    await world.until(lambda: status(world, replica).phase == "Stopped")
    assert world.machine.started == []


async def test_sockets_are_short_and_differ(world: World) -> None:
    first = await make_ready(world)
    second = world.put_replica(name="fraud-a-1", index=1)
    await world.until(lambda: status(world, second).phase == "Ready")
    sockets = {status(world, r).address.rpartition("/")[2] for r in (first, second)}
    assert len(sockets) == 2
    assert all(len(name) == len("01234567.sock") for name in sockets)
