"""Training services: told to start by a signed CloudEvent, then asked how it goes.

Implements `ports.training.TrainingService`. The event is signed and identified as those of
webhooks are (see `webhook`); its id is the run's uid, the same each time it is sent. Redirects are
not followed, and a service is asked only under the address that was declared, so that an answer
sends nobody elsewhere. Of an answer a bounded part is read.
"""

from __future__ import annotations

import asyncio
import math
from collections.abc import Callable
from typing import Any
from urllib.parse import urljoin, urlsplit

import httpx
from pydantic_core import from_json, to_json

from modelplane.adapters.notify.posting import make_client
from modelplane.adapters.notify.webhook import TYPE_PREFIX, read_signing_secret, sign_message
from modelplane.decisions.training_runs import ServiceAnswer, describe_cause
from modelplane.ports.clock import Clock
from modelplane.resources.training import HttpTraining, TrainingRun

_TIMEOUT_S = 15.0
_MAX_ANSWER_BYTES = 64 * 2**10
_LATER = frozenset({408, 425, 429, 502, 503, 504})
"""Answers that may be others when it is asked again."""


class HttpTrainingService:
    """Speaks to the services that triggers declare.

    Parameters
    ----------
    secret
        Returns a secret by its name, or None.
    clock
        Whose time goes into signatures.
    source
        Which modelplane speaks: its address.
    """

    def __init__(self, secret: Callable[[str], str | None], clock: Clock, *, source: str) -> None:
        self._secret = secret
        self._clock = clock
        self._source = source
        self._client = make_client()

    async def start(self, run: TrainingRun) -> ServiceAnswer:
        """Post the event that tells it to train."""
        http = _declared(run)
        body = to_json(self._event(run))
        headers = self._sign(run, http, body)
        if isinstance(headers, str):
            return ServiceAnswer("refused", headers)
        return await self._send("POST", http.url, http, headers, body)

    async def ask(self, run: TrainingRun) -> ServiceAnswer:
        """Ask the address that it gave."""
        http = _declared(run)
        headers = self._sign(run, http, b"")
        if isinstance(headers, str):
            return ServiceAnswer("unavailable", headers)
        return await self._send("GET", run.status.location, http, headers, b"")

    async def cancel(self, run: TrainingRun) -> None:
        """Send DELETE to the address that it gave."""
        http = _declared(run)
        headers = self._sign(run, http, b"")
        if not isinstance(headers, str):
            await self._send("DELETE", run.status.location, http, headers, b"")

    async def close(self) -> None:
        """Close connections."""
        await self._client.aclose()

    def _event(self, run: TrainingRun) -> dict[str, Any]:
        started_at = run.status.started_at or self._clock.now()
        return {
            "specversion": "1.0",
            "id": run.metadata.uid,
            "source": self._source,
            "type": f"{TYPE_PREFIX}training.start",
            "subject": f"TrainingRun {run.metadata.name}",
            "time": started_at.isoformat(),
            "datacontenttype": "application/json",
            "data": {**describe_cause(run), "timeoutS": run.spec.timeout_s},
        }

    def _sign(self, run: TrainingRun, http: HttpTraining, body: bytes) -> dict[str, str] | str:
        """Return the headers of a request, or why there can be none."""
        now = self._clock.now()
        headers = {
            "user-agent": "modelplane",
            "webhook-id": run.metadata.uid,
            "webhook-timestamp": str(int(now.timestamp())),
        }
        if body:
            headers["content-type"] = "application/cloudevents+json; charset=utf-8"
        if http.secret is not None:
            key = read_signing_secret(self._secret(http.secret))
            if key is None:
                return (
                    f"there is no secret {http.secret!r} of whsec_ and at least 24 bytes as base64"
                )
            headers["webhook-signature"] = sign_message(key, run.metadata.uid, now, body)
        return headers

    async def _send(
        self, method: str, url: str, http: HttpTraining, headers: dict[str, str], body: bytes
    ) -> ServiceAnswer:
        try:
            async with (
                asyncio.timeout(_TIMEOUT_S),
                self._client.stream(
                    method, url, content=body or None, headers=headers, timeout=_TIMEOUT_S
                ) as response,
            ):
                content = b""
                async for piece in response.aiter_bytes():
                    content += piece
                    if len(content) > _MAX_ANSWER_BYTES:
                        return ServiceAnswer("failed", "its answer has more than 64 KiB")
                location = response.headers.get("location", "")
                return read_answer(method, response.status_code, content, http.url, location)
        except (TimeoutError, httpx.TimeoutException):
            return ServiceAnswer("unavailable", f"no answer within {_TIMEOUT_S:g} s")
        except (httpx.InvalidURL, httpx.UnsupportedProtocol):
            return ServiceAnswer("refused", "its address is no http or https address")
        except httpx.HTTPError as error:
            return ServiceAnswer("unavailable", f"no connection: {type(error).__name__}")


def _declared(run: TrainingRun) -> HttpTraining:
    http = run.spec.run.http
    assert http is not None
    return http


def read_answer(
    method: str, status: int, content: bytes, url: str, location: str = ""
) -> ServiceAnswer:
    """Return what an answer of a training service means.

    Parameters
    ----------
    method
        ``POST`` of a start, ``GET`` of a question.
    status, content, location
        Of the answer; `location` is its header.
    url
        The declared address.
    """
    if status in _LATER:
        return ServiceAnswer("unavailable", f"it answered {status}")
    said = _read_object(content)
    message = _text(said, "message") or _text(said, "error") or _text(said, "detail")
    if status >= 400:
        told = f"it answered {status}: {message}" if message else f"it answered {status}"
        is_refusal = method == "POST" and status < 500
        return ServiceAnswer("refused" if is_refusal else "failed", told)
    if not 200 <= status < 300:
        return ServiceAnswer("refused", f"it answered {status}; redirects are not followed")
    version = _text(said, "version")
    if version:
        return ServiceAnswer("done", message, version=version)
    is_over = method == "GET" and status == 200 and "progress" not in said
    if is_over:
        return ServiceAnswer("done", message)
    place = ""
    if method == "POST":
        place = urljoin(url, location) if location else ""
        if not place or urlsplit(place)[:2] != urlsplit(url)[:2]:
            return ServiceAnswer(
                "refused",
                "its answer names no Location under its own address where it can be asked",
            )
    return ServiceAnswer(
        "running",
        message,
        location=place,
        progress=_share(said.get("progress")),
        progress_message=message[:200],
    )


def _read_object(content: bytes) -> dict[str, Any]:
    try:
        found = from_json(content, allow_inf_nan=False) if content.strip() else {}
    except ValueError:
        return {}
    return found if isinstance(found, dict) else {}


def _text(said: dict[str, Any], name: str) -> str:
    value = said.get(name)
    return value[:1000] if isinstance(value, str) else ""


def _share(value: object) -> float | None:
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        return None
    return min(1.0, max(0.0, float(value)))
