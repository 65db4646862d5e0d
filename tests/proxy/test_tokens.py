"""Tokens at the gateway: who comes in, what becomes of claims, and how new keys arrive."""

from __future__ import annotations

import base64
import hmac
import json
import time
from collections.abc import AsyncIterator
from typing import Any

import httpx
import pytest
import pytest_asyncio
from joserfc import jwk, jwt

from modelplane.adapters.proxy.keys import read_keys
from modelplane.adapters.proxy.tokens import token_filter
from modelplane.adapters.proxy.xds import EXTENSION
from modelplane.errors import TransientError
from modelplane.resources.environment import GatewayJwt
from modelplane.resources.limits import Limits
from tests.proxy.gateway import Gateway, until
from tests.proxy.load import load
from tests.proxy.plans import split_plan

pytestmark = [pytest.mark.e2e, pytest.mark.slow, pytest.mark.asyncio(loop_scope="module")]

ISSUER = "https://login.example.org/"
DECLARED = GatewayJwt(
    issuer=ISSUER,
    audiences=("models", "other"),
    jwks_file="/keys.json",
    claims=("sub", "plan_id", "age"),
)
FIRST = jwk.RSAKey.generate_key(2048, {"kid": "first"})
SECOND = jwk.ECKey.generate_key("P-256", {"kid": "second"})
UNKNOWN = jwk.RSAKey.generate_key(2048, {"kid": "first"})
PATH = "/v2/models/guarded/infer"


def key_set(*keys: Any) -> str:
    return json.dumps({"keys": [key.as_dict(private=False) for key in keys]})


def token(key: Any = FIRST, *, alg: str | None = None, **claims: Any) -> str:
    """Return a token that is good but for what `claims` and `key` say; None drops a claim."""
    good = {"iss": ISSUER, "aud": "models", "sub": "ada", "exp": int(time.time()) + 300}
    payload = {name: value for name, value in {**good, **claims}.items() if value is not None}
    header = {"alg": alg or ("RS256" if key.key_type == "RSA" else "ES256"), "kid": key.kid}
    return jwt.encode(header, payload, key, algorithms=[header["alg"]])


def unsigned(alg: str = "none") -> str:
    good = {"iss": ISSUER, "aud": "models", "sub": "ada", "exp": int(time.time()) + 300}
    return ".".join(encode(json.dumps(part).encode()) for part in ({"alg": alg}, good)) + "."


def signed_with_secret(secret: bytes) -> str:
    text = unsigned("HS256").removesuffix(".")
    return f"{text}.{encode(hmac.digest(secret, text.encode(), 'sha256'))}"


def encode(part: bytes) -> str:
    return base64.urlsafe_b64encode(part).rstrip(b"=").decode()


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def guarded() -> AsyncIterator[Gateway]:
    """A gateway that verifies tokens, with one deployment."""
    one = Gateway(jwt=DECLARED)
    try:
        await one.start_proxy()
        one.proxy.renew(EXTENSION, token_filter(DECLARED, read_keys(key_set(FIRST))))
        await one.start_envoy()
        await until(one.proxy.is_ready)
        replica = await one.upstream("guarded")
        assert (await one.publish(split_plan("guarded", stable=(replica,)))).accepted
        yield one
    finally:
        await one.stop()


async def ask(guarded: Gateway, bearer: str | None, **headers: str) -> httpx.Response:
    if bearer is not None:
        headers["authorization"] = f"Bearer {bearer}"
    return await guarded.client.post(PATH, headers=headers)


def last_headers(guarded: Gateway) -> dict[str, str]:
    """Return the headers that the replica saw last."""
    return guarded.upstreams[0].requests[-1][2]


async def test_a_good_token_comes_in_and_goes_no_further(guarded: Gateway) -> None:
    answer = await ask(guarded, token(plan_id="gold", age=42), **{"x-user-plan-id": "forged"})
    assert answer.status_code == 200
    seen = last_headers(guarded)
    assert (seen["x-user-sub"], seen["x-user-plan-id"], seen["x-user-age"]) == ("ada", "gold", "42")
    assert "authorization" not in seen


async def test_what_a_client_says_about_itself_is_dropped(guarded: Gateway) -> None:
    said = {"x-user-sub": "root", "x-user-plan-id": "gold", "x-user-colour": "red"}
    assert (await ask(guarded, token(), **said)).status_code == 200
    seen = last_headers(guarded)
    assert seen["x-user-sub"] == "ada"
    assert "x-user-plan-id" not in seen
    assert seen["x-user-colour"] == "red"  # no claim is declared under this name
    spelt = {"x_user_plan_id": "gold", "x-user-plan_id": "gold", "x-user_sub": "root"}
    assert (await ask(guarded, token(), **spelt)).status_code == 200
    assert not spelt.keys() & last_headers(guarded).keys()


