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
            except ModelplaneError as error:
                _log.warning("predictions_not_expired", error=error.message)
            await self._clock.sleep(INTERVAL_S)

    async def tick(self) -> None:
        """Delete what is too old now. Raises what the stores raise; the rest is deleted later."""
        now = self._clock.now()
        for environment, name in await self._predictions.deployments():
            deployment = await self._store.find(ModelDeployment, name, environment)
            log = deployment.spec.predictions if deployment is not None else None
            labels = deployment.spec.labels if deployment is not None else Labels()
            kept_s = (log or PredictionLog()).retention_s
            before = now - timedelta(seconds=kept_s)
            deleted = await self._predictions.expire(environment, name, before)
            waited = now - timedelta(seconds=labels.horizon_s)
            forgotten = await self._predictions.forget_waiting(environment, name, waited)
            if deleted or forgotten:
                _log.info(
                    "predictions_expired",
                    environment=environment,
                    deployment=name,
                    predictions=deleted,
                    waiting_labels=forgotten,
                )
