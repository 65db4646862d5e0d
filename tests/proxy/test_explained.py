"""What `explain` says of a user is what the real gateway does with the user."""

from __future__ import annotations

import asyncio
import json
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import pytest

from modelplane.decisions.agent_routing import plan_route
from modelplane.ports.store import Transaction
from modelplane.resources.meta import Metadata
from modelplane.resources.traffic_split import (
    SplitEndpoint,
    SplitRule,
    SplitSegment,
    SplitVariant,
    TrafficSplit,
    TrafficSplitSpec,
)
from tests.api.world import ADMIN, SYSTEM, World, make_world
from tests.proxy.gateway import Gateway, gateway
from tests.proxy.upstream import Upstream

pytestmark = pytest.mark.slow

A, B, C = (letter * 64 for letter in "abc")
VERSIONS = {A: "1.0.0", B: "2.0.0", C: "3.0.0"}
REGIONS = ("west", "east", "", "West", "west ", None)
USERS = 10_000


def segments(*parts: tuple[str, int]) -> tuple[SplitSegment, ...]:
    return tuple(SplitSegment(revision=revision, width=width) for revision, width in parts)


def make_split(name: str, upstreams: Mapping[str, Upstream], **spec: Any) -> TrafficSplit:
    """Three versions; a rule by a header, one by the body, and everybody else."""
    variants = tuple(
        SplitVariant(
            revision=revision,
            version=version,
            role="stable" if revision == A else "candidate",
            weight_pct=0,
            endpoints=(SplitEndpoint(replica=version, address=upstreams[revision].address),),
        )
        for revision, version in VERSIONS.items()
    )
    rules = (
        SplitRule(
            name="rule-west",
            predicate="user.region == 'west' && !('x-beta' in request.headers)",
            salt="of west",
            segments=segments((B, 1500), (A, 6000), (C, 2500)),
        ),
        SplitRule(
            name="rule-rich",
            predicate="input.amount > 200 || user.plan in ['pro', 'team']",
            salt="s\\1",
            segments=segments((C, 500), (A, 4000), (C, 500), (A, 5000)),
        ),
        SplitRule(name="default", salt="d", segments=segments((B, 1000), (A, 8000), (C, 1000))),
    )
    fields = {"deployment": name, "variants": variants, "rules": rules, **spec}
    return TrafficSplit(
        metadata=Metadata(name=name, environment="production"), spec=TrafficSplitSpec(**fields)
    )


@dataclass(frozen=True)
class Sent:
    """One request of somebody, as both sides are asked about it."""

    user: str
    headers: Mapping[str, str]
    inputs: Mapping[str, Any]
    body: bytes


def make_request(index: int) -> Sent:
    """Return a request; all kinds of users, headers and bodies take turns."""
    user = (f"user-{index}", f"ユーザー {index}", f"{index}", f"a.b+{index}@example.com")[index % 4]
    headers = {}
    if (region := REGIONS[index % len(REGIONS)]) is not None:
        headers["x-user-region"] = region
    if index % 7 == 0:
        headers["x-user-plan"] = "pro" if index % 2 else "free"
    if index % 11 == 0:
        headers["x-beta"] = "1"
    value: Any = (100, 200.5, 1e6, "300", None, True, 201)[index % 7]
    if index % 3 == 0:
        data: Any = {"inputs": [{"name": "amount", "shape": [1], "datatype": "FP64"}]}
        data["inputs"][0]["data"] = [value]
    else:
        data = {"amount": value, "other": [1, {"amount": 900}]}
    inputs = {} if value is None else {"amount": value}
    return Sent(user, headers, inputs, json.dumps(data).encode())


class Connection:
    """One keep-alive connection to the gateway."""

    def __init__(self, path: str) -> None:
        self._path = path

    async def open(self, running: Gateway) -> None:
        config = running.config
        self._reader, self._writer = await asyncio.open_connection(config.host, config.port)

    async def version_of(self, sent: Sent, headers: Mapping[str, str]) -> str:
        """Return the version that the gateway assigned to a request."""
        lines = [f"POST {self._path} HTTP/1.1", "host: gateway"]
        lines += [f"content-length: {len(sent.body)}", "content-type: application/json"]
        lines += [f"{name}: {value}" for name, value in {**sent.headers, **headers}.items()]
        self._writer.write("\r\n".join([*lines, "", ""]).encode() + sent.body)
        head = (await self._reader.readuntil(b"\r\n\r\n")).decode("latin-1").lower()
        found = dict(line.split(": ", 1) for line in head.strip().split("\r\n")[1:])
        await self._reader.readexactly(int(found["content-length"]))
        assert " 200 " in head.partition("\r\n")[0], head
        return found["x-modelplane-assigned"]

    def close(self) -> None:
        self._writer.close()


