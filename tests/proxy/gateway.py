"""A running gateway for tests: the real Envoy, configured by `EnvoyProxy`."""

from __future__ import annotations

import asyncio
import contextlib
import json
import shutil
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import httpx

from modelplane.adapters.proxy.admin import Admin
from modelplane.adapters.proxy.bootstrap import GatewayConfig, envoy_command, write_bootstrap
from modelplane.adapters.proxy.envoy import EnvoyProxy
from modelplane.decisions.routing import RoutePlan
from modelplane.ports.proxy import LatencyBin, RouteAck, TrafficReading
from tests.ports import free_port
from tests.proxy.upstream import Mode, Upstream


class Gateway:
    """One Envoy process and the object that configures it; each can go and come back."""

    def __init__(self, **settings: Any) -> None:
        self.dir = Path(tempfile.mkdtemp(prefix="mp", dir="/tmp"))
        self.config = GatewayConfig(
            name="test", host="127.0.0.1", port=free_port(), runtime_dir=self.dir, **settings
        )
        self.url = f"http://127.0.0.1:{self.config.port}"
        self.acks: dict[str, RouteAck] = {}
        self.proxy: EnvoyProxy
        self.process: asyncio.subprocess.Process
        self.client = httpx.AsyncClient(base_url=self.url, timeout=30)
        self.upstreams: list[Upstream] = []
        self._children: list[asyncio.subprocess.Process] = []
        self._collector: asyncio.Task[None] | None = None
        self._acked = asyncio.Condition()

    async def start_proxy(
        self, plans: Iterable[RoutePlan] = (), *, collect_acks: bool = True
    ) -> None:
        """Start serving configuration, as the agent does when it starts."""
        self.proxy = EnvoyProxy(self.config, plans)
        await self.proxy.start()
        if collect_acks:
            self._collector = asyncio.create_task(self._collect(self.proxy))

    async def stop_proxy(self) -> None:
        """Stop serving configuration, as when the agent dies."""
        if self._collector:
            self._collector.cancel()
        await self.proxy.stop()

    async def start_envoy(self) -> None:
        """Start the Envoy process."""
        write_bootstrap(self.config)
        log = (self.dir / "envoy.log").open("ab")
        self.process = await asyncio.create_subprocess_exec(
            *envoy_command(self.config), stdout=log, stderr=log
        )
        log.close()

    async def kill_envoy(self) -> None:
        """Kill the Envoy process."""
        if self.process.returncode is None:
            self.process.kill()
        await self.process.wait()

    async def start(self, plans: Iterable[RoutePlan] = (), *, collect_acks: bool = True) -> None:
        """Start both and wait until ready."""
        await self.start_proxy(plans, collect_acks=collect_acks)
        await self.start_envoy()
        await until(self.proxy.is_ready)

    async def stop(self) -> None:
        """Stop everything this object started."""
        await self.client.aclose()
        await self.stop_proxy()
        await self.kill_envoy()
        for upstream in self.upstreams:
            await upstream.stop()
        for child in self._children:
            if child.returncode is None:
                child.kill()
            await child.wait()
        shutil.rmtree(self.dir, ignore_errors=True)

    async def upstream(self, name: str, mode: Mode = "ok", **options: Any) -> Upstream:
        """Start a model server in this process."""
        upstream = Upstream(str(self.dir / f"{name}.sock"), name, mode, **options)
        await upstream.start()
        self.upstreams.append(upstream)
        return upstream

    async def upstream_process(
        self, name: str, mode: Mode = "ok"
    ) -> tuple[str, asyncio.subprocess.Process]:
        """Start a model server in a process of its own; return its address and process."""
        path = str(self.dir / f"{name}.sock")
        command = [sys.executable, "-m", "tests.proxy.upstream", path, name, mode]
        child = await asyncio.create_subprocess_exec(*command, stdout=asyncio.subprocess.PIPE)
        self._children.append(child)
        assert child.stdout
        assert await child.stdout.readline() == b"ready\n"
        return f"unix:{path}", child

    async def publish(self, plan: RoutePlan) -> RouteAck:
        """Publish and wait for the verdict."""
        self.acks.pop(plan.deployment, None)
        await self.proxy.publish(plan)
        return await self.ack(plan.deployment, plan.generation)

    async def ack(self, deployment: str, generation: int) -> RouteAck:
        """Wait for the verdict on `generation`."""

        def there() -> bool:
            ack = self.acks.get(deployment)
            return ack is not None and ack.generation == generation

        async with asyncio.timeout(15), self._acked:
            await self._acked.wait_for(there)
        return self.acks[deployment]

    async def read_counts(self, requests: Mapping[str, int]) -> TrafficReading:
        """Return a reading once it holds so many `requests` per cluster, exactly.

        Envoy counts a request a moment after its answer and merges histograms every second.
        """
        reading = await self.proxy.read_traffic()

        async def complete() -> bool:
            nonlocal reading
            reading = await self.proxy.read_traffic()
            counts = {cluster: reading.variants.get(cluster) for cluster in requests}
            return all(
                c is not None and c.requests == sum(part.count for part in c.latency) == wanted
                for c, wanted in zip(counts.values(), requests.values(), strict=True)
            )

        try:
            await until(complete)
        except AssertionError as error:
            found = {
                name: replace(
                    counts, latency=(LatencyBin(0, 0, sum(b.count for b in counts.latency)),)
                )
                for name, counts in reading.variants.items()
                if name in requests
            }
            raise AssertionError(f"wanted {requests}, last read {found}") from error
        return reading

    async def update_counts(self) -> dict[str, int]:
        """Return how many configuration updates Envoy took, by statistic."""
        answer = await Admin(self.config.admin_socket).get(
            "/stats?format=json&filter=(cds|lds|deployments)\\.(update_success|update_rejected)$"
        )
        return {stat["name"]: stat["value"] for stat in json.loads(answer.body)["stats"]}

    async def status(self, path: str) -> int:
        """Return the status of a POST to `path`; 0 for no answer."""
        try:
            return (await self.client.post(path)).status_code
        except httpx.TransportError:
            return 0

    async def _collect(self, proxy: EnvoyProxy) -> None:
        async for ack in proxy.acks():
            async with self._acked:
                self.acks[ack.deployment] = ack
                self._acked.notify_all()

    def log(self) -> str:
        """Return what Envoy wrote."""
        return (self.dir / "envoy.log").read_text()


@contextlib.asynccontextmanager
async def gateway(**settings: Any) -> AsyncIterator[Gateway]:
    """Run a gateway with no deployments."""
    running = Gateway(**settings)
    try:
        await running.start()
        yield running
    finally:
        await running.stop()


async def until(condition: Callable[[], Awaitable[bool]], *, timeout_s: float = 15.0) -> float:
    """Wait until `condition` holds and return how long that took, seconds."""
    started = time.monotonic()
    while not await condition():
        if time.monotonic() - started > timeout_s:
            raise AssertionError(f"did not happen within {timeout_s:g} s")
        await asyncio.sleep(0.02)
    return time.monotonic() - started
