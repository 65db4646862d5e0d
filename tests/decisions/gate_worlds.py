"""Pipelines, runs and jobs for tests of gates."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from typing import Any

from modelplane.decisions.gate_keys import StagePlace
from modelplane.decisions.gate_plans import Surroundings, plan_stage
from modelplane.decisions.gate_runs import make_run
from modelplane.decisions.gates import Observed, RunDecision, decide_run, ready_stages
from modelplane.resources.gate_run import GateRun, ServedModel, StageResult
from modelplane.resources.job import Job
from modelplane.resources.meta import Metadata, Subject
from modelplane.resources.model import ModelVersion, ModelVersionSpec
from modelplane.resources.revision import Artifact, RuntimeSpec, make_revision
from modelplane.resources.validation_pipeline import (
    Stage,
    ValidationPipeline,
    ValidationPipelineSpec,
)

NOW = datetime(2026, 1, 5, 9, 0, tzinfo=UTC)
ANA = Subject(name="ana")
PLACE = StagePlace(code="code-1", environment="lock-1")


def digest_of(text: str) -> str:
    return f"sha256:{hashlib.sha256(text.encode()).hexdigest()}"


def served(version: str = "1.0.0", content: str = "bytes", **runtime: Any) -> ServedModel:
    artifact = Artifact(format="skops", digest=digest_of(content))
    revision = make_revision("fraud", version, artifact, RuntimeSpec(**runtime))
    return ServedModel(revision=revision, signature={"inputs": []}, flavour="sklearn")


def stage(name: str, check: str = "command", /, **fields: Any) -> Stage:
    """A stage; `config` configures its check, which otherwise runs a command of its own."""
    config = fields.pop("config", {"run": ["test", name]} if check == "command" else {})
    if check == "fairness":
        config = {"group": "sex", **config}
    alias = {"security_scan": "securityScan"}.get(check, check)
    return Stage.model_validate({"name": name, alias: config, **fields})


def pipeline(*stages: Stage, **fields: Any) -> ValidationPipeline:
    spec = ValidationPipelineSpec(stages=stages, **fields)
    return ValidationPipeline(metadata=Metadata(name="quality"), spec=spec)


def version(**spec: Any) -> ModelVersion:
    fields = {"model": "fraud", "version": "1.0.0", **spec}
    return ModelVersion(
        metadata=Metadata(name="fraud@1.0.0"), spec=ModelVersionSpec.model_validate(fields)
    )


def around(**fields: Any) -> Surroundings:
    return Surroundings(**{"place": PLACE, "version": version(), **fields})


class Bench:
    """A run with the jobs and results that its decisions made, and a clock."""

    def __init__(
        self, *stages: Stage, results: Mapping[str, list[StageResult]] | None = None, **spec: Any
    ) -> None:
        run = make_run(
            pipeline(*stages, max_parallel=spec.pop("max_parallel", 4)),
            served(),
            None,
            number=1,
            trigger="hand",
            subject=ANA,
            **spec,
        )
        self.run: GateRun = run
        self.now = NOW
        self.jobs: dict[str, Job] = {}
        self.results: dict[str, list[StageResult]] = dict(results or {})
        self.around = around()
        self.environment: str | None = "staging"
        self.case_durations_s: dict[str, dict[str, float]] = {}

    def step(self) -> RunDecision:
        """Decide once, and do what was decided."""
        plans = {s.name: plan_stage(s, self.run, self.around) for s in ready_stages(self.run)}
        observed = Observed(
            jobs=dict(self.jobs),
            plans=plans,
            results=self.results,
            environment=self.environment,
            case_durations_s=self.case_durations_s,
        )
        decision = decide_run(self.run, observed, now=self.now)
        self.run = self.run.with_(status=decision.status)
        for job in decision.create:
            assert job.metadata.name not in self.jobs, "a job's name is never used twice"
            self.jobs[job.metadata.name] = self._stamped(job)
        for job in decision.cancel:
            self.jobs[job.metadata.name] = job
        for job in decision.delete:
            del self.jobs[job.metadata.name]
        for result in decision.results:
            self.results.setdefault(result.spec.key, []).append(result)
        return decision

    def settle(self) -> RunDecision:
        """Decide until nothing more is to be done now."""
        for _ in range(50):
            before = (self.run, dict(self.jobs))
            decision = self.step()
            if before == (self.run, self.jobs):
                return decision
        raise AssertionError("it does not settle")

    def end(self, job: Job, **status: Any) -> None:
        """End a job."""
        fields = {"phase": "Succeeded", "started_at": self.now, "finished_at": self.now, **status}
        ended = job.with_(status=type(job.status).model_validate(fields))
        self.jobs[job.metadata.name] = self._stamped(ended)

    def end_all(self, stage_name: str, *, passed: bool = True, **status: Any) -> None:
        """End every job of a stage with an outcome."""
        for job in self.of(stage_name):
            self.end(job, **{"result": {"passed": passed, "message": "said"}, **status})

    def of(self, stage_name: str) -> list[Job]:
        """The jobs of a stage that run."""
        return [
            job
            for job in self.jobs.values()
            if job.metadata.labels["stage"] == stage_name and job.status.phase == "Pending"
        ]

    def wait(self, seconds: float) -> None:
        self.now += timedelta(seconds=seconds)

    @property
    def phases(self) -> dict[str, str]:
        return {stage.name: stage.phase for stage in self.run.status.stages}

    def _stamped(self, job: Job) -> Job:
        return job.with_(metadata=job.metadata.with_(updated_at=self.now))
