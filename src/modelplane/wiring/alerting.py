"""Where a Prometheus and an Alertmanager meet their adapters and controllers.

Called by `wiring.controllers`. Without their settings there are none.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from modelplane.adapters.alerting.alertmanager import Alertmanager
from modelplane.adapters.alerting.http import AlertingHttp, Credentials
from modelplane.adapters.alerting.prometheus import Prometheus
from modelplane.controllers import rule_server, silence_delivery
from modelplane.controllers.alert_delivery import AlertDeliveryController
from modelplane.controllers.loop import ControllerLoop, Fence, Reconciler
from modelplane.controllers.rule_server import RuleServerController
from modelplane.controllers.silence_delivery import SilenceDeliveryController
from modelplane.ports.clock import Clock
from modelplane.ports.store import Store
from modelplane.settings import Settings


@dataclass(frozen=True, slots=True)
class AlertingControllers:
    """What speaks with a Prometheus and an Alertmanager.

    Attributes
    ----------
    prometheus
        Evaluates alert rules and conditions; None: modelplane does.
    rules
        Supplies it with rules and takes its alerts.
    deliveries
        Tell the Alertmanager.
    """

    prometheus: Prometheus | None = None
    alertmanager: Alertmanager | None = None
    rules: RuleServerController | None = None
    deliveries: tuple[Reconciler, ...] = ()

    @property
    def reconcilers(self) -> Sequence[Reconciler]:
        """What is run by the loop."""
        return [*([self.rules] if self.rules else []), *self.deliveries]

    def start(self, loop: ControllerLoop) -> None:
        """Have both sides looked at once, for there may be nothing here that changes."""
        if self.rules is not None:
            loop.wake(self.rules.name, rule_server.START)
        if self.deliveries:
            loop.wake(SilenceDeliveryController.name, silence_delivery.START)

    async def close(self) -> None:
        """Close connections."""
        for server in (self.prometheus, self.alertmanager):
            if server is not None:
                await server.close()


def make_alerting_controllers(
    settings: Settings,
    store: Store,
    fence: Fence,
    clock: Clock,
    *,
    secret: Callable[[str], str | None],
) -> AlertingControllers:
    """Return the controllers that the settings ask for, of a prepared state directory."""
    prometheus = alertmanager = rules = None
    deliveries: tuple[Reconciler, ...] = ()
    if settings.prometheus_url and settings.prometheus_rules_dir is not None:
        credentials = Credentials(
            secret,
            token=settings.prometheus_token,
            username=settings.prometheus_username,
            password=settings.prometheus_password,
        )
        http = AlertingHttp("Prometheus", settings.prometheus_url, credentials)
        prometheus = Prometheus(http, settings.prometheus_rules_dir)
        rules = RuleServerController(store, fence, clock, prometheus)
    if settings.alertmanager_url:
        credentials = Credentials(
            secret,
            token=settings.alertmanager_token,
            username=settings.alertmanager_username,
            password=settings.alertmanager_password,
        )
        http = AlertingHttp("Alertmanager", settings.alertmanager_url, credentials)
        alertmanager = Alertmanager(http)
        url = settings.public_url or settings.api_url
        deliveries = (
            AlertDeliveryController(store, fence, clock, alertmanager, public_url=url),
            SilenceDeliveryController(
                store, fence, clock, alertmanager, instance=_instance(settings)
            ),
        )
    return AlertingControllers(prometheus, alertmanager, rules, deliveries)


def _instance(settings: Settings) -> str:
    """Return what tells this state directory from others: of the key that it made for itself."""
    key = (settings.paths.signing / "key.pub").read_bytes()
    return hashlib.sha256(key).hexdigest()[:12]
