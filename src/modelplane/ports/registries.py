"""Registries elsewhere: what is registered there, its files, and what is written back.

Implemented by `adapters.registry` (MLflow) and by `testing.registries`; used by the controllers
of sources and artifacts. An implementation keeps time-outs on all it does, bounds what it
reads, and trusts nothing that it is sent.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Protocol

from modelplane.decisions.external import ExternalFiles, ExternalModel, ExternalRun, ExternalVersion
from modelplane.errors import ModelplaneError, TransientError
from modelplane.resources.model_source import ModelSource


class SourceUnavailable(TransientError):
    """The registry did not answer as one; trying again may help.

    ``reason`` is ``Unreachable``, ``TimedOut``, ``ServerError``, ``RateLimited`` or
    ``NotMlflow``.
    """

    code = "source-unavailable"

    def __init__(self, reason: str, message: str, *, hint: str = "") -> None:
        super().__init__(message, hint=hint)
        self.reason = reason


class SourceRefused(ModelplaneError):
    """The registry answered and does not let us in, or not do this.

    ``reason`` is ``Unauthorized``, ``Forbidden``, ``SecretMissing`` or ``Rejected``.
    """

    code = "source-refused"
    status = 502

    def __init__(self, reason: str, message: str, *, hint: str = "") -> None:
        super().__init__(message, hint=hint)
        self.reason = reason


class ArtifactUnavailable(ModelplaneError):
    """The files of one version cannot be had.

    ``reason`` is ``ArtifactMissing``, ``ArtifactRefused`` (the path leaves its place, or is not
    allowed here), ``ArtifactTooLarge``, ``ArtifactUnsupported`` or ``DigestMismatch``.
    """

    code = "artifact-unavailable"
    status = 502

    def __init__(self, reason: str, message: str, *, hint: str = "") -> None:
        super().__init__(message, hint=hint)
        self.reason = reason


class DigestMismatch(ArtifactUnavailable):
    """The files are not those that were registered."""

    code = "digest-mismatch"

    def __init__(self, message: str, *, hint: str = "") -> None:
        super().__init__("DigestMismatch", message, hint=hint)


class ModelRegistry(Protocol):
    """One registry elsewhere.

    Every method may raise `SourceUnavailable` and `SourceRefused`.
    """

    async def models(self) -> Sequence[ExternalModel]:
        """Return all registered models, with their aliases."""

    async def versions(self, model: str | None = None) -> Sequence[ExternalVersion]:
        """Return the versions of one model, or of all; deleted ones are not among them.

        The list is read in pages: what changed meanwhile may be missing, so that nothing is
        gone before `find_version` says so.
        """

    async def find_model(self, name: str) -> ExternalModel | None:
        """Return one model, or None when there is none."""

    async def find_version(self, model: str, number: int) -> ExternalVersion | None:
        """Return one version, or None when there is none (any more)."""

    async def describe(self, version: ExternalVersion) -> ExternalRun:
        """Return what made a version; empty where nothing is known of it (any more)."""

    async def download(self, version: ExternalVersion, into: Path) -> ExternalFiles:
        """Put the files of a version into the empty folder `into`.

        Raises
        ------
        ArtifactUnavailable
            They are missing, incomplete, too large, or somewhere that may not be read.
        """

    async def set_alias(self, model: str, alias: str, number: int) -> None:
        """Let an alias name a version."""

    async def delete_alias(self, model: str, alias: str) -> None:
        """Take an alias away; one that is not there changes nothing."""

    async def set_tag(self, model: str, number: int, key: str, value: str | None) -> None:
        """Set a tag of a version; None takes it away."""

    async def ensure_webhook(self, name: str, url: str, secret: str) -> str:
        """Make sure that changes are announced at `url`, signed with `secret`; return its id."""

    async def close(self) -> None:
        """Let go of connections."""


Connect = Callable[[ModelSource], ModelRegistry]
"""Returns a source's registry; raises `SourceRefused` when a secret it names is missing."""
