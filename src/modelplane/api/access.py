"""The door of every route: who asks, may they, and is the query one the route knows.

Each route calls `Context.admit` first; whoever forgets is caught by a test that walks the routes.
"""

from __future__ import annotations

from dataclasses import dataclass

from starlette.requests import Request

from modelplane.api.catalog import Catalog
from modelplane.api.dependencies import ApiDependencies
from modelplane.api.identity import Identities
from modelplane.decisions.authorization import Refused, Verb, authorize
from modelplane.errors import FieldError, Forbidden, InvalidResource
from modelplane.ports.store import Store
from modelplane.resources.fields import suggest
from modelplane.resources.meta import Subject


@dataclass(frozen=True, slots=True)
class Context:
    """What every route has at hand."""

    dependencies: ApiDependencies
    identities: Identities
    catalog: Catalog

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


def _check_query(request: Request) -> None:
    if not request.url.query:
        return
    dependant = getattr(request.scope.get("route"), "dependant", None)
    known = {parameter.alias for parameter in dependant.query_params} if dependant else set()
    faults = [
        FieldError(f"query.{name[:80]}", f"unknown parameter; {suggest(name, known)}")
        for name in request.query_params
        if name not in known
    ]
    if faults:
        raise InvalidResource("the query is not valid", faults)
