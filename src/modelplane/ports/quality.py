"""Live quality, kept up to date from what labels join: what the API and the measuring both ask.

Made by wiring around the store of predictions. It keeps a window of counts in memory for each
deployment, reads only what is new, and loses nothing that the store cannot tell again.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from datetime import timedelta
from typing import Any

from modelplane.decisions.quality import (
    QualityReport,
    QualityWindow,
    quality_samples,
    report_quality,
)
from modelplane.decisions.series import Sample
from modelplane.ports.clock import Clock
from modelplane.ports.predictions import Outcome, Predictions, Tally
from modelplane.resources.model_deployment import ModelDeployment

PAGES = 5
"""Pages of outcomes that are read in one go; the rest follows with the next question."""

PAGE = 10_000
WINDOWS_BACK = 2
"""So many windows before now a deployment's figures begin to be gathered."""


@dataclass(slots=True)
class _Kept:
    """The window of one deployment."""

    uid: str
    window: QualityWindow
    position: int = 0
    report: QualityReport | None = None
    lock: asyncio.Lock = field(default_factory=asyncio.Lock)


class QualityBook:
    """Quality of all deployments."""

    def __init__(self, predictions: Predictions, clock: Clock) -> None:
        self._predictions = predictions
        self._clock = clock
        self._kept: dict[tuple[str, str], _Kept] = {}

    async def report(self, deployment: ModelDeployment) -> QualityReport:
        """Return figures and how complete labels are, as of now."""
        kept = await self._refresh(deployment)
        environment, name = _place(deployment)
        horizon_s = deployment.spec.labels.horizon_s
        since = self._clock.now() - timedelta(seconds=WINDOWS_BACK * horizon_s)
        tallies = await self._predictions.tallies(
            environment, name, since=since, horizon_s=horizon_s
        )
        rows = [_row(tally) for tally in tallies]
        async with kept.lock:
            return await asyncio.to_thread(report_quality, environment, name, kept.window, rows)

    async def samples(self, deployments: Sequence[ModelDeployment]) -> Sequence[Sample]:
        """Return the figures of these deployments as series, and forget all others."""
        wanted = {_place(deployment) for deployment in deployments}
        self._kept = {place: kept for place, kept in self._kept.items() if place in wanted}
        samples: list[Sample] = []
        with_predictions = set(await self._predictions.deployments())
        for deployment in deployments:
            if _place(deployment) not in with_predictions:
                continue
            kept = await self._refresh(deployment)
            async with kept.lock:
                if kept.report is None:
                    kept.report = await asyncio.to_thread(
                        report_quality, *_place(deployment), kept.window
                    )
                samples.extend(quality_samples(kept.report))
        return samples

    async def _refresh(self, deployment: ModelDeployment) -> _Kept:
        """Read what was joined since the last time."""
        environment, name = _place(deployment)
        labels, uid = deployment.spec.labels, deployment.metadata.uid
        kept = self._kept.get((environment, name))
        if kept is None or (kept.uid, kept.window.labels) != (uid, labels):
            kept = self._kept[environment, name] = _Kept(uid, QualityWindow(labels))
        async with kept.lock:
            back_s = (WINDOWS_BACK + 1) * labels.horizon_s
            since = self._clock.now() - timedelta(seconds=back_s)
            for _ in range(PAGES):
                page = await self._predictions.outcomes(
                    environment, name, after=kept.position, limit=PAGE, since=since
                )
                if not page:
                    break
                kept.position, kept.report = page[-1].sequence, None
                await asyncio.to_thread(_add, kept.window, page)
                if len(page) < PAGE:
                    break
        return kept


def _add(window: QualityWindow, outcomes: Sequence[Outcome]) -> None:
    window.add((one.place.version, one.parts, one) for one in outcomes)


def _row(tally: Tally) -> Mapping[str, Any]:
    fields = asdict(tally)
    place = fields.pop("place")
    return {"version": place["version"], **fields}


def _place(deployment: ModelDeployment) -> tuple[str, str]:
    return deployment.metadata.environment or "", deployment.metadata.name
