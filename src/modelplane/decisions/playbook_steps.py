"""The steps of playbooks: what each would write, and when it is done. Pure.

Called by `decisions.playbook`. `plan` says what a step does in the world as it is now; what it
writes is committed in the transaction that records the step as begun, so that no crash makes it
do that twice. `progress` says of a step that has begun whether it is done. A dry run is a `plan`
that nobody carries out. What changes what serves is in `playbook_serving`.
"""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime
from urllib.parse import urlsplit

from modelplane.decisions import playbook_serving as serving
from modelplane.decisions.agent_jobs import places_in
from modelplane.decisions.playbook_outcomes import (
    Act,
    AnyResource,
    Done,
    Refused,
    Waiting,
    World,
    effect_name,
    read,
    subject_of,
)
from modelplane.decisions.playbook_text import Unfilled, fill, fill_all, fill_query
from modelplane.decisions.training import start_run
from modelplane.errors import ModelplaneError
from modelplane.resources.job import FINISHED_JOB, Job, JobSpec
from modelplane.resources.meta import Metadata
from modelplane.resources.playbook import (
    AskPersonStep,
    CallWebhookStep,
    PlaybookRun,
    PlaybookStep,
    RunCommandStep,
    StartTrainingStep,
    StepKind,
    WaitForStep,
)
from modelplane.resources.training import TrainingRun

RUN_LABEL = "playbook-run"
"""Label of a Job: the run whose step made it."""


def plan(step: PlaybookStep, run: PlaybookRun, world: World, now: datetime) -> Act | Done | Refused:
    """Return what `step` does in `world`.

    Parameters
    ----------
    step
        One of the run's.
    run
        With the labels and the value of the alert.
    world
        As it is now.
    now
        The time, UTC.
    """
    try:
        return _PLANS[step.kind](step, run, world, now)
    except Unfilled as error:
        return Refused(str(error))


def progress(step: PlaybookStep, run: PlaybookRun, world: World) -> Waiting | Done | Refused:
    """Return whether `step`, which has begun, is done."""
    return _PROGRESS[step.kind](step, run, world)


def abandoned(world: World) -> tuple[AnyResource, ...]:
    """Return what to write so that what a step made does not go on without it."""
    made = world.made
    if isinstance(made, Job) and made.status.phase not in FINISHED_JOB:
        return (made.with_spec(cancelled=True),)
    if isinstance(made, TrainingRun) and not made.finished:
        return (made.with_spec(cancelled=True),)
    return ()


# -- commands, posts, trainings -------------------------------------------------------------


def _plan_command(
    step: PlaybookStep, run: PlaybookRun, world: World, now: datetime
) -> Act | Done | Refused:
    configuration, labels, value = read(step, RunCommandStep), run.spec.labels, run.spec.value
    place = fill(configuration.environment, labels, value)
    if not world.has_environment:
        return Refused(f"there is no environment {place}")
    command = tuple(fill(word, labels, value) for word in configuration.command)
    env = {name: fill(text, labels, value) for name, text in configuration.env.items()}
    written = (*configuration.command, *configuration.env.values())
    if places_in(*command, *env.values()) != places_in(*written):
        # The agent would fill it in, and give the command what only its own stages get.
        return Refused("a label of the alert holds what a Job takes for a place: {python} or such")
    job = Job(
        metadata=Metadata(
            name=effect_name(run.metadata.name, step.name),
            environment=place,
            labels={RUN_LABEL: run.metadata.name, "step": step.name},
        ),
        spec=JobSpec(
            command=command,
            env=env,
            timeout_s=step.timeout_s,
            memory=configuration.memory,
            input={"alert": run.spec.alert, "labels": labels, "value": value},
            result_optional=True,
        ),
    )
    return Act((job,), str(job.key), f"run {' '.join(command)}")


def _progress_command(
    step: PlaybookStep, run: PlaybookRun, world: World
) -> Waiting | Done | Refused:
    job = world.made
    if not isinstance(job, Job):
        return Refused("its Job is gone")
    if job.status.phase not in FINISHED_JOB:
        return Waiting(f"its Job is {job.status.phase}")
    if job.status.phase == "Succeeded":
        return Done("the command ended well")
    last = job.status.log_tail.strip().rpartition("\n")[2][:200]
    return Refused(": ".join(filter(None, (job.status.message or job.status.phase, last))))


def _plan_webhook(
    step: PlaybookStep, run: PlaybookRun, world: World, now: datetime
) -> Act | Done | Refused:
    configuration = read(step, CallWebhookStep)
    fill_all(configuration.body, run.spec.labels, run.spec.value)
    return Act((), "", f"post to {_site(configuration.url)}")


