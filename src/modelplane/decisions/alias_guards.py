"""Guarded aliases: names that only versions may have which were promoted.

Called by `controllers.alias_guards`. Pure. An alias that was moved against a policy goes back to
the last version that may have it, or away. It does not matter where it was moved: through the
API, MLflow's, or in an MLflow that is watched (to which the change is then written back).
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime

from modelplane.decisions.aliases import Moved, Mover, move_alias
from modelplane.resources.model import AliasMove, Model
from modelplane.resources.notification import Event
from modelplane.resources.promotion_policy import PromotionPolicy

SUBJECT = "system:policy"


@dataclass(frozen=True, slots=True)
class PutBack:
    """One alias that was put back: from which version, to which (None: taken away), and why."""

    alias: str
    before: str
    after: str | None
    policy: str
    reason: str


@dataclass(frozen=True, slots=True)
class GuardedAliases:
    """The model with its guarded aliases put right, and what was done."""

    moved: Moved
    put_back: tuple[PutBack, ...] = ()


def guarding_policies(
    policies: Sequence[PromotionPolicy], model: Model
) -> dict[str, list[PromotionPolicy]]:
    """Return the policies that guard aliases of `model`, by alias; of aliases it has."""
    found: dict[str, list[PromotionPolicy]] = {}
    name, labels = model.metadata.name, model.metadata.labels
    for policy in sorted(policies, key=lambda policy: policy.metadata.name):
        if not policy.spec.models.matches(name, labels):
            continue
        for alias in set(policy.spec.aliases) & model.status.aliases.keys():
            found.setdefault(alias, []).append(policy)
    return dict(sorted(found.items()))


def guard_aliases(
    model: Model,
    policies: Sequence[PromotionPolicy],
    promoted: Mapping[str, Collection[str]],
    *,
    moves: Sequence[AliasMove] = (),
    living: Collection[str] = (),
    now: datetime,
) -> GuardedAliases:
    """Put back the aliases that name a version which may not have them.

    Parameters
    ----------
    model
        As stored.
    policies
        All there are.
    promoted
        By environment the versions of the model that serve or served there: the end of an
        approved promotion.
    moves
        All moves of the model's aliases.
    living
        Versions that are not deleted.
    now
        When.
    """
    moved, put_back = Moved(model), []
    for alias, guards in guarding_policies(policies, model).items():
        version = model.status.aliases[alias]
        against = next((p for p in guards if not _allows(p, version, promoted)), None)
        if against is None:
            continue
        after = _last_allowed(alias, guards, promoted, moves, living)
        places = " or ".join(against.spec.environments)
        name = against.metadata.name
        reason = f"policy {name}: {version} was not promoted to {places}"
        step = move_alias(moved.model, alias, after, Mover(SUBJECT, now, reason))
        moved = Moved(step.model, moved.moves + step.moves)
        put_back.append(PutBack(alias, version, after, name, reason))
    return GuardedAliases(moved, tuple(put_back))


def put_back_event(model: Model, done: PutBack, now: datetime) -> Event:
    """Return what people are told of an alias that was put back."""
    data = {
        "model": model.metadata.name,
        "alias": done.alias,
        "from": done.before,
        "to": done.after,
        "policy": done.policy,
        "message": done.reason,
    }
    return Event(
        type="alias.put_back",
        subject=str(model.key),
        team=model.metadata.labels.get("team", ""),
        at=now,
        data={name: value for name, value in data.items() if value is not None},
    )


def _allows(policy: PromotionPolicy, version: str, promoted: Mapping[str, Collection[str]]) -> bool:
    return any(version in promoted.get(place, ()) for place in policy.spec.environments)


def _last_allowed(
    alias: str,
    guards: Sequence[PromotionPolicy],
    promoted: Mapping[str, Collection[str]],
    moves: Sequence[AliasMove],
    living: Collection[str],
) -> str | None:
    """Return the version that had the alias last and may have it."""
    own = [m.spec for m in moves if m.spec.alias == alias and m.spec.environment is None]
    for move in reversed(own):
        version = move.after
        allowed = version is not None and all(_allows(p, version, promoted) for p in guards)
        if version is not None and allowed and version in living:
            return version
    return None
