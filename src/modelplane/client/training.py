"""Training, as calls. A part of `Client`; holds no rules."""

from __future__ import annotations

import time
from collections.abc import Callable

from modelplane.client.answers import read_applied
from modelplane.client.resources import ResourceClient
from modelplane.client.training_calls import cancel_call, start_call
from modelplane.errors import TransientError
from modelplane.resources.training import TrainingRun

_POLL_S = 0.25


class TrainingClient(ResourceClient):
    """Starts trainings and waits for them."""

    def start_training(self, trigger: str, *, reason: str = "") -> TrainingRun:
        """Begin a training now; raises `Conflict` while one is under way for its model."""
        body = self._connection.send(start_call(trigger, reason))
        return read_applied(TrainingRun, body).resource

    def cancel_training(self, run: str, *, reason: str = "") -> TrainingRun:
        """Ask a training to end; raises `Conflict` when it has ended."""
        body = self._connection.send(cancel_call(run, reason))
        return read_applied(TrainingRun, body).resource

    def wait_for_training(
        self,
        run: str,
        *,
        timeout_s: float = 3600.0,
        on_change: Callable[[TrainingRun], None] | None = None,
    ) -> TrainingRun:
        """Wait until a training has ended, and return it; `on_change` is called with each change.

        Raises
        ------
        TransientError
            It took longer than `timeout_s`; it goes on.
        """
        until_s, seen = time.monotonic() + timeout_s, 0
        while True:
            now = self.get(TrainingRun, run)
            if now.metadata.resource_version != seen and on_change is not None:
                on_change(now)
            seen = now.metadata.resource_version
            if now.finished:
                return now
            if time.monotonic() > until_s:
                raise TransientError(f"{run} has not ended after {timeout_s:g} s")
            time.sleep(_POLL_S)
