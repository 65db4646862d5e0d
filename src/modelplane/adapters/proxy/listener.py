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

from modelplane.adapters.proxy import limits, tls, tokens
from modelplane.adapters.proxy.bootstrap import HTTP_STATS_PREFIX, GatewayConfig
from modelplane.adapters.proxy.filters import rule_filters
from modelplane.adapters.proxy.routes import RULE_HEADER
from modelplane.adapters.proxy.script import USER_HEADER
from modelplane.adapters.proxy.shadows import COMPARE_HEADER, COPY_HEADER
from modelplane.adapters.proxy.snapshot import API_KEY_FILTER, PATH_HEADER
from modelplane.adapters.proxy.traffic import attempt_logs, request_logs
from modelplane.adapters.proxy.xds import XdsResource, pack, resource

LISTENER_NAME = "inference"

_ADS = {"resource_api_version": "V3", "ads": {}}
_HANDSHAKE_S = 5
_STREAMS_MAX = 100
_PROBLEM_JSON = "application/problem+json"
_ORIGINAL_PATH = "x-envoy-original-path"


def listener(config: GatewayConfig) -> XdsResource:
    """Return the listener of the gateway described by `config`."""
    manager = http_connection_manager_pb2.HttpConnectionManager(
        stat_prefix=HTTP_STATS_PREFIX,
        scoped_routes=_scoped_routes(),
        early_header_mutation_extensions=[_inner_headers(config)],
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
        # Each may hold a body: with Envoy's 1,024 one connection could fill the memory.
        http2_protocol_options={"max_concurrent_streams": {"value": _STREAMS_MAX}},
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
                ],
                "transport_socket": tls.downstream_socket() if config.tls else None,
                "transport_socket_connect_timeout": {"seconds": _HANDSHAKE_S},
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


def _inner_headers(config: GatewayConfig) -> dict[str, Any]:
    """Return the extension that sets the inner headers, whatever a client sent under their names.

    Their names with underscores are dropped too, since to many model servers they are the same.
    So is the path that a proxy before this one may have noted: Envoy would believe it more than
    the path.

    The scope key needs a path without query: ``:path`` itself would do, but a query would become
    part of the last fragment. The slashes at the end give short paths such as ``/v2`` the
    fragments they lack.
    """
    ours = (
        USER_HEADER,
        RULE_HEADER,
        COMPARE_HEADER,
        COPY_HEADER,
        *tokens.claim_headers(config.jwt),
    )
    removed = [{"remove": name} for name in (_ORIGINAL_PATH, *ours)]
    names = "(modelplane|user)" if config.jwt else "modelplane"
    misspelt = {"safe_regex": {"regex": f"x_{names}[-_].*|x-{names}(_|-.*_).*"}}
    path = {
        "header": {"key": PATH_HEADER, "value": "%PATH(NQ)%//"},
        "append_action": "OVERWRITE_IF_EXISTS_OR_ADD",
    }
    mutations = [*removed, {"remove_on_match": {"key_matcher": misspelt}}, {"append": path}]
    return {
        "name": "inner-headers",
        "typed_config": pack(header_mutation_pb2.HeaderMutation(mutations=mutations)),
    }


def _http_filters(config: GatewayConfig) -> list[dict[str, Any]]:
    """Return the filters in their order; `limits` and `filters` switch theirs on by deployment."""
    buffer = buffer_pb2.Buffer(max_request_bytes={"value": config.max_body_bytes})
    router = router_pb2.Router(suppress_envoy_headers=True, upstream_log=attempt_logs())
    return [
        *tokens.jwt_filters(config.jwt),
        *(_filter(name, message) for name, message in _token_filters(config)),
        *(_filter(name, message, disabled=True) for name, message in limits.http_filters()),
        _filter(limits.BUFFER_FILTER, buffer),
        *(_filter(name, message, disabled=True) for name, message in rule_filters()),
        _filter("envoy.filters.http.router", router),
    ]


def _token_filters(config: GatewayConfig) -> list[tuple[str, Any]]:
    if config.token is None:
        return []
    check = api_key_auth_pb2.ApiKeyAuth(
        credentials=[{"key": config.token, "client": "gateway"}],
        key_sources=[{"header": "authorization"}],
        forwarding={"hide_credentials": True},
    )
    return [(API_KEY_FILTER, check)]


def _filter(name: str, message: Any, *, disabled: bool = False) -> dict[str, Any]:
    return {"name": name, "typed_config": pack(message), "disabled": disabled}


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
    return {"mappers": [unknown_model, *limits.refusals(_problem), any_error]}


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