@pytest.mark.parametrize(
    "bearer",
    [
        pytest.param(None, id="none"),
        pytest.param("not.a.token", id="nonsense"),
        pytest.param(token(UNKNOWN), id="signed by another key of the same name"),
        pytest.param(token(exp=int(time.time()) - 60), id="expired"),
        pytest.param(token(exp=None), id="without an end"),
        pytest.param(token(nbf=int(time.time()) + 600), id="not yet valid"),
        pytest.param(token(iss="https://evil.example.org/"), id="of another issuer"),
        pytest.param(token(iss=None), id="of no issuer"),
        pytest.param(unsigned(), id="unsigned"),
        pytest.param(token()[:-6] + "AAAAAA", id="with another signature"),
        pytest.param(
            signed_with_secret(FIRST.as_pem(private=False)), id="signed with the public key"
        ),
    ],
)
async def test_any_other_token_is_refused(guarded: Gateway, bearer: str | None) -> None:
    before = len(guarded.upstreams[0].requests)
    answer = await ask(guarded, bearer)
    assert answer.status_code == 401
    assert answer.headers["www-authenticate"].startswith("Bearer ")
    assert answer.headers["content-type"] == "application/problem+json"
    assert answer.json()["status"] == 401
    assert len(guarded.upstreams[0].requests) == before


@pytest.mark.parametrize("audience", ["elsewhere", "", ["a", "b"], None])
async def test_a_token_for_somebody_else_is_refused(guarded: Gateway, audience: Any) -> None:
    assert (await ask(guarded, token(aud=audience))).status_code == 403


async def test_one_of_several_audiences_is_enough(guarded: Gateway) -> None:
    assert (await ask(guarded, token(aud=["elsewhere", "other"]))).status_code == 200


async def test_a_token_in_the_address_is_not_read(guarded: Gateway) -> None:
    answer = await guarded.client.post(f"{PATH}?access_token={token()}")
    assert answer.status_code == 401


async def test_a_token_that_is_too_large_is_refused_and_a_large_one_taken(guarded: Gateway) -> None:
    assert (await ask(guarded, token(note="x" * 20_000))).status_code == 200
    assert (await ask(guarded, token(note="x" * 80_000))).status_code == 431


async def test_clocks_may_differ_a_little(guarded: Gateway) -> None:
    assert (await ask(guarded, token(exp=int(time.time()) - 10))).status_code == 200


@pytest.mark.parametrize("value", ["gold\r\nx-user-sub: root", "a\nb", "bell\x07", "\x7f"])
async def test_a_claim_cannot_pass_for_several_headers(guarded: Gateway, value: str) -> None:
    before = len(guarded.upstreams[0].requests)
    assert (await ask(guarded, token(plan_id=value))).status_code == 403
    assert len(guarded.upstreams[0].requests) == before


@pytest.mark.parametrize("value", ["Zoë ☃", "", {"deep": [1]}, ["a", "b"], True, None])
async def test_claims_of_any_kind_do_no_harm(guarded: Gateway, value: Any) -> None:
    assert (await ask(guarded, token(plan_id=value))).status_code == 200


async def test_health_needs_no_token_and_what_is_not_served_does(guarded: Gateway) -> None:
    assert (await guarded.client.get("/v2/health/ready")).status_code == 200
    assert (await guarded.client.get("/v2/models/other")).status_code == 401


async def test_users_of_a_claim_stick_to_their_version(guarded: Gateway) -> None:
    stable, candidate = await guarded.upstream("stick-s"), await guarded.upstream("stick-c")
    plan = split_plan(
        "stick",
        stable=(stable,),
        candidate=(candidate,),
        weight=5_000,
        sticky_header="x-user-sub",
        limits=Limits.model_validate(
            {"rate": {"requests": 3, "per": "1h", "by": "user"}},
        ),
    )
    assert (await guarded.publish(plan)).accepted

    async def served(user: str, forged: str) -> tuple[int, str | None]:
        headers = {"authorization": f"Bearer {token(sub=user)}", "x-user-sub": forged}
        answer = await guarded.client.post("/v2/models/stick/infer", headers=headers)
        return answer.status_code, answer.headers.get("x-modelplane-assigned")

    versions = set()
    for user in (f"user-{number}" for number in range(12)):
        answers = [await served(user, forged) for forged in ("a", "b", "c")]
        assert len(set(answers)) == 1
        versions.add(answers[0][1])
        # The rate is the user's as well, whoever it says it is.
        assert (await served(user, "d"))[0] == 429
    assert versions == {"1.0.0", "1.1.0"}


