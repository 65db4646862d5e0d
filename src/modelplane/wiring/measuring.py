"""Where everything that is measured comes together: the ring, its sources, and who asks it.

Called by `wiring.controllers`. Without a Prometheus, alert rules are evaluated here.
"""

from __future__ import annotations

from collections.abc import Coroutine, Iterator
from dataclasses import dataclass
from typing import Any

from modelplane.adapters.clock import SystemClock
from modelplane.adapters.metrics.querying import RingQuerier
from modelplane.adapters.metrics.series import MemorySeriesRing
from modelplane.controllers.alert_notices import AlertNoticeController
from modelplane.controllers.alerts import AlertController
from modelplane.controllers.loop import Fence
from modelplane.controllers.measuring import MeasuringController, PredictionSeries
from modelplane.decisions.telemetry_series import TelemetrySeries
from modelplane.ports.alerting import Querier
from modelplane.ports.clock import Clock
from modelplane.ports.predictions import Predictions
from modelplane.ports.quality import QualityBook
from modelplane.ports.store import Store


@dataclass(frozen=True, slots=True)
class Measuring:
    """What measures, and what is known.

    Attributes
    ----------
    series
        The last hour of everything.
    querier
        Answers conditions of playbooks: the Prometheus, or this process.
    measuring
        Takes a set of samples each second.
    alerts
        Evaluates alert rules; None: a Prometheus does.
    notices
        Tells people of alerts.
    """

    series: MemorySeriesRing
    querier: Querier
    measuring: MeasuringController
    alerts: AlertController | None
    notices: AlertNoticeController

    def runs(self) -> Iterator[tuple[str, Coroutine[Any, Any, None]]]:
        """Return what runs for ever, by name."""
        yield "measuring", self.measuring.run()
        if self.alerts is not None:
            yield "alerts", self.alerts.run()

    def count_predictions(self, predictions: Predictions) -> None:
        """Measure what a store of predictions counts, too."""
        tallies = PredictionSeries(predictions, lambda: self.measuring.deployments, SystemClock())
        self.measuring.add_source("predictions", tallies.samples)

    def measure_quality(self, book: QualityBook) -> None:
        """Measure how right versions are, too."""
        self.measuring.add_source("quality", lambda: book.samples(self.measuring.deployments))


def make_measuring(
    store: Store,
    fence: Fence,
    clock: Clock,
    telemetry: TelemetrySeries,
    *,
    prometheus: Querier | None,
    public_url: str,
) -> Measuring:
    """Return what measures and evaluates, for one control plane.

    Parameters
    ----------
    telemetry
        Is told of each batch of the gateways.
    prometheus
        Evaluates rules and conditions, where one is configured.
    public_url
        Where people reach modelplane.
    """
    series = MemorySeriesRing()
    measuring = MeasuringController(store, series, telemetry, clock)
    notices = AlertNoticeController(store, fence, clock)
    if prometheus is not None:
        return Measuring(series, prometheus, measuring, None, notices)
    querier = RingQuerier(series)
    alerts = AlertController(store, series, querier, fence, clock, external_url=public_url)
    querier.recorded = alerts.recorded
    measuring.add_source("recorded", alerts.records)
    measuring.add_listener(alerts.wake)
    return Measuring(series, querier, measuring, alerts, notices)
