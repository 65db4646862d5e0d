"""Contracts as calls, pact files as values, and the answers of ``can-i-deploy``.

Called by `GateClient`. Sends nothing itself.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from pydantic import ValidationError
from pydantic_core import from_json

from modelplane.client.calls import PREFIX, Call
from modelplane.decisions.deployability import Deployability
from modelplane.errors import FieldError, InvalidResource, TerminalError

MAX_PACT_BYTES = 2**20
"""Of a pact file; what the API takes in one request."""


def read_pact_file(path: str | Path) -> dict[str, Any]:
    """Return the content of a pact file.

    Raises
    ------
    InvalidResource
        It cannot be read, is larger than `MAX_PACT_BYTES`, or is no JSON object.
    """
    place = Path(path)
    try:
        with place.open("rb") as file:
            content = file.read(MAX_PACT_BYTES + 1)
    except OSError as error:
        raise InvalidResource(f"cannot read {place}: {error.strerror}") from None
    if len(content) > MAX_PACT_BYTES:
        raise InvalidResource(f"{place} is larger than {MAX_PACT_BYTES:,} bytes, the limit here")
    try:
        data = from_json(content, allow_inf_nan=False)
    except ValueError as error:
        raise InvalidResource(f"{place} is not JSON: {error}") from None
    if not isinstance(data, dict):
        raise InvalidResource(f"{place} is no pact", [FieldError("pact", "must be an object")])
    return data


def publish_call(
    pact: Mapping[str, Any],
    consumer_version: str,
    *,
    environments: Sequence[str],
    model: str | None,
    reason: str,
) -> Call:
    """Return the call that publishes a pact; the same again changes nothing."""
    body = {
        "pact": dict(pact),
        "consumerVersion": consumer_version,
        "environments": list(environments),
        "model": model,
        "reason": reason,
    }
    return Call("POST", f"{PREFIX}/contracts", body=body)


def record_call(
    consumer: str, consumer_version: str, environment: str, *, deployed: bool, reason: str
) -> Call:
    """Return the call that says where a version of a consumer is, or is no more."""
    body = {
        "consumer": consumer,
        "consumerVersion": consumer_version,
        "environment": environment,
        "reason": reason,
    }
    verb = "record-deployment" if deployed else "record-undeployment"
    return Call("POST", f"{PREFIX}/contracts:{verb}", body=body)


def can_i_deploy_call(pacticipant: str, version: str, environment: str) -> Call:
    """Return the call that asks whether a version may go to an environment."""
    query = {"pacticipant": pacticipant, "version": version, "environment": environment}
    return Call("GET", f"{PREFIX}/can-i-deploy", query)


def read_deployability(body: bytes) -> Deployability:
    """Return an answer to `can_i_deploy_call`; raises `TerminalError` when it is none."""
    try:
        return Deployability.model_validate_json(body)
    except ValidationError as error:
        raise TerminalError(
            f"the answer is no matrix that this version of modelplane knows: {error}",
            hint="use the same version on both sides",
        ) from None
