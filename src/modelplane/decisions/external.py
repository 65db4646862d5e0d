"""What a registry elsewhere holds, in plain words: models, versions, runs, files.

Made by `ports.registries`, read by `decisions.imports` and `decisions.alias_sync`. Pure data.
Versions are named by the other registry's integers here; times carry the zone UTC.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from modelplane.resources.dataset import DatasetReference
from modelplane.resources.revision import ArtifactFormat


@dataclass(frozen=True, slots=True)
class ExternalModel:
    """A registered model.

    Attributes
    ----------
    aliases
        Version number by alias.
    """

    name: str
    description: str = ""
    tags: Mapping[str, str] = field(default_factory=dict)
    aliases: Mapping[str, int] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class ExternalVersion:
    """A registered version.

    Attributes
    ----------
    created_at
        With the number, who it is: numbers are given again when a model is made anew.
    updated_at
        Of its description and stage; tags and aliases do not count.
    source
        URI of its files as it was registered; may be empty.
    is_ready
        False while (or when) its registration there is not complete.
    """

    model: str
    number: int
    created_at: datetime
    updated_at: datetime
    source: str = ""
    run_id: str = ""
    user: str = ""
    description: str = ""
    tags: Mapping[str, str] = field(default_factory=dict)
    stage: str = "None"
    is_ready: bool = True


@dataclass(frozen=True, slots=True)
class ExternalRun:
    """What made a version, as far as it is known.

    Attributes
    ----------
    metrics
        Last values.
    """

    id: str = ""
    user: str = ""
    metrics: Mapping[str, float] = field(default_factory=dict)
    parameters: Mapping[str, str] = field(default_factory=dict)
    tags: Mapping[str, str] = field(default_factory=dict)
    datasets: tuple[DatasetReference, ...] = ()


@dataclass(frozen=True, slots=True)
class ExternalFiles:
    """What the files of a version say of themselves.

    Attributes
    ----------
    format
        How they are read; None when they do not show it.
    signature
        ``{inputs, outputs}`` as the files have it: each a list of columns or tensors.
    size_bytes
        What the files should have together at the least; None when not stated.
    """

    format: ArtifactFormat | None
    flavour: str = ""
    signature: Mapping[str, Any] | None = None
    input_example: Mapping[str, Any] | None = None
    requirements: str | None = None
    python: str = ""
    run_id: str = ""
    size_bytes: int | None = None


STAGES = frozenset({"None", "Staging", "Production", "Archived"})
DIGEST_TAG = "modelplane.digest"
"""Tag of a version that states the digest its files must have."""
OWN_TAGS = "modelplane."
"""What tags begin with that modelplane writes there; they are not read back."""
PROMPT_TAG = "mlflow.prompt.is_prompt"
"""Prompts are registered models to MLflow, with this tag; to us they are none."""
