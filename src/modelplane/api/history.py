"""The history of a model's aliases and of what its deployments served.

Thin: `decisions.history` reads the records. Moves outlive their model.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated

from fastapi import Query, Request
from starlette.responses import Response

from modelplane.api.access import context_of
from modelplane.api.answers import json_response, list_response
from modelplane.api.routes import Routes
from modelplane.decisions.history import number_of, parse_moment, read_history, select_moves
from modelplane.errors import FieldError, InvalidResource, NotFound
from modelplane.resources.meta import API_VERSION
from modelplane.resources.model import AliasMove, Model

_LARGEST_PAGE = 10_000

AtQuery = Annotated[
    str | None,
    Query(description="What was named at this moment: RFC 3339, or a date (its beginning, UTC)."),
]
EnvironmentQuery = Annotated[
    str | None, Query(description="Only what deployments in this environment served.")
]
AliasQuery = Annotated[str | None, Query(description="Only this alias; `champion` and such.")]
LimitQuery = Annotated[int, Query(ge=1, le=_LARGEST_PAGE, description="At most so many moves.")]
ContinueQuery = Annotated[
    str | None, Query(alias="continue", description="`metadata.continue` of the page before.")
]


def add_history_routes(routes: Routes) -> None:
    """Add the route of a model's history."""

    async def history(
        request: Request,
        name: str,
        *,
        at: AtQuery = None,
        environment: EnvironmentQuery = None,
        alias: AliasQuery = None,
        limit: LimitQuery = 500,
        continue_: ContinueQuery = None,
    ) -> Response:
        """Return the moves, newest first; with `at` what every name named then, and why."""
        context = context_of(request)
        await context.admit(request, "list", "AliasMove", environment, model=name)
        moment = parse_moment(at) if at is not None else None
        moves, version = await context.store.list(AliasMove, prefix=f"{name}@")
        if not moves and await context.store.find(Model, name) is None:
            raise NotFound(f"there is no model {name[:200]!r}, and there never was a move of one")
        chosen = select_moves(moves, environment=environment, alias=alias)
        if moment is None:
            shown, token = _page(chosen, limit, continue_)
            return list_response("AliasMove", shown, version, token)
        named = read_history(chosen, moment)
        return json_response(
            {
                "apiVersion": API_VERSION,
                "kind": "ModelHistory",
                "model": name,
                "at": moment,
                "items": [item.to_dict() for item in named],
            }
        )

    routes.add(
        "GET",
        "/models/{name}/history",
        history,
        tag="Model",
        operation_id="getModelHistory",
        summary="Which version was what, when, by whom and why",
    )


def _page(
    moves: Sequence[AliasMove], limit: int, token: str | None
) -> tuple[Sequence[AliasMove], str]:
    """Return the newest moves below the number in `token`, newest first, and the next token."""
    if token is not None and not (token.isdecimal() and token.isascii() and len(token) < 20):
        fault = FieldError("query.continue", "use the one that the last page gave")
        raise InvalidResource("not a token to continue a list", [fault])
    older = [m for m in moves if token is None or number_of(m) < int(token)]
    shown = older[-limit:][::-1]
    return shown, str(number_of(shown[-1])) if len(older) > limit else ""
