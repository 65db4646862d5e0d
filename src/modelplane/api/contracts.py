"""Contracts: published by consumers, recorded as deployed, and ``can-i-deploy``.

Thin: what a pact is, is in `decisions.pacts`, the rules are in `decisions.contracts` and
`decisions.deployability`.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from typing import Annotated, Any

from fastapi import Query, Request
from starlette.responses import Response

from modelplane.api.access import Context, context_of
from modelplane.api.answers import json_response
from modelplane.api.bodies import take_fields
from modelplane.api.committing import commit
from modelplane.api.deployments import Applied, load_environment, load_version
from modelplane.api.routes import Routes
from modelplane.decisions.contracts import (
    Published,
    newest_contract,
    publish_contract,
    read_contract,
    record_deployment,
    record_undeployment,
)
from modelplane.decisions.deployability import (
    Deployability,
    MatrixRow,
    ServedVersion,
    rows_of_consumer,
    rows_of_model,
    summarize,
)
from modelplane.decisions.registry_index import RegistryIndex
from modelplane.decisions.versions import LATEST
from modelplane.errors import FieldError, InvalidResource, NotFound
from modelplane.ports.store import Store, Transaction
from modelplane.resources.contract import Contract
from modelplane.resources.environment import Environment
from modelplane.resources.meta import Subject
from modelplane.resources.model import ModelVersion

_KIND = Contract.__name__
_MAX_REASON = 2000
_MAX_ENVIRONMENTS = 50

_Decide = Callable[[Iterable[Contract], str, str, str], tuple[Contract, ...]]
_RECORDS: dict[str, _Decide] = {
    "record-deployment": record_deployment,
    "record-undeployment": record_undeployment,
}


def add_contract_routes(routes: Routes) -> None:
    """Add the routes of contracts; those of every kind come with `kinds`."""
    routes.add(
        "POST",
        "/contracts",
        _publish,
        tag=_KIND,
        operation_id="publishContract",
        summary="Publish a pact with a model",
        openapi_extra=_body(
            ["pact", "consumerVersion"],
            pact={"type": "object", "description": "The pact file, version 2, 3 or 4."},
            consumerVersion={"type": "string"},
            environments={"type": "array", "items": {"type": "string"}},
            model={"type": "string", "description": "Where the pact calls it otherwise."},
            reason={"type": "string"},
        ),
    )
    for verb in _RECORDS:
        routes.add(
            "POST",
            f"/contracts:{verb}",
            _recording(verb),
            tag=_KIND,
            operation_id="recordDeployment"
            if verb in "record-deployment"
            else "recordUndeployment",
            summary=f"{verb.replace('-', ' ')} of a version of a consumer".capitalize(),
            openapi_extra=_body(
                ["consumer", "consumerVersion", "environment"],
                consumer={"type": "string"},
                consumerVersion={"type": "string"},
                environment={"type": "string"},
                reason={"type": "string"},
            ),
        )
    routes.add(
        "GET",
        "/can-i-deploy",
        _can_i_deploy,
        responses={200: {"model": Deployability}},
        tag=_KIND,
        operation_id="canIDeploy",
        summary="Whether a version may go to an environment, by the contracts there",
    )


def _body(required: Sequence[str], **properties: Any) -> dict[str, Any]:
    schema = {"type": "object", "required": list(required), "properties": properties}
    return {"requestBody": {"required": True, "content": {"application/json": {"schema": schema}}}}


# -- publishing -----------------------------------------------------------------------------


async def _publish(request: Request) -> Response:
    """Publish a pact; the same again changes nothing, another one of that version is refused."""
    context = context_of(request)
    subject = await context.admit_somewhere(request, "act", _KIND)
    body = take_fields(
        await context.read_object(request),
        pact=dict,
        consumerVersion=str,
        environments=list,
        model=str,
        reason=str,
    )
    _require(body, "pact", "consumerVersion")
    environments = _environments(body.get("environments", []))
    for index, environment in enumerate(environments):
        await load_environment(context.store, environment, path=f"environments[{index}]")
    catalog = await context.catalog.current()
    wanted = read_contract(
        body["pact"],
        body["consumerVersion"],
        models={*catalog.models, *catalog.model_names()},
        model=body.get("model"),
    )
    for place in (None, *environments):
        await context.allow(subject, "act", _KIND, place, model=wanted.spec.model)

    async def prepare() -> tuple[Transaction, Published]:
        published = publish_contract(
            wanted, environments, await _find_contracts(context.store, wanted)
        )
        transaction = Transaction(subject, body.get("reason", "")[:_MAX_REASON])
        for contract in published.written:
            transaction.put(contract, "publish" if contract is published.contract else "deploy")
        return transaction, published

    published, written = await commit(context.store, prepare)
    name = published.contract.metadata.name
    contract = next((c for c in written if c.metadata.name == name), published.contract)
    return Applied(published.result, contract).response()


async def _find_contracts(store: Store, wanted: Contract) -> list[Contract]:
    """Return the contracts of the consumer, and whatever has the name already."""
    found, _ = await store.list(Contract, labels={"consumer": wanted.spec.consumer})
    names = {contract.metadata.name for contract in found}
    if wanted.metadata.name not in names:
        other = await store.find(Contract, wanted.metadata.name)
        return [*found, *([other] if other else [])]
    return list(found)


def _environments(items: list[object]) -> list[str]:
    faults = [
        FieldError(f"environments[{index}]", "must be the name of an environment")
        for index, item in enumerate(items)
        if not isinstance(item, str) or not item
    ]
    if len(items) > _MAX_ENVIRONMENTS:
        faults.append(FieldError("environments", f"{_MAX_ENVIRONMENTS} at most"))
    if faults:
        raise InvalidResource("the body is not valid", faults)
    return [str(item) for item in items]


def _require(body: Mapping[str, Any], *names: str) -> None:
    missing = [FieldError(name, "required") for name in names if body.get(name) in (None, "")]
    if missing:
        raise InvalidResource("the body is not valid", missing)


# -- what is deployed where -----------------------------------------------------------------


def _recording(verb: str) -> Callable[[Request], Awaitable[Response]]:
    decide = _RECORDS[verb]

    async def record(request: Request) -> Response:
        """Say that a version of a consumer went to an environment, or left it.

        One version of a consumer is in an environment at a time: the others leave it.
        """
        context = context_of(request)
        subject = await context.admit(request, "act", _KIND)
        fields = ("consumer", "consumerVersion", "environment", "reason")
        body = take_fields(await context.read_object(request), **dict.fromkeys(fields, str))
        _require(body, *fields[:3])
        environment = body["environment"]
        await context.admit(request, "act", _KIND, environment)
        await load_environment(context.store, environment, path="environment")
        return await _record(context, subject, body, decide, verb)

    return record


async def _record(
    context: Context, subject: Subject, body: Mapping[str, str], decide: _Decide, verb: str
) -> Response:
    consumer, environment = body["consumer"], body["environment"]
    labels = {"consumer": consumer}

    async def prepare() -> tuple[Transaction, tuple[list[str], str]]:
        contracts, _ = await context.store.list(Contract, labels=labels)
        version = _consumer_version(contracts, consumer, body["consumerVersion"])
        transaction = Transaction(subject, body.get("reason", "")[:_MAX_REASON])
        for contract in decide(contracts, consumer, version, environment):
            transaction.update(contract, verb.removeprefix("record-"))
        names = [c.metadata.name for c in contracts if c.spec.consumer_version == version]
        return transaction, (names, version)

    (names, version), written = await commit(context.store, prepare)
    return json_response(
        {
            "result": "changed" if written else "unchanged",
            "consumer": consumer,
            "consumerVersion": version,
            "environment": environment,
            "contracts": names,
        }
    )


def _consumer_version(contracts: Sequence[Contract], consumer: str, wanted: str) -> str:
    """Return a version of a consumer that has contracts; ``latest``: the one published last."""
    newest = newest_contract(contracts)
    if newest is None:
        raise NotFound(
            f"no consumer {consumer[:80]!r} has published a contract",
            hint="modelplane contract list shows who has",
        )
    versions = {contract.spec.consumer_version for contract in contracts}
    if wanted == LATEST and LATEST not in versions:
        return newest.spec.consumer_version
    if wanted not in versions:
        known = ", ".join(sorted(versions)[-5:])
        raise NotFound(
            f"{consumer[:80]} has published no contract as version {wanted[:80]!r}",
            hint=f"it has: {known}",
        )
    return wanted


# -- can it be deployed ---------------------------------------------------------------------


async def _can_i_deploy(
    request: Request,
    *,
    pacticipant: Annotated[str, Query(description="A model, or a consumer.")] = "",
    version: Annotated[
        str, Query(description="Of it; `latest`, and of a model its number, too.")
    ] = "",
    environment: Annotated[str, Query(description="Where it is to go.")] = "",
) -> Response:
    """Answer as a pact broker does: a summary, and the matrix that it rests on.

    A model's version must be kept by every consumer that is deployed there; a consumer's version
    must be kept by what serves there. What is both has to be both.
    """
    context = context_of(request)
    await context.admit(request, "get", _KIND)
    asked = {"pacticipant": pacticipant, "version": version, "environment": environment}
    # Not by the route: who is not known should not be told what a question needs.
    lacking = [FieldError(f"query.{name}", "required") for name in asked if not asked[name]]
    if lacking:
        raise InvalidResource("the query is not valid", lacking)
    await _check_environment(context.store, environment)
    index = await context.catalog.current()
    published, _ = await context.store.list(Contract, labels={"consumer": pacticipant})
    is_model = pacticipant in index.models or bool(index.versions_of(pacticipant))
    if not is_model and not published:
        raise NotFound(
            f"{pacticipant[:80]!r} is neither a model nor a consumer with a contract",
            hint="modelplane contract list shows the consumers, modelplane get models the models",
        )
    rows: list[MatrixRow] = []
    absent: list[NotFound] = []
    if is_model:
        try:
            rows += await _rows_of_model(context, pacticipant, version, environment)
        except NotFound as error:
            absent.append(error)
    if published:
        try:
            known = _consumer_version(published, pacticipant, version)
            rows += _rows_of_consumer(index, published, known, environment)
        except NotFound as error:
            absent.append(error)
    if len(absent) == is_model + bool(published):
        raise absent[0]
    answer = Deployability(summary=summarize(rows, environment), matrix=tuple(rows))
    return json_response(answer.model_dump(mode="json", by_alias=True))  # null is an answer here


async def _check_environment(store: Store, name: str) -> None:
    if await store.find(Environment, name) is None:
        known, _ = await store.list(Environment)
        names = ", ".join(environment.metadata.name for environment in known)
        raise NotFound(f"there is no environment {name[:80]!r}", hint=f"there are: {names}")


async def _rows_of_model(
    context: Context, model: str, wanted: str, environment: str
) -> list[MatrixRow]:
    try:
        version = await load_version(context.store, model, wanted)
    except InvalidResource as error:  # a consumer's version may look like anything
        raise NotFound(error.message, hint="; ".join(f.message for f in error.fields)) from None
    contracts, _ = await context.store.list(Contract, labels={"model": model})
    return rows_of_model(contracts, model, _served(version), environment)


def _rows_of_consumer(
    index: RegistryIndex, published: Sequence[Contract], version: str, environment: str
) -> list[MatrixRow]:
    models = {c.spec.model for c in published if c.spec.consumer_version == version}
    serving = {model: _serving(index, model, environment) for model in models}
    consumer = published[0].spec.consumer
    return rows_of_consumer(published, consumer, version, serving)


def _serving(index: RegistryIndex, model: str, environment: str) -> list[ServedVersion]:
    """Return the versions of a model that answer in `environment`: stable, and rolled out now."""
    names = set()
    known = index.models.get(model)
    for entry in known.status.serving if known else ():
        if entry.environment == environment:
            names |= {entry.champion, entry.challenger}
    for (place, _), deployment in index.deployments.items():
        stable = deployment.status.stable
        if place == environment and stable is not None and stable.model == model:
            names.add(stable.version)
    found = (index.versions.get(f"{model}@{name}") for name in sorted(names - {None}, key=str))
    return [_served(version) for version in found if version is not None]


def _served(version: ModelVersion) -> ServedVersion:
    artifact = version.spec.artifact
    return ServedVersion(version.spec.version, artifact.digest if artifact else "")