def _site(url: str) -> str:
    """Return whom an address leads to; the rest of it may be a secret."""
    parts = urlsplit(url)
    return f"{parts.scheme}://{parts.netloc}"


def _progress_webhook(
    step: PlaybookStep, run: PlaybookRun, world: World
) -> Waiting | Done | Refused:
    site, delivery = _site(read(step, CallWebhookStep).url), world.delivery
    if delivery is None:
        return Waiting(f"posting to {site}")
    if delivery.outcome == "delivered":
        return Done(f"{site} took it")
    if delivery.outcome == "refused":
        return Refused(f"{site}: {delivery.message}")
    return Waiting(f"{site}: {delivery.message}")


def _plan_training(
    step: PlaybookStep, run: PlaybookRun, world: World, now: datetime
) -> Act | Done | Refused:
    name = read(step, StartTrainingStep).trigger
    if world.trigger is None:
        return Refused(f"there is no TrainingTrigger {name}")
    spec = run.spec
    try:
        trigger, training = start_run(
            world.trigger,
            world.trainings,
            "playbook",
            subject=subject_of(run),
            detail=f"playbook run {run.metadata.name}"
            + (f", about alert {spec.alert}" if spec.alert else ""),
            data={
                "playbookRun": run.metadata.name,
                "step": step.name,
                "alert": spec.alert,
                "labels": dict(spec.labels),
                "value": spec.value,
            },
            now=now,
        )
    except ModelplaneError as error:
        return Refused(error.message)
    return Act((trigger, training), str(training.key), f"start training {training.metadata.name}")


def _progress_training(
    step: PlaybookStep, run: PlaybookRun, world: World
) -> Waiting | Done | Refused:
    training = world.made
    if not isinstance(training, TrainingRun):
        return Refused("its training is gone")
    name, status = training.metadata.name, training.status
    if status.phase == "Succeeded":
        return Done(f"{name} registered {', '.join(status.versions) or 'nothing'}")
    if training.finished:
        return Refused(f"{name}: {status.phase}: {status.message}")
    if not read(step, StartTrainingStep).wait:
        return Done(f"{name} has begun")
    return Waiting(f"{name} is {status.phase}")


# -- waiting --------------------------------------------------------------------------------


def _plan_wait(
    step: PlaybookStep, run: PlaybookRun, world: World, now: datetime
) -> Act | Done | Refused:
    spec = run.spec
    return Act(
        (), "", f"wait for {fill_query(read(step, WaitForStep).expr, spec.labels, spec.value)}"
    )


def _progress_wait(step: PlaybookStep, run: PlaybookRun, world: World) -> Waiting | Done | Refused:
    if isinstance(world.answer, str):
        return Refused(world.answer)
    if world.answer is None:
        return Waiting("nobody answers the expression now")
    return Done("it holds") if world.answer else Waiting("it does not hold yet")


def _plan_question(
    step: PlaybookStep, run: PlaybookRun, world: World, now: datetime
) -> Act | Done | Refused:
    question = fill(read(step, AskPersonStep).question, run.spec.labels, run.spec.value)
    return Act((), "", f"ask: {question}")


def _progress_question(
    step: PlaybookStep, run: PlaybookRun, world: World
) -> Waiting | Done | Refused:
    answer = next((a for a in reversed(run.status.answers) if a.step == step.name), None)
    if answer is None:
        return Waiting("nobody has answered yet")
    because = f": {answer.reason}" if answer.reason else ""
    if answer.agrees:
        return Done(f"{answer.subject} said yes{because}")
    return Refused(f"{answer.subject} said no{because}", "SaidNo")


_Plan = Callable[[PlaybookStep, PlaybookRun, World, datetime], Act | Done | Refused]
_Progress = Callable[[PlaybookStep, PlaybookRun, World], Waiting | Done | Refused]

_PLANS: dict[StepKind, _Plan] = {
    "restartReplica": serving.plan_restart,
    "rollBack": serving.plan_roll_back,
    "shiftTraffic": serving.plan_shift,
    "scale": serving.plan_scale,
    "runCommand": _plan_command,
    "callWebhook": _plan_webhook,
    "startTraining": _plan_training,
    "waitFor": _plan_wait,
    "askPerson": _plan_question,
}
_PROGRESS: dict[StepKind, _Progress] = {
    "restartReplica": serving.progress_restart,
    "rollBack": serving.progress_roll_back,
    "shiftTraffic": serving.progress_shift,
    "scale": serving.progress_scale,
    "runCommand": _progress_command,
    "callWebhook": _progress_webhook,
    "startTraining": _progress_training,
    "waitFor": _progress_wait,
    "askPerson": _progress_question,
}
