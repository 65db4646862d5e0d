"""The routes of MLflow's model registry: who may call what, with which parameters.

Added by `api.app`. Plain Starlette routes: MLflow's clients call them many times a second, and
know nothing of modelplane's own surface, its problems or its description.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass

from fastapi import FastAPI
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from modelplane.api.access import Context
from modelplane.api.answers import JSON
from modelplane.api.mlflow import aliases, models, search, versions
from modelplane.api.mlflow.admission import authorization_of
from modelplane.api.mlflow.artifacts import add_artifact_routes
from modelplane.api.mlflow.errors import error_response
from modelplane.api.mlflow.finding import FoundBefore
from modelplane.api.mlflow.parameters import Parameter, read_parameters
from modelplane.api.mlflow.reading import Encoder
from modelplane.api.mlflow.writing import Call, ModelLocks
from modelplane.decisions.authorization import Verb
from modelplane.decisions.mlflow_registry import MlflowError
from modelplane.errors import ModelplaneError

PREFIX = "/api/2.0/mlflow"

_NAME = Parameter("name", required=True)
_VERSION = Parameter("version", required=True)
_KEY = Parameter("key", required=True)
_ALIAS = Parameter("alias", required=True)
_TAGS = Parameter("tags", "tags")
_DESCRIPTION = Parameter("description")
_MODEL, _MODEL_VERSION = "Model", "ModelVersion"


@dataclass(frozen=True, slots=True)
class Endpoint:
    """One request that MLflow's clients send."""

    method: str
    path: str
    verb: Verb
    kind: str
    handle: Callable[[Call], Awaitable[bytes]]
    parameters: tuple[Parameter, ...]


def _search_parameters(at_most: int) -> tuple[Parameter, ...]:
    return (
        Parameter("filter"),
        Parameter("max_results", "integer", at_most=at_most),
        Parameter("order_by", "strings"),
        Parameter("page_token"),
    )


_LATEST = (_NAME, Parameter("stages", "strings"))
_M, _V = "registered-models", "model-versions"

