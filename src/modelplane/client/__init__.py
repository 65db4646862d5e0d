"""The typed client of the HTTP API, shared by the CLI, the agent and users' Python.

`Client` blocks, `AsyncClient` does not; both build their requests in `calls` and read their
answers in `answers`. Attributes load on first use, so that importing the package costs nothing.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from modelplane.client.answers import Applied, Listing, Prediction
    from modelplane.client.asynchronous import AsyncClient
    from modelplane.client.synchronous import Client

_HOMES = {
    "Applied": "modelplane.client.answers",
    "Listing": "modelplane.client.answers",
    "Prediction": "modelplane.client.answers",
    "AsyncClient": "modelplane.client.asynchronous",
    "Client": "modelplane.client.synchronous",
}

__all__ = ["Applied", "AsyncClient", "Client", "Listing", "Prediction"]


def __getattr__(name: str) -> object:
    """Load a public name from its module."""
    if name in _HOMES:
        return getattr(importlib.import_module(_HOMES[name]), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