async def test_new_keys_are_used_at_once_and_close_no_connection(guarded: Gateway) -> None:
    async def accepted(key: Any) -> bool:
        return (await ask(guarded, token(key))).status_code == 200

    good = {"authorization": f"Bearer {token(exp=int(time.time()) + 3600)}"}
    assert not await accepted(SECOND)
    async with load(guarded.config.port, "guarded", connections=4, headers=good) as answers:
        both = read_keys(key_set(FIRST, SECOND))
        guarded.proxy.renew(EXTENSION, token_filter(DECLARED, both))
        await until(lambda: accepted(SECOND))
        for keys in (key_set(FIRST), both, key_set(FIRST)):
            guarded.proxy.renew(EXTENSION, token_filter(DECLARED, read_keys(keys)))
            await answers.grow(100)
    assert answers.failures == 0, answers.problems
    assert answers.connections == 4
    await until(lambda: _not(accepted(SECOND)))
    guarded.proxy.renew(EXTENSION, token_filter(DECLARED, read_keys(key_set(SECOND))))
    await until(lambda: accepted(SECOND))
    assert not await accepted(FIRST)  # what was verified before is not remembered
    guarded.proxy.renew(EXTENSION, token_filter(DECLARED, read_keys(key_set(FIRST))))
    await until(lambda: accepted(FIRST))


@pytest.mark.filterwarnings("ignore:EdDSA is deprecated")
@pytest.mark.parametrize(
    ("key", "alg"),
    [
        (jwk.RSAKey.generate_key(3072, {"kid": "k"}), "RS512"),
        (jwk.RSAKey.generate_key(2048, {"kid": "k"}), "PS256"),
        (jwk.ECKey.generate_key("P-256", {"kid": "k"}), "ES256"),
        (jwk.ECKey.generate_key("P-384", {"kid": "k"}), "ES384"),
        (jwk.ECKey.generate_key("P-521", {"kid": "k"}), "ES512"),
        (jwk.OKPKey.generate_key("Ed25519", {"kid": "k"}), "EdDSA"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
async def test_every_kind_of_key_that_is_kept_verifies(
    guarded: Gateway, key: Any, alg: str
) -> None:
    async def accepted(one: Any, with_alg: str | None = None) -> bool:
        return (await ask(guarded, token(one, alg=with_alg))).status_code == 200

    both = read_keys(key_set(FIRST, key))
    guarded.proxy.renew(EXTENSION, token_filter(DECLARED, both))
    await until(lambda: accepted(key, alg))
    assert await accepted(FIRST)


async def test_a_filter_that_envoy_refuses_is_told_and_changes_nothing(guarded: Gateway) -> None:
    guarded.proxy.renew(EXTENSION, token_filter(DECLARED, '{"keys": "none"}'))

    async def refused() -> bool:
        return guarded.proxy.listener_fault is not None

    await until(refused)
    assert "invalid local jwks" in (guarded.proxy.listener_fault or "")
    assert (await ask(guarded, token())).status_code == 200
    guarded.proxy.renew(EXTENSION, token_filter(DECLARED, read_keys(key_set(FIRST))))
    await until(lambda: _not(refused()))
    assert (await ask(guarded, token())).status_code == 200


async def test_an_agent_that_has_not_read_the_keys_yet_leaves_envoy_those_it_has(
    guarded: Gateway,
) -> None:
    await guarded.stop_proxy()
    await guarded.start_proxy([split_plan("guarded", stable=(guarded.upstreams[0],))])
    await until(guarded.proxy.is_ready)
    assert (await ask(guarded, token())).status_code == 200
    assert (await ask(guarded, token(UNKNOWN))).status_code == 401


async def test_without_keys_the_gateway_does_not_listen() -> None:
    one = Gateway(jwt=DECLARED)
    try:
        await one.start_proxy()
        await one.start_envoy()

        async def has_listener() -> bool:
            try:
                return bool((await one.update_counts()).get("listener_manager.lds.update_success"))
            except TransientError:
                return False  # it is just starting

        await until(has_listener)
        assert not await one.proxy.is_ready()
        with pytest.raises(httpx.ConnectError):
            await one.client.get("/v2/health/ready")
        one.proxy.renew(EXTENSION, token_filter(DECLARED, read_keys(key_set(FIRST))))
        await until(one.proxy.is_ready)
        assert (await one.client.get("/v2/health/ready")).status_code == 200
    finally:
        await one.stop()


async def _not(answer: Any) -> bool:
    return not await answer
