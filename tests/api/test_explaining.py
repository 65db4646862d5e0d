"""Which version is this user on, and why? Asked of the API, and by OpenFeature's protocol."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from modelplane.client import Client
from modelplane.decisions.assignment import Explanation, bucket_of
from modelplane.ports.store import Transaction
from modelplane.resources.meta import Metadata
from modelplane.resources.traffic_split import (
    SplitEndpoint,
    SplitRule,
    SplitSegment,
    SplitVariant,
    TrafficSplit,
    TrafficSplitSpec,
    TrafficSplitStatus,
)
from tests.api.world import READER, SYSTEM, World, make_world, serve

pytestmark = pytest.mark.asyncio(loop_scope="module")

A, B, C = (letter * 64 for letter in "abc")
WEST = "user.region == 'west' && input.amount > 200"


def variant(revision: str, version: str, role: str = "candidate") -> SplitVariant:
    endpoint = SplitEndpoint(replica=version, address="unix:/x")
    return SplitVariant.model_validate(
        {"revision": revision, "version": version, "role": role, "weight_pct": 0}
        | {"endpoints": (endpoint,)}
    )


def split(name: str = "fraud", **spec: Any) -> TrafficSplit:
    rules = (
        SplitRule(
            name="rule-1",
            predicate=WEST,
            salt="s1",
            segments=(
                SplitSegment(revision=B, width=2500),
                SplitSegment(revision=A, width=7500),
            ),
        ),
        SplitRule(
            name="rule-2",
            predicate="user.plan == 'pro'",
            segments=(SplitSegment(revision=C, width=10_000),),
        ),
        SplitRule(name="default", segments=(SplitSegment(revision=A, width=10_000),)),
    )
    fields = {
        "deployment": name,
        "variants": (variant(A, "1.0.0", "stable"), variant(B, "2.0.0"), variant(C, "3.0.0")),
        "rules": rules,
        **spec,
    }
    return TrafficSplit(
        metadata=Metadata(name=name, environment="production"), spec=TrafficSplitSpec(**fields)
    )


async def put(world: World, *splits: TrafficSplit) -> None:
    transaction = Transaction(SYSTEM)
    for each in splits:
        transaction.create(each)
    await world.store.commit(transaction)


async def acknowledge(world: World, **status: Any) -> None:
    found = await world.store.get(TrafficSplit, "fraud", "production")
    transaction = Transaction(SYSTEM)
    changed = TrafficSplitStatus(accepted_generation=found.metadata.generation, **status)
    transaction.update(found.model_copy(update={"status": changed}), "report")
    await world.store.commit(transaction)


async def explain(world: World, **body: Any) -> Any:
    return await world.ok("POST", "/model-deployments/fraud:explain", body)


async def test_explain_says_the_version_and_why() -> None:
    async with make_world() as world:
        await put(world, split())
        body = {"user": "alice", "headers": {"X-User-Region": "west"}, "inputs": {"amount": 300}}
        told = await explain(world, **body)
        bucket = bucket_of("alice", "s1")
        assert told["rule"] == "rule-1"
        assert told["predicate"] == WEST
        assert told["bucket"] == bucket
        assert told["version"] == ("2.0.0" if bucket < 2500 else "1.0.0")
        assert [share["version"] for share in told["shares"]] == ["2.0.0", "1.0.0"]
        assert "user.region is 'west', input.amount is 300" in told["why"][0]
        assert told["acknowledged"] is False
        assert "not acknowledged" in told["notes"][0]
        await acknowledge(world)
        told = await explain(world, user="alice", inputs={"amuont": 3, "amount": 1})
        assert (told["acknowledged"], told["rule"]) == (True, "default")
        assert told["notes"] == ["no rule reads the input 'amuont'"]
        reader = await world.call("POST", "/model-deployments/fraud:explain", {}, token=READER)
        assert reader.status_code == 200


async def test_explain_tells_what_the_gateway_refused() -> None:
    async with make_world() as world:
        await put(world, split())
        found = await world.store.get(TrafficSplit, "fraud", "production")
        transaction = Transaction(SYSTEM)
        status = TrafficSplitStatus(refused_generation=1, message="unknown function")
        transaction.update(found.model_copy(update={"status": status}), "report")
        await world.store.commit(transaction)
        notes = (await explain(world))["notes"]
        assert "refused these routes and keeps the ones before: unknown function" in notes[0]


async def test_a_split_that_no_gateway_can_follow_is_told() -> None:
    async with make_world() as world:
        alone = variant(A, "1.0.0", "stable").model_copy(update={"endpoints": ()})
        await put(world, split(variants=(alone,)))
        answer = await world.call("POST", "/model-deployments/fraud:explain", {})
        assert (answer.status_code, answer.json()["code"]) == (409, "conflict")
        assert "no endpoint" in answer.json()["detail"]
        flag = await evaluate(world, "fraud")
        assert (flag.status_code, flag.json()["errorCode"]) == (400, "GENERAL")


async def test_the_client_asks_and_reads_the_answer() -> None:
    async with make_world() as world, serve(world) as url:
        await put(world, split())

        def ask() -> Explanation:
            with Client(url, "secret-of-admin") as client:
                return client.explain("fraud", "alice", headers={"x-user-plan": "pro"})

        found = await asyncio.to_thread(ask)
        assert (found.version, found.rule, found.deployment) == ("3.0.0", "rule-2", "fraud")
        assert found.bucket == bucket_of("alice", "")


@pytest.mark.parametrize(
    ("body", "status", "says"),
    [
        ({"user": "a\nb"}, 422, "one line of text"),
        ({"headers": {"a b": "x"}}, 422, "no header is named"),
        ({"headers": {"a": "x\r\nb: c"}}, 422, "one line of text"),
        ({"headers": {"a": 1}}, 422, "headers"),
        ({"inputs": {"a": [1]}}, 422, "inputs"),
        ({"usr": "a"}, 422, "usr"),
    ],
)
async def test_what_is_no_request_is_refused(body: Any, status: int, says: str) -> None:
    async with make_world() as world:
        await put(world, split())
        answer = await world.call("POST", "/model-deployments/fraud:explain", body)
        assert answer.status_code == status
        assert says in answer.text


async def test_what_serves_nothing_is_said() -> None:
    async with make_world() as world:
        answer = await world.call("POST", "/model-deployments/fraud:explain", {})
        assert (answer.status_code, answer.json()["code"]) == (404, "not-found")
        await world.push("fraud", "1.0.0")
        await world.deploy("fraud", model="fraud", version="1.0.0")
        answer = await world.call("POST", "/model-deployments/fraud:explain", {})
        assert (answer.status_code, answer.json()["code"]) == (409, "conflict")


# -- OpenFeature ----------------------------------------------------------------------------------


async def evaluate(
    world: World, key: str = "", context: Any = None, headers: Any = None, body: Any = None
) -> Any:
    path = "/ofrep/v1/evaluate/flags" + (f"/{key}" if key else "")
    sent = {"authorization": "Bearer secret-of-admin"} | (headers or {})
    content = body if body is not None else {"context": context or {}}
    return await world.http.request("POST", path, json=content, headers=sent)


@pytest.mark.parametrize(
    ("context", "version", "reason", "rule"),
    [
        ({"targetingKey": "u", "plan": "pro"}, "3.0.0", "TARGETING_MATCH", "rule-2"),
        ({"plan": "pro"}, "3.0.0", "TARGETING_MATCH", "rule-2"),
        ({"targetingKey": "u", "plan": 7, "more": {"x": 1}}, "1.0.0", "DEFAULT", "default"),
        ({"targetingKey": "u1", "region": "west", "input.amount": 201}, None, "SPLIT", "rule-1"),
    ],
)
async def test_ofrep_says_the_version_as_a_flag(
    context: Any, version: str | None, reason: str, rule: str
) -> None:
    async with make_world() as world:
        await put(world, split())
        answer = await evaluate(world, "fraud", context)
        assert answer.status_code == 200
        told = answer.json()
        assert set(told) == {"key", "value", "variant", "reason", "metadata"}
        if version is None:
            version = "2.0.0" if told["metadata"]["bucket"] < 2500 else "1.0.0"
        assert (told["key"], told["value"], told["variant"]) == ("fraud", version, version)
        assert (told["reason"], told["metadata"]["rule"]) == (reason, rule)
        same = await explain(
            world,
            user=context.get("targetingKey"),
            headers={f"x-user-{k}": str(v) for k, v in context.items() if isinstance(v, str | int)},
            inputs={"amount": context.get("input.amount")},
        )
        assert same["version"] == version


async def test_a_deployment_with_one_version_is_static() -> None:
    async with make_world() as world:
        stable = (variant(A, "1.0.0", "stable").model_copy(update={"weight_pct": 100.0}),)
        await put(world, split(variants=stable, rules=()))
        assert (await evaluate(world, "fraud")).json()["reason"] == "STATIC"


async def test_ofrep_errors_have_the_protocols_shape() -> None:
    async with make_world() as world:
        await put(world, split())
        context = {"region": "west", "input.amount": 201}
        missing = await evaluate(world, "fraud", context)
        assert missing.status_code == 400
        assert missing.json()["key"] == "fraud"
        assert missing.json()["errorCode"] == "TARGETING_KEY_MISSING"
        unknown = await evaluate(world, "other")
        assert (unknown.status_code, unknown.json()["errorCode"]) == (404, "FLAG_NOT_FOUND")
        elsewhere = await evaluate(world, "fraud", headers={"x-modelplane-environment": "staging"})
        assert elsewhere.status_code == 404
        bad = await evaluate(world, "fraud", body=[1])
        assert (bad.status_code, bad.json()["errorCode"]) == (400, "PARSE_ERROR")
        odd = await evaluate(world, "fraud", {"targetingKey": 3})
        assert (odd.status_code, odd.json()["errorCode"]) == (400, "INVALID_CONTEXT")
        broken = await evaluate(world, "fraud", {"targetingKey": "a\nb"})
        assert (broken.status_code, broken.json()["errorCode"]) == (400, "INVALID_CONTEXT")
        nobody = await evaluate(world, "fraud", headers={"authorization": "Bearer no"})
        assert nobody.status_code == 401


@pytest.mark.parametrize(
    ("context", "status"),
    [
        pytest.param({"targetingKey": "u" * 2000}, 400, id="a key beyond what explain takes"),
        pytest.param({"targetingKey": "u", "input.amount": 10**400}, 200, id="a huge input"),
        pytest.param({"targetingKey": "u", "age": 10**400}, 200, id="a huge attribute"),
        pytest.param({"targetingKey": "u", "age": 10**4299}, 200, id="one of 4300 digits"),
        pytest.param({"targetingKey": "", "plan": "pro"}, 200, id="an empty key"),
        pytest.param({"targetingKey": "u", "input.": 1}, 200, id="an input without a name"),
        pytest.param({"targetingKey": "\u6771\u00a0"}, 200, id="unicode"),
    ],
)
async def test_no_context_is_an_error_of_the_server(context: Any, status: int) -> None:
    async with make_world() as world:
        await put(world, split())
        for key in ("fraud", ""):
            answer = await evaluate(world, key, context)
            wanted = status if key or answer.status_code == 400 else 200
            assert answer.status_code == wanted, answer.text[:300]


async def test_all_flags_come_with_a_tag_that_says_whether_they_changed() -> None:
    async with make_world() as world:
        await put(world, split(), split("prices"))
        context = {"targetingKey": "u", "plan": "pro"}
        first = await evaluate(world, "", context)
        assert first.status_code == 200
        assert [flag["key"] for flag in first.json()["flags"]] == ["fraud", "prices"]
        tag = first.headers["etag"]
        again = await evaluate(world, "", context, {"if-none-match": f'"x", W/{tag}'})
        assert (again.status_code, again.content) == (304, b"")
        assert again.headers["etag"] == tag
        await acknowledge(world)
        changed = await evaluate(world, "", context, {"if-none-match": tag})
        assert changed.status_code == 200
        nobody = await evaluate(world, "", {"region": "west", "input.amount": 201})
        codes = [flag.get("errorCode") for flag in nobody.json()["flags"]]
        assert codes == ["TARGETING_KEY_MISSING"] * 2
        bad = await evaluate(world, "", body={"context": 3})
        assert (bad.status_code, bad.json()["errorCode"]) == (400, "INVALID_CONTEXT")
