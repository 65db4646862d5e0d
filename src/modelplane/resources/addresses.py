"""Addresses of other services in resources: http or https, and never with credentials. Pure.

Called by the resource types. What a resource holds is shown to everybody who may read it.
"""

from __future__ import annotations

from typing import Annotated
from urllib.parse import urlsplit

from pydantic import AfterValidator


def check_url(url: str) -> str:
    """Return an http or https address that holds no credentials.

    Raises
    ------
    ValueError
        It is none, or holds some; the message does not repeat them.

    Examples
    --------
    >>> check_url("https://issuer/keys")
    'https://issuer/keys'
    """
    parts = urlsplit(url)
    plain = url.isprintable() and " " not in url
    if parts.scheme not in {"http", "https"} or not parts.hostname or not plain:
        raise ValueError("not an address: write https://HOST/PATH")
    if "@" in parts.netloc:
        raise ValueError("leave credentials out of the address: resources hold no secrets")
    return url


Url = Annotated[str, AfterValidator(check_url)]
