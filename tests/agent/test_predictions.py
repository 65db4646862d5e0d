"""Predictions reach the control plane once, under the right name, or are counted."""

from __future__ import annotations

import tempfile
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from modelplane.agent.prediction_spool import Batch, Origin, Spool
from modelplane.agent.predictions import dropped_event, stamped
from modelplane.errors import Forbidden, InvalidResource, ModelplaneError, NotFound, TerminalError
from modelplane.resources.monitoring import PredictionLog
from modelplane.resources.replica import Replica
from modelplane.resources.revision import Artifact, RuntimeSpec, make_revision
from modelplane.testing.clock import ManualClock
from modelplane_runtime.prediction_events import DROPPED_TYPE, REQUEST_TYPE, RESPONSE_TYPE
from tests.agent.servers import FakePredictionLog
from tests.agent.test_replicas import make_ready
from tests.agent.world import World

LOG = PredictionLog(redact=("ssn",))
ORIGIN = Origin("production", "fraud", "1.0.0", "0a1b2c3d", "fraud-a-0")


def request(name: str, **more: Any) -> list[dict[str, Any]]:
    common = {"specversion": "1.0", "id": name, "source": "a server", **more}
    return [{**common, "type": REQUEST_TYPE}, {**common, "type": RESPONSE_TYPE}]


def socket(world: World, replica: Replica) -> Path:
    return Path(world.control_plane.read(replica).status.address.removeprefix("unix:"))


async def serve(world: World, **spec: Any) -> tuple[Replica, FakePredictionLog]:
    """A replica whose predictions are logged, and its log."""
    world.put_environment()
    replica = await make_ready(world, **{"predictions": LOG, **spec})
    logged = FakePredictionLog()
    world.servers.logged[socket(world, replica)] = logged
    return replica, logged


def events(world: World) -> list[dict[str, Any]]:
    return [event for batch in world.control_plane.prediction_batches for event in batch]


def arrived(world: World) -> list[str]:
    return [event["id"] for event in events(world) if event["type"] == REQUEST_TYPE]


def lost(world: World) -> int:
    return sum(e["data"]["rows"] for e in events(world) if e["type"] == DROPPED_TYPE)


# On the way -------------------------------------------------------------------------------------


async def test_predictions_arrive_once_in_their_order(world: World) -> None:
    _, logged = await serve(world)
    logged.requests += [request(f"r{n}") for n in range(7)]
    await world.settle(3)
    logged.requests += [request(f"r{n}") for n in range(7, 9)]
    await world.settle(3)
    assert arrived(world) == [f"r{n}" for n in range(9)]
    assert len(events(world)) == 18


async def test_whose_predictions_they_are_is_not_for_the_server_to_say(world: World) -> None:
    replica, logged = await serve(world)
    forged = {
        "namespace": "another", "inferenceservicename": "another", "modelversion": "9.9.9",
        "endpoint": "another", "surprise": 1, "rule": "rule-1f", "mirrored": "true",
    }  # fmt: skip
    logged.requests += [request("r0", **forged), [{"type": DROPPED_TYPE, "data": {"rows": 10**9}}]]
    await world.settle(3)
    assert len(events(world)) == 2
    for event in events(world):
        assert event["namespace"] == "production"
        assert event["inferenceservicename"] == "fraud"
        assert event["modelversion"] == "1.0.0"
        assert event["endpoint"] == replica.spec.revision.short
        assert event["source"] == "/environments/production/replicas/fraud-a-0"
        assert (event["rule"], event["mirrored"]) == ("rule-1f", "true")
        assert "surprise" not in event


async def test_what_a_server_lost_is_told(world: World) -> None:
    _, logged = await serve(world)
    logged.dropped = 12
    await world.settle(3)
    logged.dropped = 15
    await world.settle(3)
    assert lost(world) == 15


async def test_the_last_predictions_of_a_server_that_stops_arrive(world: World) -> None:
    replica, logged = await serve(world)
    await world.settle(2)
    logged.requests.append(request("last"))
    world.control_plane.put(world.control_plane.read(replica).with_spec(stopped=True))
    await world.settle(0.9)
    assert world.control_plane.read(replica).status.phase == "Stopped"
    await world.settle(3)
    assert arrived(world) == ["last"]


async def test_the_last_predictions_of_an_agent_that_stops_arrive_with_the_next(
    world: World,
) -> None:
    _, logged = await serve(world)
    await world.settle(2)
    logged.requests.append(request("last"))
    await world.stop_agent()
    world.servers.logged.clear()  # the server ended with the agent
    world.start_agent()
    await world.settle(3)
    assert arrived(world) == ["last"]


