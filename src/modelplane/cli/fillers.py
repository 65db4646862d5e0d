"""Where modules say what `get` shows of a kind. Pure; `columns` reads it."""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime
from typing import Any, TypeVar

from modelplane.resources.meta import Resource

AnyResource = Resource[Any, Any]
Row = list[str]
R = TypeVar("R", bound=AnyResource)

FILLERS: dict[type[AnyResource], tuple[tuple[str, ...], Callable[[Any, datetime], Row]]] = {}
"""Headers, and what fills a row, by kind."""


def columns(
    kind: type[R], *headers: str
) -> Callable[[Callable[[R, datetime], Row]], Callable[[R, datetime], Row]]:
    """Register a function that fills a kind's row under `headers`; name and age come besides."""

    def register(fill: Callable[[R, datetime], Row]) -> Callable[[R, datetime], Row]:
        FILLERS[kind] = (headers, fill)
        return fill

    return register
