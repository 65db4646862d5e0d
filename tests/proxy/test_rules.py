"""Who is under which rule, in a real Envoy: predicates, cookies, slices, overrides, ranges."""

from __future__ import annotations

import asyncio
import gzip
import itertools
import json
from collections import Counter
from dataclasses import replace

import httpx
import pytest
import xxhash

from modelplane.decisions.assignment import assign
from modelplane.decisions.routing import OVERRIDE_RULE, Mirror, RoutePlan, Rule, Segment
from modelplane.decisions.segments import allocate
from modelplane.decisions.traffic import rule_name
from modelplane.expressions.predicates import RequestFacts
from modelplane.ports.proxy import SliceCounts
from modelplane.resources.strategy import Slice
from tests.proxy.gateway import Gateway, until
from tests.proxy.plans import rule, ruled_plan
from tests.proxy.raw import Answer, Connection, ask_all
from tests.proxy.upstream import Upstream

pytestmark = [pytest.mark.e2e, pytest.mark.slow, pytest.mark.asyncio(loop_scope="module")]

STABLE, ONE, TWO = "1.0.0", "1.1.0", "1.2.0"
WEST = "user.region == 'west'"
LARGE = "input.amount > 200.0"
USERS = [f"user-{number}" for number in range(4_000)]


async def replicas(running: Gateway, deployment: str, names: str = "ab") -> dict[str, Upstream]:
    """Start a model server for each revision."""
    return {name: await running.upstream(f"{deployment}-{name}") for name in names}


async def publish(running: Gateway, plan: RoutePlan) -> None:
    ack = await running.publish(plan)
    assert ack.accepted, ack.message


def walk(rule: Rule, user: str) -> str:
    """Return the cluster of a user by walking the ranges of a rule."""
    bucket = xxhash.xxh64(f"{rule.salt}:{user}".encode()).intdigest() % 10_000
    for segment in rule.segments:
        if bucket < segment.width:
            return segment.cluster
        bucket -= segment.width
    raise AssertionError("the widths do not sum to the whole")


async def test_a_predicate_and_a_percentage_choose_the_same_users_each_time(
    running: Gateway,
) -> None:
    west, everybody = rule("pred", WEST, salt="r1", b=3_000), rule("pred", salt="r1")
    plan = ruled_plan("pred", replicas=await replicas(running, "pred"), rules=(west, everybody))
    await publish(running, plan)

    async def ask(connection: Connection, user: str) -> Answer:
        region = "west" if int(user[5:]) % 2 else "east"
        headers = [("x-user-id", user), ("x-user-region", region)]
        return await connection.post("/v2/models/pred/infer", b"{}", headers)

    versions = {v.cluster: v.version for v in plan.variants}
    answers = await ask_all(running.config.port, USERS[:1_000], ask)
    for user, answer in answers.items():
        under = west if int(user[5:]) % 2 else everybody
        assert answer.assigned == versions[walk(under, user)], user
    met = Counter(answer.assigned for answer in answers.values())
    assert 100 < met[ONE] < 200
    wanted = {f"pred.b|{west.name}": met[ONE], f"pred.a|{west.name}": 500 - met[ONE], "pred.a": 500}
    reading = await running.read_counts(wanted)
    assert {key for key in reading.variants if key.startswith("pred.")} == set(wanted)


async def test_the_first_rule_that_holds_is_used(running: Gateway) -> None:
    plan = ruled_plan(
        "order",
        replicas=await replicas(running, "order", "abc"),
        rules=(
            rule("order", WEST, b=10_000),
            rule("order", "user.plan == 'pro' || user.region == 'west'", c=10_000),
            rule("order"),
        ),
    )
    await publish(running, plan)
    async with Connection(running.config.port) as connection:
        for headers, version in [
            ([("x-user-region", "west"), ("x-user-plan", "pro")], ONE),
            ([("x-user-plan", "pro")], TWO),
            ([("x-user-region", "east"), ("x-user-plan", "pro")], TWO),
            ([("x-user-region", "east")], STABLE),
            ([], STABLE),
        ]:
            answer = await connection.post("/v2/models/order/infer", b"{}", headers)
            assert answer.assigned == version, headers
            there = await connection.post(f"/v2/models/order/versions/{TWO}", b"{}", headers)
            assert there.assigned == version, headers


