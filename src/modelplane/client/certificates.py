"""Requests about certificates, as values. Used by the clients; sends nothing itself."""

from __future__ import annotations

from typing import TypeVar

from pydantic import ValidationError

from modelplane.client.calls import PREFIX, Call
from modelplane.errors import TerminalError
from modelplane.resources.certificates import CertificateRequest
from modelplane.resources.meta import Part

P = TypeVar("P", bound=Part)


def certify_call(request: CertificateRequest) -> Call:
    """Return the call that has a key certified; sent twice it only makes two certificates."""
    return Call("POST", f"{PREFIX}/certificates", body=request.to_dict())


def trust_call() -> Call:
    """Return the call that asks whom to trust."""
    return Call("GET", f"{PREFIX}/authorities:trust")


def authorities_call() -> Call:
    """Return the call that asks how the authorities stand."""
    return Call("GET", f"{PREFIX}/authorities")


def rotate_call(reason: str) -> Call:
    """Return the call that begins a handover; it is not sent twice."""
    return Call("POST", f"{PREFIX}/authorities:rotate", body={"reason": reason}, repeatable=False)


def read_part(part: type[P], body: bytes) -> P:
    """Return a part in an answer."""
    try:
        return part.model_validate_json(body)
    except ValidationError as error:
        detail = str(error).partition("\n")[0]
        raise TerminalError(
            f"the answer is none that this version of modelplane knows: {detail}",
            hint="use the same version on both sides",
        ) from None
