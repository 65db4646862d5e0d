"""A revision: one model version with everything that can change its behaviour.

Every change of behaviour is a new revision and takes the same road: promotion, rollout,
analysis. Replicas and strategy are not part of it. Pure; used by promotions, rollouts, replicas.
"""

from __future__ import annotations

import hashlib
import json
from typing import Literal

from pydantic import Field

from modelplane.resources.meta import ModelName, Part
from modelplane.resources.quantities import ByteSize, Duration

ArtifactFormat = Literal["mlflow", "onnx", "skops", "joblib", "command"]


class Resources(Part):
    """What one replica may use at the most."""

    cpu: float | None = Field(
        default=None, gt=0, le=1024, description="Processor cores (threads of the model)."
    )
    memory: ByteSize | None = Field(default=None, description="Memory limit of the process.")


class Artifact(Part):
    """The bytes of a model version, found by their digest."""

    format: ArtifactFormat = Field(description="How the files are read.")
    digest: str = Field(description="SHA-256 over the sorted files, `sha256:` and hex.")
    size_bytes: int = Field(default=0, ge=0, description="Of all files together.")
    command: tuple[str, ...] = Field(
        default=(),
        description="For format `command`: arguments of a program that speaks the Open Inference "
        "Protocol on the Unix socket `{socket}`.",
    )


class RuntimeSpec(Part):
    """How a version runs."""

    requirements: str | None = Field(
        default=None, description="Python requirements; absent: those of the format."
    )
    env: dict[str, str] = Field(default_factory=dict, description="Environment variables.")
    resources: Resources = Field(default_factory=Resources)
    metrics_endpoint: str | None = Field(
        default=None, description="Path scraped on the model server and shown with the version."
    )
    start_timeout_s: Duration = Field(
        default=300.0, alias="startTimeout", description="How long a start may take."
    )


class Revision(Part):
    """A model version and its runtime, named by the digest of both."""

    model: ModelName
    version: str = Field(description="Semantic version, without a leading v.")
    artifact: Artifact
    runtime: RuntimeSpec = Field(default_factory=RuntimeSpec)
    digest: str = Field(default="", description="SHA-256 over all of the above, hex.")

    @property
    def short(self) -> str:
        """The first ten digits of the digest: enough to tell live revisions apart."""
        return self.digest[:10]


def make_revision(model: str, version: str, artifact: Artifact, runtime: RuntimeSpec) -> Revision:
    """Return the revision of `version` under `runtime`, with its digest computed."""
    revision = Revision(model=model, version=version, artifact=artifact, runtime=runtime)
    text = json.dumps(revision.to_dict(), sort_keys=True, separators=(",", ":"))
    return revision.with_(digest=hashlib.sha256(text.encode()).hexdigest())
