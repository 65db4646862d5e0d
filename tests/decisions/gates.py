"""Policies, pipelines, finished runs and approvals for the tests of guarded promotions."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime, timedelta
from typing import Any

from modelplane.decisions.gate_runs import make_run, serve_version
from modelplane.decisions.policies import Surroundings
from modelplane.decisions.promotion_guards import Gate, Guards
from modelplane.resources.approval import Approval, ApprovalPolicy
from modelplane.resources.environment import Environment
from modelplane.resources.gate_run import GateRun, StageResult
from modelplane.resources.meta import Metadata, Subject
from modelplane.resources.model import Model, ModelVersion
from modelplane.resources.promotion_policy import PromotionPolicy
from modelplane.resources.revision import Revision
from modelplane.resources.validation_pipeline import ValidationPipeline
from tests.decisions.worlds import NOW, V2


def pipeline(name: str = "checks", **stages: Any) -> ValidationPipeline:
    """A pipeline; stages as `name=check` or `name={…}`; by default one of accuracy."""
    given = stages or {"quality": {"accuracy": {}}}
    spec = {"stages": [{"name": name, **body} for name, body in given.items()]}
    return ValidationPipeline.model_validate({"metadata": {"name": name}, "spec": spec})


def policy(name: str = "guard", **spec: Any) -> PromotionPolicy:
    conditions = [{"expression": text} for text in spec.pop("conditions", ())]
    body = {"environments": ["production"], "conditions": conditions, **spec}
    return PromotionPolicy.model_validate({"metadata": {"name": name}, "spec": body})


def approval_policy(name: str = "risk", **spec: Any) -> ApprovalPolicy:
    body = {"approvers": {"groups": ["leads"]}, **spec}
    return ApprovalPolicy.model_validate({"metadata": {"name": name}, "spec": body})


def environment(name: str = "production", order: int = 20) -> Environment:
    spec = {"stage": name, "order": order, "gateway": {"port": 7000 + order}}
    return Environment.model_validate({"metadata": {"name": name}, "spec": spec})


def model(name: str = "delay", **labels: str) -> Model:
    return Model(metadata=Metadata(name=name, labels=labels))


def version(of: Revision = V2, author: str = "vera", **spec: Any) -> ModelVersion:
    status = spec.pop("status", {})
    return ModelVersion.model_validate(
        {
            "metadata": {"name": f"{of.model}@{of.version}"},
            "spec": {
                "model": of.model, "version": of.version, "number": 2, "author": author,
                "artifact": of.artifact.to_dict(), **spec,
            },
            "status": status,
        }
    )  # fmt: skip


def gate(
    of: ValidationPipeline,
    revision: Revision = V2,
    phase: str = "Passed",
    *,
    metrics: Mapping[str, float] | None = None,
    ended_at: datetime = NOW + timedelta(seconds=30),
) -> Gate:
    """A run of `of` with the results of its stages, each measuring `metrics`."""
    run = make_run(
        of, serve_version(version(revision), revision), None,
        number=1, trigger="promotion", subject=Subject(name="ana"),
    )  # fmt: skip
    results = {
        stage.name: result_of(run, stage.name, metrics or {"accuracy": 0.95})
        for stage in run.spec.stages
    }
    finished = phase not in {"Pending", "Running"}
    status = {
        "phase": phase,
        "message": "" if phase == "Passed" else "quality: accuracy is 0.5",
        "finishedAt": ended_at if finished else None,
        "stages": [
            {"name": name, "phase": phase, "result": result.metadata.name}
            for name, result in results.items()
        ]
        if finished
        else [],
    }
    ended = GateRun.model_validate({**run.to_dict(), "status": status})
    return Gate(ended, None, results if finished else {})


def result_of(
    run: GateRun, stage: str, metrics: Mapping[str, float], champion: float | None = None
) -> StageResult:
    """What a stage of a run found."""
    revision = run.spec.candidate.revision
    check = next(each.check for each in run.spec.stages if each.name == stage)
    key = f"{revision.short}-{stage}-{sorted(metrics.items())}"
    measurements = [
        {"name": name, "value": value, "champion": champion} for name, value in metrics.items()
    ]
    return StageResult.model_validate(
        {
            "metadata": {"name": f"{check}-{revision.short}-{run.metadata.name}-{stage}"},
            "spec": {
                "key": key, "inputs": {}, "check": check, "stage": stage, "run": run.metadata.name,
                "model": revision.model, "version": revision.version, "durationS": 1.0,
                "outcome": {"passed": True, "measurements": measurements},
            },
        }
    )  # fmt: skip


def guards(
    *policies: PromotionPolicy | ApprovalPolicy,
    gates: Mapping[str, Gate] | None = None,
    pipelines: Sequence[ValidationPipeline] = (),
    approvals: Sequence[Approval] = (),
    **changes: Any,
) -> Guards:
    """Everything that guards `delay` in production."""
    fields: dict[str, Any] = {
        "environment": environment(),
        "model": model(),
        "version": version(),
        "policies": [p for p in policies if isinstance(p, PromotionPolicy)],
        "approval_policies": [p for p in policies if isinstance(p, ApprovalPolicy)],
        "approvals": approvals,
        "gates": gates or {},
        "around": Surroundings(
            {each.metadata.name: each for each in pipelines}, (), ("staging", "production")
        ),
        **changes,
    }
    return Guards(**fields)
