"""Joins Envoy's configuration server with how Envoy is started: the agent's gateway."""

from __future__ import annotations

import os
from collections.abc import Sequence

from modelplane.adapters.proxy.bootstrap import GatewayConfig, envoy_command, write_bootstrap
from modelplane.adapters.proxy.envoy import EnvoyProxy
from modelplane.decisions.routing import RoutePlan
from modelplane.ports.gateways import GatewayCommand
from modelplane.resources.environment import Environment
from modelplane.settings import Settings
from modelplane.wiring.network import on_loopback


class EnvoyGateway(EnvoyProxy):
    """One environment's Envoy, behind `ports.gateways.GatewayProxy`."""

    def __init__(self, config: GatewayConfig, plans: Sequence[RoutePlan]) -> None:
        super().__init__(config, plans)
        self._config = config

    def prepare_command(self) -> GatewayCommand:
        """Write the bootstrap file and return Envoy's command."""
        write_bootstrap(self._config)
        passed = {name: os.environ[name] for name in ("PATH", "HOME", "TZ") if name in os.environ}
        return GatewayCommand(tuple(envoy_command(self._config)), passed)


class EnvoyGateways:
    """Makes gateways from environments: `ports.gateways.GatewayFactory`."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings

    def __call__(self, environment: Environment, plans: Sequence[RoutePlan]) -> EnvoyGateway:
        """Return the environment's gateway; bound beyond loopback it asks for the token."""
        spec, settings = environment.spec.gateway, self._settings
        token = None
        if not on_loopback(spec.host):
            token = settings.paths.gateway_token.read_text().strip()
        config = GatewayConfig(
            name=environment.metadata.name,
            host=spec.host,
            port=spec.port,
            runtime_dir=settings.paths.runtime_dir,
            max_body_bytes=settings.max_request_bytes,
            token=token,
            concurrency=settings.gateway_threads,
        )
        return EnvoyGateway(config, plans)
