"""Joins the inbound proxy's configuration server with how Envoy is started."""

from __future__ import annotations

import os
from collections.abc import Sequence

from modelplane.adapters.proxy.bootstrap import GatewayConfig, envoy_command, write_bootstrap
from modelplane.adapters.proxy.inbound import EnvoyInbound, inbound_process
from modelplane.ports.gateways import GatewayCommand
from modelplane.ports.inbound import InboundRoute
from modelplane.settings import Settings


class _Inbound(EnvoyInbound):
    """One environment's inbound Envoy, behind `ports.inbound.InboundProxy`."""

    def __init__(
        self, process: GatewayConfig, gateway: str, routes: Sequence[InboundRoute]
    ) -> None:
        super().__init__(process, gateway, routes)
        self._process = process

    def prepare_command(self) -> GatewayCommand:
        """Write the bootstrap file and return Envoy's command."""
        write_bootstrap(self._process)
        passed = {name: os.environ[name] for name in ("PATH", "HOME", "TZ") if name in os.environ}
        return GatewayCommand(tuple(envoy_command(self._process)), passed)


class EnvoyInbounds:
    """Makes inbound proxies: `ports.inbound.InboundFactory`."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings

    def __call__(self, environment: str, gateway: str, routes: Sequence[InboundRoute]) -> _Inbound:
        """Return the environment's inbound proxy, not started."""
        return _Inbound(
            inbound_process(environment, self._settings.paths.runtime_dir), gateway, routes
        )
