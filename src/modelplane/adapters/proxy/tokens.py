"""Tokens that the gateway verifies: the filter that does it, and what it makes of their claims.

Pure. `listener` installs the filters; `credentials` reads the issuer's keys and has them sent as a
resource of their own, so that new keys close no connection. A request without a valid token gets
401. Of a valid one the declared claims become the headers ``x-user-CLAIM``, which rules, slices,
rate limits and model servers read; what a client sends under these names itself is dropped. The
token goes no further than the gateway.
"""

from __future__ import annotations

from typing import Any

from envoy.config.core.v3 import extension_pb2
from envoy.config.rbac.v3 import rbac_pb2 as rbac_config_pb2
from envoy.extensions.filters.http.jwt_authn.v3 import config_pb2
from envoy.extensions.filters.http.rbac.v3 import rbac_pb2

from modelplane.adapters.proxy.xds import XdsResource, pack, resource
from modelplane.resources.environment import GatewayJwt

JWT_FILTER = "envoy.filters.http.jwt_authn"
"""Name of the filter that verifies tokens, and of the resource that configures it."""

_CLAIMS_FILTER = "modelplane.claims"
_LEEWAY_S = 30
_VERIFIED_KEPT = 1000
_ADS = {"resource_api_version": "V3", "ads": {}}
_CONTROL_CHARACTER = r"(?s).*[\x00-\x08\x0a-\x1f\x7f].*"


def claim_header(claim: str) -> str:
    """Return the request header that carries a claim.

    Examples
    --------
    >>> claim_header("plan_id")
    'x-user-plan-id'
    """
    return f"x-user-{claim.replace('_', '-')}"


def claim_headers(jwt: GatewayJwt | None) -> tuple[str, ...]:
    """Return the headers that only verified tokens may set; drop them from every request."""
    return tuple(claim_header(claim) for claim in jwt.claims) if jwt else ()


def jwt_filters(jwt: GatewayJwt | None) -> list[dict[str, Any]]:
    """Return the filters, whole, that come before all others; none when tokens are not read.

    The first is configured by the resource that `token_filter` makes: until Envoy has it, it
    does not listen. The second refuses a claim with a line break, or the like, in it: as a header
    it could pass for several.
    """
    if jwt is None:
        return []
    verify = {
        "name": JWT_FILTER,
        "config_discovery": {
            # No time-out: a gateway without keys must not open its port without the filter.
            "config_source": {**_ADS, "initial_fetch_timeout": {}},
            "type_urls": [pack(config_pb2.JwtAuthentication()).type_url],
        },
    }
    if not jwt.claims:
        return [verify]
    matches = [
        {"header": {"name": name, "string_match": {"safe_regex": {"regex": _CONTROL_CHARACTER}}}}
        for name in claim_headers(jwt)
    ]
    refused = {"permissions": [{"any": True}], "principals": matches}
    rules = rbac_config_pb2.RBAC(action="DENY", policies={"control-character": refused})
    claims = {"name": _CLAIMS_FILTER, "typed_config": pack(rbac_pb2.RBAC(rules=rules))}
    return [verify, claims]


def token_filter(jwt: GatewayJwt, keys: str) -> XdsResource:
    """Return the configuration of the filter that verifies tokens with `keys`, a JWKS.

    Only ``Authorization: Bearer`` is read: a token in an address ends up in logs.
    """
    provider = {
        "issuer": jwt.issuer,
        "audiences": list(jwt.audiences),
        "local_jwks": {"inline_string": keys},
        "require_expiration": True,
        "clock_skew_seconds": _LEEWAY_S,
        "from_headers": [{"name": "authorization", "value_prefix": "Bearer "}],
        "forward": False,
        "claim_to_headers": [
            {"header_name": claim_header(claim), "claim_name": claim} for claim in jwt.claims
        ],
        # Rules choose by these headers.
        "clear_route_cache": True,
        "jwt_cache_config": {"jwt_cache_size": _VERIFIED_KEPT},
    }
    check = config_pb2.JwtAuthentication(
        providers={"issuer": provider},
        rules=[{"match": {"prefix": "/"}, "requires": {"provider_name": "issuer"}}],
    )
    message = extension_pb2.TypedExtensionConfig(name=JWT_FILTER, typed_config=pack(check))
    return resource(JWT_FILTER, message)
