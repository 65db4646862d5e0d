"""How routes are added: with the surface's prefix, and without a second validation of answers.

Routes hold no state: each finds its application's `access.Context` in the request. So they are
made once in a process, however many applications it has (FastAPI takes about 1 ms for each).
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from typing import Any

from fastapi.routing import APIRoute
from starlette.responses import Response

PREFIX = "/api/v1"
_PROBLEM = {"description": "A problem (RFC 9457)", "content": {"application/problem+json": {}}}


class Routes:
    """Routes in order; the first one that matches a request answers it."""

    def __init__(self) -> None:
        self.all: list[APIRoute] = []

    def add(
        self,
        method: str,
        path: str,
        endpoint: Callable[..., Awaitable[Response]],
        *,
        tag: str,
        prefix: str = PREFIX,
        responses: Mapping[int | str, dict[str, Any]] | None = None,
        **documentation: Any,
    ) -> None:
        """Add one route.

        Parameters
        ----------
        method, path, endpoint
            What answers what.
        tag
            The kind it is about.
        prefix
            What the path begins with.
        responses
            What good answers hold, by status.
        **documentation
            For the description of the surface: `summary`, `operation_id`, `openapi_extra`.
        """
        route = APIRoute(
            prefix + path,
            endpoint,
            methods=[method],
            response_model=None,
            tags=[tag],
            responses={"default": _PROBLEM, **(responses or {})},
            **documentation,
        )
        self.all.append(route)