async def explain(world: World, name: str, sent: Sent) -> Any:
    """Ask the API as a server would call it: a client around it would take as long again."""
    body = json.dumps({"user": sent.user, "headers": sent.headers, "inputs": sent.inputs}).encode()
    headers = {"host": "127.0.0.1", "authorization": f"Bearer {ADMIN}"}
    path = f"/api/v1/model-deployments/{name}:explain"
    scope = {
        "type": "http",
        "http_version": "1.1",
        "method": "POST",
        "scheme": "http",
        "path": path,
        "raw_path": path.encode(),
        "query_string": b"",
        "headers": [(key.encode(), value.encode()) for key, value in headers.items()],
    }
    answers: list[Any] = []

    async def receive() -> Any:
        return {"type": "http.request", "body": body, "more_body": False}

    async def send(message: Any) -> None:
        answers.append(message)

    await world.app(scope, receive, send)
    told = b"".join(message.get("body", b"") for message in answers)
    assert answers[0]["status"] == 200, told
    return json.loads(told)


async def compare(world: World, running: Gateway, name: str, *, users: int, sticky: str) -> Any:
    """Ask both sides about `users` users; return the differences, and what was met how often."""
    wrong, met, waiting = [], Counter[tuple[str, str]](), iter(range(users))

    async def ask() -> None:
        connection = Connection(f"/v2/models/{name}/infer")
        await connection.open(running)
        for index in waiting:
            sent = make_request(index)
            own = {sticky: f"uid={sent.user}" if sticky == "cookie" else sent.user}
            told, version = await asyncio.gather(
                explain(world, name, sent), connection.version_of(sent, own)
            )
            met[told["rule"], version] += 1
            if told["version"] != version:
                wrong.append((sent, told, version))
        connection.close()

    await asyncio.gather(*(ask() for _ in range(4)))
    return wrong, met


async def publish(world: World, running: Gateway, name: str, **spec: Any) -> None:
    upstreams = {
        revision: await running.upstream(f"{name}-{version}")
        for revision, version in VERSIONS.items()
    }
    transaction = Transaction(SYSTEM)
    transaction.create(make_split(name, upstreams, **spec))
    await world.store.commit(transaction)
    stored = await world.store.get(TrafficSplit, name, "production")
    ack = await running.publish(plan_route(stored))
    assert ack.accepted, ack


async def test_ten_thousand_users_meet_the_version_that_explain_says() -> None:
    async with make_world() as world, gateway() as running:
        await publish(world, running, "fraud", input_types={"amount": "number"})
        wrong, met = await compare(world, running, "fraud", users=USERS, sticky="x-user-id")
        assert not wrong, (len(wrong), wrong[:3])
        assert set(met) == {
            *(("rule-west", version) for version in VERSIONS.values()),
            *(("rule-rich", version) for version in ("1.0.0", "3.0.0")),
            *(("default", version) for version in VERSIONS.values()),
        }
        assert min(met.values()) > 20


async def test_users_told_apart_by_a_cookie_meet_the_version_that_explain_says() -> None:
    async with make_world() as world, gateway() as running:
        await publish(world, running, "prices", user_cookie="uid")
        wrong, met = await compare(world, running, "prices", users=500, sticky="cookie")
        assert not wrong, (len(wrong), wrong[:3])
        assert len(met) == 8


async def test_an_empty_user_is_a_user_as_any() -> None:
    async with make_world() as world, gateway() as running:
        await publish(world, running, "fraud")
        connection = Connection("/v2/models/fraud/infer")
        await connection.open(running)
        told = await world.ok("POST", "/model-deployments/fraud:explain", {"user": ""})
        empty = Sent("", {}, {}, b"")
        seen = {await connection.version_of(empty, {"x-user-id": ""}) for _ in range(20)}
        assert seen == {told["version"]}
        connection.close()


async def test_the_header_that_chooses_a_version_is_told_as_it_works() -> None:
    async with make_world() as world, gateway() as running:
        await publish(world, running, "fraud", allow_override=True)
        connection = Connection("/v2/models/fraud/infer")
        await connection.open(running)
        for version in VERSIONS.values():
            headers = {"x-modelplane-version": version}
            told = await world.ok("POST", "/model-deployments/fraud:explain", {"headers": headers})
            assert (told["rule"], told["version"]) == ("override", version)
            assert await connection.version_of(Sent("", {}, {}, b""), headers) == version
        connection.close()
