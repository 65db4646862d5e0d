"""The door of every route: who asks, may they, and is the query one the route knows.

Each route calls `Context.admit` first; whoever forgets is caught by a test that walks the routes.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

from starlette.requests import Request

from modelplane.api.answers import EncodedResources
from modelplane.api.bodies import parse_object, read_body
from modelplane.api.catalog import Catalog
from modelplane.api.deliveries import Deliveries
from modelplane.api.dependencies import ApiDependencies
from modelplane.api.identity import Identities
from modelplane.decisions.authorization import Refused, Verb, authorize
from modelplane.errors import FieldError, Forbidden, InvalidResource
from modelplane.ports.store import Store
from modelplane.resources.fields import suggest
from modelplane.resources.meta import Part, Subject


@dataclass(frozen=True, slots=True)
class Context:
    """What every route has at hand, and the only place where one application keeps state."""

    dependencies: ApiDependencies
    identities: Identities
    catalog: Catalog
    encoded: EncodedResources = field(default_factory=EncodedResources)
    deliveries: Deliveries = field(default_factory=Deliveries)

    @property
    def store(self) -> Store:
        """The store."""
        return self.dependencies.store

    async def admit(
        self, request: Request, verb: Verb, kind: str, environment: str | None = None
    ) -> Subject:
        """Return the subject of a request that may go on.

        Raises
        ------
        Unauthenticated, Forbidden
            Unknown, or not allowed.
        InvalidResource
            The query has a parameter that the route does not know: a misspelt ``environment``
            must not mean the default one.
        """
        authorization = request.headers.get("authorization")
        subject = await self.authorize(authorization, verb, kind, environment)
        _check_query(request)
        return subject

    async def authorize(
        self, authorization: str | None, verb: Verb, kind: str, environment: str | None = None
    ) -> Subject:
        """Return the subject of an ``Authorization`` header that may do what is asked.

        Raises
        ------
        Unauthenticated, Forbidden
            Unknown, or not allowed.
        """
        subject = await self.identities.identify(authorization)
        decision = authorize(subject, verb, kind, environment)
        if isinstance(decision, Refused):
            raise Forbidden(f"{decision.message} (rule {decision.rule})")
        return subject

    async def read_object(self, request: Request) -> dict[str, Any]:
        """Return the JSON object that `request` carries; raises as `read_body` and `parse_object`
        do.
        """
        limits = self.dependencies.limits
        return parse_object(await read_body(request, limits.json_bytes, limits.idle_timeout_s))


def context_of(request: Request) -> Context:
    """Return the context of the application that answers `request`."""
    context: Context = request.app.state.context
    return context


def _check_query(request: Request) -> None:
    if not request.url.query:
        return
    dependant = getattr(request.scope.get("route"), "dependant", None)
    known = {alias for p in dependant.query_params for alias in _aliases(p)} if dependant else set()
    faults = [
        FieldError(f"query.{name[:80]}", f"unknown parameter; {suggest(name, known)}")
        for name in request.query_params
        if name not in known
    ]
    if faults:
        raise InvalidResource("the query is not valid", faults)


def _aliases(parameter: Any) -> Iterable[str]:
    """Return the names of one parameter, or of all that a class of them stands for."""
    declared = parameter.field_info.annotation
    if isinstance(declared, type) and issubclass(declared, Part):
        return [field.alias or name for name, field in declared.model_fields.items()]
    return [parameter.alias]
