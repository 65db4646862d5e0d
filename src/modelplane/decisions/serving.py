"""Who is champion and challenger of a deployment, and which moves of them are not recorded yet.

Called by `controllers.serving`. Pure. The rollouts of a deployment are the truth: each says
what was stable, when its candidate first had traffic and how it ended. What a model's status
says is compared with that course, and the steps after the last recorded one are recorded, each
with the time, the person and the reason of its own.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime

from modelplane.decisions.aliases import Moved, Mover, move_alias, report_serving
from modelplane.resources.model import Model, Serving
from modelplane.resources.model_deployment import ModelDeployment
from modelplane.resources.promotion import Promotion
from modelplane.resources.revision import Revision
from modelplane.resources.rollout import Rollout

SYSTEM = "system:rollout"
ROLES = ("champion", "challenger")
_MAX_REASON = 500

Version = tuple[str, str] | None
"""Model and semantic version."""


@dataclass(frozen=True, slots=True)
class Step:
    """A moment at which champion or challenger of a deployment may have changed.

    Attributes
    ----------
    champion, challenger
        From then on.
    at
        When; None when that is not known.
    rollout
        The one that did it; None when the deployment was deleted or had none yet.
    """

    champion: Version = None
    challenger: Version = None
    at: datetime | None = None
    rollout: Rollout | None = None

    @property
    def state(self) -> tuple[Version, Version]:
        """Champion and challenger."""
        return self.champion, self.challenger


@dataclass(frozen=True, slots=True)
class Place:
    """A deployment, and the environments whose models' own aliases follow it."""

    environment: str
    deployment: str
    production: Collection[str] = ()


def present_state(deployment: ModelDeployment, latest: Rollout | None) -> tuple[Version, Version]:
    """Return champion and challenger of a deployment now.

    The champion is what serves: that may have come by a traffic policy while the deployment's
    own `latest` rollout, which tells the challenger, was under way.
    """
    challenger = _steps_of(latest)[-1].challenger if latest is not None else None
    return _version(deployment.status.stable), challenger


def recorded_state(models: Mapping[str, Model], place: Place) -> tuple[Version, Version]:
    """Return champion and challenger of a deployment as the models' status says."""
    found: dict[str, Version] = dict.fromkeys(ROLES)
    for name, model in models.items():
        entry = _entry(model, place)
        for role in ROLES:
            version = getattr(entry, role)
            if version is not None:
                found[role] = (name, version)
    return found["champion"], found["challenger"]


def counts(rollout: Rollout) -> bool:
    """Whether a rollout says who is champion or challenger.

    Those of traffic policies run beside each other and are nobody's challenger; one that was
    promoted has become the deployment's own.
    """
    return not rollout.spec.lane or rollout.status.phase == "Promoted"


def unrecorded_steps(
    deployment: ModelDeployment | None,
    rollouts: Sequence[Rollout],
    recorded: tuple[Version, Version],
) -> Sequence[Step]:
    """Return the steps that are still to be recorded, in order.

    Parameters
    ----------
    deployment
        As stored; None when it was deleted.
    rollouts
        All of its name, also those of a deployment of that name before it.
    recorded
        What the models' status says.
    """
    if deployment is None:
        return [Step()]
    born = deployment.metadata.created_at
    own = [r for r in rollouts if _is_since(r, born) and counts(r)]
    own.sort(key=lambda rollout: rollout.spec.ordinal)
    first = own[0].spec.stable if own else None
    course = [Step(champion=_version(first), at=born)]
    for rollout in own:
        course += _steps_of(rollout)
    known = [place for place, step in enumerate(course) if step.state == recorded]
    if known:
        return course[known[-1] + 1 :]
    if len(own) < len(rollouts):
        # What is recorded was served by a deployment of this name that was deleted meanwhile.
        return [Step(), *course[1:]]
    return course[-1:]


