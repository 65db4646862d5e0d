"""The HTTP filters that rules need: which there are, and which of them a deployment runs.

Pure. `listener` declares the filters for all deployments, switched off; `routes` switches on,
in a deployment's virtual host, those that its plan needs. A plan without predicates, cookie and
slices needs none and pays nothing.

A predicate is a matcher of Envoy's RBAC filter in its shadow mode, which refuses nobody: it notes
the name of the first rule that holds as metadata. The filter after it has the route chosen again,
and the routes match on that note (`rule_match`).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

from envoy.config.rbac.v3 import rbac_pb2 as rbac_config_pb2
from envoy.config.route.v3 import route_components_pb2
from envoy.extensions.filters.http.lua.v3 import lua_pb2
from envoy.extensions.filters.http.rbac.v3 import rbac_pb2
from google.protobuf import struct_pb2
from xds.type.matcher.v3 import http_inputs_pb2

from modelplane.adapters.proxy.predicates import compile_matcher
from modelplane.adapters.proxy.script import script_context, users_script
from modelplane.adapters.proxy.xds import pack
from modelplane.decisions.routing import RoutePlan, Rule
from modelplane.expressions.predicates import Predicate, compile_predicate
from modelplane.resources.traffic_split import InputType

_USERS_FILTER = "modelplane.users"
_RULES_FILTER = "envoy.filters.http.rbac"
_CHOOSE_FILTER = "modelplane.choose_again"
_CHOOSE_SCRIPT = "function envoy_on_request(handle) handle:clearRouteCache() end"
_STAT_PREFIX = "mp_"
_ATTRIBUTES = pack(http_inputs_pb2.HttpAttributesCelMatchInput())
_CHOOSE_AGAIN = pack(
    route_components_pb2.FilterConfig(
        config=pack(lua_pb2.LuaPerRoute(filter_context=struct_pb2.Struct()))
    )
)


def rule_filters() -> list[tuple[str, Any]]:
    """Return the filters in their order, by name; all of them off until a deployment needs them."""
    return [
        (_USERS_FILTER, _lua(users_script())),
        (_RULES_FILTER, rbac_pb2.RBAC()),
        (_CHOOSE_FILTER, _lua(_CHOOSE_SCRIPT)),
    ]


def _lua(source: str) -> Any:
    # Not by itself: the filter after the rules clears it, once and for all reasons.
    return lua_pb2.Lua(
        default_source_code={"inline_string": source}, clear_route_cache={"value": False}
    )


def filters_of(plan: RoutePlan) -> dict[str, Any]:
    """Return the settings that switch on what `plan` needs, by the filters' names.

    Raises
    ------
    ValueError
        When a predicate does not compile.
    """
    types = tuple(sorted(plan.input_types.items()))
    conditions = [
        (rule.name, _condition(rule.name, rule.predicate, types))
        for rule in plan.all_rules
        if rule.predicate
    ]
    inputs = frozenset(name for _, condition in conditions for name in condition.inputs)
    settings: dict[str, Any] = {}
    if context := script_context(plan, inputs):
        fields = struct_pb2.Struct()
        fields.update(context)
        settings[_USERS_FILTER] = _switched_on(lua_pb2.LuaPerRoute(filter_context=fields))
    if conditions:
        settings[_RULES_FILTER] = _switched_on(_first_that_holds(conditions))
    if conditions or plan.sticky_cookie:
        settings[_CHOOSE_FILTER] = _CHOOSE_AGAIN
    return settings


def rule_match(rule: Rule) -> list[dict[str, Any]]:
    """Return what a route requires of a request's metadata to be the route of `rule`."""
    if not rule.predicate:
        return []
    return [
        {
            "filter": _RULES_FILTER,
            "path": [{"key": f"{_STAT_PREFIX}shadow_effective_policy_id"}],
            "value": {"string_match": {"exact": rule.name}},
        }
    ]


@dataclass(frozen=True, slots=True)
class _Condition:
    """A predicate as Envoy takes it, and the inputs that it reads."""

    matcher: Any
    inputs: tuple[str, ...]


@lru_cache(maxsize=4096)
def _condition(
    name: str, predicate: str, input_types: tuple[tuple[str, InputType], ...]
) -> _Condition:
    compiled = compile_predicate(predicate, dict(input_types))
    if isinstance(compiled, Predicate):
        return _Condition(pack(compile_matcher(compiled)), compiled.input_names)
    raise ValueError(f"rule {name}: {'; '.join(map(str, compiled))}")


def _first_that_holds(conditions: Sequence[tuple[str, _Condition]]) -> Any:
    matchers = [
        {
            "predicate": {
                "single_predicate": {
                    "input": {"name": "request", "typed_config": _ATTRIBUTES},
                    "custom_match": {"name": "predicate", "typed_config": condition.matcher},
                }
            },
            "on_match": {
                "action": {
                    "name": name,
                    "typed_config": pack(rbac_config_pb2.Action(name=name, action="ALLOW")),
                }
            },
        }
        for name, condition in conditions
    ]
    return rbac_pb2.RBACPerRoute(
        rbac={
            "shadow_rules_stat_prefix": _STAT_PREFIX,
            "shadow_matcher": {"matcher_list": {"matchers": matchers}},
        }
    )


def _switched_on(settings: Any) -> Any:
    return pack(route_components_pb2.FilterConfig(config=pack(settings)))
