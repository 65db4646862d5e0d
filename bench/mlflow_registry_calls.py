"""Calls of MLflow's client, timed; run with MLflow's own Python by `mlflow_registry`.

Reads one line per measurement from stdin (``NAME SECONDS``), answers each with one line of JSON
``{calls, seconds, p50_ms}``. Knows nothing of what serves it.
"""

from __future__ import annotations

import json
import random
import statistics
import sys
import time
from collections.abc import Callable
from typing import Any

from mlflow import MlflowClient
from mlflow.exceptions import MlflowException

MODELS, VERSIONS = 100, 100


def make_calls(client: MlflowClient, worker: str) -> dict[str, Callable[[], Any]]:
    """Return one call of each kind."""
    own = f"bench-{worker}"
    chance = random.Random(worker)
    try:
        client.create_registered_model(own)
    except MlflowException as error:
        if error.error_code != "RESOURCE_ALREADY_EXISTS":
            raise

    def any_model() -> str:
        return f"model-{chance.randrange(MODELS)}"

    return {
        "create version": lambda: client.create_model_version(
            own, "s3://bucket/model", tags={"team": "risk"}, await_creation_for=0
        ),
        "get by alias": lambda: client.get_model_version_by_alias(any_model(), "champion"),
        "set alias": lambda: client.set_registered_model_alias(
            any_model(), "challenger", str(chance.randrange(1, VERSIONS + 1))
        ),
        "search by name": lambda: client.search_model_versions(
            f"name = '{any_model()}'", max_results=100
        ),
        "search by tag": lambda: client.search_model_versions(
            f"tag.team = 'team-{chance.randrange(20)}'", max_results=100
        ),
    }


def main() -> None:
    """Serve measurements until stdin ends."""
    uri, worker = sys.argv[1:]
    calls = make_calls(MlflowClient(tracking_uri=uri, registry_uri=uri), worker)
    print("ready", flush=True)
    for line in sys.stdin:
        name, seconds = line.strip().rsplit(" ", 1)
        call, times = calls[name], []
        began = time.perf_counter()
        until = began + float(seconds)
        while (now := time.perf_counter()) < until:
            call()
            times.append(time.perf_counter() - now)
        measured = {
            "calls": len(times),
            "seconds": time.perf_counter() - began,
            "p50_ms": statistics.median(times) * 1e3,
        }
        print(json.dumps(measured), flush=True)


if __name__ == "__main__":
    main()
