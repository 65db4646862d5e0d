"""What happens next in a run: which stages start, which have ended, and how it all ends. Pure.

Called by `controllers.gates` with everything it has read; it applies the answer in one
transaction. The same may be asked again at any time: what was done shows in the run's status and
in its jobs, and nowhere else.

A stage starts when all that it needs has passed, one of role ``approve`` when every ``validate``
stage has passed too. A result of the same key is taken over. Only a failure of infrastructure is
tried again, never one of the check: not a time-out, not a crash, not a result that is none.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta

from modelplane.decisions.gate_jobs import (
    Broken,
    Found,
    Hindered,
    for_shard,
    make_job,
    read_job,
    repeat_job,
)
from modelplane.decisions.gate_plans import StagePlan
from modelplane.decisions.gate_shards import case_durations, cut_cases, merge_outcomes
from modelplane.resources.checks import CommandCheck
from modelplane.resources.environment import Environment
from modelplane.resources.gate_run import (
    FINISHED_STAGE,
    GateRun,
    GateRunStatus,
    RunPhase,
    StageOutcome,
    StagePhase,
    StageResult,
    StageResultSpec,
    StageStatus,
)
from modelplane.resources.job import FINISHED_JOB, Job
from modelplane.resources.meta import Metadata
from modelplane.resources.validation_pipeline import Stage

_FIRST_BACK_OFF_S = 5.0
_LONGEST_BACK_OFF_S = 300.0
KEY_IN_NAME = 32
"""How much of the key a result's name begins with."""

_NO_PLACE = "there is no environment to run in; apply one"


@dataclass(frozen=True, slots=True)
class Observed:
    """What there is besides the run.

    Attributes
    ----------
    jobs
        Of the run, by name.
    plans
        By stage, for those that `ready_stages` names.
    results
        By key, oldest first, for the keys of plans and of stages that run.
    environment
        Where jobs are put, for a run that has none yet; None when there is no environment.
    durations_s, case_durations_s
        By stage: how long it took when it last ran for this model, and each of its cases.
    """

    jobs: Mapping[str, Job] = field(default_factory=dict)
    plans: Mapping[str, StagePlan] = field(default_factory=dict)
    results: Mapping[str, Sequence[StageResult]] = field(default_factory=dict)
    environment: str | None = None
    durations_s: Mapping[str, float] = field(default_factory=dict)
    case_durations_s: Mapping[str, Mapping[str, float]] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class RunDecision:
    """What to write, all of it together.

    Attributes
    ----------
    status
        The run's.
    create, cancel, delete
        Jobs.
    results
        New ones.
    requeue_after_s
        When to look again though nothing changed; None: not at all.
    """

    status: GateRunStatus
    create: tuple[Job, ...] = ()
    cancel: tuple[Job, ...] = ()
    delete: tuple[Job, ...] = ()
    results: tuple[StageResult, ...] = ()
    requeue_after_s: float | None = None


def ready_stages(run: GateRun) -> tuple[Stage, ...]:
    """Return the stages that may start as far as what they need goes, in the pipeline's order."""
    if run.finished or run.spec.cancelled:
        return ()
    phases = {stage.name: stage.phase for stage in run.status.stages}
    return tuple(
        stage
        for stage in run.spec.stages
        if phases.get(stage.name, "Waiting") == "Waiting"
        and all(phases.get(need) == "Passed" for need in needs_of(stage, run.spec.stages))
    )


def first_environment(environments: Sequence[Environment]) -> str | None:
    """Return where a run's jobs are put: where the way to production begins."""
    first = min(environments, key=lambda e: (e.spec.order, e.metadata.name), default=None)
    return first.metadata.name if first else None


def needs_of(stage: Stage, stages: Sequence[Stage]) -> tuple[str, ...]:
    """Return the stages that must have passed before `stage` starts."""
    if stage.role == "validate":
        return stage.needs
    validations = (other.name for other in stages if other.role == "validate")
    return tuple(dict.fromkeys((*stage.needs, *validations)))


