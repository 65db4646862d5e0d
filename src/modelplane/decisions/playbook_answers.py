"""What people may do to a run of a playbook: answer a step that asks, or end the run. Pure.

Called by the API.
"""

from __future__ import annotations

from modelplane.decisions.admission import Asked
from modelplane.errors import Conflict, FieldError, Forbidden, InvalidResource
from modelplane.resources.meta import Subject
from modelplane.resources.playbook import AskPersonStep, PersonAnswer, PlaybookRun


def may_answer(run: PlaybookRun, step: str, subject: Subject, *, may_run: bool) -> None:
    """Raise `Forbidden` unless `subject` may answer a step.

    Parameters
    ----------
    run
        As stored.
    step
        Name of the step; raises `InvalidResource` when it does not ask.
    subject
        Who answers; a group that the step names is enough.
    may_run
        Whether the subject may run playbooks: enough where the step names nobody.
    """
    approvers = _question(run, step).approvers
    if approvers and {subject.name, *subject.groups}.isdisjoint(approvers):
        raise Forbidden(
            f"{subject.name!r} may not answer {step} of {run.metadata.name}: that is for "
            + ", ".join(approvers)
        )
    if not approvers and not may_run:
        raise Forbidden(
            f"{subject.name!r} may not answer {step} of {run.metadata.name}: that is for those "
            "who may run playbooks"
        )


def answer_step(run: PlaybookRun, step: str, *, agrees: bool, asked: Asked) -> PlaybookRun:
    """Return `run` with an answer; the same answer again changes nothing.

    Raises
    ------
    InvalidResource
        No such step asks; a no has no reason.
    Conflict
        The step does not wait for an answer, or has another one.
    """
    _question(run, step)
    name, subject = run.metadata.name, asked.subject.name
    given = next((answer for answer in run.status.answers if answer.step == step), None)
    if given is not None:
        if given.agrees == agrees and given.subject == subject:
            return run
        said = "yes" if given.agrees else "no"
        raise Conflict(f"{given.subject} has answered {step} of {name} already: {said}")
    state = next((state for state in run.status.steps if state.name == step), None)
    if run.finished or state is None or state.phase != "Running":
        phase = run.status.phase if state is None or run.finished else f"step {state.phase}"
        raise Conflict(f"{step} of {name} does not wait for an answer: {phase}")
    if not agrees and not asked.reason:
        raise InvalidResource("a no needs a reason", [FieldError("reason", "required")])
    answer = PersonAnswer(
        step=step, subject=subject, agrees=agrees, reason=asked.reason, at=asked.now
    )
    return run.with_status(answers=(*run.status.answers, answer))


def cancel_run(run: PlaybookRun) -> PlaybookRun:
    """Return `run` as one that is asked to end; raises `Conflict` when it has ended."""
    if run.finished:
        raise Conflict(f"{run.metadata.name} has ended: {run.status.phase}")
    return run.with_spec(cancelled=True)


def _question(run: PlaybookRun, name: str) -> AskPersonStep:
    asking = {step.name: step.ask_person for step in run.spec.steps if step.ask_person}
    if name not in asking:
        known = ", ".join(asking) or "none"
        raise InvalidResource(
            f"{run.metadata.name} has no step {name[:80]!r} that asks",
            [FieldError("step", f"those that ask: {known}")],
        )
    return asking[name]
