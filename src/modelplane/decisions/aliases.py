"""Which version an alias names, and who is champion and challenger where: every move recorded.

Called by the API when people move an alias, and by the controllers when a rollout or a watched
registry did. Pure: returns the changed model and the records of the moves, which are written
in one transaction, so that the model's count of moves guards both.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime

from modelplane.errors import FieldError, InvalidResource
from modelplane.resources.meta import Metadata
from modelplane.resources.model import AliasMove, AliasMoveSpec, AliasOrigin, Model, Serving

_ALIAS = re.compile(r"[A-Za-z0-9][-A-Za-z0-9._]{0,254}")
_LIKE_A_NUMBER = re.compile(r"(?i)v?\d+")
LATEST = "latest"


@dataclass(frozen=True, slots=True)
class Mover:
    """Who moves something, when and why."""

    subject: str
    at: datetime
    reason: str = ""
    origin: AliasOrigin = "request"
    promotion: str | None = None


@dataclass(frozen=True, slots=True)
class Moved:
    """A model after some moves (none: nothing changed), and their records."""

    model: Model
    moves: tuple[AliasMove, ...] = ()

    @property
    def written(self) -> tuple[Model | AliasMove, ...]:
        """What to write, all or nothing; empty when nothing moved."""
        return (self.model, *self.moves) if self.moves else ()


def check_alias(alias: str) -> str:
    """Return `alias` when it may be one.

    Raises
    ------
    InvalidResource
        It has another form, or could be mistaken for a version (``latest``, ``3``, ``v3``).
    """
    if not _ALIAS.fullmatch(alias):
        message = f"not an alias: {alias[:80]!r}; use letters, digits, '-', '_' and '.'"
    elif alias.lower() == LATEST or _LIKE_A_NUMBER.fullmatch(alias):
        message = f"{alias!r} could be mistaken for a version; use another word"
    else:
        return alias
    raise InvalidResource("not an alias", [FieldError("alias", message)])


def move_alias(model: Model, alias: str, version: str | None, mover: Mover) -> Moved:
    """Let `alias` name `version`, or nothing.

    Parameters
    ----------
    model
        As it is stored.
    alias
        Checked by `check_alias` where people give it.
    version
        Semantic version of a living version of the model; None takes the alias away.
    mover
        Who does it.
    """
    before = model.status.aliases.get(alias)
    if before == version:
        return Moved(model)
    aliases = {name: to for name, to in model.status.aliases.items() if name != alias}
    if version is not None:
        aliases[alias] = version
    spec = _spec(model, alias, (before, version), mover)
    return _record(model.with_status(aliases=dict(sorted(aliases.items()))), spec)


def drop_version(model: Model, version: str, mover: Mover) -> Moved:
    """Take away all aliases that name `version`, which is about to be deleted."""
    moved = Moved(model)
    for alias, to in model.status.aliases.items():
        if to == version:
            step = move_alias(moved.model, alias, None, mover)
            moved = Moved(step.model, moved.moves + step.moves)
    return moved


def report_serving(model: Model, serving: Serving, mover: Mover) -> Moved:
    """Record which versions of a model have the traffic of one deployment.

    A deployment with neither is forgotten; the moves stay.
    """
    place = (serving.environment, serving.deployment)
    before = next(
        (s for s in model.status.serving if (s.environment, s.deployment) == place),
        Serving(environment=serving.environment, deployment=serving.deployment),
    )
    others = [s for s in model.status.serving if (s.environment, s.deployment) != place]
    if serving.champion or serving.challenger:
        others.append(serving)
    ordered = tuple(sorted(others, key=lambda s: (s.environment, s.deployment)))
    moved = Moved(model.with_status(serving=ordered))
    for alias in ("champion", "challenger"):
        step = (getattr(before, alias), getattr(serving, alias))
        if step[0] == step[1]:
            continue
        spec = _spec(model, alias, step, mover).with_(
            environment=serving.environment, deployment=serving.deployment
        )
        recorded = _record(moved.model, spec)
        moved = Moved(recorded.model, moved.moves + recorded.moves)
    return moved


def continue_history(model: Model, moves: Iterable[AliasMove]) -> Model:
    """Return a model that is not stored yet, counting on from the moves of one of its name.

    Moves stay when a model is deleted; without this their names would be given again.
    """
    numbers = (move.metadata.name.rpartition("@")[2] for move in moves)
    return model.with_status(moves=max((int(n) for n in numbers if n.isdecimal()), default=0))


def aliases_of(model: Model | None, version: str) -> tuple[str, ...]:
    """Return the aliases that name `version`, in order."""
    if model is None:
        return ()
    return tuple(sorted(alias for alias, to in model.status.aliases.items() if to == version))


def _spec(
    model: Model, alias: str, step: tuple[str | None, str | None], mover: Mover
) -> AliasMoveSpec:
    return AliasMoveSpec(
        model=model.metadata.name,
        alias=alias,
        before=step[0],
        after=step[1],
        at=mover.at,
        subject=mover.subject,
        reason=mover.reason,
        origin=mover.origin,
        promotion=mover.promotion,
    )


def _record(model: Model, spec: AliasMoveSpec) -> Moved:
    number = model.status.moves + 1
    name = f"{model.metadata.name}@{number:08d}"
    move = AliasMove(metadata=Metadata(name=name), spec=spec)
    return Moved(model.with_status(moves=number), (move,))
