"""An MLflow server (3.x) as a `ports.registries.ModelRegistry`, over its REST API alone.

Made by `wiring.registries`, one for each ModelSource. It imports no mlflow.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Mapping, Sequence
from pathlib import Path
from typing import Any
from urllib.parse import quote

from modelplane.adapters.registry.mlflow_answers import (
    LoggedModel,
    Run,
    combine,
    read_as,
    read_list,
    read_logged_model,
    read_model,
    read_run,
    read_version,
)
from modelplane.adapters.registry.mlflow_artifacts import ArtifactReader
from modelplane.adapters.registry.mlflow_http import Credentials, MlflowHttp
from modelplane.adapters.registry.model_folder import read_model_folder
from modelplane.decisions.external import (
    PROMPT_TAG,
    ExternalFiles,
    ExternalModel,
    ExternalRun,
    ExternalVersion,
)
from modelplane.errors import NotFound, TransientError
from modelplane.ports.registries import ArtifactUnavailable, DigestMismatch, SourceUnavailable

_PAGE = 1000
_MAX_PAGES = 1000
_MAX_HOPS = 5
_DOWNLOAD_TIMEOUT_S = 3600.0
_EVENTS = (
    ("REGISTERED_MODEL", "CREATED"),
    ("MODEL_VERSION", "CREATED"),
    ("MODEL_VERSION_TAG", "SET"),
    ("MODEL_VERSION_TAG", "DELETED"),
    ("MODEL_VERSION_ALIAS", "CREATED"),
    ("MODEL_VERSION_ALIAS", "DELETED"),
)


class MlflowRegistry:
    """Implements `ports.registries.ModelRegistry`.

    Parameters
    ----------
    url
        Address of the server.
    credentials
        How to be let in.
    timeout_s
        How long one request may take.
    roots
        What artifacts may be read from besides: folders, addresses in object stores.
    max_artifact_bytes
        Largest version that is taken.
    """

    def __init__(
        self,
        url: str,
        credentials: Credentials,
        timeout_s: float,
        *,
        roots: tuple[str, ...] = (),
        max_artifact_bytes: int = 10 * 2**30,
    ) -> None:
        self._http = MlflowHttp(url, credentials, timeout_s)
        self._files = ArtifactReader(self._http, roots, max_artifact_bytes)

    async def models(self) -> Sequence[ExternalModel]:
        """Return all registered models, without prompts."""
        query = {"max_results": _PAGE, "order_by": "name ASC"}
        found: dict[str, ExternalModel] = {}
        async for answer in self._pages("/mlflow/registered-models/search", query):
            for model in read_list(read_model, answer.get("registered_models")):
                if PROMPT_TAG not in model.tags:
                    found[model.name] = model
        return list(found.values())

    async def versions(self, model: str | None = None) -> Sequence[ExternalVersion]:
        """Return the versions of one model, or of all, without prompts."""
        query: dict[str, Any] = {
            "max_results": _PAGE,
            "order_by": ["name ASC", "version_number ASC"],
        }
        if model is not None:
            # Where the name holds a quote, the other is used; with both, all are looked at.
            quoted = [q for q in ("'", '"') if q not in model]
            if quoted:
                query["filter"] = f"name={quoted[0]}{model}{quoted[0]}"
        found: dict[tuple[str, int], ExternalVersion] = {}
        async for answer in self._pages("/mlflow/model-versions/search", query):
            for version in read_list(read_version, answer.get("model_versions")):
                if PROMPT_TAG not in version.tags and model in {None, version.model}:
                    found[version.model, version.number] = version
        return list(found.values())

    async def _pages(self, path: str, query: Mapping[str, Any]) -> AsyncIterator[Mapping[str, Any]]:
        token = ""
        for _ in range(_MAX_PAGES):
            answer = await self._http.call(
                "GET", path, query={**query, **({"page_token": token} if token else {})}
            )
            yield answer
            token = str(answer.get("next_page_token") or "")
            if not token:
                return
        message = f"{self._http.host} has more than {_MAX_PAGES:,} pages of {path}"
        raise SourceUnavailable("NotMlflow", message)

    async def find_model(self, name: str) -> ExternalModel | None:
        """Return one model, or None."""
        try:
            answer = await self._http.call(
                "GET", "/mlflow/registered-models/get", query={"name": name}
            )
        except NotFound:
            return None
        model = read_as(read_model, answer.get("registered_model"))
        return None if PROMPT_TAG in model.tags else model

    async def find_version(self, model: str, number: int) -> ExternalVersion | None:
        """Return one version, or None."""
        query = {"name": model, "version": str(number)}
        try:
            answer = await self._http.call("GET", "/mlflow/model-versions/get", query=query)
        except NotFound:
            return None
        return read_as(read_version, answer.get("model_version"))

    async def describe(self, version: ExternalVersion) -> ExternalRun:
        """Return what the run and the logged model of a version say together."""
        logged = await self._find_logged(version.source)
        run_id = version.run_id or (logged.run_id if logged else "") or _run_of(version.source)
        return combine(await self._find_run(run_id), logged)

    async def _find_run(self, run_id: str) -> Run | None:
        if not run_id:
            return None
        try:
            answer = await self._http.call("GET", "/mlflow/runs/get", query={"run_id": run_id})
        except NotFound:
            return None
        return read_as(read_run, answer.get("run"))

    async def _find_logged(self, source: str) -> LoggedModel | None:
        """Return the logged model that a source ``models:/m-…`` names, or None."""
        model_id = source.removeprefix("models:/").strip("/")
        if model_id == source or not model_id.startswith("m-") or "/" in model_id:
            return None
        try:
            answer = await self._http.call("GET", f"/mlflow/logged-models/{quote(model_id)}")
        except NotFound:
            return None
        return read_as(read_logged_model, answer.get("model"))

    async def download(self, version: ExternalVersion, into: Path) -> ExternalFiles:
        """Put the files of a version into the empty folder `into`; say what they say."""
        what = f"{version.model} {version.number}"
        try:
            async with asyncio.timeout(_DOWNLOAD_TIMEOUT_S):
                await self._files.copy(await self._resolve(version.source), into)
        except TimeoutError:
            message = f"the files of {what} did not arrive in {_DOWNLOAD_TIMEOUT_S / 60:g} min"
            raise TransientError(message) from None
        files = await asyncio.to_thread(read_model_folder, into)
        sizes = (path.stat().st_size for path in into.rglob("*") if path.name != "MLmodel")
        if files.size_bytes is not None and (found := sum(sizes)) < files.size_bytes:
            # MLflow counts before it adds the files of the environment: less means truncated.
            message = f"MLmodel states {files.size_bytes:,} bytes, there are {found:,}"
            raise DigestMismatch(f"the files of {what} are not complete: {message}")
        return files

    async def _resolve(self, source: str) -> str:
        """Return where the files really are that a version was registered with."""
        for _ in range(_MAX_HOPS):
            if source.startswith("runs:/"):
                run_id, _, path = source.removeprefix("runs:/").partition("/")
                run = await self._find_run(run_id)
                if run is None or not run.artifact_uri:
                    raise _missing(f"the run {run_id[:80]} of its files is gone")
                source = f"{run.artifact_uri.rstrip('/')}/{path}"
            elif source.startswith("models:/m-") and "/" not in source.removeprefix("models:/"):
                logged = await self._find_logged(source)
                if logged is None or not logged.artifact_uri:
                    raise _missing(f"the logged model {source[:120]} is gone")
                source = logged.artifact_uri
            elif source.startswith("models:/"):
                source = await self._source_of(source)
            else:
                break
        if not source:
            raise _missing("it was registered without a place for its files")
        return source

    async def _source_of(self, uri: str) -> str:
        """Return the source of the version that ``models:/NAME/3`` or ``NAME@ALIAS`` names."""
        name, _, wanted = uri.removeprefix("models:/").partition("/")
        number = int(wanted) if wanted.isdecimal() else None
        if "@" in name:
            name, _, alias = name.rpartition("@")
            model = await self.find_model(name)
            number = model.aliases.get(alias) if model else None
        version = await self.find_version(name, number) if number is not None else None
        if version is None:
            raise _missing(f"its files are those of {uri[:200]}, which is not there")
        return version.source

    async def set_alias(self, model: str, alias: str, number: int) -> None:
        """Let an alias name a version."""
        body = {"name": model, "alias": alias, "version": str(number)}
        await self._http.call("POST", "/mlflow/registered-models/alias", body=body)

    async def delete_alias(self, model: str, alias: str) -> None:
        """Take an alias away; one that is not there changes nothing."""
        body = {"name": model, "alias": alias}
        try:
            await self._http.call("DELETE", "/mlflow/registered-models/alias", body=body)
        except NotFound:
            return

    async def set_tag(self, model: str, number: int, key: str, value: str | None) -> None:
        """Set a tag of a version; None takes it away."""
        body = {"name": model, "version": str(number), "key": key}
        if value is not None:
            await self._http.call(
                "POST", "/mlflow/model-versions/set-tag", body={**body, "value": value}
            )
            return
        try:
            await self._http.call("DELETE", "/mlflow/model-versions/delete-tag", body=body)
        except NotFound:
            return

    async def ensure_webhook(self, name: str, url: str, secret: str) -> str:
        """Register the webhook, or renew the one of this name; return its id."""
        events = [{"entity": entity, "action": action} for entity, action in _EVENTS]
        body = {"name": name, "url": url, "secret": secret, "events": events, "status": "ACTIVE"}
        # The list says neither the secret nor whether it still fits: what exists is renewed.
        async for answer in self._pages("/mlflow/webhooks", {"max_results": 100}):
            for webhook_id, found in read_list(_read_webhook, answer.get("webhooks")):
                if found == name:
                    path = f"/mlflow/webhooks/{quote(webhook_id)}"
                    await self._http.call("PATCH", path, body=body)
                    return webhook_id
        answer = await self._http.call("POST", "/mlflow/webhooks", body=body)
        return read_as(_read_webhook, answer.get("webhook"))[0]

    async def close(self) -> None:
        """Close the connections."""
        await self._http.close()


def _read_webhook(data: Mapping[str, Any]) -> tuple[str, str]:
    return str(data["webhook_id"]), str(data["name"])


def _run_of(source: str) -> str:
    return source.removeprefix("runs:/").partition("/")[0] if source.startswith("runs:/") else ""


def _missing(message: str) -> ArtifactUnavailable:
    return ArtifactUnavailable("ArtifactMissing", message)
