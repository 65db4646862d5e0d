"""Webhooks of watched registries: a good one wakes the watcher, nothing else.

``POST /webhooks/mlflow/{source}`` carries no token, for MLflow can send none: the signature over
the delivery's id, time and body admits it. What the body says is only a hint: the watcher asks
the registry itself. Whether a source exists is not told to those who cannot sign.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
import re
from datetime import datetime
from typing import Any

from fastapi import Request
from starlette.responses import Response

from modelplane.api.access import Context, context_of
from modelplane.api.answers import json_response
from modelplane.api.bodies import read_body
from modelplane.api.deliveries import TOLERANCE_S
from modelplane.api.routes import Routes
from modelplane.errors import Conflict, Unauthenticated
from modelplane.ports.store import Transaction
from modelplane.resources.meta import ResourceKey, Subject
from modelplane.resources.model_source import ModelSource

SUBJECT = Subject(name="system:webhooks")
MAX_BODY_BYTES = 2**20
_NOBODY = "-"
_VERSION_CREATED = ("model_version", "created")
_DELIVERY = re.compile(r"[\x21-\x7e]{1,200}")


def sign(secret: str, delivery: str, timestamp: str, body: bytes) -> str:
    """Return the signature of a delivery, in MLflow's form ``v1,<base64>``."""
    content = f"{delivery}.{timestamp}.".encode() + body
    digest = hmac.new(secret.encode(), content, hashlib.sha256).digest()
    return f"v1,{base64.b64encode(digest).decode()}"


def find_fault(request: Request, secret: str | None, body: bytes, now: datetime) -> str:
    """Return why a delivery is not to be trusted; empty when it is.

    Parameters
    ----------
    request
        With the delivery's headers.
    secret
        What it must be signed with; None when there is no such source.
    body
        As it arrived.
    now
        The time here.
    """
    delivery = request.headers.get("x-mlflow-delivery-id", "")
    timestamp = request.headers.get("x-mlflow-timestamp", "")
    given = request.headers.get("x-mlflow-signature", "")
    # Computed in any case: the time it takes must not tell whether the source exists.
    wanted = sign(secret or _NOBODY, delivery, timestamp, body)
    is_right = hmac.compare_digest(wanted.encode(), given.encode())
    if not _DELIVERY.fullmatch(delivery) or not timestamp.isascii() or not given:
        return "its headers are missing"
    if secret is None or not is_right:
        return "its signature is wrong"
    if not re.fullmatch(r"\d{1,12}", timestamp):
        return "its time is no number"
    if abs(now.timestamp() - int(timestamp)) > TOLERANCE_S:
        return f"its time is more than {TOLERANCE_S:g} s from ours"
    return ""


def read_hint(body: bytes) -> tuple[str | None, int | None]:
    """Return the model that an event is about, and the version when that is new."""
    try:
        event = json.loads(body)
    except (ValueError, RecursionError):
        return None, None
    data = event.get("data") if isinstance(event, dict) else None
    name = data.get("name") if isinstance(data, dict) else None
    if not isinstance(data, dict) or not isinstance(name, str):
        return None, None
    version = str(data.get("version", ""))
    is_new = (event.get("entity"), event.get("action")) == _VERSION_CREATED
    number = int(version) if is_new and re.fullmatch(r"[0-9]{1,9}", version) else None
    return name, number


def add_webhook_routes(routes: Routes) -> None:
    """Add the route that MLflow's webhooks are sent to."""

    async def receive(request: Request, source: str) -> Response:
        """Take a signed event of a watched MLflow server, and look there."""
        context = context_of(request)
        dependencies, clock = context.dependencies, context.dependencies.clock
        body = await read_body(request, MAX_BODY_BYTES, dependencies.limits.idle_timeout_s)
        declared = await context.store.find(ModelSource, source)
        name = declared.spec.webhook_secret if declared else None
        secret = dependencies.secret(name) if name else None
        fault = find_fault(request, secret, body, clock.now())
        if fault:
            await _note(context, declared, fault)
            raise Unauthenticated(
                f"the webhook is refused: {fault}",
                hint="the secret there must be the one that spec.webhookSecret names here",
            )
        delivery = request.headers["x-mlflow-delivery-id"]
        if not context.deliveries.accept(source, delivery, clock.monotonic_s()):
            await _note(context, declared, "it was delivered before")
            raise Conflict(f"the delivery {delivery} was taken before")
        dependencies.wake_source(source, *read_hint(body))
        return json_response({"status": "accepted"}, status=202)

    async def sync(request: Request, name: str) -> Response:
        """Look at a source now instead of at its next poll."""
        context = context_of(request)
        await context.admit(request, "act", "ModelSource")
        source = await context.store.get(ModelSource, name)
        context.dependencies.wake_source(name, None, None)
        return json_response({"result": "asked", "resource": source.to_dict()}, status=202)

    described: dict[str, Any] = {"security": []}
    routes.add(
        "POST",
        "/webhooks/mlflow/{source}",
        receive,
        tag="ModelSource",
        operation_id="receiveMlflowWebhook",
        openapi_extra=described,
    )
    routes.add(
        "POST",
        "/model-sources/{name}:sync",
        sync,
        tag="ModelSource",
        operation_id="syncModelSource",
    )


async def _note(context: Context, declared: ModelSource | None, fault: str) -> None:
    """Write to the audit log that a webhook was refused, at most once a minute for each."""
    place = declared.metadata.name if declared else ""
    if not context.deliveries.is_to_note(place, context.dependencies.clock.monotonic_s()):
        return
    transaction = Transaction(SUBJECT)
    key = ResourceKey("ModelSource", None, place) if declared else None
    transaction.note("webhook.refused", key, fault=fault)
    await context.store.commit(transaction)