ENDPOINTS: tuple[Endpoint, ...] = (
    Endpoint("POST", f"{_M}/create", "apply", _MODEL, models.create, (_NAME, _TAGS, _DESCRIPTION)),
    Endpoint("GET", f"{_M}/get", "get", _MODEL, models.get, (_NAME,)),
    Endpoint("PATCH", f"{_M}/update", "apply", _MODEL, models.update, (_NAME, _DESCRIPTION)),
    Endpoint(
        "POST",
        f"{_M}/rename",
        "apply",
        _MODEL,
        models.rename,
        (_NAME, Parameter("new_name", required=True)),
    ),
    Endpoint("DELETE", f"{_M}/delete", "delete", _MODEL, models.delete, (_NAME,)),
    Endpoint(
        "GET",
        f"{_M}/search",
        "list",
        _MODEL,
        search.search_models,
        _search_parameters(search.MAX_MODELS),
    ),
    Endpoint("POST", f"{_M}/get-latest-versions", "list", _MODEL_VERSION, versions.latest, _LATEST),
    Endpoint("GET", f"{_M}/get-latest-versions", "list", _MODEL_VERSION, versions.latest, _LATEST),
    Endpoint(
        "POST", f"{_M}/set-tag", "act", _MODEL, models.set_tag, (_NAME, _KEY, Parameter("value"))
    ),
    Endpoint("DELETE", f"{_M}/delete-tag", "act", _MODEL, models.delete_tag, (_NAME, _KEY)),
    Endpoint("POST", f"{_M}/alias", "act", _MODEL, aliases.put, (_NAME, _ALIAS, _VERSION)),
    Endpoint("DELETE", f"{_M}/alias", "act", _MODEL, aliases.delete, (_NAME, _ALIAS)),
    Endpoint("GET", f"{_M}/alias", "get", _MODEL_VERSION, aliases.get, (_NAME, _ALIAS)),
    Endpoint(
        "POST",
        f"{_V}/create",
        "apply",
        _MODEL_VERSION,
        versions.create,
        (
            _NAME,
            Parameter("source", required=True),
            Parameter("run_id"),
            _TAGS,
            Parameter("run_link"),
            _DESCRIPTION,
            Parameter("model_id"),
        ),
    ),
    Endpoint("GET", f"{_V}/get", "get", _MODEL_VERSION, versions.get, (_NAME, _VERSION)),
    Endpoint(
        "PATCH",
        f"{_V}/update",
        "apply",
        _MODEL_VERSION,
        versions.update,
        (_NAME, _VERSION, _DESCRIPTION),
    ),
    Endpoint(
        "DELETE", f"{_V}/delete", "delete", _MODEL_VERSION, versions.delete, (_NAME, _VERSION)
    ),
    Endpoint(
        "GET",
        f"{_V}/search",
        "list",
        _MODEL_VERSION,
        search.search_versions,
        _search_parameters(search.MAX_VERSIONS),
    ),
    Endpoint(
        "GET",
        f"{_V}/get-download-uri",
        "get",
        _MODEL_VERSION,
        versions.get_download_uri,
        (Parameter("name"), Parameter("version")),
    ),
    Endpoint(
        "POST",
        f"{_V}/transition-stage",
        "act",
        _MODEL_VERSION,
        versions.move_stage,
        (
            _NAME,
            _VERSION,
            Parameter("stage", required=True),
            Parameter("archive_existing_versions", "boolean"),
        ),
    ),
    Endpoint(
        "POST",
        f"{_V}/set-tag",
        "act",
        _MODEL_VERSION,
        versions.set_tag,
        (_NAME, _VERSION, _KEY, Parameter("value")),
    ),
    Endpoint(
        "DELETE",
        f"{_V}/delete-tag",
        "act",
        _MODEL_VERSION,
        versions.delete_tag,
        (_NAME, _VERSION, _KEY),
    ),
)


def add_mlflow_routes(app: FastAPI, context: Context) -> None:
    """Add the routes of MLflow's model registry, and of its artifacts."""
    locks = ModelLocks()
    encoder, found = Encoder(context.catalog), FoundBefore(context.catalog)

    def serve(endpoint: Endpoint) -> Callable[[Request], Awaitable[Response]]:
        async def answer(request: Request) -> Response:
            try:
                subject = await context.identities.identify(authorization_of(request))
                await context.allow_somewhere(subject, endpoint.verb, endpoint.kind)
                limits = context.dependencies.limits
                values = await read_parameters(request, endpoint.parameters, limits)
                named = [values[name] for name in ("name", "new_name") if name in values]
                for model in named or [None]:
                    await context.allow(subject, endpoint.verb, endpoint.kind, model=model)
                call = Call(context, locks, encoder, found, subject, values, request)
                return Response(await endpoint.handle(call), media_type=JSON)
            except ModelplaneError as error:
                return error_response(error)

        return answer

    for endpoint in ENDPOINTS:
        path = f"{PREFIX}/{endpoint.path}"
        app.router.routes.append(Route(path, serve(endpoint), methods=[endpoint.method]))
    add_artifact_routes(app, context)

    async def refuse(request: Request) -> Response:
        """Answer what only a tracking server knows."""
        try:
            await context.identities.identify(authorization_of(request))
        except ModelplaneError as error:
            return error_response(error)
        message = (
            f"modelplane has no {request.url.path[:200]}: it is MLflow's model registry "
            "(mlflow.set_registry_uri); runs, experiments and webhooks belong to a tracking server "
            "(mlflow.set_tracking_uri)"
        )
        return error_response(MlflowError(message, "ENDPOINT_NOT_FOUND"))

    methods = ["GET", "POST", "PUT", "PATCH", "DELETE"]
    app.router.routes.append(Route(PREFIX + "/{rest:path}", refuse, methods=methods))
