"""Who calls: MLflow's clients send a bearer token, or a user name and a password.

Used by the routes of this package. The password is a token of modelplane; the user name says
nothing, for a token has a name of its own.
"""

from __future__ import annotations

import base64
import binascii

from starlette.requests import Request


def authorization_of(request: Request) -> str | None:
    """Return the ``Authorization`` of a request as a bearer token, which is checked elsewhere."""
    given: str | None = request.headers.get("authorization")
    scheme, _, encoded = (given or "").partition(" ")
    if scheme.lower() != "basic":
        return given
    try:
        pair = base64.b64decode(encoded.strip(), validate=True).decode()
    except (binascii.Error, ValueError):
        return None
    return f"Bearer {pair.partition(':')[2]}"
