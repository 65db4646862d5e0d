"""How long lists and searches take with 10,000 versions and 500 deployments registered.

Run by ``python -m bench`` and alone. Each request goes through the whole API in process (token,
authorization, query, filter, order, page, JSON), without sockets; beside it stands the first
load of the registry into memory.
"""

from __future__ import annotations

import asyncio
import json
import random
import statistics
import tempfile
import time
import uuid
from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import httpx

from modelplane.adapters.blobs.trees import TreeBlobs
from modelplane.adapters.clock import SystemClock
from modelplane.adapters.metrics.ring import MetricsRing
from modelplane.adapters.store.sqlite import SqliteStore
from modelplane.api.app import create_app
from modelplane.api.catalog import Catalog
from modelplane.api.dependencies import ApiDependencies, ApiLimits
from modelplane.api.identity import make_token
from modelplane.ports.store import Transaction
from modelplane.resources.dataset import (
    DataColumn,
    Dataset,
    DatasetReference,
    DatasetVersion,
    DatasetVersionSpec,
)
from modelplane.resources.environment import Environment, EnvironmentSpec, Gateway
from modelplane.resources.meta import Metadata, Resource, Subject
from modelplane.resources.model import (
    Model,
    ModelStatus,
    ModelVersion,
    ModelVersionSpec,
    ModelVersionStatus,
    Training,
)
from modelplane.resources.model_deployment import ModelDeployment, ModelDeploymentSpec
from modelplane.resources.revision import Artifact

SUBJECT = Subject(name="bench")
TOKEN = "bench"
MODELS = 100
VERSIONS = 10_000
DATASETS = 50
DATASET_VERSIONS = 1_000
DEPLOYMENTS = 500
REQUESTS = 100

LISTS: dict[str, tuple[str, dict[str, str | int]]] = {
    "models": ("models", {}),
    "versions": ("model-versions", {}),
    "versions, limit 100": ("model-versions", {"limit": 100}),
    "versions of a model": ("model-versions", {"filter": "model = 'model-042'"}),
    "metric and tag": (
        "model-versions",
        {"filter": "metrics.accuracy > 0.9 and tags.team = 'risk'"},
    ),
    "metric and tag, best 20": (
        "model-versions",
        {
            "filter": "metrics.accuracy > 0.9 and tags.team = 'risk'",
            "orderBy": "metrics.accuracy DESC",
            "limit": 20,
        },
    ),
    "all by metric": ("model-versions", {"orderBy": "metrics.accuracy DESC, name"}),
    "all by semantic version": ("model-versions", {"orderBy": "version DESC"}),
    "by alias": ("model-versions", {"filter": "alias = 'champion'"}),
    "by dataset": ("model-versions", {"filter": "dataset = 'dataset-07@3'"}),
    "nothing matches": ("model-versions", {"filter": "params.depth LIKE '%x%'"}),
    "datasets": ("datasets", {}),
    "dataset versions": ("dataset-versions", {}),
    "deployments": ("model-deployments", {}),
}


def run() -> dict[str, Any]:
    """Return the times of each kind of list, and of the first load."""
    with tempfile.TemporaryDirectory(prefix="modelplane-bench-") as folder:
        return asyncio.run(_measure(Path(folder)))


async def _measure(folder: Path) -> dict[str, Any]:
    clock = SystemClock()
    async with _opened(folder, clock) as store:
        await _fill(store)
    async with _opened(folder, clock) as store:  # anew, so that nothing is in memory
        first_s = await _load(store)
        app = create_app(_dependencies(store, clock, folder))
        headers = {"authorization": f"Bearer {TOKEN}"}
        async with httpx.AsyncClient(
            transport=httpx.ASGITransport(app),
            base_url="http://127.0.0.1/api/v1",
            headers=headers,
        ) as http:
            lists = {name: await _time(http, *asked) for name, asked in LISTS.items()}
            lists["versions, third page"] = await _time(
                http, "model-versions", await _third_page(http)
            )
    return {
        "first_load_ms": round(first_s * 1e3),
        "slowest_p99_ms": max(figures["p99_ms"] for figures in lists.values()),
        "lists": lists,
    }


@asynccontextmanager
async def _opened(folder: Path, clock: SystemClock) -> AsyncIterator[SqliteStore]:
    store = SqliteStore(
        folder / "store.db",
        clock=clock,
        new_uid=lambda: uuid.uuid4().hex,
        audit_dir=folder / "audit",
    )
    await store.open()
    try:
        yield store
    finally:
        await store.close()


def _dependencies(store: SqliteStore, clock: SystemClock, folder: Path) -> ApiDependencies:
    async def nothing() -> dict[str, Any]:
        return {}

    return ApiDependencies(
        store=store,
        blobs=TreeBlobs(str(folder / "artifacts")),
        metrics=MetricsRing(),
        clock=clock,
        new_uid=lambda: uuid.uuid4().hex,
        new_secret=lambda: uuid.uuid4().hex,
        verify_audit=nothing,
        signed_head=nothing,
        limits=ApiLimits(),
    )