def refuse_only(
    world: World, monkeypatch: pytest.MonkeyPatch, name: str, error: ModelplaneError
) -> None:
    """Have the control plane refuse the batches that hold a request, and no others."""
    post = world.control_plane.post_predictions

    async def refuse(batch: bytes) -> None:
        if f'"{name}"'.encode() in batch:
            raise error
        await post(batch)

    monkeypatch.setattr(world.control_plane, "post_predictions", refuse)


# Trouble ----------------------------------------------------------------------------------------


async def test_without_control_plane_they_wait_and_survive_the_agent(world: World) -> None:
    _, logged = await serve(world)
    world.control_plane.set_away(True)
    for number in range(20):
        logged.requests.append(request(f"r{number}"))
        await world.settle(1)
    await world.kill_agent()
    logged.requests += [request("meanwhile")]
    world.start_agent()
    await world.settle(3)
    assert arrived(world) == []
    world.control_plane.set_away(False)
    await world.settle(5)
    # The new agent does not know what the old one fetched: the store knows it by its id.
    assert set(arrived(world)) == {*(f"r{n}" for n in range(20)), "meanwhile"}
    assert lost(world) == 0
    await world.settle(5)
    count = len(arrived(world))
    await world.settle(5)
    assert len(arrived(world)) == count


@pytest.mark.parametrize(
    ("error", "kept"), [(InvalidResource("no"), False), (Forbidden("not you"), True)]
)
async def test_what_is_refused_for_ever_holds_up_nothing(
    world: World, monkeypatch: pytest.MonkeyPatch, error: ModelplaneError, kept: bool
) -> None:
    _, logged = await serve(world)
    with monkeypatch.context() as context:
        refuse_only(world, context, "refused", error)
        logged.requests.append(request("refused"))
        await world.settle(3)
    logged.requests.append(request("after"))
    await world.settle(3)
    assert arrived(world) == (["refused", "after"] if kept else ["after"])
    await world.settle(3)
    assert lost(world) == (0 if kept else 1)


async def test_predictions_of_a_deployment_that_is_gone_are_no_loss(world: World) -> None:
    _, logged = await serve(world)
    world.control_plane.refuse_predictions = NotFound("there is no deployment")
    logged.requests.append(request("refused"))
    await world.settle(3)
    world.control_plane.refuse_predictions = None
    await world.settle(3)
    assert events(world) == []


async def test_a_loss_that_is_told_in_vain_is_not_told_for_ever(world: World) -> None:
    _, logged = await serve(world)
    logged.dropped = 5
    world.control_plane.refuse_predictions = InvalidResource("no")
    await world.settle(3)
    world.control_plane.refuse_predictions = None
    await world.settle(5)
    assert events(world) == []


@pytest.mark.parametrize(("fails_s", "kept"), [(20, True), (200, False)])
async def test_what_fails_over_there_is_tried_again_and_not_for_ever(
    world: World, monkeypatch: pytest.MonkeyPatch, fails_s: float, kept: bool
) -> None:
    _, logged = await serve(world)
    with monkeypatch.context() as context:
        refuse_only(world, context, "first", TerminalError("a surprise"))
        logged.requests.append(request("first"))
        await world.settle(fails_s)
    logged.requests.append(request("after"))
    await world.settle(10)
    assert (arrived(world), lost(world)) == ((["first", "after"], 0) if kept else (["after"], 1))


@pytest.mark.parametrize("trouble", [None, RuntimeError("a surprise")])
async def test_a_server_that_tells_nothing_disturbs_no_other(
    world: World, trouble: Exception | None
) -> None:
    _, logged = await serve(world)
    other = await make_ready(world, name="fraud-a-1", index=1, predictions=LOG)
    world.servers.logged[socket(world, other)] = trouble
    logged.requests.append(request("r0"))
    before = len(world.control_plane.batches)
    await world.settle(4)
    assert arrived(world) == ["r0"]
    assert len(world.control_plane.batches) >= before + 3, "the counts go on"


