"""A control plane's API in one process: the real store on a file, and everything around it."""

from __future__ import annotations

import asyncio
import hashlib
import io
import itertools
import shutil
import tarfile
import tempfile
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import asdict, dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

import httpx
from fastapi import FastAPI

from modelplane.adapters.store.sqlite import SqliteStore
from modelplane.api.app import create_app
from modelplane.api.dependencies import ApiDependencies, ApiLimits
from modelplane.api.identity import make_token
from modelplane.errors import InvalidResource, NotFound
from modelplane.ports.blobs import StoredTree
from modelplane.ports.metrics import BatchPosition
from modelplane.ports.store import Transaction
from modelplane.resources.environment import Environment, EnvironmentSpec, Gateway
from modelplane.resources.meta import Metadata, Subject
from modelplane.resources.telemetry import TelemetryBatch, TelemetryReceipt, VariantSample
from modelplane.testing.clock import ManualClock

ADMIN, READER, AGENT = "secret-of-admin", "secret-of-reader", "secret-of-agent"
SYSTEM = Subject(name="system:wiring", groups=("admin",))
URL = "http://127.0.0.1:7080"


def digest_of(text: str) -> str:
    """A digest that stands for some bytes, where the bytes do not matter."""
    return f"sha256:{hashlib.sha256(text.encode()).hexdigest()}"


def tar_of(files: Mapping[str, bytes]) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as archive:
        for name, content in files.items():
            member = tarfile.TarInfo(name)
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))
    return buffer.getvalue()


class FakeBlobs:
    """Keeps tar streams as they came, under the digest of their bytes."""

    def __init__(self) -> None:
        self.stored: dict[str, bytes] = {}

    async def put(self, tar: AsyncIterator[bytes], expected_digest: str) -> StoredTree:
        content = b"".join([piece async for piece in tar])
        if f"sha256:{hashlib.sha256(content).hexdigest()}" != expected_digest:
            raise InvalidResource("the bytes have another digest")
        return self.keep(content)

    def keep(self, content: bytes) -> StoredTree:
        digest = f"sha256:{hashlib.sha256(content).hexdigest()}"
        self.stored[digest] = content
        return StoredTree(digest, len(content), 1)

    async def read(self, digest: str) -> AsyncIterator[bytes]:
        if digest not in self.stored:
            raise NotFound(f"no artifact {digest} is stored")
        yield self.stored[digest]

    async def find(self, digest: str) -> StoredTree | None:
        content = self.stored.get(digest)
        return StoredTree(digest, len(content), 1) if content is not None else None

    async def list(self) -> Sequence[StoredTree]:
        return [StoredTree(digest, len(c), 1) for digest, c in sorted(self.stored.items())]

    async def delete(self, digest: str) -> None:
        self.stored.pop(digest, None)


class FakeMetrics:
    """Keeps every batch once."""

    def __init__(self) -> None:
        self.kept: dict[tuple[str, str, int], TelemetryBatch] = {}

    def record(self, batch: TelemetryBatch) -> TelemetryReceipt:
        self.kept.setdefault((batch.proxy, batch.boot_id, batch.sequence), batch)
        return TelemetryReceipt(confirmed_sequence=batch.sequence)

    def batches(
        self,
        environment: str,
        deployment: str,
        *,
        since: datetime | None = None,
        after: Mapping[BatchPosition, int] | None = None,
    ) -> Sequence[TelemetryBatch]:
        return [b for b in self.kept.values() if b.environment == environment]

    def totals(
        self, environment: str, deployment: str, *, since: datetime
    ) -> Mapping[str, VariantSample]:
        found: dict[str, VariantSample] = {}
        for batch in self.batches(environment, deployment):
            for sample in batch.samples:
                if sample.deployment == deployment and batch.at > since:
                    before = found.get(sample.revision)
                    requests = sample.requests + (before.requests if before else 0)
                    found[sample.revision] = sample.with_(requests=requests)
        return found

    def confirm(self, proxy: str, boot_id: str, sequence: int) -> None:
        return None

    def last_seen(self, environment: str) -> datetime | None:
        return max((b.at for b in self.batches(environment, "")), default=None)


@dataclass
class World:
    store: SqliteStore
    blobs: FakeBlobs
    metrics: FakeMetrics
    clock: ManualClock
    dependencies: ApiDependencies
    app: FastAPI
    http: httpx.AsyncClient

    async def call(
        self, method: str, path: str, body: Any = None, *, token: str | None = ADMIN, **query: Any
    ) -> httpx.Response:
        """Send one request to the API."""
        headers = {"authorization": f"Bearer {token}"} if token else {}
        content = {"content": body} if isinstance(body, bytes) else {"json": body}
        if body is None:
            content = {}
        return await self.http.request(
            method, f"/api/v1{path}", params=query or None, headers=headers, **content
        )

    async def ok(self, method: str, path: str, body: Any = None, **query: Any) -> Any:
        """Send one request that must succeed, and return what it answers."""
        response = await self.call(method, path, body, **query)
        assert response.status_code in {200, 201}, response.text
        return response.json()

    async def push(self, model: str, version: str, **fields: Any) -> dict[str, Any]:
        """Register a version whose bytes are named by its version."""
        tree = self.blobs.keep(fields.pop("content", f"{model} {version}").encode())
        artifact = {"format": fields.pop("format", "skops"), "digest": tree.digest}
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
    """Make the environments and the tokens that exist from the start."""
    transaction = Transaction(SYSTEM)
    transaction.create(_environment("staging", 10, 7081))
    transaction.create(_environment("production", 20, 7082))
    transaction.create(make_token("admin", ("admin",), ADMIN))
    transaction.create(make_token("reader", ("analysts",), READER))
    transaction.create(make_token("agent", ("system:agents",), AGENT))
    await store.commit(transaction)


@asynccontextmanager
async def make_world(**changes: Any) -> AsyncIterator[World]:
    """Give a fresh API; `changes` replace fields of its dependencies."""
    directory = Path(tempfile.mkdtemp(prefix="mp-api-"))
    clock, uids = ManualClock(), itertools.count(1)
    store = SqliteStore(
        directory / "store.db",
        clock=clock,
        new_uid=lambda: f"uid-{next(uids)}",
        audit_dir=directory / "audit",
    )
    await store.open()

    async def verify_audit() -> Mapping[str, Any]:
        return asdict(await store.verify_audit())

    async def signed_head() -> Mapping[str, Any]:
        return {"sequence": 5}

    blobs, metrics = FakeBlobs(), FakeMetrics()
    fields: dict[str, Any] = {
        "store": store,
        "blobs": blobs,
        "metrics": metrics,
        "clock": clock,
        "new_uid": lambda: f"request-{next(uids)}",
        "new_secret": lambda: f"made-secret-{next(uids)}",
        "verify_audit": verify_audit,
        "signed_head": signed_head,
        "limits": ApiLimits(artifact_bytes=100_000, idle_timeout_s=5.0, heartbeat_s=0.1),
        **changes,
    }
    dependencies = ApiDependencies(**fields)
    app = create_app(dependencies)
    try:
        await seed(store)
        async with httpx.AsyncClient(
            transport=httpx.ASGITransport(app, raise_app_exceptions=True), base_url=URL
        ) as http:
            yield World(store, blobs, metrics, clock, dependencies, app, http)
    finally:
        await store.close()
        await asyncio.to_thread(shutil.rmtree, directory, ignore_errors=True)
