"""Joins Envoy's configuration server with how Envoy is started: the agent's gateway."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Sequence

from modelplane.adapters.clock import SystemClock
from modelplane.adapters.proxy.bootstrap import GatewayConfig, envoy_command, write_bootstrap
from modelplane.adapters.proxy.credentials import GatewayCredentials
from modelplane.adapters.proxy.envoy import EnvoyProxy
from modelplane.decisions.routing import RoutePlan
from modelplane.ports.gateways import GatewayCommand
from modelplane.resources.environment import Environment
from modelplane.settings import Settings
from modelplane.wiring.network import on_loopback
from modelplane.wiring.secrets import make_secrets


class EnvoyGateway(EnvoyProxy):
    """One environment's Envoy, behind `ports.gateways.GatewayProxy`."""

    def __init__(
        self,
        environment: Environment,
        config: GatewayConfig,
        plans: Sequence[RoutePlan],
        settings: Settings,
    ) -> None:
        super().__init__(config, plans)
        self.config = config
        self._credentials = GatewayCredentials(
            environment.spec.gateway,
            make_secrets(settings),
            settings.paths.agent / f"{environment.metadata.name}-jwks",
            self.renew,
            clock=SystemClock(),
        )
        self._following: asyncio.Task[None] | None = None

    @property
    def listener_fault(self) -> str | None:
        """Why it does not listen, or not with the certificate and keys it should."""
        return self._credentials.fault or super().listener_fault

    async def start(self) -> None:
        """Begin to serve configuration, and to follow the certificate and the issuer's keys."""
        await super().start()
        self._following = asyncio.create_task(self._credentials.follow(), name="credentials")

    async def stop(self) -> None:
        """Stop both; Envoy goes on with what it has."""
        if self._following is not None:
            self._following.cancel()
            await asyncio.gather(self._following, return_exceptions=True)
        await super().stop()

    def prepare_command(self) -> GatewayCommand:
        """Write the bootstrap file and return Envoy's command."""
        write_bootstrap(self.config)
        passed = {name: os.environ[name] for name in ("PATH", "HOME", "TZ") if name in os.environ}
        return GatewayCommand(tuple(envoy_command(self.config)), passed)


class EnvoyGateways:
    """Makes gateways from environments: `ports.gateways.GatewayFactory`."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings

    def __call__(self, environment: Environment, plans: Sequence[RoutePlan]) -> EnvoyGateway:
        """Return the environment's gateway.

        Bound beyond loopback it asks for its token, unless it verifies tokens of an issuer: both
        come in the same header.
        """
        spec, settings = environment.spec.gateway, self._settings
        token = None
        if spec.jwt is None and not on_loopback(spec.host):
            token = settings.paths.gateway_token.read_text().strip()
        config = GatewayConfig(
            name=environment.metadata.name,
            host=spec.host,
            port=spec.port,
            runtime_dir=settings.paths.runtime_dir,
            max_body_bytes=settings.max_request_bytes,
            token=token,
            concurrency=settings.gateway_threads,
            tls=spec.tls is not None,
            jwt=spec.jwt,
            mesh=spec.mesh,
        )
        return EnvoyGateway(environment, config, plans, settings)
