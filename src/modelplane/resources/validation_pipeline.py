"""Validation pipelines: the stages that a version has to pass. Pure data.

A stage of role ``validate`` checks; one of role ``approve`` is an automatic check that runs only
when every validation passed, and whose pass is required before a person is asked.
"""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Annotated, ClassVar, Literal, cast

from cronsim import CronSim, CronSimError
from pydantic import AfterValidator, Field, model_validator

from modelplane.resources.checks import (
    AccuracyCheck,
    CheckName,
    CommandCheck,
    ContractCheck,
    DataCheck,
    FairnessCheck,
    LatencyCheck,
    ParityCheck,
    SchemaCheck,
    SecurityScanCheck,
)
from modelplane.resources.meta import ModelName, Name, Part, Resource
from modelplane.resources.quantities import ByteSize, Duration
from modelplane.resources.selector import ModelSelector

AnyCheck = (
    AccuracyCheck | LatencyCheck | SecurityScanCheck | SchemaCheck | ContractCheck | ParityCheck
    | FairnessCheck | DataCheck | CommandCheck
)  # fmt: skip

CHECKS: tuple[CheckName, ...] = (
    "accuracy", "latency", "security_scan", "schema", "contract", "parity", "fairness", "data",
    "command",
)  # fmt: skip


class Stage(Part):
    """One stage: exactly one check, and how it runs."""

    name: Name = Field(description="Unique in the pipeline.")
    role: Literal["validate", "approve"] = Field(
        default="validate",
        description="`approve`: runs when every validation passed, and has to pass before people "
        "are asked.",
    )
    needs: tuple[Name, ...] = Field(
        default=(), description="Stages that must have passed before this one starts."
    )
    accuracy: AccuracyCheck | None = None
    latency: LatencyCheck | None = None
    security_scan: SecurityScanCheck | None = Field(default=None, alias="securityScan")
    schema_: SchemaCheck | None = Field(default=None, alias="schema")
    contract: ContractCheck | None = None
    parity: ParityCheck | None = None
    fairness: FairnessCheck | None = None
    data: DataCheck | None = None
    command: CommandCheck | None = None
    timeout_s: Duration = Field(
        default=600.0, gt=0, alias="timeout", description="Of one attempt; then it is ended."
    )
    retries: int = Field(
        default=2, ge=0, le=10, description="After failures of infrastructure, never of the check."
    )
    memory: ByteSize | None = Field(default=None, description="Memory limit of its process.")
    shards: int = Field(
        default=1, ge=1, le=64, description="Parts that run beside each other, balanced by time."
    )

    @model_validator(mode="after")
    def _exactly_one_check(self) -> Stage:
        found = [name for name in CHECKS if getattr(self, _field(name)) is not None]
        if len(found) != 1:
            raise ValueError(f"a stage has exactly one check: {', '.join(CHECKS)}")
        return self

    @model_validator(mode="after")
    def _only_cases_are_cut(self) -> Stage:
        if self.shards > 1 and (self.command is None or not self.command.cases):
            raise ValueError("shards cuts the cases of a command; this stage has none")
        return self

    @property
    def check(self) -> CheckName:
        """The name of the check."""
        return next(name for name in CHECKS if getattr(self, _field(name)) is not None)

    @property
    def configuration(self) -> AnyCheck:
        """The check's configuration."""
        return cast(AnyCheck, getattr(self, _field(self.check)))


def _field(check: CheckName) -> str:
    return "schema_" if check == "schema" else check


def check_schedule(expression: str) -> str:
    """Return a cron expression; raises ValueError when it is none."""
    try:
        next(CronSim(expression, datetime(2026, 1, 1, tzinfo=UTC)))
    except (CronSimError, StopIteration) as error:
        what = str(error) or "it never comes"
        raise ValueError(f"no cron expression ({what}); write five fields: 0 3 * * *") from None
    return expression


class Triggers(Part):
    """When a pipeline runs by itself; promotions and people run it besides."""

    on_model_push: bool = Field(
        default=False, alias="onModelPush", description="A version was pushed or registered."
    )
    on_dataset: tuple[ModelName, ...] = Field(
        default=(),
        alias="onDataset",
        description="A new version of one of these datasets; the models' champions run again.",
    )
    on_contract: bool = Field(
        default=False,
        alias="onContract",
        description="A consumer published a contract with one of the models.",
    )
    schedule: Annotated[str, AfterValidator(check_schedule)] | None = Field(
        default=None, description="Cron expression in UTC, such as `0 3 * * *`; champions run."
    )


class ValidationPipelineSpec(Part):
    """What is checked, of which models, when."""

    models: ModelSelector = Field(
        default_factory=ModelSelector, description="Models it is for; absent: all."
    )
    stages: tuple[Stage, ...] = Field(min_length=1, max_length=100)
    triggers: Triggers = Field(default_factory=Triggers)
    max_parallel: int = Field(
        default=4, ge=1, le=64, alias="maxParallel", description="Jobs of one run at a time."
    )

    @model_validator(mode="after")
    def _stages_form_a_graph(self) -> ValidationPipelineSpec:
        names = [stage.name for stage in self.stages]
        if len(set(names)) != len(names):
            twice = sorted({name for name in names if names.count(name) > 1})
            raise ValueError(f"a stage is named twice: {', '.join(twice)}")
        done: set[str] = set()
        waiting = {stage.name: set(stage.needs) for stage in self.stages}
        unknown = sorted(set().union(*waiting.values()) - set(names))
        if unknown:
            raise ValueError(f"needs names no stage: {', '.join(unknown)}; there are: {names}")
        while waiting:
            ready = [name for name, needs in waiting.items() if needs <= done]
            if not ready:
                raise ValueError(f"these stages wait for each other: {', '.join(sorted(waiting))}")
            done.update(ready)
            for name in ready:
                del waiting[name]
        return self


class ValidationPipelineStatus(Part):
    """What its triggers have done."""

    since: dict[str, datetime] = Field(
        default_factory=dict,
        description="Since when each trigger is on, by `push`, `dataset`, `contract`; for "
        "`schedule` the last time it was due: what is older starts nothing.",
    )


class ValidationPipeline(Resource[ValidationPipelineSpec, ValidationPipelineStatus]):
    """The stages that versions of some models have to pass."""

    scoped: ClassVar[bool] = False
    plural: ClassVar[str] = "validation-pipelines"
    declared: ClassVar[bool] = True
    short_names: ClassVar[tuple[str, ...]] = ("pipeline", "pipelines", "vp")

    kind: Literal["ValidationPipeline"] = "ValidationPipeline"
    spec: ValidationPipelineSpec
    status: ValidationPipelineStatus = Field(default_factory=ValidationPipelineStatus)
