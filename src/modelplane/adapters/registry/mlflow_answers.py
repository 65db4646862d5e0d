"""What MLflow's REST API sends, as `decisions.external` has it.

Pure. Answers come over a network: what has another form than MLflow's makes a
`SourceUnavailable`, never a half-read record.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any, TypeVar

from modelplane.decisions.external import (
    STAGES,
    ExternalModel,
    ExternalRun,
    ExternalVersion,
)
from modelplane.ports.registries import SourceUnavailable
from modelplane.resources.dataset import DataColumn, DatasetReference

T = TypeVar("T")

_MAX_COLUMNS = 2000


@dataclass(frozen=True, slots=True)
class Run:
    """A run, where its artifacts lie, and at which steps it logged models."""

    record: ExternalRun
    artifact_uri: str = ""
    steps: Mapping[str, int] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class LoggedModel:
    """A logged model of MLflow 3."""

    id: str
    artifact_uri: str
    run_id: str = ""
    metrics: Mapping[str, float] = field(default_factory=dict)
    parameters: Mapping[str, str] = field(default_factory=dict)


def read_as(reader: Callable[[Mapping[str, Any]], T], data: object) -> T:
    """Return what `reader` makes of `data`.

    Raises
    ------
    SourceUnavailable
        It has another form than MLflow's.
    """
    try:
        if not isinstance(data, Mapping):
            raise TypeError(f"an object is missing: {str(data)[:80]!r}")
        return reader(data)
    except (AttributeError, LookupError, TypeError, ValueError, ArithmeticError, OSError) as error:
        message = f"an answer has not the form of MLflow's: {type(error).__name__}: {error}"
        raise SourceUnavailable("NotMlflow", message[:300]) from None


def read_list(reader: Callable[[Mapping[str, Any]], T], data: object) -> list[T]:
    """Return what `reader` makes of each item; None is an empty list."""
    if data is not None and not isinstance(data, list):
        raise SourceUnavailable("NotMlflow", "an answer has not the form of MLflow's: no list")
    return [read_as(reader, item) for item in data or ()]


def read_model(data: Mapping[str, Any]) -> ExternalModel:
    """Read a ``RegisteredModel``."""
    aliases = {str(a["alias"]): int(a["version"]) for a in data.get("aliases") or ()}
    return ExternalModel(
        name=_text(data["name"]),
        description=_text(data.get("description") or ""),
        tags=_tags(data.get("tags")),
        aliases=aliases,
    )


def read_version(data: Mapping[str, Any]) -> ExternalVersion:
    """Read a ``ModelVersion``."""
    stage = data.get("current_stage") or "None"
    created_at = _time(data["creation_timestamp"])
    updated = data.get("last_updated_timestamp")
    return ExternalVersion(
        model=_text(data["name"]),
        number=int(data["version"]),
        created_at=created_at,
        updated_at=_time(updated) if updated else created_at,
        source=_text(data.get("source") or ""),
        run_id=_text(data.get("run_id") or ""),
        user=_text(data.get("user_id") or ""),
        description=_text(data.get("description") or ""),
        tags=_tags(data.get("tags")),
        stage=stage if stage in STAGES else "None",
        is_ready=data.get("status", "READY") == "READY",
    )


def read_run(data: Mapping[str, Any]) -> Run:
    """Read a ``Run``."""
    info, values = data["info"], data.get("data") or {}
    tags = _tags(values.get("tags"))
    inputs = (data.get("inputs") or {}).get("dataset_inputs") or ()
    outputs = (data.get("outputs") or {}).get("model_outputs") or ()
    record = ExternalRun(
        id=_text(info.get("run_id") or info.get("run_uuid") or ""),
        user=_text(info.get("user_id") or tags.get("mlflow.user", "")),
        metrics=_metrics(values.get("metrics")),
        parameters=_tags(values.get("params")),
        tags=tags,
        datasets=tuple(_dataset(item) for item in inputs),
    )
    steps = {str(one["model_id"]): int(one.get("step") or 0) for one in outputs}
    return Run(record, _text(info.get("artifact_uri") or ""), steps)


def read_logged_model(data: Mapping[str, Any]) -> LoggedModel:
    """Read a ``LoggedModel``."""
    info, values = data["info"], data.get("data") or {}
    return LoggedModel(
        id=_text(info["model_id"]),
        artifact_uri=_text(info.get("artifact_uri") or ""),
        run_id=_text(info.get("source_run_id") or ""),
        metrics=_metrics(values.get("metrics")),
        parameters=_tags(values.get("params")),
    )


def combine(run: Run | None, logged: LoggedModel | None) -> ExternalRun:
    """Return what made a version, from its run and its logged model, as far as there are any.

    A checkpoint, logged at a later step than the first, has metrics of its own, which say more
    about it than the run's last ones; otherwise the run's last values are meant.
    """
    record = run.record if run else ExternalRun(id=logged.run_id if logged else "")
    if logged is None:
        return record
    is_checkpoint = bool(run and run.steps.get(logged.id, 0))
    first, second = record.metrics, logged.metrics
    return ExternalRun(
        id=record.id,
        user=record.user,
        metrics={**first, **second} if is_checkpoint else {**second, **first},
        parameters={**logged.parameters, **record.parameters},
        tags=record.tags,
        datasets=record.datasets,
    )


def _text(value: object) -> str:
    if not isinstance(value, str):
        raise TypeError(f"text is missing: {str(value)[:80]!r}")
    return value


def _time(milliseconds: object) -> datetime:
    return datetime.fromtimestamp(int(str(milliseconds)) / 1000, UTC)


def _tags(data: Sequence[Mapping[str, Any]] | None) -> dict[str, str]:
    return {str(tag["key"]): str(tag.get("value", "")) for tag in data or ()}


def _metrics(data: Sequence[Mapping[str, Any]] | None) -> dict[str, float]:
    """Return the value logged last of each metric; what is no number is left out."""
    latest: dict[str, tuple[int, int, float]] = {}
    for metric in data or ():
        key, value = str(metric["key"]), float(metric["value"])
        when = (int(metric.get("step") or 0), int(metric.get("timestamp") or 0))
        if math.isfinite(value) and (key not in latest or latest[key][:2] <= when):
            latest[key] = (*when, value)
    return {key: value for key, (_, _, value) in latest.items()}


def _dataset(data: Mapping[str, Any]) -> DatasetReference:
    dataset = data["dataset"]
    context = _tags(data.get("tags")).get("mlflow.data.context", "training")
    rows = _object(dataset.get("profile")).get("num_rows")
    source = _object(dataset.get("source"))
    uri = next((source[k] for k in ("uri", "url", "path", "delta_table_name") if k in source), None)
    digest = str(dataset.get("digest") or "")
    return DatasetReference(
        name=str(dataset.get("name") or "dataset"),
        digest=f"mlflow:{digest}" if digest else "unknown",
        rows=rows if type(rows) is int and rows >= 0 else None,
        uri=uri if isinstance(uri, str) else None,
        format="mlflow",
        columns=_columns(_object(dataset.get("schema"))),
        context=context,
    )


def _columns(schema: Mapping[str, Any]) -> tuple[DataColumn, ...]:
    found = []
    columns = schema.get("mlflow_colspec")
    for column in columns[:_MAX_COLUMNS] if isinstance(columns, list) else ():
        if isinstance(column, dict) and "name" in column:
            found.append(DataColumn(name=str(column["name"]), type=str(column.get("type"))))
    return tuple(found)


def _object(text: object) -> Mapping[str, Any]:
    """Return the JSON object in `text`, or an empty one: these fields are free in MLflow."""
    try:
        data = json.loads(text) if isinstance(text, str) else None
    except (ValueError, RecursionError):
        return {}
    return data if isinstance(data, dict) else {}
