"""Following a promotion and its rollout to the end.

Called by ``apply --wait``, ``promote --wait`` and ``rollout watch``. Asks again and again, so
that it goes on through a restart of the control plane.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from datetime import datetime, timedelta
from functools import partial
from typing import TypeVar

from modelplane.cli.output import remark
from modelplane.cli.session import Session
from modelplane.cli.words import describe_change
from modelplane.client.routed import is_routed
from modelplane.errors import InvalidResource, NotFound, TransientError
from modelplane.resources.gate_run import GateRun
from modelplane.resources.model_deployment import ModelDeployment
from modelplane.resources.promotion import FINISHED_PROMOTION, Promotion
from modelplane.resources.quantities import parse_duration
from modelplane.resources.rollout import Rollout
from modelplane.resources.training import TrainingRun

T = TypeVar("T")

ASK_EVERY_S = 0.5
AWAY_AT_MOST = timedelta(seconds=60)
"""How long the control plane may be away while something is followed: it is being restarted."""


def parse_timeout(text: str) -> timedelta:
    """Return the time in an option; raises `InvalidResource` when it is none."""
    try:
        return timedelta(seconds=parse_duration(text))
    except ValueError as error:
        raise InvalidResource(f"--timeout: {error}") from None


def wait_for_rollout(session: Session, deployment: str, environment: str, *, timeout: str) -> str:
    """Return the name of a deployment's latest rollout; wait for one that is about to begin.

    Raises
    ------
    NotFound
        There has been none, and none is about to begin.
    """
    waiting = _Waiting(session, timeout, f"no rollout of {deployment} has begun")
    while True:
        found = waiting.ask(lambda: _find_rollout(session, deployment, environment))
        if found:
            return found
        waiting.pause()


def _find_rollout(session: Session, deployment: str, environment: str) -> str:
    """Return the name of the latest rollout; empty when it is about to begin."""
    status = session.client.get(ModelDeployment, deployment, environment).status
    if status.promotion is None:
        raise NotFound(f"{deployment} has had no rollout in {environment}")
    promotion = session.client.get(Promotion, status.promotion, environment)
    if promotion.status.rollout is not None:
        return promotion.status.rollout
    if promotion.status.phase not in FINISHED_PROMOTION:
        return ""
    if status.rollout is None:
        raise NotFound(
            f"{deployment} has had no rollout in {environment}",
            hint=f"its latest promotion ended: {promotion.status.phase} {promotion.status.message}",
        )
    return status.rollout


def follow_rollout(
    session: Session, name: str, environment: str | None, *, timeout: str
) -> Iterator[Rollout]:
    """Yield a rollout now and about twice a second until it has finished.

    Raises
    ------
    TransientError
        It had not finished after `timeout`, or the control plane is away.
    """
    waiting = _Waiting(session, timeout, f"rollout {name} has not finished")
    while True:
        rollout = waiting.ask(lambda: session.client.get(Rollout, name, environment))
        if rollout is not None:
            yield rollout
            if rollout.finished:
                return
        waiting.pause()


def follow_run(session: Session, name: str, *, timeout: str) -> Iterator[GateRun]:
    """Yield a run of a pipeline now and about twice a second until it has ended.

    Raises
    ------
    TransientError
        It had not ended after `timeout`, or the control plane is away.
    """
    waiting = _Waiting(session, timeout, f"run {name} has not ended")
    while True:
        run = waiting.ask(lambda: session.client.get(GateRun, name))
        if run is not None:
            yield run
            if run.finished:
                return
        waiting.pause()


def follow_training(session: Session, name: str, *, timeout: str) -> Iterator[TrainingRun]:
    """Yield a training now and about twice a second until it has ended.

    Raises
    ------
    TransientError
        It had not ended after `timeout`, or the control plane is away.
    """
    waiting = _Waiting(session, timeout, f"training {name} has not ended")
    while True:
        run = waiting.ask(lambda: session.client.get(TrainingRun, name))
        if run is not None:
            yield run
            if run.finished:
                return
        waiting.pause()


def follow_promotion(session: Session, promotion: Promotion, *, timeout: str) -> bool:
    """Wait until a promotion has ended and the gateway does what it says; return its success."""
    key = promotion.key
    waiting = _Waiting(session, timeout, f"promotion {key.name} has not finished")
    told = ""
    while True:
        now = waiting.ask(lambda: session.client.get(Promotion, key.name, key.environment))
        if now is not None:
            told = _tell(session, now, told, waiting)
            finished = now.status.phase in FINISHED_PROMOTION
            if finished and waiting.ask(partial(is_routed, session.client, now)):
                return now.status.phase == "Done"
        waiting.pause()


def _tell(session: Session, promotion: Promotion, told: str, waiting: _Waiting) -> str:
    """Say on stderr what has changed; return what was said."""
    name, environment = promotion.status.rollout, promotion.metadata.environment
    if name is None:
        line = f"{promotion.metadata.name}  {promotion.status.phase}  {promotion.status.message}"
    else:
        rollout = waiting.ask(lambda: session.client.get(Rollout, name, environment))
        line = describe_change(rollout) if rollout is not None else told
    if line != told:
        remark(line.rstrip())
    return line


class _Waiting:
    """Asks until a deadline; a control plane that answered once may be away for a while."""

    def __init__(self, session: Session, timeout: str, unfinished: str) -> None:
        self._session = session
        self._deadline = session.now() + parse_timeout(timeout)
        self._answered_at: datetime | None = None
        self._late = TransientError(
            f"{unfinished} after {timeout}", hint="it goes on; wait longer with --timeout"
        )

    def ask(self, question: Callable[[], T]) -> T | None:
        """Return the answer, or None when the control plane does not answer now."""
        try:
            answer = question()
        except TransientError:
            if self._answered_at is None or self._session.now() > self._answered_at + AWAY_AT_MOST:
                raise
            return None
        self._answered_at = self._session.now()
        return answer

    def pause(self) -> None:
        """Wait a little; raises `TransientError` at the deadline."""
        if self._session.now() >= self._deadline:
            raise self._late
        self._session.sleep(ASK_EVERY_S)
