"""The machine's clock, behind `ports.clock`."""

from __future__ import annotations

import asyncio
import time
from datetime import UTC, datetime


class SystemClock:
    """Real time, UTC."""

    def now(self) -> datetime:
        """Return the time now."""
        return datetime.now(UTC)

    def monotonic_s(self) -> float:
        """Return seconds that never go back."""
        return time.monotonic()

    async def sleep(self, seconds: float) -> None:
        """Wait for `seconds`; not at all when they are negative."""
        await asyncio.sleep(max(0.0, seconds))
