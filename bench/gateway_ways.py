"""The ways to the upstream that `gateway` measures, each started as its processes.

The bare Envoy is written by hand: a sticky split and nothing else. All others are modelplane's own
gateway with one thing more than the one before it.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import sys
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

from joserfc import jwk, jwt

from bench.gateway_load import answers
from bench.propagation import free_port, until
from modelplane.adapters.clock import SystemClock
from modelplane.adapters.identity.authority import FolderAuthority
from modelplane.adapters.identity.keys import EllipticKeys
from modelplane.adapters.proxy.bootstrap import (
    GatewayConfig,
    envoy_binary,
    envoy_command,
    write_bootstrap,
)
from modelplane.adapters.proxy.envoy import EnvoyProxy
from modelplane.adapters.proxy.inbound import EnvoyInbound, inbound_process
from modelplane.adapters.proxy.keys import read_keys
from modelplane.adapters.proxy.tokens import token_filter
from modelplane.adapters.proxy.xds import EXTENSION
from modelplane.decisions.routing import Endpoint, RoutePlan, Rule, Segment, Variant
from modelplane.ports.identity import Credentials
from modelplane.ports.inbound import InboundRoute
from modelplane.resources.certificates import CertificateRequest, Workload
from modelplane.resources.environment import GatewayJwt

_WEIGHTS = (9_000, 1_000)
_ISSUER = "https://bench.example.org"


@dataclass(frozen=True, slots=True)
class Way:
    """One way to the upstream.

    Attributes
    ----------
    port, path, headers
        What the client asks.
    pids
        Processes between client and upstream; the upstream's own where there is none.
    """

    port: int
    pids: tuple[int, ...]
    path: str = "/v2/models/bench/infer"
    headers: dict[str, str] = field(default_factory=dict)


Start = Callable[..., Awaitable[int]]


@contextlib.asynccontextmanager
async def ways(directory: Path) -> AsyncIterator[dict[str, Way]]:
    """Start every way; end all of them with the block."""
    children: list[asyncio.subprocess.Process] = []
    proxies: list[EnvoyProxy | EnvoyInbound] = []

    async def start(*command: str) -> int:
        process = await asyncio.create_subprocess_exec(*command)
        children.append(process)
        return process.pid

    try:
        sockets = [str(directory / "a.sock"), str(directory / "b.sock")]
        found = await _around(directory, sockets, start)
        found |= await _gateway(directory, sockets, start, proxies)
        found |= await _with_tokens(directory, sockets, start, proxies)
        found |= await _with_mutual_tls(directory, sockets, start, proxies)
        for way in found.values():
            await until(partial(answers, way.port, way.path, way.headers))
        yield found
    finally:
        for proxy in proxies:
            await proxy.stop()
        for process in children:
            process.kill()
            await process.wait()


async def _around(directory: Path, sockets: list[str], start: Start) -> dict[str, Way]:
    """Start the upstream, the bare Envoy, and the proxy in Python."""
    direct, bare, python = free_port(), free_port(), free_port()
    me = (sys.executable, "-m", "bench.gateway_load")
    upstream = await start(*me, "upstream", str(direct), *sockets)
    file = directory / "bare.json"
    file.write_text(json.dumps(_bare_envoy(bare, sockets)))
    quiet = ("--concurrency", "1", "--use-dynamic-base-id", "--log-level", "error")
    envoy = await start(str(envoy_binary()), "-c", str(file), *quiet)
    aiohttp = await start(*me, "aiohttp", str(python), *sockets)
    return {
        "direct": Way(direct, (upstream,)),
        "bare Envoy": Way(bare, (envoy,)),
        "aiohttp": Way(python, (aiohttp,)),
    }


async def _gateway(
    directory: Path, sockets: list[str], start: Start, proxies: list[Any]
) -> dict[str, Way]:
    """Start one gateway with a deployment for each thing that it can do for one."""
    config = GatewayConfig("plain", "127.0.0.1", free_port(), directory)
    proxy, pid = await _start_envoy(config, start, proxies)
    endpoints = [Endpoint(f"r{n}", f"unix:{path}") for n, path in enumerate(sockets)]
    plans = {
        "split": replace(_plan("split", endpoints), shield=False),
        "shield": _plan("shield", endpoints),
        "header predicate": _under(_plan("header", endpoints), "user.region == 'west'"),
        "body predicate": _under(_plan("body", endpoints), "input.amount > 200.0"),
    }
    for plan in plans.values():
        await proxy.publish(plan)
    headers = {"header predicate": {"x-user-region": "west"}}
    return {
        name: Way(config.port, (pid,), f"/v2/models/{plan.deployment}/infer", headers.get(name, {}))
        for name, plan in plans.items()
    }


async def _with_tokens(
    directory: Path, sockets: list[str], start: Start, proxies: list[Any]
) -> dict[str, Way]:
    """Start a gateway that verifies tokens; each client sends one, again and again."""
    key = jwk.RSAKey.generate_key(2048, {"kid": "bench"})
    verified = GatewayJwt(issuer=_ISSUER, jwks_file="/unused")
    config = GatewayConfig("tokens", "127.0.0.1", free_port(), directory, jwt=verified)
    keys = read_keys(json.dumps({"keys": [key.as_dict(private=False)]}))
    proxy, pid = await _start_envoy(
        config, start, proxies, lambda proxy: proxy.renew(EXTENSION, token_filter(verified, keys))
    )
    endpoints = [Endpoint(f"r{n}", f"unix:{path}") for n, path in enumerate(sockets)]
    await proxy.publish(_plan("bench", endpoints))
    claims = {"iss": _ISSUER, "sub": "bench", "exp": int(time.time()) + 3600}
    token = jwt.encode({"alg": "RS256", "kid": "bench"}, claims, key)
    return {"JWT": Way(config.port, (pid,), headers={"authorization": f"Bearer {token}"})}


async def _with_mutual_tls(
    directory: Path, sockets: list[str], start: Start, proxies: list[Any]
) -> dict[str, Way]:
    """Start a gateway that reaches the upstream through the inbound proxy."""
    authority = FolderAuthority(directory / "ca", SystemClock())
    own = _credentials(authority, Workload(environment="mtls", role="gateway"))
    theirs = _credentials(authority, Workload(environment="mtls", role="inbound", node="bench"))
    process = inbound_process("mtls", directory)
    inbound = EnvoyInbound(process, own.identity)
    proxies.append(inbound)
    await inbound.present(theirs)
    await inbound.start()
    write_bootstrap(process)
    inbound_pid = await start(*envoy_command(process))
    await until(inbound.is_ready)
    endpoints = []
    for number, path in enumerate(sockets):
        route = InboundRoute(f"r{number}", f"127.0.0.1:{free_port()}", path)
        if fault := await inbound.expose(route):
            raise RuntimeError(fault)
        endpoints.append(Endpoint(route.key, route.address, theirs.identity))
    config = GatewayConfig("mtls", "127.0.0.1", free_port(), directory)
    proxy, pid = await _start_envoy(config, start, proxies)
    await proxy.present(own)
    await proxy.publish(_plan("bench", endpoints))
    return {"mutual TLS": Way(config.port, (pid, inbound_pid))}


async def _start_envoy(
    config: GatewayConfig,
    start: Start,
    proxies: list[Any],
    prepare: Callable[[EnvoyProxy], None] = lambda _: None,
) -> tuple[EnvoyProxy, int]:
    proxy = EnvoyProxy(config)
    proxies.append(proxy)
    await proxy.start()
    prepare(proxy)
    write_bootstrap(config)
    pid = await start(*envoy_command(config))
    await until(proxy.is_ready)
    return proxy, pid


def _credentials(authority: FolderAuthority, workload: Workload) -> Credentials:
    key = EllipticKeys().make_key()
    issued = authority.issue(CertificateRequest(workload=workload, request=key.request))
    return Credentials(
        identity=issued.identity,
        private_key=key.private_key,
        certificate=issued.certificate,
        trusted=issued.trust.authorities,
        not_before=issued.not_before,
        not_after=issued.not_after,
    )


def _plan(deployment: str, endpoints: list[Endpoint]) -> RoutePlan:
    stable, candidate = endpoints
    variants = (
        Variant(f"{deployment}.a", "1.0.0", "stable", _WEIGHTS[0], (stable,)),
        Variant(f"{deployment}.b", "1.1.0", "candidate", _WEIGHTS[1], (candidate,)),
    )
    return RoutePlan(deployment, 1, variants)


def _under(plan: RoutePlan, predicate: str) -> RoutePlan:
    """Return `plan` with its split under a predicate that every request of the bench meets."""
    (default,) = plan.all_rules
    everybody = Rule("default", "", "", (Segment(plan.stable.cluster, sum(_WEIGHTS)),))
    return replace(
        plan, rules=(replace(default, name="rule-bench", predicate=predicate), everybody)
    )


def _bare_envoy(port: int, sockets: list[str]) -> dict[str, Any]:
    """Return the least configuration that splits traffic 90 to 10 by the user's name."""
    names = ("a", "b")
    kind = "type.googleapis.com/envoy.extensions.filters"
    route = {
        "weighted_clusters": {
            "clusters": [{"name": n, "weight": w} for n, w in zip(names, (90, 10), strict=True)],
            "use_hash_policy": True,
        },
        "hash_policy": [{"header": {"header_name": "x-user-id"}}],
    }
    manager = {
        "@type": f"{kind}.network.http_connection_manager.v3.HttpConnectionManager",
        "stat_prefix": "bare",
        "route_config": {
            "virtual_hosts": [
                {
                    "name": "v",
                    "domains": ["*"],
                    "routes": [{"match": {"prefix": "/"}, "route": route}],
                }
            ]
        },
        "http_filters": [
            {
                "name": "envoy.filters.http.router",
                "typed_config": {"@type": f"{kind}.http.router.v3.Router"},
            }
        ],
    }
    listener = {
        "address": {"socket_address": {"address": "127.0.0.1", "port_value": port}},
        "filter_chains": [{"filters": [{"name": "hcm", "typed_config": manager}]}],
    }
    clusters = [
        {
            "name": name,
            "type": "STATIC",
            "load_assignment": {
                "cluster_name": name,
                "endpoints": [
                    {"lb_endpoints": [{"endpoint": {"address": {"pipe": {"path": path}}}}]}
                ],
            },
        }
        for name, path in zip(names, sockets, strict=True)
    ]
    return {"static_resources": {"listeners": [listener], "clusters": clusters}}
