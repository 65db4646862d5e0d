"""A control plane's API in one process: the real store on a file, and everything around it."""

from __future__ import annotations

import asyncio
import hashlib
import itertools
import shutil
import socket
import tempfile
from collections.abc import AsyncIterator, Generator, Iterable, Iterator, Mapping
from contextlib import asynccontextmanager, contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import httpx
import uvicorn
from fastapi import FastAPI

from modelplane.adapters.blobs.trees import TreeBlobs
from modelplane.adapters.metrics.ring import MetricsRing
from modelplane.adapters.store.sqlite import SqliteStore, StoreOptions
from modelplane.api.app import create_app
from modelplane.api.dependencies import ApiDependencies, ApiLimits
from modelplane.api.identity import make_token
from modelplane.client.artifacts import digest_tree, tar_stream
from modelplane.ports.store import Transaction
from modelplane.resources.environment import Environment, EnvironmentSpec, Gateway
from modelplane.resources.meta import Metadata, Subject
from modelplane.resources.role import RoleBinding, RoleBindingSpec
from modelplane.testing.clock import ManualClock

ADMIN, READER, AGENT = "secret-of-admin", "secret-of-reader", "secret-of-agent"
SYSTEM = Subject(name="system:wiring", groups=("admin",))
URL = "http://127.0.0.1:7080"
SEEDED = 6


def digest_of(text: str) -> str:
    """A digest that stands for some bytes, where the bytes do not matter."""
    return f"sha256:{hashlib.sha256(text.encode()).hexdigest()}"


async def pieces(tar: Iterable[bytes]) -> AsyncIterator[bytes]:
    for piece in tar:
        yield piece


@dataclass
class World:
    store: SqliteStore
    blobs: TreeBlobs
    metrics: MetricsRing
    clock: ManualClock
    dependencies: ApiDependencies
    app: FastAPI
    http: httpx.AsyncClient
    directory: Path

    async def call(
        self, method: str, path: str, body: Any = None, *, token: str | None = ADMIN, **query: Any
    ) -> httpx.Response:
        """Send one request to the API; paths begin below ``/api/v1``, except those of ``/v1``."""
        path = path if path.startswith("/v1/") else f"/api/v1{path}"
        headers = {"authorization": f"Bearer {token}"} if token else {}
        content = {"content": body} if isinstance(body, bytes) else {"json": body}
        if body is None:
            content = {}
        return await self.http.request(
            method, path, params=query or None, headers=headers, **content
        )

    async def ok(self, method: str, path: str, body: Any = None, **query: Any) -> Any:
        """Send one request that must succeed, and return what it answers."""
        response = await self.call(method, path, body, **query)
        assert response.status_code in {200, 201}, response.text
        return response.json()

    async def push(self, model: str, version: str, **fields: Any) -> dict[str, Any]:
        """Register a version whose bytes are named by its version."""
        file = self.directory / model / version / "model"
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(fields.pop("content", f"{model} {version}"))
        digest = digest_tree(file).digest
        await self.blobs.put(pieces(tar_stream(file)), digest)
        artifact = {"format": fields.pop("format", "skops"), "digest": digest}
        body = {"model": model, "version": version, "artifact": artifact, **fields}
        pushed: dict[str, Any] = await self.ok("POST", "/model-versions", body)
        return pushed

    async def deploy(self, name: str, environment: str = "production", **spec: Any) -> Any:
        """Apply a deployment."""
        body = {"metadata": {"name": name, "environment": environment}, "spec": spec}
        return await self.ok("PUT", f"/model-deployments/{name}", body)


def _environment(name: str, order: int, port: int) -> Environment:
    spec = EnvironmentSpec.model_validate(
        {"stage": name, "order": order, "gateway": Gateway(port=port)}
    )
    return Environment(metadata=Metadata(name=name), spec=spec)


