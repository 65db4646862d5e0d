"""Requests as plain values: what to send where, how long to wait, when to try again.

The core that both clients share; it sends nothing itself.
"""

from __future__ import annotations

import random
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import quote

from modelplane.errors import TransientError
from modelplane.resources.meta import Resource

AnyResource = Resource[Any, Any]
PREFIX = "/api/v1"

MAX_ATTEMPTS = 4
_FIRST_DELAY_S = 0.1
_LONGEST_DELAY_S = 2.0
_RETRIED = frozenset({502, 503})
"""Nobody answered, the connection broke, or the server cannot just now."""


@dataclass(frozen=True, slots=True)
class Call:
    """One request.

    Attributes
    ----------
    method, path, query, body
        What to send; `body` becomes JSON.
    repeatable
        Whether sending it twice does no more than sending it once.
    """

    method: str
    path: str
    query: Mapping[str, str | int] = field(default_factory=dict)
    body: Any = None
    repeatable: bool = True


def retry_delay_s(call: Call, error: TransientError, attempt: int) -> float | None:
    """Return how long to wait before attempt `attempt` + 1 of `call`, or None to give up.

    Doubling from 0.1 s, with jitter.
    """
    if not call.repeatable or attempt >= MAX_ATTEMPTS or error.status not in _RETRIED:
        return None
    delay_s: float = min(_LONGEST_DELAY_S, _FIRST_DELAY_S * 2 ** (attempt - 1))
    return delay_s * random.uniform(0.5, 1.5)


def _query(**values: str | int | None) -> dict[str, str | int]:
    return {name: value for name, value in values.items() if value not in {None, ""}}


def resource_path(kind: type[AnyResource], name: str, ending: str = "") -> str:
    """Return the path of a resource; `ending` is ``/status`` or ``:verb``."""
    return f"{PREFIX}/{kind.plural}/{quote(name, safe='@+')}{ending}"


def get(kind: type[AnyResource], name: str, environment: str | None) -> Call:
    """Return the call that reads one resource."""
    return Call("GET", resource_path(kind, name), _query(environment=environment))


def list_(
    kind: type[AnyResource],
    environment: str | None,
    labels: Mapping[str, str] | None = None,
    filter_string: str = "",
    order_by: str = "",
) -> Call:
    """Return the call that lists a kind; `listing.Pages` makes it the call for each page."""
    selector = ",".join(f"{name}={value}" for name, value in (labels or {}).items())
    query = _query(
        environment=environment, labelSelector=selector, filter=filter_string, orderBy=order_by
    )
    return Call("GET", f"{PREFIX}/{kind.plural}", query)


def apply(resource: AnyResource, *, dry_run: bool, reason: str) -> Call:
    """Return the call that declares `resource`."""
    metadata = resource.metadata
    body = {
        "apiVersion": resource.api_version,
        "kind": resource.kind,
        "metadata": {
            "name": metadata.name,
            "labels": metadata.labels,
            "annotations": metadata.annotations,
        },
        "spec": resource.spec.to_dict(),
    }
    query = _query(environment=metadata.environment, reason=reason, dryRun=int(dry_run) or None)
    return Call("PUT", resource_path(type(resource), metadata.name), query, body)


def delete(kind: type[AnyResource], name: str, environment: str | None, reason: str) -> Call:
    """Return the call that deletes one resource."""
    query = _query(environment=environment, reason=reason)
    return Call("DELETE", resource_path(kind, name), query, repeatable=False)


def put_status(resource: AnyResource, *, if_unchanged: bool) -> Call:
    """Return the call that reports a status for this very resource (by its uid)."""
    metadata: dict[str, str | int] = {"uid": resource.metadata.uid}
    if if_unchanged:
        metadata["resourceVersion"] = resource.metadata.resource_version
    body = {"metadata": metadata, "status": resource.status.to_dict()}
    path = resource_path(type(resource), resource.metadata.name, "/status")
    return Call("PUT", path, _query(environment=resource.metadata.environment), body)


def act(
    kind: type[AnyResource],
    name: str,
    verb: str,
    environment: str | None,
    body: Mapping[str, Any],
) -> Call:
    """Return the call of an action; it is not sent twice."""
    path = resource_path(kind, name, f":{verb}")
    given = {key: value for key, value in body.items() if value is not None}
    return Call("POST", path, _query(environment=environment), given, repeatable=False)


def watch(kind: type[AnyResource], since: int, environment: str | None) -> Call:
    """Return the call that streams the changes of a kind."""
    query = _query(watch=1, environment=environment) | {"since": since}
    return Call("GET", f"{PREFIX}/{kind.plural}", query)


def artifact(method: str, digest: str, ending: str = "") -> Call:
    """Return a call about the bytes with this digest; `ending` is ``/info`` or ``:verify``."""
    return Call(method, f"{PREFIX}/artifacts/{digest}{ending}")


def audit(
    after: int,
    limit: int,
    *,
    last: int | None,
    kind: str | None,
    name: str | None,
    environment: str | None,
) -> Call:
    """Return the call that reads a page of the audit log, or with `last` its end."""
    query = _query(kind=kind, name=name, environment=environment)
    page = {"after": after, "limit": limit} if last is None else {"last": last}
    return Call("GET", f"{PREFIX}/audit", query | page)
