"""What every alias, champion and challenger of a model named, at any moment.

Called by the API over a model's `AliasMove` records. Pure. The order of the records is the
order of the moves: their numbers are given under the model's version check, while clocks may
step back.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from datetime import UTC, datetime

from pydantic import Field

from modelplane.errors import FieldError, InvalidResource
from modelplane.resources.meta import Part
from modelplane.resources.model import AliasMove, AliasMoveSpec, AliasOrigin

Place = tuple[str, str, str]
"""What is moved: environment, deployment and name; the first two empty for an alias."""

_SPACE_FOR_PLUS = re.compile(r"(.*\d) (\d{2}:?\d{2})")


class Named(Part):
    """What one name named at a moment, and the move that had made it so."""

    alias: str = Field(description="The alias; in an environment `champion` or `challenger`.")
    environment: str | None = Field(default=None, description="Absent for an alias.")
    deployment: str | None = None
    version: str = Field(description="Semantic version.")
    before: str | None = Field(default=None, description="The version before; absent: none.")
    since: datetime = Field(description="When it was moved there.")
    subject: str
    reason: str = ""
    origin: AliasOrigin = "request"
    promotion: str | None = Field(default=None, description="The promotion that led to it.")


def number_of(move: AliasMove) -> int:
    """Return which move of its model this is, from 1."""
    number = move.metadata.name.rpartition("@")[2]
    return int(number) if number.isdecimal() else 0


def select_moves(
    moves: Iterable[AliasMove], *, environment: str | None = None, alias: str | None = None
) -> Sequence[AliasMove]:
    """Return the moves in an environment and of a name (None: of any), oldest first.

    With an environment only what its deployments serve counts: an alias belongs to none.
    """
    chosen = [
        move
        for move in moves
        if environment in {None, move.spec.environment} and alias in {None, move.spec.alias}
    ]
    return sorted(chosen, key=number_of)


def read_history(moves: Iterable[AliasMove], at: datetime) -> Sequence[Named]:
    """Return what each name named at a moment; names that named nothing are left out.

    Parameters
    ----------
    moves
        All moves of a model, or those chosen by `select_moves`, in any order.
    at
        The moment, with a time zone; a move made at it counts.

    Returns
    -------
    sequence of Named
        Aliases first, then by environment, deployment and name.
    """
    last: dict[Place, AliasMoveSpec] = {}
    for move in sorted(moves, key=number_of):
        if move.spec.at <= at:
            last[_place(move.spec)] = move.spec
    return [_name(spec, spec.after) for _, spec in sorted(last.items()) if spec.after is not None]


def _place(spec: AliasMoveSpec) -> Place:
    return spec.environment or "", spec.deployment or "", spec.alias


def _name(spec: AliasMoveSpec, version: str) -> Named:
    return Named(
        alias=spec.alias,
        environment=spec.environment,
        deployment=spec.deployment,
        version=version,
        before=spec.before,
        since=spec.at,
        subject=spec.subject,
        reason=spec.reason,
        origin=spec.origin,
        promotion=spec.promotion,
    )


def parse_moment(text: str, path: str = "query.at") -> datetime:
    """Return the moment that an RFC 3339 time or a date names, with its time zone.

    A date means its beginning; without a zone it is UTC. A space where an address swallowed the
    ``+`` of a zone is taken for it.

    Raises
    ------
    InvalidResource
        It is neither.

    Examples
    --------
    >>> parse_moment("2026-11-17T14:02:00+01:00").isoformat()
    '2026-11-17T13:02:00+00:00'
    """
    given = text.strip()
    if "T" in given and (lost := _SPACE_FOR_PLUS.fullmatch(given)):
        given = f"{lost[1]}+{lost[2]}"
    try:
        moment = datetime.fromisoformat(given)
        if moment.tzinfo is None:
            moment = moment.replace(tzinfo=UTC)
        return moment.astimezone(UTC)
    except (ValueError, OverflowError):
        message = f"not a time: {text[:80]!r}; write it like 2026-11-17T14:02:00Z or 2026-11-17"
        raise InvalidResource("the query is not valid", [FieldError(path, message)]) from None
