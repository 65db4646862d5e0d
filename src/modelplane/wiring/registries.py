"""Where watched registries meet their adapter, and named secrets their files.

Called by `wiring.control_plane`. A secret is the file ``STATE/secrets/NAME`` that nobody else may
read, or the variable ``MODELPLANE_SECRET_NAME`` (dashes and dots as underscores); it is read each
time it is needed, so that it can be changed, and never logged.
"""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import structlog

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
from modelplane.resources.meta import check_name
from modelplane.resources.model_source import ModelSource
from modelplane.settings import Settings

_log = structlog.get_logger(__name__)

_MAX_SECRET_BYTES = 64 * 2**10


def _make_secrets(settings: Settings) -> Callable[[str], str | None]:
    """Return what reads a secret by its name; None when there is none."""

    def secret(name: str) -> str | None:
        try:
            check_name(name)
        except ValueError:
            return None
        variable = f"MODELPLANE_SECRET_{re.sub(r'[^A-Za-z0-9]', '_', name).upper()}"
        return _read_file(settings.paths.secrets / name) or os.environ.get(variable) or None

    return secret


def _read_file(path: Path) -> str | None:
    try:
        status = path.stat()
        if status.st_mode & 0o077:
            _log.warning("secret.refused", name=path.name, reason="others may read it: chmod 600")
            return None
        with path.open("rb") as file:
            return file.read(_MAX_SECRET_BYTES).decode().strip() or None
    except (OSError, UnicodeDecodeError):
        return None


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
        variable = f"MODELPLANE_SECRET_{re.sub(r'[^A-Za-z0-9]', '_', name).upper()}"
        hint = f"write it to secrets/{name} in the state directory (mode 600), or set {variable}"
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
    secret = _make_secrets(settings)
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