def move_serving(
    models: Mapping[str, Model],
    place: Place,
    steps: Sequence[tuple[Step, Mover]],
    now: datetime,
) -> Sequence[Moved]:
    """Return the models whose status changes by `steps`, with the record of each move.

    In production the model's aliases ``champion`` and ``challenger`` follow what the deployment
    serves, once at the end and only where that has changed: in between they belong to people.

    Parameters
    ----------
    models
        Those that the steps and the record name, by name, as stored.
    place
        The deployment.
    steps
        What happened, in order, and who did it.
    now
        When aliases are moved: they are pointers, and point elsewhere from now on.
    """
    changed = []
    for model in models.values():
        moved, last = Moved(model), dict[str, Mover]()
        for step, mover in steps:
            serving = Serving(
                environment=place.environment,
                deployment=place.deployment,
                champion=_of(model, step.champion),
                challenger=_of(model, step.challenger),
            )
            reported = report_serving(moved.model, serving, mover)
            last |= {move.spec.alias: mover for move in reported.moves}
            moved = Moved(reported.model, moved.moves + reported.moves)
        if place.environment in place.production:
            for role, mover in last.items():
                follows = _follow(model, moved, role, place, replace(mover, at=now))
                moved = Moved(follows.model, moved.moves + follows.moves)
        if moved.moves:
            changed.append(moved)
    return changed


def mover_of(step: Step, promotion: Promotion | None, now: datetime) -> Mover:
    """Return who made a step of a rollout, when and why.

    What begins or succeeds is the work of who asked for the promotion, or for its early end;
    what is taken back is that of who asked for it, or of modelplane itself.
    """
    rollout = step.rollout
    if rollout is None:
        return Mover(SYSTEM, step.at or now, "the deployment is gone", "rollout")
    asked, status = rollout.spec.request, rollout.status
    subject = promotion.spec.subject.name if promotion else SYSTEM
    reason = promotion.spec.reason if promotion else ""
    if step.challenger is None:
        ended_by = asked if status.reason in {"PromoteRequested", "RollbackRequested"} else None
        if ended_by is not None:
            subject, reason = ended_by.subject, ended_by.reason or reason
        elif status.phase != "Promoted":
            subject, reason = SYSTEM, status.message
        reason = reason or status.message
    text = reason.partition("\n")[0][:_MAX_REASON]
    return Mover(subject, step.at or now, text, "rollout", rollout.spec.promotion)


def _steps_of(rollout: Rollout) -> list[Step]:
    """Return what one rollout did: its candidate met traffic, it ended; at least one step."""
    spec, status = rollout.spec, rollout.status
    champion, candidate = _version(spec.stable), _version(spec.candidate)
    steps = []
    if spec.stable is not None and status.ramp_started_at is not None and not spec.lane:
        steps.append(Step(champion, candidate, status.ramp_started_at, rollout))
    if rollout.finished:
        after = candidate if status.phase == "Promoted" else champion
        steps.append(Step(after, None, status.finished_at, rollout))
    return steps or [Step(champion, None, status.started_at, rollout)]


def _follow(before: Model, moved: Moved, role: str, place: Place, mover: Mover) -> Moved:
    """Let the model's own alias follow what became of a role in production."""
    was, to = getattr(_entry(before, place), role), getattr(_entry(moved.model, place), role)
    if was == to:
        return Moved(moved.model)
    if to is not None:
        return move_alias(moved.model, role, to, mover)
    now_named = moved.model.status.aliases.get(role)
    elsewhere = {
        getattr(s, role) for s in moved.model.status.serving if s.environment in place.production
    }
    if now_named != was or now_named in elsewhere:
        return Moved(moved.model)
    return move_alias(moved.model, role, None, mover)


def _entry(model: Model, place: Place) -> Serving:
    wanted = (place.environment, place.deployment)
    entries = (s for s in model.status.serving if (s.environment, s.deployment) == wanted)
    return next(entries, Serving(environment=wanted[0], deployment=wanted[1]))


def _of(model: Model, version: Version) -> str | None:
    return version[1] if version is not None and version[0] == model.metadata.name else None


def _version(revision: Revision | None) -> Version:
    return (revision.model, revision.version) if revision is not None else None


def _is_since(rollout: Rollout, born: datetime | None) -> bool:
    made = rollout.metadata.created_at
    return born is None or made is None or made >= born
