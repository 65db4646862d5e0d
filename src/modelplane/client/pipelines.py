"""Questions about pipelines and their runs, as calls. Used by `gates.GateClient`; sends nothing."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import Any

from modelplane.client import calls
from modelplane.client.calls import Call
from modelplane.errors import InvalidResource
from modelplane.resources.gate_run import GateRun
from modelplane.resources.validation_pipeline import ValidationPipeline


@dataclass(frozen=True, slots=True)
class CachedStage:
    """What the cache would do about one stage of a pipeline.

    Attributes
    ----------
    stage, check
        Which stage.
    hit
        Whether an earlier result would be reused.
    reason
        Why, or why not, in a sentence.
    run, made_at, passed
        Of that result.
    changed
        Names of the inputs that differ from the newest result of the stage and the model.
    inputs
        What the result depends on: a digest or a word, by name.
    """

    stage: str
    check: str
    hit: bool
    reason: str
    run: str | None
    made_at: datetime | None
    passed: bool | None
    changed: tuple[str, ...]
    inputs: dict[str, str]


def split_version(name: str) -> tuple[str, str]:
    """Return model and version of ``MODEL@VERSION``; without a version it is ``latest``."""
    model, at, version = name.rpartition("@")
    if at and not (model and version):
        raise InvalidResource(f"{name[:80]!r} names no version", hint="write it MODEL@VERSION")
    return (model, version) if at else (name, "latest")


def run_call(pipeline: str, of: str, *, no_cache: bool, reason: str) -> Call:
    """Return the call that starts a run for ``MODEL@VERSION``."""
    model, version = split_version(of)
    body = {"model": model, "version": version, "noCache": no_cache, "reason": reason}
    return calls.act(ValidationPipeline, pipeline, "run", None, body)


def cancel_call(run: str, reason: str) -> Call:
    """Return the call that cancels a run."""
    return calls.act(GateRun, run, "cancel", None, {"reason": reason})


def explain_cache_call(pipeline: str, of: str) -> Call:
    """Return the call that asks what the cache would do about ``MODEL@VERSION``."""
    path = calls.resource_path(ValidationPipeline, pipeline, "/cache")
    return Call("GET", path, {"version": "@".join(split_version(of))})


def report_call(run: str, format: str) -> Call:
    """Return the call that fetches a run's report."""
    return Call("GET", calls.resource_path(GateRun, run, "/report"), {"format": format})


def read_cache(answer: dict[str, Any]) -> tuple[CachedStage, ...]:
    """Return the answer to `explain_cache_call`."""
    return tuple(
        CachedStage(
            stage=stage["stage"],
            check=stage["check"],
            hit=stage["hit"],
            reason=stage["reason"],
            run=stage.get("run"),
            made_at=datetime.fromisoformat(stage["madeAt"]) if stage.get("madeAt") else None,
            passed=stage.get("passed"),
            changed=tuple(stage["changed"]),
            inputs=stage["inputs"],
        )
        for stage in answer["stages"]
    )
