"""Aliases in two registries: what moved where since both were last compared, and who wins.

Called by the controller of sources. Pure. A three-way comparison of each alias: as it was when
both were last the same (`base`), as it is here (`ours`), as it is there (`theirs`). What moved
there moves here, with a record; what moved here is written there; where both moved, ours wins
and both moves are recorded.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Literal

from modelplane.decisions.aliases import Moved, Mover, move_alias
from modelplane.decisions.external import ExternalVersion
from modelplane.resources.model import AliasMove, Model

ENVIRONMENT_TAG = "modelplane.environment."
PROMOTION_TAG = "modelplane.promotion"
EVIDENCE_TAG = "modelplane.evidence"

SyncCase = Literal["same", "moved-there", "moved-here", "both-moved"]


@dataclass(frozen=True, slots=True)
class AliasWrite:
    """What is to be written there: the alias names `version`, or nothing (None)."""

    alias: str
    version: str | None


@dataclass(frozen=True, slots=True)
class AliasSync:
    """What one comparison leads to.

    Attributes
    ----------
    moved
        The model with aliases and base brought up to date, and the records of moves found.
    writes
        What to write there afterwards; the next comparison finds it done.
    conflicts
        Aliases that had moved on both sides.
    differing
        Aliases that differ and stay so: writing back is not wanted, or the version is not
        there.
    """

    moved: Moved
    writes: tuple[AliasWrite, ...] = ()
    conflicts: tuple[str, ...] = ()
    differing: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class TagWrite:
    """A tag of a version to be set there, or taken away (None)."""

    number: int
    key: str
    value: str | None


def compare_alias(base: str | None, ours: str | None, theirs: str | None) -> SyncCase:
    """Return what happened to one alias; None is an alias that is not there.

    Examples
    --------
    >>> compare_alias("1.0.0", "1.0.0", "2.0.0"), compare_alias("1.0.0", "3.0.0", "2.0.0")
    ('moved-there', 'both-moved')
    """
    if ours == theirs:
        return "same"
    if ours == base:
        return "moved-there"
    return "moved-here" if theirs == base else "both-moved"


def sync_aliases(
    model: Model,
    theirs: Mapping[str, str],
    *,
    unknown: Collection[str] = (),
    writable: Collection[str],
    write_back: bool,
    source: str,
    now: datetime,
) -> AliasSync:
    """Compare the aliases of a model with those of its source.

    The result is applied in two steps: first the model and the records are committed, then
    the writes are made. After a crash between any two of them the next comparison goes on.

    Parameters
    ----------
    model
        As it is stored; its `mirrored_aliases` are the base.
    theirs
        Semantic version by alias, as the source has them.
    unknown
        Aliases there that name versions which are not here yet: left alone until they are.
    writable
        Semantic versions that exist there.
    write_back
        Whether anything may be written there.
    source
        Name of the ModelSource, for the record.
    now
        When the comparison is made.
    """
    base = dict(model.status.mirrored_aliases)
    moved = Moved(model)
    writes: list[AliasWrite] = []
    conflicts: list[str] = []
    differing: list[str] = []
    for alias in sorted({*base, *model.status.aliases, *theirs} - set(unknown)):
        ours, other = model.status.aliases.get(alias), theirs.get(alias)
        case = compare_alias(base.get(alias), ours, other)
        if case == "moved-there":
            moved = _move(moved, alias, other, _outside(source, now))
        elif case == "both-moved":
            conflicts.append(alias)
            moved = _move(moved, alias, other, _outside(source, now))
            moved = _move(moved, alias, ours, _ours_wins(source, now))
        if case in {"moved-here", "both-moved"}:
            if write_back and (ours is None or ours in writable):
                writes.append(AliasWrite(alias, ours))
            else:
                differing.append(alias)
        _set(base, alias, other)
    synced = moved.model.with_status(mirrored_aliases=dict(sorted(base.items())))
    return AliasSync(
        replace(moved, model=synced), tuple(writes), tuple(conflicts), tuple(differing)
    )


def _move(moved: Moved, alias: str, version: str | None, mover: Mover) -> Moved:
    step = move_alias(moved.model, alias, version, mover)
    return Moved(step.model, moved.moves + step.moves)


def _outside(source: str, now: datetime) -> Mover:
    return Mover("mlflow", now, f"moved outside modelplane, in {source}", origin="outside")


def _ours_wins(source: str, now: datetime) -> Mover:
    reason = f"it had moved here and in {source}; the move made here wins"
    return Mover("system:sources", now, reason)


def _set(base: dict[str, str], alias: str, version: str | None) -> None:
    if version is None:
        base.pop(alias, None)
    else:
        base[alias] = version


def plan_tags(
    model: Model,
    theirs: Collection[ExternalVersion],
    numbers: Mapping[str, int],
    promotions: Mapping[str, Mapping[str, str]],
) -> tuple[TagWrite, ...]:
    """Return the tags to write there, so that they tell where each version serves.

    Parameters
    ----------
    model
        With what serves where.
    theirs
        The versions there, with the tags they have.
    numbers
        Number by semantic version, of those taken over from there.
    promotions
        Further tags by semantic version: the promotion and a link to its evidence.
    """
    wanted: dict[int, dict[str, str]] = {}
    for role in ("challenger", "champion"):  # the last one stands
        for serving in model.status.serving:
            version = getattr(serving, role)
            if version in numbers:
                key = f"{ENVIRONMENT_TAG}{serving.environment}"
                wanted.setdefault(numbers[version], {})[key] = role
    for version, tags in promotions.items():
        if version in numbers:
            wanted.setdefault(numbers[version], {}).update(tags)
    writes = []
    for external in sorted(theirs, key=lambda v: v.number):
        tags = wanted.get(external.number, {})
        writes += [
            TagWrite(external.number, key, value)
            for key, value in sorted(tags.items())
            if external.tags.get(key) != value
        ]
        writes += [
            TagWrite(external.number, key, None)
            for key in sorted(external.tags)
            if key.startswith(ENVIRONMENT_TAG) and key not in tags
        ]
    return tuple(writes)


def newest_promotions(moves: Collection[AliasMove]) -> dict[str, tuple[str, str]]:
    """Return (environment, promotion) of the newest promotion that made a version champion.

    Parameters
    ----------
    moves
        Records of one model, in any order.

    Returns
    -------
    dict by semantic version
    """
    found: dict[str, tuple[str, str]] = {}
    for move in sorted(moves, key=lambda m: m.metadata.name):
        spec = move.spec
        if spec.alias == "champion" and spec.environment and spec.after and spec.promotion:
            found[spec.after] = (spec.environment, spec.promotion)
    return found
