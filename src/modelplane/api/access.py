"""The door of every route: who asks, may they, and is the query one the route knows.

Each route calls `Context.admit` first; whoever forgets is caught by a test that walks the routes.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from typing import Any

from starlette.requests import Request

from modelplane.api.answers import EncodedResources
from modelplane.api.bodies import parse_object, read_body
from modelplane.api.catalog import Catalog
from modelplane.api.deliveries import Deliveries
from modelplane.api.dependencies import ApiDependencies
from modelplane.api.identity import Identities
from modelplane.api.roles import Roles
from modelplane.decisions.authorization import (
    Access,
    Allowed,
    Refused,
    Verb,
    labels_of,
    model_of,
)
from modelplane.decisions.prediction_pairs import PairBuffer
from modelplane.errors import FieldError, Forbidden, InvalidResource
from modelplane.ports.store import Store
from modelplane.resources.fields import suggest
from modelplane.resources.kinds import KINDS
from modelplane.resources.meta import Part, Subject
from modelplane.resources.model import ModelVersion


@dataclass(frozen=True, slots=True)
class Context:
    """What every route has at hand, and the only place where one application keeps state."""

    dependencies: ApiDependencies
    identities: Identities
    roles: Roles
    catalog: Catalog
    encoded: EncodedResources = field(default_factory=EncodedResources)
    deliveries: Deliveries = field(default_factory=Deliveries)
    pairs: PairBuffer = field(default_factory=PairBuffer)
    unknown_predictors: set[tuple[str, str]] = field(default_factory=set)
    noted_losses: dict[tuple[object, ...], None] = field(default_factory=dict)

    @property
    def store(self) -> Store:
        """The store."""
        return self.dependencies.store

    async def admit(
        self,
        request: Request,
        verb: Verb,
        kind: str,
        environment: str | None = None,
        *,
        name: str | None = None,
        model: str | None = None,
    ) -> Subject:
        """Return the subject of a request that may go on; see `allow` for the parameters.

        Raises
        ------
        Unauthenticated, Forbidden
            Unknown, or not allowed.
        InvalidResource
            The query has a parameter that the route does not know: a misspelt ``environment``
            must not mean the default one.
        """
        subject = await self.identities.identify(request.headers.get("authorization"))
        await self.allow(subject, verb, kind, environment, name=name, model=model)
        _check_query(request)
        return subject

    async def identify(self, request: Request) -> Subject:
        """Return the subject of a request that everybody may send who is known.

        Raises as `admit` does, except `Forbidden`.
        """
        subject = await self.identities.identify(request.headers.get("authorization"))
        _check_query(request)
        return subject

    async def admit_somewhere(self, request: Request, verb: Verb, kind: str) -> Subject:
        """Return the subject of a request that could be allowed, while it is not known for where.

        The body of such a request says what it is about; whoever reads it calls `allow` next.
        Raises as `admit` does.
        """
        subject = await self.identities.identify(request.headers.get("authorization"))
        await self.allow_somewhere(subject, verb, kind)
        _check_query(request)
        return subject

    async def allow(
        self,
        subject: Subject,
        verb: Verb,
        kind: str,
        environment: str | None = None,
        *,
        name: str | None = None,
        model: str | None = None,
    ) -> None:
        """Raise `Forbidden` unless `subject` may do this.

        Parameters
        ----------
        verb, kind, environment
            What is to be done to what and where; without an environment: to a global kind, or in
            all of them.
        name
            Of the resource, where there is one: roles can be limited to some models, and it is
            looked up which model the resource is about.
        model
            That model, where it is known already.
        """
        authority = await self.roles.current()
        access = Access(verb, kind, environment)
        decision = authority.authorize(subject, access)
        if isinstance(decision, Refused) and authority.is_limited_to_models(subject):
            found = model or await self._find_model(kind, name, environment)
            if found is not None:
                index = await self.catalog.current()
                access = replace(access, model=found, labels=labels_of(index.models.get(found)))
                decision = authority.authorize(subject, access)
        _raise_refused(decision)

    async def allow_somewhere(self, subject: Subject, verb: Verb, kind: str) -> None:
        """Raise `Forbidden` when `subject` may do this nowhere and for no model."""
        authority = await self.roles.current()
        _raise_refused(authority.authorize(subject, Access(verb, kind, somewhere=True)))

    async def _find_model(self, kind: str, name: str | None, environment: str | None) -> str | None:
        if name is None or kind not in KINDS:
            return None
        if kind == ModelVersion.__name__:  # by its name: "latest" is no resource
            return name.rpartition("@")[0] or None
        found = await self.store.find(KINDS[kind], name, environment)
        return model_of(found) if found is not None else None

    async def read_object(self, request: Request) -> dict[str, Any]:
        """Return the JSON object that `request` carries; raises as `read_body` and `parse_object`
        do.
        """
        limits = self.dependencies.limits
        return parse_object(await read_body(request, limits.json_bytes, limits.idle_timeout_s))


def _raise_refused(decision: Allowed | Refused) -> None:
    if isinstance(decision, Refused):
        raise Forbidden(decision.message)


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
