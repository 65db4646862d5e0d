"""Deletes predictions whose retention is over, and labels that have waited for too long.

Run for ever by wiring. What deployments say is read anew each time, so a shorter retention takes
effect within a minute. Predictions of a deployment that is gone are kept for as long as one that
says nothing keeps them.
"""

from __future__ import annotations

from datetime import timedelta

import structlog

from modelplane.errors import ModelplaneError
from modelplane.ports.clock import Clock
from modelplane.ports.predictions import Predictions
from modelplane.ports.store import Store
from modelplane.resources.model_deployment import ModelDeployment
from modelplane.resources.monitoring import Labels, PredictionLog

INTERVAL_S = 60.0

_log = structlog.get_logger(__name__)


class PredictionRetention:
    """Looks at every deployment that has predictions once a minute."""

    def __init__(self, store: Store, predictions: Predictions, clock: Clock) -> None:
        self._store = store
        self._predictions = predictions
        self._clock = clock

    async def run(self) -> None:
        """Delete what is too old, for ever."""
        while True:
            try:
                await self.tick()
            except Exception:
                # What cannot be deleted now is deleted later; it must not end the control plane.
                _log.exception("predictions_not_expired")
            await self._clock.sleep(INTERVAL_S)

    async def tick(self) -> None:
        """Delete what is too old now. Raises what listing raises."""
        for environment, name in await self._predictions.deployments():
            try:
                await self._expire(environment, name)
            except ModelplaneError as error:
                # The storage may be away: of the others everything in the index goes all the same.
                _log.warning(
                    "predictions_not_expired",
                    environment=environment,
                    deployment=name,
                    error=error.message,
                )

    async def _expire(self, environment: str, name: str) -> None:
        now = self._clock.now()
        deployment = await self._store.find(ModelDeployment, name, environment)
        log = deployment.spec.predictions if deployment is not None else None
        labels = deployment.spec.labels if deployment is not None else Labels()
        waited = now - timedelta(seconds=labels.horizon_s)
        forgotten = await self._predictions.forget_waiting(environment, name, waited)
        before = now - timedelta(seconds=(log or PredictionLog()).retention_s)
        deleted = await self._predictions.expire(environment, name, before)
        if deleted or forgotten:
            _log.info(
                "predictions_expired",
                environment=environment,
                deployment=name,
                predictions=deleted,
                waiting_labels=forgotten,
            )
