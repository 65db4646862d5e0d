"""Where watched registries meet their adapter.

Called by `wiring.control_plane`.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable
from dataclasses import dataclass

from modelplane.adapters.registry.mlflow import MlflowRegistry
from modelplane.adapters.registry.mlflow_http import Credentials
from modelplane.controllers.artifacts import ArtifactController
from modelplane.controllers.loop import Fence
from modelplane.controllers.sources import SourceController
from modelplane.controllers.sources_fetching import VersionFetcher
from modelplane.ports.blobs import Blobs
from modelplane.ports.clock import Clock
from modelplane.ports.registries import Connect, ModelRegistry, SourceRefused
from modelplane.ports.store import Store
from modelplane.resources.model_source import ModelSource
from modelplane.settings import Settings
from modelplane.wiring.secrets import make_secrets, secret_variable


def _make_connect(settings: Settings, secret: Callable[[str], str | None]) -> Connect:
    """Return what connects to a source."""

    def connect(source: ModelSource) -> ModelRegistry:
        spec = source.spec
        credentials = Credentials(
            token=_need(secret, spec.token),
            username=spec.username,
            password=_need(secret, spec.password),
        )
        return MlflowRegistry(
            spec.url,
            credentials,
            spec.timeout_s,
            roots=spec.artifact_roots,
            max_artifact_bytes=settings.max_artifact_bytes,
        )

    return connect


def _need(secret: Callable[[str], str | None], name: str | None) -> str | None:
    if name is None:
        return None
    found = secret(name)
    if found is None:
        hint = (
            f"write it to secrets/{name} in the state directory (mode 600), or set "
            f"{secret_variable(name)}"
        )
        raise SourceRefused("SecretMissing", f"there is no secret {name!r}", hint=hint)
    return found


@dataclass(frozen=True, slots=True)
class SourceControllers:
    """What watches registries elsewhere, and fetches files from them."""

    sources: SourceController
    artifacts: ArtifactController
    secret: Callable[[str], str | None]


def make_source_controllers(
    settings: Settings, store: Store, blobs: Blobs, fence: Fence, clock: Clock
) -> SourceControllers:
    """Return the controllers of sources and artifacts; files that were on their way are gone."""
    shutil.rmtree(settings.paths.imports, ignore_errors=True)
    secret = make_secrets(settings)
    connect = _make_connect(settings, secret)
    fetcher = VersionFetcher(blobs, settings.paths.imports)
    sources = SourceController(
        store,
        fence,
        clock,
        connect=connect,
        secret=secret,
        fetcher=fetcher,
        api_url=settings.api_url,
    )
    artifacts = ArtifactController(store, fence, clock, connect=connect, fetcher=fetcher)
    return SourceControllers(sources, artifacts, secret)
