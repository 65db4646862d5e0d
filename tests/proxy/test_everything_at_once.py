"""One plan that uses all there is, in a real Envoy: nothing of it gets in another part's way."""

from __future__ import annotations

import json
from collections import Counter
from dataclasses import dataclass, field

import pytest
import pytest_asyncio

from modelplane.decisions.assignment import Assignment, assign
from modelplane.decisions.routing import OVERRIDE_RULE, Mirror, RoutePlan, count_key
from modelplane.decisions.traffic import rule_name
from modelplane.expressions.predicates import RequestFacts
from modelplane.resources.limits import Limits, RateLimit
from modelplane.resources.strategy import Slice
from tests.proxy.gateway import Gateway, until
from tests.proxy.plans import rule, ruled_plan
from tests.proxy.raw import Answer, Connection
from tests.proxy.upstream import Upstream

pytestmark = [pytest.mark.e2e, pytest.mark.slow, pytest.mark.asyncio(loop_scope="module")]

STABLE, WESTERN, EVERYWHERE, COPIED = "1.0.0", "1.1.0", "1.2.0", "1.3.0"
LARGE_IN_THE_WEST = "user.region == 'west' && input.amount > 200.0"
MAX_BODY, RATE = 64 * 1024, 20
PATH = "/v2/models/whole/infer"


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def servers(running: Gateway) -> dict[str, Upstream]:
    """The four versions' model servers; the second version fails each request."""
    found = {name: await running.upstream(f"whole-{name}") for name in "abcd"}
    found["b"].mode = "500"
    return found


def make_plan(servers: dict[str, Upstream], generation: int) -> RoutePlan:
    mirrors = (Mirror("whole.d", 5_000),)
    return ruled_plan(
        "whole",
        generation,
        replicas=servers,
        roles={"d": "shadow"},
        rules=(
            rule("whole", LARGE_IN_THE_WEST, "s1", mirrors, b=3_000, c=2_000),
            rule("whole", "", "s2", mirrors, c=2_000),
        ),
        sticky_cookie="uid",
        allow_override=True,
        input_types={"amount": "number"},
        slices=(Slice(by="user.region", values=("west",)), Slice(by="user.plan", values=("pro",))),
        limits=Limits(
            max_body=MAX_BODY,
            max_concurrency=100,
            rate=RateLimit(requests=RATE, per_s=3600, by="user"),
        ),
    )


@dataclass
class Sent:
    """One request: what it says, and what the plan makes of it."""

    number: int
    headers: dict[str, str] = field(default_factory=dict)
    body: bytes = b""
    inputs: dict[str, float | str | bool] = field(default_factory=dict)

    @classmethod
    def make(cls, number: int) -> Sent:
        """Return one of many kinds of requests."""
        amount = number % 401
        region = ("west", "east", "")[number % 3]
        # Not what tells users apart here, but what the rate is for.
        headers = {"x-user-id": f"client-{number // RATE}"}
        headers |= {"x-user-region": region} if region else {}
        headers |= {"x-user-plan": "pro"} if number % 4 == 0 else {}
        headers |= {"cookie": f"a=b; uid=person-{number % 97}"} if number % 5 else {}
        if number % 17 == 0:
            versions = (STABLE, WESTERN, EVERYWHERE, COPIED, "9.9.9")
            headers["x-modelplane-version"] = versions[number % 5]
        tensor = {"name": "amount", "shape": [1], "datatype": "FP64", "data": [amount]}
        document = {"inputs": [tensor]} if number % 2 else {"amount": amount}
        body = json.dumps(document | {"filler": "x" * (number % 7) * 8_000}).encode()
        return cls(number, headers, body, {"amount": float(amount)})

    def expect(self, plan: RoutePlan, answer: Answer) -> Assignment:
        """Return what the plan makes of it; a user that was new is who the cookie says."""
        user = None
        if "cookie" not in self.headers:
            (cookie,) = answer.cookies
            user = cookie.partition(";")[0].removeprefix("uid=")
        facts = RequestFacts(path=PATH, host="gateway", headers=self.headers, inputs=self.inputs)
        return assign(plan, facts, user)


