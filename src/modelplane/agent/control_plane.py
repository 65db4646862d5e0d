"""What the agent needs of the control plane: implemented by `client.AsyncClient`.

Used by every part of the agent that reads or reports. Nothing here waits for ever: calls end
with `TransientError` when the control plane does not answer.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from pathlib import Path
from typing import Any, Protocol, TypeVar

from modelplane.client.training_calls import TrainingAccess
from modelplane.ports.store import Change
from modelplane.resources.certificates import (
    CertificateRequest,
    IssuedCertificate,
    TrustBundle,
)
from modelplane.resources.meta import Resource
from modelplane.resources.telemetry import TelemetryBatch, TelemetryReceipt

R = TypeVar("R", bound=Resource[Any, Any])


class ControlPlane(Protocol):
    """The API, as an agent uses it."""

    async def list(self, kind: type[R]) -> tuple[Sequence[R], int]:
        """Return a kind's resources in all environments, and the version to watch from."""

    def watch(self, kind: type[R], since: int) -> AsyncIterator[Change]:
        """Yield a kind's changes after `since`.

        Raises `Conflict` when `since` is too old and `TransientError` when the connection ends.
        """

    async def put_status(self, resource: R) -> R:
        """Replace the status of this very resource (by its uid).

        Raises `NotFound` when it is gone and `Conflict` when another one has its name.
        """

    async def post_telemetry(self, batch: TelemetryBatch) -> TelemetryReceipt:
        """Hand over one batch; handing it over again changes nothing."""

    async def post_predictions(self, batch: bytes) -> None:
        """Hand over CloudEvents, ``application/cloudevents-batch+json``; again changes nothing.

        Raises `InvalidResource` or `NotFound` when they are wanted by nobody.
        """

    async def request_certificate(self, request: CertificateRequest) -> IssuedCertificate:
        """Have a new key of this node certified."""

    async def get_training_access(self, run: str, job: str) -> TrainingAccess:
        """Return what the Job ``ENVIRONMENT/NAME`` of a TrainingRun works with.

        Raises `NotFound` and `Conflict` when it is not to run any more.
        """

    async def get_trust_bundle(self) -> TrustBundle:
        """Return whom to trust; raises `NotFound` while no certificate was ever issued."""

    async def upload_artifact(self, path: Path, digest: str) -> None:
        """Store a file or folder under its digest, unless it is there already."""

    async def download_artifact(self, digest: str, destination: Path) -> None:
        """Download an artifact as the folder `destination`, whole and verified or not at all.

        Raises `NotFound`, and `TerminalError` when the bytes do not have the digest.
        """