async def test_every_user_stays_while_three_versions_grow_and_none_leaves_but_from_stable(
    running: Gateway,
) -> None:
    servers = await replicas(running, "grow", "abcd")
    before: dict[str, str] = {}
    ranges: tuple[tuple[str, int], ...] = ()
    steps = [
        (100, 0, 0),
        (800, 300, 0),
        (800, 1_500, 200),
        (2_500, 1_500, 3_000),
        (3_000, 3_500, 3_500),
    ]
    for generation, shares in enumerate(steps, start=1):
        ranges = allocate(ranges, {n: s for n, s in zip("bcd", shares, strict=True) if s}, "a")
        segments = tuple(Segment(f"grow.{name}", width) for name, width in ranges)
        only = Rule("default", "", "salt-1", segments)
        plan = ruled_plan("grow", generation, replicas=servers, rules=(only,))
        await publish(running, plan)
        versions = {v.cluster: v.version for v in plan.variants}
        answers = await ask_all(
            running.config.port,
            USERS,
            lambda c, user: c.post("/v2/models/grow", b"", [("x-user-id", user)]),
        )
        now = {user: answer.assigned for user, answer in answers.items()}
        assert now == {user: versions[walk(only, user)] for user in USERS}
        assert not [u for u, v in before.items() if v != STABLE and now[u] != v]
        before = now
    assert STABLE not in before.values()


TENSOR = '{"inputs": [{"name": "amount", "shape": [1], "datatype": "FP64", "data": [%s]}]}'


async def test_a_predicate_over_the_body_reads_fields_and_tensors(running: Gateway) -> None:
    servers = await replicas(running, "body")
    rules = (rule("body", LARGE, b=10_000), rule("body"))
    await publish(running, ruled_plan("body", replicas=servers, rules=rules))
    async with Connection(running.config.port) as connection:
        for body, version in [
            ('{"amount": 250}', ONE),
            ('{"amount": 150.5}', STABLE),
            (TENSOR % 250, ONE),
            (TENSOR % 150, STABLE),
            (TENSOR % "250, 260", STABLE),
        ]:
            answer = await connection.post("/v2/models/body/infer", body.encode())
            assert (answer.status, answer.assigned) == (200, version), body
            assert json.loads(answer.body)["bytes"] == len(body)


MIB = 1024 * 1024


def chunked(path: str, *chunks: bytes, more: str = "") -> bytes:
    head = f"POST {path} HTTP/1.1\r\nhost: g\r\ntransfer-encoding: chunked\r\n{more}\r\n"
    parts = b"".join(b"%x\r\n%b\r\n" % (len(chunk), chunk) for chunk in chunks)
    return head.encode() + parts + b"0\r\n\r\n"


def sized(path: str, body: bytes, *headers: str, version: str = "1.1") -> bytes:
    lines = [f"POST {path} HTTP/{version}", "host: g", f"content-length: {len(body)}", *headers]
    return ("\r\n".join(lines) + "\r\n\r\n").encode("latin-1") + body


