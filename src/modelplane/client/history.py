"""Requests about the history of a model and about corrections of its versions, as values.

Used by the clients; sends nothing itself.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from datetime import datetime
from typing import Any

from modelplane.client.answers import read_object
from modelplane.client.calls import Call, resource_path
from modelplane.decisions.history import Named
from modelplane.errors import TerminalError
from modelplane.resources.model import AliasMove, Model, ModelVersion

PAGE = 500
"""Moves asked for at once."""


def history_call(
    model: str,
    only: Mapping[str, str | None],
    *,
    at: datetime | None = None,
    limit: int | None = None,
    continue_: str = "",
) -> Call:
    """Return the call that reads a model's history.

    Parameters
    ----------
    model
        Its name; it may have been deleted.
    only
        `environment`, `alias`: leave out what is of others.
    at
        A moment, local without a time zone; None asks for the moves.
    limit, continue_
        Of a page of moves.
    """
    moment = at.astimezone() if at is not None and at.tzinfo is None else at
    given = {
        **only,
        "at": moment.isoformat() if moment is not None else None,
        "limit": limit,
        "continue": continue_ or None,
    }
    query = {name: value for name, value in given.items() if value is not None}
    return Call("GET", resource_path(Model, model, "/history"), query)


def fetch_moves(
    send: Callable[[Call], bytes], model: str, limit: int, only: Mapping[str, str | None]
) -> list[AliasMove]:
    """Return the newest `limit` moves, page by page, newest first."""
    moves: list[AliasMove] = []
    token = ""
    while len(moves) < limit:
        size = min(limit - len(moves), PAGE)
        call = history_call(model, only, limit=size, continue_=token)
        page, token = read_moves(send(call))
        moves += page
        if not token or not page:
            break
    return moves


def correction_call(version: str, field: str, value: Any, reason: str) -> Call:
    """Return the call that corrects the record of ``MODEL@VERSION``; null is a value here."""
    body = {"field": field, "value": value, "reason": reason}
    return Call("POST", resource_path(ModelVersion, version, ":correct"), body=body)


def read_moves(body: bytes) -> tuple[list[AliasMove], str]:
    """Return a page of moves, newest first, and the token of the next page."""
    data = read_object(body)
    try:
        moves = [AliasMove.model_validate(item) for item in data["items"]]
        return moves, str(data["metadata"].get("continue", ""))
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise _unreadable(error) from None


def read_named(body: bytes) -> tuple[Named, ...]:
    """Return what was named at a moment."""
    data = read_object(body)
    try:
        return tuple(Named.model_validate(item) for item in data["items"])
    except (ValueError, KeyError, TypeError) as error:
        raise _unreadable(error) from None


def _unreadable(error: Exception) -> TerminalError:
    detail = str(error).partition("\n")[0]
    return TerminalError(
        f"the answer is no history that this version of modelplane knows: {detail}",
        hint="use the same version on both sides",
    )