async def _load(store: SqliteStore) -> float:
    started = time.perf_counter()
    index = await Catalog(store).current()
    elapsed_s = time.perf_counter() - started
    assert len(index.versions) == VERSIONS
    return elapsed_s


async def _time(
    http: httpx.AsyncClient, path: str, query: dict[str, str | int]
) -> dict[str, float]:
    """Return median and 99th percentile of one request's time, and how much came back."""
    await http.get(f"/{path}", params=query)
    times_ms = []
    cpu_s = time.process_time()
    for _ in range(REQUESTS):
        started = time.perf_counter()
        response = await http.get(f"/{path}", params=query)
        times_ms.append((time.perf_counter() - started) * 1e3)
        assert response.status_code == 200, response.text
    cpu_ms = (time.process_time() - cpu_s) / REQUESTS * 1e3
    return {
        "items": len(response.json()["items"]),
        "p50_ms": round(statistics.median(times_ms), 2),
        "p99_ms": round(statistics.quantiles(times_ms, n=100)[98], 2),
        "cpu_ms": round(cpu_ms, 2),
        "kb": round(len(response.content) / 1000),
    }


async def _third_page(http: httpx.AsyncClient) -> dict[str, str | int]:
    token = ""
    for _ in range(2):
        query = {"continue": token} if token else {}
        page = (await http.get("/model-versions", params=query)).json()
        token = page["metadata"]["continue"]
    return {"continue": token}


async def _fill(store: SqliteStore) -> None:
    made = list(_resources())
    for start in range(0, len(made), 500):
        transaction = Transaction(SUBJECT)
        for resource in made[start : start + 500]:
            transaction.create(resource)
        await store.commit(transaction)


def _resources() -> Iterable[Resource[Any, Any]]:
    rng = random.Random(1)
    yield make_token("bench", ("admin",), TOKEN)
    spec = EnvironmentSpec(stage="production", order=1, gateway=Gateway(port=7082))
    yield Environment(metadata=Metadata(name="production"), spec=spec)
    columns = tuple(DataColumn(name=f"column_{i}", type="float64") for i in range(20))
    for number in range(DATASETS):
        yield Dataset(metadata=Metadata(name=f"dataset-{number:02}"))
    for index in range(DATASET_VERSIONS):
        name, number = f"dataset-{index % DATASETS:02}", index // DATASETS + 1
        spec_of_data = DatasetVersionSpec(
            dataset=name,
            version=str(number),
            number=number,
            digest=f"sha256:{rng.randbytes(32).hex()}",
            format="parquet",
            rows=1_000_000,
            columns=columns,
        )
        yield DatasetVersion(metadata=Metadata(name=f"{name}@{number}"), spec=spec_of_data)
    per_model = VERSIONS // MODELS
    for number in range(MODELS):
        aliases = {"champion": f"{per_model}.0.0", "challenger": f"{per_model - 1}.0.0"}
        status = ModelStatus(last_number=per_model, aliases=aliases)
        yield Model(metadata=Metadata(name=f"model-{number:03}"), status=status)
    for index in range(VERSIONS):
        yield _version(rng, f"model-{index % MODELS:03}", index // MODELS + 1)
    for number in range(DEPLOYMENTS):
        place = Metadata(name=f"deployment-{number:03}", environment="production")
        model = f"model-{number % MODELS:03}"
        yield ModelDeployment(
            metadata=place, spec=ModelDeploymentSpec(model=model, version="1.0.0")
        )


def _version(rng: random.Random, model: str, number: int) -> ModelVersion:
    """A version with as much of a record as a pushed one has."""
    column = {"datatype": "FP64", "shape": [-1, 1]}
    inputs = [{"name": f"column_{i}", **column} for i in range(20)]
    spec = ModelVersionSpec(
        model=model,
        version=f"{number}.0.0",
        number=number,
        id=f"mv-{rng.randbytes(16).hex()}",
        artifact=Artifact(format="skops", digest=f"sha256:{rng.randbytes(32).hex()}"),
        flavour="sklearn",
        metrics={name: rng.random() for name in ("accuracy", "auc", "f1", "log_loss")},
        parameters={f"parameter_{i}": str(rng.randrange(100)) for i in range(10)},
        signature={"inputs": inputs, "outputs": [{"name": "score", **column}]},
        datasets=(
            DatasetReference(
                name=f"dataset-{number % DATASETS:02}",
                version=str(rng.randrange(1, 21)),
                digest=f"sha256:{rng.randbytes(32).hex()}",
                rows=1_000_000,
            ),
        ),
        training=Training(
            python="3.11.9",
            packages={f"package-{i}": "1.2.3" for i in range(40)},
            git_commit=rng.randbytes(20).hex(),
            run_id=rng.randbytes(16).hex(),
        ),
        author="ann",
    )
    status = ModelVersionStatus(tags={"team": rng.choice(("risk", "ads", "search"))})
    name = Metadata(name=f"{model}@{number}.0.0", labels={"modelplane.dev/model": model})
    return ModelVersion(metadata=name, spec=spec, status=status)


if __name__ == "__main__":
    print(json.dumps(run(), indent=2))