async def test_each_part_does_what_it_does_alone(
    running: Gateway, servers: dict[str, Upstream]
) -> None:
    plan = make_plan(servers, 1)
    ack = await running.publish(plan)
    assert ack.accepted, ack.message

    requests, copied = Counter[str](), Counter[str]()
    sliced: dict[str, Counter[str]] = {}
    async with Connection(running.config.port) as connection:
        for number in range(1_200):
            sent = Sent.make(number)
            answer = await connection.post(PATH, sent.body, sent.headers.items())
            found = sent.expect(plan, answer)
            if found.reason == "refused":
                assert answer.status == 404
                continue
            assert answer.assigned == found.version, (number, found.why)
            fails = found.version == WESTERN
            if found.rule == OVERRIDE_RULE:
                assert answer.served == found.version
                assert answer.status == (500 if fails else 200)
            else:
                assert answer.status == 200
                assert answer.served == (STABLE if fails else found.version)
                copied[found.rule] += 1
            key = count_key(found.cluster or "", found.rule)
            requests[key] += 1
            parts = sliced.setdefault(key, Counter())
            parts["user.region=west"] += sent.headers.get("x-user-region") == "west"
            parts["user.plan=pro"] += "x-user-plan" in sent.headers

    shadow = servers["d"]
    own = requests.pop(count_key("whole.d", OVERRIDE_RULE))
    reading = await running.read_counts(requests)
    for key in requests:
        counts = reading.variants[key]
        failed = counts.requests if key.startswith("whole.b") else 0
        assert (counts.requests, counts.failures) == (requests[key], failed), key
        # Of those that chose the version, the shield keeps nothing.
        seen = failed if key == count_key("whole.b", OVERRIDE_RULE) else 0
        assert counts.client_failures == seen, key
        found_parts = {name: part.requests for name, part in counts.slices.items()}
        assert found_parts == {n: count for n, count in sliced[key].items() if count}, key
    # All that there is, each under its rule; a version under two rules is counted twice.
    west = rule_name(LARGE_IN_THE_WEST)
    named = {("a", west), ("b", west), ("c", west), ("a", "default"), ("c", "default")}
    assert requests.keys() >= {count_key(f"whole.{name}", under) for name, under in named}

    async def copies_arrived() -> bool:
        now = (await running.proxy.read_traffic()).variants
        keys = [count_key("whole.d", under) for under in copied]
        return sum(now[key].requests for key in keys if key in now) == len(shadow.requests) - own

    await until(copies_arrived)
    reading = await running.proxy.read_traffic()
    for under, count in copied.items():
        share = reading.variants[count_key("whole.d", under)].requests / count
        assert 0.5 - 4 * (0.25 / count) ** 0.5 < share < 0.5 + 4 * (0.25 / count) ** 0.5
    inner = {"x-modelplane-user", "x-modelplane-path", "x-modelplane-version"}
    for server in servers.values():
        assert not [headers for _, _, headers in server.requests if inner & headers.keys()]


async def test_what_limits_turn_away_counts_for_nobody(
    running: Gateway, servers: dict[str, Upstream]
) -> None:
    plan = make_plan(servers, 2)
    assert (await running.publish(plan)).accepted
    before = await running.proxy.read_traffic()
    headers = {"x-user-id": "greedy", "x-user-region": "west", "cookie": "uid=greedy"}
    facts = RequestFacts(path=PATH, headers=headers, inputs={"amount": 300.0})
    found = assign(plan, facts)
    statuses = Counter[int]()
    async with Connection(running.config.port) as connection:
        for _ in range(RATE + 5):
            answer = await connection.post(PATH, b'{"amount": 300}', headers.items())
            statuses[answer.status] += 1
        for number in range(3):
            others = headers | {"x-user-id": f"fat-{number}"}
            answer = await connection.post(PATH, b"x" * (MAX_BODY + 1), others.items())
            statuses[answer.status] += 1
            connection.close()
    assert statuses == {200: RATE, 429: 5, 413: 3}
    key = count_key(found.cluster or "", found.rule)
    was = {name: counts.requests for name, counts in before.variants.items()}
    wanted = was.get(key, 0) + RATE
    after = await running.read_counts({key: wanted})
    mine = {
        name: counts.requests for name, counts in after.variants.items() if "whole.d" not in name
    }
    assert mine == {name: was.get(name, 0) + RATE * (name == key) for name in mine}
    assert after.unrouted == before.unrouted