def decide_run(run: GateRun, observed: Observed, *, now: datetime) -> RunDecision:
    """Return what to do about `run` now."""
    if run.finished:
        return _tidy(run.status, (), observed.jobs)
    status = _begin(run, observed, now)
    if run.spec.cancelled:
        return _tidy(_cancel(status, now), (), observed.jobs)
    if status.environment is None:
        ended = status.with_(phase="Errored", message=_NO_PLACE, finished_at=now)
        return _tidy(ended, (), observed.jobs)
    draft = _Draft(run, observed, status.environment, now, {s.name: s for s in status.stages})
    draft.read_running()
    draft.skip()
    draft.start()
    stages = tuple(draft.stages[stage.name] for stage in run.spec.stages)
    status = _conclude(status.with_(stages=stages), run.spec.stages, now)
    decision = _tidy(status, draft.create, observed.jobs)
    return RunDecision(
        status, decision.create, decision.cancel, decision.delete, tuple(draft.results),
        requeue_after_s=draft.wait_s if status.phase == "Running" else None,
    )  # fmt: skip


def abandon(jobs: Mapping[str, Job]) -> RunDecision:
    """Return what to do about the jobs of a run that was deleted."""
    return _tidy(GateRunStatus(), (), jobs)


def _begin(run: GateRun, observed: Observed, now: datetime) -> GateRunStatus:
    status = run.status
    if not status.stages:
        waiting = tuple(StageStatus(name=stage.name) for stage in run.spec.stages)
        status = status.with_(phase="Running", stages=waiting, started_at=now)
    return status.with_(environment=status.environment or observed.environment)


def _cancel(status: GateRunStatus, now: datetime) -> GateRunStatus:
    stages = tuple(
        stage if stage.phase in FINISHED_STAGE
        else stage.with_(phase="Cancelled", finished_at=now, message="the run was cancelled")
        for stage in status.stages
    )  # fmt: skip
    return status.with_(phase="Cancelled", message="cancelled", stages=stages, finished_at=now)


def _tidy(status: GateRunStatus, create: Sequence[Job], jobs: Mapping[str, Job]) -> RunDecision:
    """Return the decision; jobs that no stage waits for are ended, or removed once they have."""
    wanted = {name for s in status.stages if s.phase == "Running" for name in s.jobs}
    strays = [job for name, job in sorted(jobs.items()) if name not in wanted]
    ended = [job for job in strays if job.status.phase in FINISHED_JOB]
    running = [job for job in strays if job.status.phase not in FINISHED_JOB]
    cancel = (job.with_spec(cancelled=True) for job in running if not job.spec.cancelled)
    return RunDecision(status, tuple(create), tuple(cancel), tuple(ended))


def _conclude(status: GateRunStatus, stages: Sequence[Stage], now: datetime) -> GateRunStatus:
    phases = [stage.phase for stage in status.stages]
    passed = phases.count("Passed")
    counted = f"{passed} of {len(stages)} stages passed"
    if not FINISHED_STAGE.issuperset(phases):
        running = [stage.name for stage in status.stages if stage.phase == "Running"]
        doing = f"; {', '.join(running)} running" if running else ""
        return status.with_(message=counted + doing)
    phase: RunPhase = "Passed"
    if passed < len(phases):
        phase = "Failed" if "Failed" in phases else "Errored"
    first = next((s for s in status.stages if s.phase == phase), None)
    if first is not None and phase != "Passed":
        counted += f"; {first.name} {phase.lower()}: {first.message}"[:1000]
    return status.with_(phase=phase, message=counted, finished_at=now)


