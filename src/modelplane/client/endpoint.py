"""Where the API is and what token opens it: arguments, then the environment, then the state.

Read once when a client is made.
"""

from __future__ import annotations

import json
import os
from dataclasses import dataclass
from pathlib import Path

import httpx

from modelplane.errors import InvalidResource

DEFAULT_URL = "http://127.0.0.1:7080"


@dataclass(frozen=True, slots=True)
class Endpoint:
    """Address of the API and the tokens that open it and the gateways; a token may be empty.

    `signing_key` is the private key that pushes are signed with, where the state has one.
    """

    url: str
    token: str
    gateway_token: str
    signing_key: Path | None = None

    def __repr__(self) -> str:
        return f"Endpoint(url={self.url!r})"  # tokens do not belong in logs


def find_endpoint(
    url: str | None = None, token: str | None = None, state: str | Path | None = None
) -> Endpoint:
    """Return the endpoint to use.

    Parameters
    ----------
    url, token
        When given, they win; else ``MODELPLANE_URL`` and ``MODELPLANE_TOKEN``; else what the
        state directory says.
    state
        The state directory; else ``MODELPLANE_STATE``; else ``.modelplane`` here.

    Raises
    ------
    InvalidResource
        The URL is none, or a file of the state cannot be read.
    """
    directory = Path(state or os.environ.get("MODELPLANE_STATE") or ".modelplane").expanduser()
    found = url or os.environ.get("MODELPLANE_URL") or _read_url(directory / "endpoint.json")
    if not _is_address(found):
        raise InvalidResource(
            f"not the address of an API: {found!r}", hint=f"write it like {DEFAULT_URL}"
        )
    given = token if token is not None else os.environ.get("MODELPLANE_TOKEN")
    gateway = os.environ.get("MODELPLANE_GATEWAY_TOKEN")
    return Endpoint(
        url=found.rstrip("/"),
        token=given if given is not None else _read(directory / "admin-token"),
        gateway_token=gateway if gateway is not None else _read(directory / "gateway-token"),
        signing_key=_find_file(directory / "signing" / "key.pem"),
    )


def _is_address(url: str) -> bool:
    try:
        parsed = httpx.URL(url)
    except httpx.InvalidURL:
        return False
    return parsed.scheme in {"http", "https"} and bool(parsed.host)


def _read_url(path: Path) -> str:
    text = _read(path)
    if not text:
        return DEFAULT_URL
    try:
        return str(json.loads(text)["url"])
    except (ValueError, KeyError, TypeError):
        raise InvalidResource(
            f"{path} does not hold an address", hint="start modelplane again, or pass --url"
        ) from None


def _find_file(path: Path) -> Path | None:
    return path.absolute() if os.access(path, os.R_OK) else None


def _read(path: Path) -> str:
    """Return a small file's text; empty when there is no such file or it is not ours to read."""
    try:
        return path.read_text().strip()
    except (FileNotFoundError, NotADirectoryError, PermissionError):
        return ""
    except (OSError, ValueError) as error:
        raise InvalidResource(f"{path} cannot be read: {error}") from None
