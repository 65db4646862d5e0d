"""What is remembered of deliveries of webhooks. Used by `webhooks`."""

from __future__ import annotations

from collections import OrderedDict

TOLERANCE_S = 300.0
"""How far the time of a delivery may be from ours, seconds."""

_REMEMBERED = 10_000
_NOTED_EVERY_S = 60.0


class Deliveries:
    """Delivery ids that were accepted, so that none counts twice; the oldest are forgotten.

    An id older than twice the tolerance could not be accepted again anyway.
    """

    def __init__(self) -> None:
        self._seen: OrderedDict[tuple[str, str], float] = OrderedDict()
        self._noted: dict[str, float] = {}

    def accept(self, source: str, delivery: str, now_s: float) -> bool:
        """Remember a delivery; return whether it is new."""
        while self._seen and (
            len(self._seen) >= _REMEMBERED
            or next(iter(self._seen.values())) < now_s - 2 * TOLERANCE_S
        ):
            self._seen.popitem(last=False)
        if (source, delivery) in self._seen:
            return False
        self._seen[source, delivery] = now_s
        return True

    def is_to_note(self, source: str, now_s: float) -> bool:
        """Whether a refused delivery to `source` goes into the audit log: once a minute."""
        if now_s - self._noted.get(source, float("-inf")) < _NOTED_EVERY_S:
            return False
        self._noted[source] = now_s
        return True
