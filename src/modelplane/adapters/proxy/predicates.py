"""From a predicate to the matcher that Envoy evaluates for each request.

Called by the module that compiles a deployment's routes. Pure: the same predicate gives the same
bytes. The names of the language become what Envoy knows of a request; nothing else differs from
what `expressions.predicates` evaluates, since both evaluate the same terms by the same library.

A CelMatcher belongs into the shadow matcher of RBAC and nowhere else: as a cluster specifier it
crashes Envoy 1.40 at the first request.
"""

from __future__ import annotations

from functools import lru_cache
from typing import Any

from cel.expr import checked_pb2
from cel_expr_python import cel
from google.protobuf import any_pb2
from xds.type.matcher.v3 import cel_pb2

from modelplane.expressions.predicate_terms import quote
from modelplane.expressions.predicates import Datum, Predicate

BODY_NAMESPACE = "mp"
"""Namespace of the dynamic metadata that holds the inputs by name."""

_REQUEST = {
    "method": "request.method",
    "path": "request.url_path",  # `request.path` would hold the query as well
    "host": "request.host",
}
_TYPES = {"number": "double", "text": "string", "truth": "bool"}


def compile_matcher(predicate: Predicate) -> Any:
    """Return the CelMatcher of `predicate`, for a matcher on `HttpAttributesCelMatchInput`.

    Envoy takes parsed expressions; text it refuses.
    """
    matcher = cel_pb2.CelMatcher()
    packed = any_pb2.Any.FromString(_environment().compile(predicate.write(_name_of)).serialize())
    checked: Any = checked_pb2.CheckedExpr.FromString(packed.value)
    matcher.expr_match.cel_expr_parsed.expr.CopyFrom(checked.expr)
    return matcher


@lru_cache(maxsize=1)
def _environment() -> Any:
    return cel.NewEnv(variables=dict.fromkeys(("request", "metadata"), cel.Type.DYN))


def _name_of(datum: Datum) -> str:
    match datum.source:
        case "user" | "header":
            return f"request.headers[{quote(datum.name)}]"
        case "presence":
            return f"({quote(datum.name)} in request.headers)"
        case "request":
            return _REQUEST[datum.name]
        case "input":
            value = f"metadata.filter_metadata[{quote(BODY_NAMESPACE)}][{quote(datum.name)}]"
            # Envoy compares values of two types without an error: what has the wrong one has to
            # be an error as what is missing is, which a field of a scalar always is.
            wanted = _TYPES[datum.type or "text"]
            return f"(type({value}) == {wanted} ? {value} : {value}.of_another_type)"