async def seed(store: SqliteStore) -> None:
    """Make the environments, tokens and roles that exist from the start: `SEEDED` resources."""
    transaction = Transaction(SYSTEM)
    transaction.create(_environment("staging", 10, 7081))
    transaction.create(_environment("production", 20, 7082))
    transaction.create(make_token("admin", ("admin",), ADMIN))
    transaction.create(make_token("reader", ("analysts",), READER))
    transaction.create(make_token("agent", ("system:agents",), AGENT))
    reading = RoleBindingSpec(role="auditor", groups=("analysts",))
    transaction.create(RoleBinding(metadata=Metadata(name="analysts"), spec=reading))
    await store.commit(transaction)


def _store_in(
    directory: Path, clock: ManualClock, uids: Iterator[int], options: StoreOptions | None = None
) -> SqliteStore:
    return SqliteStore(
        directory / "store.db",
        clock=clock,
        new_uid=lambda: f"uid-{next(uids)}",
        audit_dir=directory / "audit",
        options=options,
    )


async def _copy_seeded(directory: Path) -> None:
    """Put a seeded database there, made once in a process: to copy it takes half the time."""
    if not _seeded:
        made = tempfile.TemporaryDirectory(prefix="mp-seed-")
        store = _store_in(Path(made.name), ManualClock(), itertools.count(1))
        await store.open()
        await seed(store)
        await store.close()
        _seeded.append(made)
    shutil.copytree(_seeded[0].name, directory, dirs_exist_ok=True)


_seeded: list[tempfile.TemporaryDirectory[str]] = []


@asynccontextmanager
async def make_world(options: StoreOptions | None = None, **changes: Any) -> AsyncIterator[World]:
    """Give a fresh API; `changes` replace fields of its dependencies."""
    directory = Path(tempfile.mkdtemp(prefix="mp-api-"))
    await _copy_seeded(directory)
    clock, uids = ManualClock(), itertools.count(SEEDED + 1)
    store = _store_in(directory, clock, uids, options)
    await store.open()

    async def verify_audit() -> Mapping[str, Any]:
        report = await store.verify_audit()
        return {"verified": report.ok, **asdict(report)}

    async def signed_head() -> Mapping[str, Any]:
        return {"sequence": 5}

    blobs, metrics = TreeBlobs(str(directory / "artifacts")), MetricsRing()
    fields: dict[str, Any] = {
        "store": store,
        "blobs": blobs,
        "metrics": metrics,
        "clock": clock,
        "new_uid": lambda: f"request-{next(uids)}",
        "new_secret": lambda: f"made-secret-{next(uids)}",
        "verify_audit": verify_audit,
        "signed_head": signed_head,
        "sign": lambda data: "",
        "limits": ApiLimits(artifact_bytes=100_000, idle_timeout_s=5.0, heartbeat_s=0.1),
        **changes,
    }
    dependencies = ApiDependencies(**fields)
    app = create_app(dependencies)
    try:
        async with httpx.AsyncClient(
            transport=httpx.ASGITransport(app, raise_app_exceptions=True), base_url=URL
        ) as http:
            yield World(store, blobs, metrics, clock, dependencies, app, http, directory)
    finally:
        await store.close()
        await asyncio.to_thread(shutil.rmtree, directory, ignore_errors=True)


class _Server(uvicorn.Server):
    @contextmanager
    def capture_signals(self) -> Generator[None, None, None]:
        yield


@asynccontextmanager
async def serve(world: World) -> AsyncIterator[str]:
    """Serve the API on a port of the kernel's choice; give its address."""
    config = uvicorn.Config(world.app, log_config=None, lifespan="off", timeout_graceful_shutdown=2)
    server = _Server(config)
    # With the protocol named, the event loop turns off Nagle's delay on what it accepts.
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM, socket.IPPROTO_TCP) as listener:
        listener.bind(("127.0.0.1", 0))
        serving = asyncio.create_task(server.serve([listener]))
        try:
            yield f"http://127.0.0.1:{listener.getsockname()[1]}"
        finally:
            world.dependencies.stopping.set()
            server.should_exit = True
            await serving