PATH = "/v2/models/table/infer"
WEST_BODY = b'{"amount": 250, "flag": true, "city": "\xc3\x9cber"}'
LINE = "x-user-region: west"
TABLE = [
    # what is sent, status, version
    ("all there", sized(PATH, WEST_BODY, LINE), 200, ONE),
    ("missing header", sized(PATH, WEST_BODY), 200, STABLE),
    ("empty header", sized(PATH, WEST_BODY, "x-user-region:"), 200, STABLE),
    ("another value", sized(PATH, WEST_BODY, "x-user-region: WEST"), 200, STABLE),
    ("header twice", sized(PATH, WEST_BODY, LINE, "x-user-region: east"), 200, STABLE),
    ("bytes in header", sized(PATH, WEST_BODY, "x-user-region: w\xe9st"), 200, STABLE),
    ("zero in header", sized(PATH, WEST_BODY, "x-user-region: we\0st"), 400, ""),
    ("no body", f"GET {PATH} HTTP/1.1\r\nhost: g\r\n{LINE}\r\n\r\n".encode(), 200, STABLE),
    ("empty body", sized(PATH, b"", LINE), 200, STABLE),
    ("bad JSON", sized(PATH, b'{"amount": 250', LINE), 200, STABLE),
    ("two documents", sized(PATH, WEST_BODY * 2, LINE), 200, STABLE),
    ("null", sized(PATH, b'{"amount": null}', LINE), 200, STABLE),
    ("text for a number", sized(PATH, b'{"amount": "250"}', LINE), 200, STABLE),
    ("truth for a number", sized(PATH, b'{"amount": true}', LINE), 200, STABLE),
    ("list for a number", sized(PATH, b'{"amount": [250]}', LINE), 200, STABLE),
    ("name twice", sized(PATH, b'{"amount": 250, "amount": 250}', LINE), 200, STABLE),
    ("no number", sized(PATH, b'{"amount": NaN}', LINE), 200, STABLE),
    ("huge number", sized(PATH, b'{"amount": 1e999}', LINE), 200, STABLE),
    ("large number", sized(PATH, b'{"amount": 1e300}', LINE), 200, ONE),
    ("escaped name", sized(PATH, b'{"\\u0061mount": 250}', LINE), 200, ONE),
    ("no text", sized(PATH, b'{"amount": 250, "x": "\xff"}', LINE), 200, STABLE),
    ("zeros", sized(PATH, b"\0" * 1000, LINE), 200, STABLE),
    ("gzip", sized(PATH, gzip.compress(WEST_BODY), LINE, "content-encoding: gzip"), 200, STABLE),
    ("deep", sized(PATH, b'{"amount": 250, "x": ' + b"[" * 100_000, LINE), 200, STABLE),
    ("large", sized(PATH, b'{"amount": 250, "x": "%b"}' % (b"y" * (MIB // 2)), LINE), 200, ONE),
    ("not looked at", sized(PATH, b'{"amount": 250, "x": "%b"}' % (b"y" * MIB), LINE), 200, STABLE),
    ("8 MB", sized(PATH, b'{"amount": 250}' + b" " * (8 * MIB - 15), LINE), 200, STABLE),
    ("over 8 MB", sized(PATH, b"y" * (8 * MIB + 1), LINE), 413, ""),
    ("chunked", chunked(PATH, WEST_BODY[:9], WEST_BODY[9:], more=LINE + "\r\n"), 200, ONE),
    ("no chunks", chunked(PATH, more=LINE + "\r\n"), 200, STABLE),
    ("bad chunks", chunked(PATH, more=LINE + "\r\n").replace(b"0\r\n\r\n", b"zz\r\n\r\n"), 400, ""),
    ("HTTP/1.0", sized(PATH, WEST_BODY, LINE, version="1.0"), 426, ""),
    ("no HTTP", b"\x16\x03\x01\x02\x00\r\n\r\n", 400, ""),
    ("two lengths", sized(PATH, WEST_BODY, LINE, "content-length: 3"), 400, ""),
    ("query", sized(PATH + "?amount=1", WEST_BODY, LINE), 200, ONE),
]  # fmt: skip


@pytest.mark.parametrize(
    ("request_", "status", "version"), [t[1:] for t in TABLE], ids=[t[0] for t in TABLE]
)
async def test_whatever_is_sent_is_served_or_refused(
    running: Gateway, request_: bytes, status: int, version: str
) -> None:
    servers = await replicas(running, "table")
    try:
        rules = (rule("table", f"{WEST} && {LARGE}", b=10_000), rule("table"))
        await publish(running, ruled_plan("table", replicas=servers, rules=rules))
        async with Connection(running.config.port) as connection:
            answer = await connection.send(request_)
            assert answer.status == status
            assert status != 200 or answer.assigned == version
        async with Connection(running.config.port) as connection:
            again = await connection.send(TABLE[0][1])
            assert (again.status, again.assigned) == (200, ONE)
    finally:
        for server in servers.values():
            await server.stop()


async def test_a_cookie_tells_users_apart_and_is_given_to_who_has_none(running: Gateway) -> None:
    servers = await replicas(running, "cookie")
    only = rule("cookie", salt="s", b=5_000)
    plan = ruled_plan("cookie", replicas=servers, rules=(only,), sticky_cookie="mp_user")
    await publish(running, plan)
    versions = {v.cluster: v.version for v in plan.variants}
    path = "/v2/models/cookie/infer"
    met = Counter[str]()
    async with Connection(running.config.port) as connection:
        for _ in range(300):
            # neither of these tells this deployment's users apart
            forged = [("x-user-id", "one"), ("x-modelplane-user", "one")]
            first = await connection.post(path, b"{}", forged)
            (cookie,) = first.cookies
            pair, *attributes = cookie.split("; ")
            assert attributes == ["Path=/", "Max-Age=2592000", "HttpOnly", "SameSite=Lax"]
            user = pair.removeprefix("mp_user=")
            assert user == first.headers["x-request-id"]
            assert first.assigned == versions[walk(only, user)]
            met[first.assigned] += 1
            again = await connection.post(path, b"{}", [("cookie", f"a=b; {pair}"), *forged])
            assert (again.assigned, again.cookies) == (first.assigned, [])
    assert min(met[STABLE], met[ONE]) > 100
    for server in servers.values():
        assert not [seen for _, _, seen in server.requests if "x-modelplane-user" in seen]


async def test_slices_count_declared_values_and_no_others(running: Gateway) -> None:
    servers = await replicas(running, "sliced")
    slices = (
        Slice(by="user.region", values=("west", "süd|.")),
        Slice(by="user.plan_id", values=("p:1",)),
    )
    plan = ruled_plan("sliced", replicas=servers, rules=(rule("sliced", b=10_000),), slices=slices)
    await publish(running, plan)
    servers["b"].mode = "500"
    async with Connection(running.config.port) as connection:
        for headers in [
            [("x-user-region", "west")],
            [("x-user-region", "west"), ("x-user-plan-id", "p:1")],
            [("x-user-region", "süd|.")],
            [("x-user-region", "east"), ("x-user-plan-id", "p:2")],
            [],
        ]:
            answer = await connection.post("/v2/models/sliced/infer", b"{}", headers)
            assert (answer.status, answer.served) == (200, STABLE)
    counts = (await running.read_counts({"sliced.b": 5})).variants["sliced.b"]
    assert counts.failures == 5
    assert counts.slices == {
        "user.region=west": SliceCounts(2, 2),
        "user.region=süd|.": SliceCounts(1, 1),
        "user.plan_id=p:1": SliceCounts(1, 1),
    }


@pytest.mark.parametrize("allowed", [True, False])
async def test_a_tester_chooses_a_version_where_that_is_allowed(
    running: Gateway, allowed: bool
) -> None:
    name = f"override-{allowed}".lower()
    plan = ruled_plan(
        name,
        replicas=await replicas(running, name, "abc"),
        rules=(rule(name, WEST, b=10_000), rule(name)),
        allow_override=allowed,
    )
    await publish(running, plan)
    paths = [f"/v2/models/{name}/infer", f"/v2/models/{name}/versions/1.0.0/infer"]
    async with Connection(running.config.port) as connection:
        for path, version in itertools.product(paths, (STABLE, ONE, TWO)):
            headers = [("x-modelplane-version", version), ("x-user-region", "west")]
            answer = await connection.post(path, b"{}", headers)
            assert answer.assigned == answer.served == (version if allowed else ONE)
            assert json.loads(answer.body)["target"] == f"/v2/models/{name}/infer"
        for unknown in ("9.9.9", "", "1.0"):
            answer = await connection.post(paths[0], b"{}", [("x-modelplane-version", unknown)])
            assert answer.status == (404 if allowed else 200)
            assert not allowed or "1.0.0, 1.1.0, 1.2.0" in json.loads(answer.body)["error"]
    if allowed:
        await running.read_counts({f"{name}.{one}|{OVERRIDE_RULE}": 2 for one in "abc"})


async def test_a_version_without_traffic_is_met_by_who_asks_for_it_alone(running: Gateway) -> None:
    servers = await replicas(running, "preview")
    plan = ruled_plan("preview", replicas=servers, rules=(rule("preview"),), allow_override=True)
    await publish(running, plan)
    async with Connection(running.config.port) as connection:
        for number in range(50):
            headers = [("x-user-id", f"user-{number}")]
            answer = await connection.post("/v2/models/preview/infer", b"{}", headers)
            assert (answer.assigned, answer.served) == (STABLE, STABLE)
            headers.append(("x-modelplane-version", ONE))
            answer = await connection.post("/v2/models/preview/infer", b"{}", headers)
            assert (answer.assigned, answer.served) == (ONE, ONE)
        # Its path leads nowhere as long as the split gives it nobody.
        there = await connection.post(f"/v2/models/preview/versions/{ONE}/infer", b"{}")
        assert there.status == 404
    assert len(servers["b"].requests) == 50
    counts = {"preview.a": 50, f"preview.b|{OVERRIDE_RULE}": 50}
    assert "preview.b" not in (await running.read_counts(counts)).variants


async def test_a_revision_of_the_same_version_is_chosen_by_its_digest(running: Gateway) -> None:
    servers = await replicas(running, "alike", "abc")
    stable, *others = ruled_plan(
        "alike", replicas=servers, rules=(rule("alike"),), allow_override=True
    ).variants
    variants = (stable, *(replace(other, version=STABLE) for other in others))
    plan = RoutePlan("alike", 1, variants, rules=(rule("alike"),), allow_override=True)
    await publish(running, plan)
    async with Connection(running.config.port) as connection:
        for asked, name in ((STABLE, "a"), ("a", "a"), ("b", "b"), ("c", "c")):
            headers = {"x-modelplane-version": asked}
            answer = await connection.post("/v2/models/alike/infer", b"{}", headers.items())
            assert json.loads(answer.body)["served_by"] == f"alike-{name}"
            found = assign(plan, RequestFacts(headers=headers))
            assert (found.cluster, found.version) == (f"alike.{name}", STABLE)
        unknown = await connection.post(
            "/v2/models/alike/infer", b"{}", [("x-modelplane-version", "d")]
        )
    assert unknown.status == 404
    assert json.loads(unknown.body)["error"].endswith("served now: 1.0.0")


async def test_a_tester_sees_the_failure_of_the_version(running: Gateway) -> None:
    servers = await replicas(running, "tested")
    servers["b"].mode = "500"
    rules = (rule("tested", b=5_000),)
    await publish(running, ruled_plan("tested", replicas=servers, rules=rules, allow_override=True))
    async with Connection(running.config.port) as connection:
        answer = await connection.post(
            "/v2/models/tested/infer", b"{}", [("x-modelplane-version", ONE)]
        )
    assert (answer.status, answer.assigned) == (500, ONE)
    assert not servers["a"].requests


async def test_inner_headers_of_clients_are_dropped(running: Gateway) -> None:
    servers = await replicas(running, "inner")
    rules = (rule("inner", WEST, b=10_000), rule("inner"))
    await publish(running, ruled_plan("inner", replicas=servers, rules=rules))
    inner = ["user", "compare", "copy", "path", "version", "rule"]
    async with Connection(running.config.port) as connection:
        forged = [(f"x-modelplane-{name}", "1") for name in inner]
        assert (await connection.post("/v2/models/inner/infer", b"{}", forged)).status == 200
    seen = servers["a"].requests[-1][2]
    ours = {name: value for name, value in seen.items() if name.startswith("x-modelplane-")}
    assert ours == {"x-modelplane-rule": "default"}


async def test_inner_headers_are_dropped_in_any_spelling(running: Gateway) -> None:
    servers = await replicas(running, "spelt")
    await publish(running, ruled_plan("spelt", replicas=servers, rules=(rule("spelt"),)))
    spellings = ["x_modelplane_compare", "x-modelplane_rule", "X_Modelplane-User"]
    forged = [(name, "1") for name in spellings]
    kept = [("x-user-region", "west"), ("x_other", "2")]
    async with Connection(running.config.port) as connection:
        answer = await connection.post("/v2/models/spelt/infer", b"{}", [*forged, *kept])
    assert answer.status == 200
    seen = servers["a"].requests[-1][2]
    assert [name for name in seen if "modelplane" in name] == ["x-modelplane-rule"]
    assert [seen[name] for name, _ in kept] == [value for _, value in kept]


async def test_a_path_that_a_proxy_before_noted_misleads_nobody(running: Gateway) -> None:
    servers = await replicas(running, "noted")
    await publish(running, ruled_plan("noted", replicas=servers, rules=(rule("noted"),)))
    async with Connection(running.config.port) as connection:
        for path in ("/api/noted/infer", "/v2/models/another", "/v2/health/live"):
            noted = [("x-envoy-original-path", path)]
            answer = await connection.post("/v2/models/noted/infer", b"{}", noted)
            assert (answer.status, answer.served) == (200, STABLE), path


async def test_copies_go_to_a_shadow_and_its_answers_to_nobody(running: Gateway) -> None:
    servers = await replicas(running, "copied", "ab")
    everybody = rule("copied", mirrors=(Mirror("copied.b", 10_000),))
    plan = ruled_plan("copied", replicas=servers, rules=(everybody,), roles={"b": "shadow"})
    await publish(running, plan)
    async with Connection(running.config.port) as connection:
        for _ in range(20):
            answer = await connection.post("/v2/models/copied/versions/1.0.0/infer?x=1", b"{}")
            assert (answer.status, answer.assigned, answer.served) == (200, STABLE, STABLE)

    async def copied() -> bool:
        return len(servers["b"].requests) == 20

    await until(copied)
    for mine, copy in zip(servers["a"].requests, servers["b"].requests, strict=True):
        assert mine[1] == copy[1] == "/v2/models/copied/infer?x=1"
        assert mine[2]["x-modelplane-compare"] == copy[2]["x-modelplane-compare"]


async def test_a_client_that_gives_up_after_waiting_counts_as_failed(running: Gateway) -> None:
    servers = await replicas(running, "patience")
    servers["b"].mode = "hang"
    plan = ruled_plan("patience", replicas=servers, rules=(rule("patience", b=10_000),))
    slices = (Slice(by="user.plan", values=("pro",)), Slice(by="user.region", values=("west",)))
    await publish(running, replace(plan, try_timeout_s=20.0, slices=slices))
    unfinished = sized("/v2/models/patience/infer", b"{}")[:-1]
    _, sending = await asyncio.open_connection("127.0.0.1", running.config.port)
    sending.write(unfinished)
    for timeout_s, region in ((0.1, "west"), (1.3, "west"), (1.3, "east")):
        headers = {"x-user-region": region}
        with pytest.raises(httpx.ReadTimeout):
            await running.client.post("/v2/models/patience", headers=headers, timeout=timeout_s)
    sending.close()
    await sending.wait_closed()
    await asyncio.sleep(0.1)

    async def counted() -> bool:
        counts = (await running.proxy.read_traffic()).variants.get("patience.b")
        return counts is not None and counts.requests == 2

    await until(counted)
    counts = (await running.proxy.read_traffic()).variants["patience.b"]
    assert (counts.requests, counts.failures, counts.client_failures) == (2, 2, 2)
    assert counts.slices == {"user.region=west": SliceCounts(1, 1)}
    assert not counts.latency


async def test_a_predicate_that_does_not_compile_is_refused_and_the_old_rules_serve_on(
    running: Gateway,
) -> None:
    servers = await replicas(running, "nack")
    good = ruled_plan(
        "nack", 1, replicas=servers, rules=(rule("nack", WEST, b=10_000), rule("nack"))
    )
    await publish(running, good)
    broken = Rule(rule_name("x"), "user.region ==", "", good.rules[0].segments)
    unheard_of = replace(good.rules[0], name="rule-00000000")
    updates = await running.update_counts()
    bad = [
        replace(good, generation=2, rules=(broken, good.rules[-1])),
        replace(good, generation=3, rules=(unheard_of, good.rules[-1]), sticky_header="x\nuser"),
    ]
    for plan in (*bad, *bad):
        ack = await running.publish(plan)
        assert not ack.accepted
        assert ack.message
        answer = await running.client.post(
            "/v2/models/nack/infer", headers={"x-user-region": "west"}
        )
        assert answer.headers["x-modelplane-assigned"] == ONE
    after = await running.update_counts()
    refused = {name: after[name] - updates[name] for name in after if "rejected" in name}
    assert sum(refused.values()) == 1, "Envoy was asked once; what it refused is not sent again"
    await publish(running, replace(good, generation=4, rules=(good.rules[-1],)))
    answer = await running.client.post("/v2/models/nack/infer", headers={"x-user-region": "west"})
    assert answer.headers["x-modelplane-assigned"] == STABLE
