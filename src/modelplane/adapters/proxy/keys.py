"""An issuer's public keys (JWKS, RFC 7517): fetched, checked, cut down to what is needed.

Called by `credentials`. What the gateway is given holds public keys alone, of kinds that sign
with a pair of keys: with a shared secret among them, whoever could read the set could sign
tokens. A set with keys of kinds that nobody here knows is fine as long as one can be used.
"""

from __future__ import annotations

import asyncio
import base64
import binascii
import json
from collections.abc import Mapping
from typing import Any

import httpx

from modelplane.errors import InvalidResource, TransientError

MAX_BYTES = 256 * 2**10
"""Largest set that is read."""

_MAX_KEYS = 100
_TIMEOUT_S = 5.0
_PLAIN_JSON = {"accept": "application/json", "accept-encoding": "identity"}
_RSA_MIN_BITS = 2048
_EC_BYTES = {"P-256": 32, "P-384": 48, "P-521": 66}
_PUBLIC = {
    "RSA": ("kty", "kid", "alg", "n", "e"),
    "EC": ("kty", "kid", "alg", "crv", "x", "y"),
    "OKP": ("kty", "kid", "alg", "crv", "x"),
}


def read_keys(text: str) -> str:
    """Return the usable public keys of a JWKS as JSON, the same text for the same keys.

    Raises
    ------
    InvalidResource
        When `text` is not a JWKS or no key of it can verify a signature.
    """
    try:
        found = json.loads(text)
    except (ValueError, RecursionError):
        raise InvalidResource("it is not JSON") from None
    keys = found.get("keys") if isinstance(found, dict) else None
    if not isinstance(keys, list) or len(keys) > _MAX_KEYS:
        raise InvalidResource(f'it is no JWKS: {{"keys": [...]}} with {_MAX_KEYS} keys at the most')
    usable = [_public_part(key) for key in keys if isinstance(key, dict) and _can_verify(key)]
    if not usable:
        raise InvalidResource(
            f"none of its {len(keys)} keys can verify a signature",
            hint=f"RSA from {_RSA_MIN_BITS} bits, EC P-256, P-384 or P-521, or Ed25519",
        )
    return json.dumps({"keys": usable}, sort_keys=True)


def _public_part(key: Mapping[str, Any]) -> dict[str, str]:
    return {name: key[name] for name in _PUBLIC[key["kty"]] if isinstance(key.get(name), str)}


def _can_verify(key: Mapping[str, Any]) -> bool:
    if key.get("use", "sig") != "sig":
        return False
    kind, curve = key.get("kty"), key.get("crv")
    if kind == "RSA":
        return len(_decode(key.get("e"))) > 0 and _bits(_decode(key.get("n"))) >= _RSA_MIN_BITS
    if kind == "EC" and isinstance(curve, str) and curve in _EC_BYTES:
        return all(len(_decode(key.get(part))) == _EC_BYTES[curve] for part in ("x", "y"))
    return kind == "OKP" and curve == "Ed25519" and len(_decode(key.get("x"))) == 32


def _decode(value: Any) -> bytes:
    """Return the bytes of a base64url text without padding; none when it is not one."""
    if not isinstance(value, str):
        return b""
    try:
        return base64.urlsafe_b64decode(value + "=" * (-len(value) % 4))
    except (ValueError, binascii.Error):
        return b""


def _bits(number: bytes) -> int:
    return int.from_bytes(number).bit_length()


async def fetch_keys(url: str) -> str:
    """Return what stands at `url`.

    Raises
    ------
    TransientError
        When the whole answer is not there in time, or is anything but 200 with `MAX_BYTES` at
        the most.
    """
    try:
        async with (
            asyncio.timeout(_TIMEOUT_S),  # httpx bounds each read, not their sum
            httpx.AsyncClient(timeout=_TIMEOUT_S) as client,
            client.stream("GET", url, headers=_PLAIN_JSON) as answer,
        ):
            if answer.status_code != 200:
                raise TransientError(f"{url} answers {answer.status_code}")
            text = b""
            # Raw: a kilobyte may unpack to gigabytes before it can be counted.
            async for part in answer.aiter_raw():
                text += part
                if len(text) > MAX_BYTES:
                    raise TransientError(f"{url} answers with more than {MAX_BYTES} bytes")
    except (httpx.HTTPError, httpx.InvalidURL, TimeoutError, UnicodeError) as error:
        reason = str(error) or type(error).__name__
        raise TransientError(f"{url} does not answer: {reason}") from error
    return text.decode(errors="replace")
