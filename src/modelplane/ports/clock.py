"""Time, as something one can replace: tests and simulations move it by hand."""

from __future__ import annotations

from datetime import datetime
from typing import Protocol


class Clock(Protocol):
    """The current time and waiting for it to pass."""

    def now(self) -> datetime:
        """Return the time now, with the zone UTC."""

    def monotonic_s(self) -> float:
        """Return seconds that never go back, for measuring durations."""

    async def sleep(self, seconds: float) -> None:
        """Wait for `seconds`."""