async def test_a_disk_that_is_full_loses_nothing_that_the_server_still_has(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    _, logged = await serve(world)

    def refuse(spool: Spool, batch: Batch) -> None:
        raise OSError("no space left on device")

    with monkeypatch.context() as context:
        context.setattr(Spool, "put", refuse)
        logged.requests.append(request("r0"))
        logged.dropped = 2
        await world.settle(5)
    assert arrived(world) == []
    await world.settle(5)
    assert (arrived(world), lost(world)) == (["r0"], 2)


# What is asked for ------------------------------------------------------------------------------


async def test_a_change_reaches_the_server_with_the_next_question(world: World) -> None:
    replica, _ = await serve(world)
    await world.settle(2)
    assert world.servers.log_questions[-1] == (socket(world, replica), LOG)
    changed = PredictionLog(sampling=5)
    world.control_plane.put(world.control_plane.read(replica).with_spec(predictions=changed))
    await world.settle(2)
    assert world.servers.log_questions[-1] == (socket(world, replica), changed)


async def test_taking_it_away_is_told_once_and_again_to_a_new_process(world: World) -> None:
    replica, _ = await serve(world)
    await world.settle(2)
    world.control_plane.put(world.control_plane.read(replica).with_spec(predictions=None))
    world.servers.log_questions.clear()
    await world.settle(5)
    assert world.servers.log_questions == [(socket(world, replica), None)]
    world.machine.end(f"replica-{socket(world, replica).stem}", 1)
    await world.settle(10)
    assert world.servers.log_questions == [(socket(world, replica), None)] * 2


async def test_a_server_of_another_make_is_not_asked(world: World) -> None:
    foreign = make_revision(
        "fraud",
        "2.0.0",
        Artifact(format="command", digest=world.artifact().digest, command=("serve", "{socket}")),
        RuntimeSpec(),
    )
    await serve(world, revision=foreign)
    await world.settle(3)
    assert world.servers.log_questions == []


# The spool --------------------------------------------------------------------------------------


@pytest.fixture
def folder() -> Iterator[Path]:
    with tempfile.TemporaryDirectory() as name:
        yield Path(name) / "predictions"


def test_a_spool_is_taken_up_by_the_next_agent(folder: Path) -> None:
    first = Spool(folder)
    for number in range(3):
        first.put(Batch(ORIGIN, 1, b'["%d"]' % number))
    name, batch = first.oldest() or ("", None)
    assert batch == Batch(ORIGIN, 1, b'["0"]')
    first.remove(name)
    second = Spool(folder)
    second.put(Batch(ORIGIN, 1, b'["3"]'))
    bodies = []
    while (found := second.oldest()) is not None:
        bodies.append(found[1].body)
        second.remove(found[0])
    assert bodies == [b'["1"]', b'["2"]', b'["3"]']
    assert list(folder.iterdir()) == []


def test_a_batch_that_was_torn_is_skipped(folder: Path) -> None:
    spool = Spool(folder)
    spool.put(Batch(ORIGIN, 1, b"[1]"))
    spool.put(Batch(ORIGIN, 1, b"[2]"))
    next(iter(sorted(folder.iterdir()))).write_bytes(b'{"origin": ["prod')
    found = Spool(folder).oldest()
    assert found is not None
    assert found[1].body == b"[2]"


@given(
    acts=st.lists(
        st.one_of(
            st.tuples(st.just("put"), st.integers(1, 600)),
            st.tuples(st.sampled_from(["send", "restart"]), st.just(0)),
        ),
        max_size=40,
    )
)
def test_a_spool_stays_within_its_bound_and_counts_what_goes(acts: list[tuple[str, int]]) -> None:
    """Every row is sent, waits, or is counted as lost; the oldest go first."""
    bound = 1000
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        spool = Spool(folder, bound)
        put, sent, lost_rows = 0, list[int](), Counter[Origin]()
        for act, size in acts:
            if act == "put":
                put += 1
                spool.put(Batch(ORIGIN, 1, b"%d" % put + b" " * size))
            elif act == "restart":
                lost_rows.update(spool.take_lost())
                spool = Spool(folder, bound)
            elif (found := spool.oldest()) is not None:
                sent.append(int(found[1].body))
                spool.remove(found[0])
            assert sum(path.stat().st_size for path in folder.iterdir()) <= bound
        lost_rows.update(spool.take_lost())
        assert sent == sorted(sent)
        assert len(sent) + len(spool) + lost_rows[ORIGIN] == put


def test_what_is_being_sent_is_not_counted_as_lost(folder: Path) -> None:
    spool = Spool(folder, 1500)
    spool.put(Batch(ORIGIN, 1, b"1" * 400))
    name, _ = spool.oldest() or ("", None)
    spool.put(Batch(ORIGIN, 10, b"2" * 400))
    spool.put(Batch(ORIGIN, 100, b"3" * 700))
    assert spool.take_lost() == {ORIGIN: 10}
    spool.remove(name)
    assert spool.take_lost() == {}


def test_an_event_keeps_what_is_the_servers_to_say() -> None:
    told = {
        "id": "a", "type": RESPONSE_TYPE, "time": "2026-01-01T00:00:00Z", "rows": 3,
        "latencyus": 7, "keys": '["k"]', "rowparts": "[]", "data": {"outputs": []},
    }  # fmt: skip
    event = stamped(told, ORIGIN)
    assert {name: event[name] for name in told} == told
    assert dropped_event(ORIGIN, 3, ManualClock().now())["time"].endswith("Z")
