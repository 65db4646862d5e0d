"""How routes are added: with the surface's prefix, and without a second validation of answers."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from typing import Any

from fastapi import FastAPI
from starlette.responses import Response

PREFIX = "/api/v1"
_PROBLEM = {"description": "A problem (RFC 9457)", "content": {"application/problem+json": {}}}


class Routes:
    """The routes under a prefix; the first one added that matches a request answers it."""

    def __init__(self, app: FastAPI, prefix: str = PREFIX) -> None:
        self._app = app
        self._prefix = prefix

    def add(
        self,
        method: str,
        path: str,
        endpoint: Callable[..., Awaitable[Response]],
        *,
        tag: str,
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
        responses
            What good answers hold, by status.
        **documentation
            For the description of the surface: `summary`, `operation_id`, `openapi_extra`.
        """
        self._app.add_api_route(
            self._prefix + path,
            endpoint,
            methods=[method],
            response_model=None,
            tags=[tag],
            responses={"default": _PROBLEM, **(responses or {})},
            **documentation,
        )
