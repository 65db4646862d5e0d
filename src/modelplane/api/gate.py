"""The outermost layer: request ids, the host check, counts, and the last resort for errors.

Wraps the whole application (plain ASGI, so that streams pass through unbuffered).
"""

from __future__ import annotations

import re
import traceback

import structlog
from prometheus_client import CollectorRegistry, Counter, Histogram
from starlette.datastructures import Headers, MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from modelplane.api.dependencies import ApiDependencies
from modelplane.api.problems import Misdirected, error_response, make_problem, problem_response

_LOOPBACK_HOSTS = frozenset({"localhost", "127.0.0.1", "[::1]"})
_REQUEST_ID = re.compile(r"[A-Za-z0-9._:-]{1,64}")
_METHODS = frozenset({"GET", "HEAD", "PUT", "POST", "DELETE", "PATCH", "OPTIONS"})
_PORT = re.compile(r":\d+$")
_log = structlog.get_logger("modelplane.api")


class RequestCounts:
    """What `/metrics` says of the API itself."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self.requests = Counter(
            "modelplane_http_requests",
            "Requests answered.",
            ("method", "route", "code"),
            registry=registry,
        )
        self.duration = Histogram(
            "modelplane_http_request_duration_seconds",
            "Time until the answer began.",
            registry=registry,
            buckets=(0.001, 0.003, 0.01, 0.03, 0.1, 0.3, 1.0, 3.0, 10.0),
        )


class Gate:
    """ASGI middleware around the whole API."""

    def __init__(self, app: ASGIApp, dependencies: ApiDependencies, counts: RequestCounts) -> None:
        self._app = app
        self._dependencies = dependencies
        self._counts = counts
        names = {name.lower() for name in dependencies.allowed_hosts}
        self._hosts = _LOOPBACK_HOSTS | names if dependencies.on_loopback or names else None

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        headers = Headers(scope=scope)
        given = headers.get("x-request-id", "")
        request_id = given if _REQUEST_ID.fullmatch(given) else self._dependencies.new_uid()
        clock = self._dependencies.clock
        began_s = clock.monotonic_s()
        started = False

        async def send_marked(message: Message) -> None:
            nonlocal started
            if message["type"] == "http.response.start":
                started = True
                MutableHeaders(scope=message)["x-request-id"] = request_id
                self._count(scope, message["status"], clock.monotonic_s() - began_s)
            await send(message)

        if not self._is_for_us(headers.get("host", "")):
            error = Misdirected(
                f"this API does not answer for host {headers.get('host', '')[:80]!r}",
                hint="use 127.0.0.1 or localhost, or add the name to the setting allowed_hosts",
            )
            await error_response(error)(scope, receive, send_marked)
            return
        try:
            await self._app(scope, receive, send_marked)
        except Exception:
            # As text: renderers that show local variables would show tokens.
            stack = traceback.format_exc()
            # The route and not the path: some paths hold a secret, such as one-time links.
            path = getattr(scope.get("route"), "path", "none")
            _log.error("request failed", request_id=request_id, path=path, stack=stack)
            if started:
                raise
            problem = make_problem(
                500,
                "internal",
                f"an error in modelplane itself; request id {request_id}",
                hint="the control plane's log has the details under this request id",
            )
            await problem_response(problem)(scope, receive, send_marked)

    def _is_for_us(self, host: str) -> bool:
        return self._hosts is None or _PORT.sub("", host.lower()) in self._hosts

    def _count(self, scope: Scope, status: int, seconds: float) -> None:
        # Only known routes become labels: paths that anyone can make up would never end.
        route = getattr(scope.get("route"), "path", "none")
        method = scope["method"] if scope["method"] in _METHODS else "other"
        self._counts.requests.labels(method, route, str(status)).inc()
        self._counts.duration.observe(seconds)