class _Draft:
    """The stages of a run while it is decided what becomes of them."""

    def __init__(
        self,
        run: GateRun,
        observed: Observed,
        environment: str,
        now: datetime,
        stages: dict[str, StageStatus],
    ) -> None:
        self._run = run
        self._observed = observed
        self._environment = environment
        self._now = now
        self.stages = stages
        self.create: list[Job] = []
        self.results: list[StageResult] = []
        self.wait_s: float | None = None
        running = [j for j in observed.jobs.values() if j.status.phase not in FINISHED_JOB]
        self._free = run.spec.max_parallel - len(running)

    # -- stages that run ------------------------------------------------------------------

    def read_running(self) -> None:
        """Take over what the jobs of running stages say; retry and start their shards."""
        for stage in self._run.spec.stages:
            if self.stages[stage.name].phase == "Running":
                self._read(stage)

    def _read(self, stage: Stage) -> None:
        status, jobs = self.stages[stage.name], self._observed.jobs
        readings = [read_job(jobs.get(name)) if name else None for name in status.jobs]
        broken = next((r for r in readings if isinstance(r, Broken)), None)
        hindered = next(
            ((i, r.message) for i, r in enumerate(readings) if isinstance(r, Hindered)), None
        )
        found = [r.outcome for r in readings if isinstance(r, Found)]
        if broken is not None:
            self._end(stage, "Errored", broken.message, log_tail=broken.log_tail)
        elif len(found) == len(readings):
            self._keep(stage, found)
        else:
            if hindered is not None:
                self._retry(stage, *hindered)
            self._start_shards(stage)

    def _retry(self, stage: Stage, shard: int, message: str) -> None:
        """Start a hindered shard again, for one of the stage's retries, after a pause."""
        status, jobs = self.stages[stage.name], self._observed.jobs
        if status.attempt > stage.retries:
            tried = f" (tried {status.attempt} times)" if status.attempt > 1 else ""
            self._end(stage, "Errored", message + tried)
            return
        told = status.with_(message=f"{message}; it will be tried again")
        self.stages[stage.name] = told
        like = next((jobs[name] for name in status.jobs if name in jobs), None)
        if like is None:  # nothing is left of what it was given
            self.stages[stage.name] = told.with_(phase="Waiting", jobs=(), shards=())
            return
        hindered = jobs.get(status.jobs[shard])
        ended_at = hindered.metadata.updated_at if hindered else None
        pause_s = min(_LONGEST_BACK_OFF_S, _FIRST_BACK_OFF_S * 2.0 ** (status.attempt - 1))
        due = ended_at + timedelta(seconds=pause_s) if ended_at else self._now
        if self._now < due:
            self._look_again((due - self._now).total_seconds())
        else:
            self._start_like(stage, shard, hindered or like)

    def _start_shards(self, stage: Stage) -> None:
        """Start shards that found no place until now."""
        status, jobs = self.stages[stage.name], self._observed.jobs
        like = next((jobs[name] for name in status.jobs if name in jobs), None)
        if status.phase != "Running":
            return
        for shard, name in enumerate(status.jobs):
            if not name and like is not None and self._free > 0:
                self._start_like(stage, shard, like, new=False)

    def _start_like(self, stage: Stage, shard: int, like: Job, *, new: bool = True) -> None:
        if self._free <= 0:
            return
        status = self.stages[stage.name]
        attempt = status.attempt + 1 if new else status.attempt
        job = repeat_job(self._run, stage, shard, attempt, like)
        if status.shards:
            job = for_shard(job, shard, status.shards[shard])
        self._add(job)
        names = list(status.jobs)
        names[shard] = job.metadata.name
        message = "" if new else status.message
        self.stages[stage.name] = status.with_(jobs=tuple(names), attempt=attempt, message=message)

    # -- stages that end ------------------------------------------------------------------

    def _keep(self, stage: Stage, outcomes: Sequence[StageOutcome]) -> None:
        """Make the result of a stage whose jobs have all ended well."""
        status = self.stages[stage.name]
        jobs = [self._observed.jobs[name] for name in status.jobs]
        times_s = [_duration_s(job) for job in jobs]
        durations = case_durations(status.shards, outcomes, times_s) if status.shards else {}
        evidence = [job.status.output for job in jobs if job.status.output]
        revision = self._run.spec.candidate.revision
        outcome = merge_outcomes(outcomes)
        taken = len(self._observed.results.get(status.key, ()))
        ending = f"-{taken + 1}" if taken else ""
        labels = {"model": revision.model, "check": stage.check, "stage": stage.name}
        spec = StageResultSpec(
            key=status.key,
            inputs=status.inputs,
            check=stage.check,
            stage=stage.name,
            model=revision.model,
            version=revision.version,
            outcome=outcome,
            evidence=evidence[0] if evidence else None,
            shard_evidence=tuple(evidence[1:]),
            run=self._run.metadata.name,
            duration_s=sum(times_s),
            case_durations_s=durations,
        )
        name = status.key[:KEY_IN_NAME] + ending
        self.results.append(StageResult(metadata=Metadata(name=name, labels=labels), spec=spec))
        self._end(stage, "Passed" if outcome.passed else "Failed", outcome.message, result=name)

    def _end(
        self,
        stage: Stage,
        phase: StagePhase,
        message: str,
        *,
        result: str | None = None,
        log_tail: str = "",
    ) -> None:
        self.stages[stage.name] = self.stages[stage.name].with_(
            phase=phase, message=message, result=result, log_tail=log_tail, finished_at=self._now
        )

    def skip(self) -> None:
        """Take out the stages whose needs have not passed and will not."""
        for _ in self._run.spec.stages:  # one that is skipped may be needed by another
            for stage in self._run.spec.stages:
                if self.stages[stage.name].phase != "Waiting":
                    continue
                needs = (self.stages[need] for need in needs_of(stage, self._run.spec.stages))
                lost = next((n for n in needs if n.phase in FINISHED_STAGE - {"Passed"}), None)
                if lost is not None:
                    message = f"needs {lost.name}, which has {lost.phase.lower()}"
                    if lost.phase == "Skipped":
                        message = f"needs {lost.name}, which was skipped"
                    self._end(stage, "Skipped", message)

    # -- stages that start ----------------------------------------------------------------

    def start(self) -> None:
        """Take over results that are there; start the others as far as there is room."""
        ready = [s for s in ready_stages(self._run) if self.stages[s.name].phase == "Waiting"]
        # The longest first: what is left for the end is short (`gate_shards`).
        ready.sort(key=lambda stage: -self._observed.durations_s.get(stage.name, 0.0))
        for stage in ready:
            plan = self._observed.plans.get(stage.name)
            if plan is None:
                continue
            status = self.stages[stage.name]
            planned = status.with_(key=plan.key, inputs=dict(plan.inputs))
            known = self._observed.results.get(plan.key, ())
            if plan.fault:
                self.stages[stage.name] = planned
                self._end(stage, "Errored", plan.fault)
            elif known and not plan.not_reused and not self._run.spec.no_cache:
                self.stages[stage.name] = planned.with_(cached=True, started_at=self._now)
                self._take_over(stage, known[-1])
            elif self._free > 0:
                self.stages[stage.name] = planned
                self._start(stage, plan)

    def _take_over(self, stage: Stage, result: StageResult) -> None:
        outcome = result.spec.outcome
        phase: StagePhase = "Passed" if outcome.passed else "Failed"
        self._end(stage, phase, outcome.message, result=result.metadata.name)

    def _start(self, stage: Stage, plan: StagePlan) -> None:
        check = stage.configuration
        shards: tuple[tuple[str, ...], ...] = ((),)
        if isinstance(check, CommandCheck) and check.cases:
            known = self._observed.case_durations_s.get(stage.name, {})
            shards = cut_cases(check.cases, stage.shards, known)
        status = self.stages[stage.name]
        attempt = status.attempt + 1
        names = []
        for index, cases in enumerate(shards):
            name = ""
            if self._free > 0:
                task = plan.task.with_(shard=index, shards=len(shards), cases=cases)
                job = make_job(self._run, task, attempt, self._environment)
                name = job.metadata.name
                self._add(job)
            names.append(name)
        self.stages[stage.name] = status.with_(
            phase="Running",
            jobs=tuple(names),
            shards=shards if shards[0] else (),
            attempt=attempt,
            message="",
            started_at=status.started_at or self._now,
        )

    def _add(self, job: Job) -> None:
        self.create.append(job)
        self._free -= 1

    def _look_again(self, seconds: float) -> None:
        self.wait_s = seconds if self.wait_s is None else min(self.wait_s, seconds)


def _duration_s(job: Job) -> float:
    started, finished = job.status.started_at, job.status.finished_at
    return max(0.0, (finished - started).total_seconds()) if started and finished else 0.0
