"""modelplane: a model control plane, from training to full production traffic.

``from modelplane import Client`` is all that a training script needs. Names load on first use,
so that importing the package costs nothing.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from modelplane.client.asynchronous import AsyncClient
    from modelplane.client.synchronous import Client

    __version__: str

__all__ = ["AsyncClient", "Client", "__version__"]


def __getattr__(name: str) -> object:
    """Load a public name from its module."""
    if name in {"Client", "AsyncClient"}:
        return getattr(importlib.import_module("modelplane.client"), name)
    if name == "__version__":
        return importlib.import_module("importlib.metadata").version("modelplane")
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
