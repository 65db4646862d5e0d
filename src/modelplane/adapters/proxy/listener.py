"""The gateway's listener: what holds for every request, whichever deployment it is for.

Pure. Called once by `envoy`; the result is one xDS resource. It holds the gateway's token, which
is why it travels over the private socket and is in no file and no command line. It knows
nothing of deployments: a request finds its scope by the model's name in the path.
"""

from __future__ import annotations

from typing import Any

from envoy.config.listener.v3 import listener_pb2
from envoy.extensions.filters.http.api_key_auth.v3 import api_key_auth_pb2
from envoy.extensions.filters.http.buffer.v3 import buffer_pb2
from envoy.extensions.filters.http.router.v3 import router_pb2
from envoy.extensions.filters.network.http_connection_manager.v3 import (
    http_connection_manager_pb2,
)
from envoy.extensions.http.early_header_mutation.header_mutation.v3 import header_mutation_pb2
from envoy.extensions.request_id.uuid.v3 import uuid_pb2

from modelplane.adapters.proxy.bootstrap import HTTP_STATS_PREFIX, GatewayConfig
from modelplane.adapters.proxy.snapshot import API_KEY_FILTER, PATH_HEADER
from modelplane.adapters.proxy.traffic import attempt_logs, request_logs
from modelplane.adapters.proxy.xds import XdsResource, pack, resource

LISTENER_NAME = "inference"

_ADS = {"resource_api_version": "V3", "ads": {}}
_PROBLEM_JSON = "application/problem+json"


def listener(config: GatewayConfig) -> XdsResource:
    """Return the listener of the gateway described by `config`."""
    manager = http_connection_manager_pb2.HttpConnectionManager(
        stat_prefix=HTTP_STATS_PREFIX,
        scoped_routes=_scoped_routes(),
        early_header_mutation_extensions=[_path_without_query()],
        http_filters=_http_filters(config),
        access_log=request_logs(),
        # Makes every client external, so that Envoy drops x-envoy-* headers they send.
        use_remote_address={"value": True},
        generate_request_id={"value": True},
        preserve_external_request_id=True,
        always_set_request_id_in_response=True,
        request_id_extension={
            # Without this Envoy rewrites a digit of the client's id to note trace decisions.
            "typed_config": pack(uuid_pb2.UuidRequestIdConfig(pack_trace_reason={"value": False}))
        },
        normalize_path={"value": True},
        merge_slashes=True,
        path_with_escaped_slashes_action="REJECT_REQUEST",
        common_http_protocol_options={
            "idle_timeout": {"seconds": 900},
        },
        request_headers_timeout={"seconds": 15},
        request_timeout={"seconds": 120},
        local_reply_config=_problems(),
        server_name="modelplane",
    )
    message = listener_pb2.Listener(
        name=LISTENER_NAME,
        address={"socket_address": {"address": config.host, "port_value": config.port}},
        # With port sharing a second gateway would take half of the first one's connections
        # instead of failing.
        enable_reuse_port={"value": False},
        filter_chains=[
            {
                "filters": [
                    {
                        "name": "envoy.filters.network.http_connection_manager",
                        "typed_config": pack(manager),
                    }
                ]
            }
        ],
    )
    return resource(LISTENER_NAME, message)


def _scoped_routes() -> dict[str, Any]:
    """Return the scope key: the two parts of the path after ``/v2/``."""
    fragments = [
        {"header_value_extractor": {"name": PATH_HEADER, "element_separator": "/", "index": index}}
        for index in (2, 3)
    ]
    return {
        "name": "deployments",
        "rds_config_source": _ADS,
        "scope_key_builder": {"fragments": fragments},
        "scoped_rds": {"scoped_rds_config_source": _ADS},
    }


def _path_without_query() -> dict[str, Any]:
    """Return the extension that gives the scope key a path without query.

    ``:path`` itself would do, but a query would become part of the last fragment. The slashes at
    the end give short paths such as ``/v2`` the fragments they lack.
    """
    mutation = {
        "append": {
            "header": {"key": PATH_HEADER, "value": "%PATH(NQ)%//"},
            "append_action": "OVERWRITE_IF_EXISTS_OR_ADD",
        }
    }
    return {
        "name": "path-without-query",
        "typed_config": pack(header_mutation_pb2.HeaderMutation(mutations=[mutation])),
    }


def _http_filters(config: GatewayConfig) -> list[dict[str, Any]]:
    filters: list[tuple[str, Any]] = []
    if config.token is not None:
        filters.append(
            (
                API_KEY_FILTER,
                api_key_auth_pb2.ApiKeyAuth(
                    credentials=[{"key": config.token, "client": "gateway"}],
                    key_sources=[{"header": "authorization"}],
                    forwarding={"hide_credentials": True},
                ),
            )
        )
    filters.append(
        (
            "envoy.filters.http.buffer",
            buffer_pb2.Buffer(max_request_bytes={"value": config.max_body_bytes}),
        )
    )
    filters.append(
        (
            "envoy.filters.http.router",
            router_pb2.Router(
                suppress_envoy_headers=True,
                upstream_log=attempt_logs(),
            ),
        )
    )
    return [{"name": name, "typed_config": pack(message)} for name, message in filters]


def _problems() -> dict[str, Any]:
    """Return how answers of the gateway's own look: problem+json that also speaks OIP.

    The Open Inference Protocol reports errors as ``{"error": message}``.
    """
    unknown_model = {
        "filter": {"response_flag_filter": {"flags": ["NR"]}},
        "body_format_override": _problem("nothing is served at %PATH(NQ)%"),
    }
    any_error = {
        "filter": {
            "status_code_filter": {
                "comparison": {
                    "op": "GE",
                    "value": {"default_value": 400, "runtime_key": "modelplane.problem_status"},
                }
            }
        },
        "body_format_override": _problem("%LOCAL_REPLY_BODY%"),
    }
    return {"mappers": [unknown_model, any_error]}


def _problem(message: str) -> dict[str, Any]:
    fields = {
        "type": "about:blank",
        "title": message,
        "status": "%RESPONSE_CODE%",
        "flags": "%RESPONSE_FLAGS%",
        "instance": "%PATH(NQ)%",
        "error": message,
    }
    return {
        "json_format": fields,
        "content_type": _PROBLEM_JSON,
    }
