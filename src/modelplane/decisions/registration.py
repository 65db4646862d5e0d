"""What happens when a version is pushed, tagged, aliased or deleted.

Called by the API between loading and committing. Pure. The record of a version and its bytes
never change; tags, description and aliases do, aliases with their history.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Literal

from modelplane.errors import Conflict, FieldError, InvalidResource
from modelplane.resources.meta import (
    Condition,
    Metadata,
    Subject,
    check_resource_name,
    set_condition,
)
from modelplane.resources.model import (
    Model,
    ModelVersion,
    ModelVersionSpec,
    ModelVersionStatus,
    version_id,
)
from modelplane.resources.model_deployment import ModelDeployment
from modelplane.resources.promotion import FINISHED_PROMOTION, Promotion
from modelplane.resources.revision import Revision
from modelplane.resources.versions import parse_version

MODEL_LABEL = "modelplane.dev/model"
"""Label of every version: its model's name."""

ARTIFACT_READY = "ArtifactReady"
"""Condition of a version that was registered without its files: whether they are here."""

WAITING = "Waiting"
"""Reason of that condition from the registration on, until somebody tried to fetch them."""

DIGEST = re.compile(r"sha256:[0-9a-f]{64}")
_IMMUTABLE = (
    "metrics", "parameters", "signature", "input_example", "requirements", "datasets", "flavour",
    "feature_configuration",
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class Registration:
    """What to write: the version, or the one that is there already."""

    result: Literal["created", "unchanged"]
    version: ModelVersion
    warnings: tuple[str, ...] = ()


def check_digest(digest: str, path: str) -> None:
    """Raise `InvalidResource` unless `digest` is ``sha256:`` and 64 hex digits."""
    if not DIGEST.fullmatch(digest):
        message = "a digest is sha256: and 64 lower-case hex digits"
        raise InvalidResource("not a digest", [FieldError(path, message)])


def canonical_version(model: str, version: str) -> str:
    """Return the semantic version in its canonical form.

    Raises
    ------
    InvalidResource
        It is not semantic, or too long to be part of a name.
    """
    try:
        semantic = parse_version(version)
        check_resource_name(f"{model}@{semantic}")
    except ValueError as error:
        raise InvalidResource("not a version", [FieldError("version", str(error))]) from None
    return semantic


def register_version(
    spec: ModelVersionSpec,
    before: ModelVersion | None,
    subject: Subject,
    *,
    number: int,
    tags: Mapping[str, str],
    description: str = "",
) -> Registration:
    """Decide what pushing a version does.

    Parameters
    ----------
    spec
        What was pushed, its version canonical; number and author are set here.
    before
        The version as it is stored, if it is; a tombstone counts.
    subject
        Who pushes.
    number
        The next integer number of the model.
    tags, description
        What may change later.

    Raises
    ------
    Conflict
        The version exists with other bytes, or was deleted.
    """
    if before is not None:
        return _repeat(spec, before)
    version = ModelVersion(
        metadata=Metadata(name=f"{spec.model}@{spec.version}", labels={MODEL_LABEL: spec.model}),
        spec=spec.with_(number=number, author=spec.author or subject.name, id=_unique_id(spec)),
        status=ModelVersionStatus(tags=dict(tags), description=description),
    )
    return Registration("created", version)


def await_files(version: ModelVersion, now: datetime) -> ModelVersion:
    """Return a version that was registered without its files, saying so."""
    if version.spec.artifact is not None:
        return version
    condition = Condition(
        type=ARTIFACT_READY,
        status="False",
        reason=WAITING,
        message=f"its files are at {version.spec.source}; they are fetched as soon as a "
        "ModelSource is declared that can read them there",
    )
    return version.with_status(conditions=set_condition(version.status.conditions, condition, now))


def _unique_id(spec: ModelVersionSpec) -> str:
    """Return the unique id, which is given as soon as the files are known."""
    return version_id(spec.model, spec.version, spec.artifact.digest) if spec.artifact else ""


def _repeat(spec: ModelVersionSpec, before: ModelVersion) -> Registration:
    """Answer a push of a version that exists: nothing changes, or it is refused."""
    name = before.metadata.name
    if before.status.deleted_at is not None:
        raise Conflict(
            f"{name} was deleted, and a deleted version is not used again",
            hint="push under a new version",
        )
    ours, theirs = before.spec.artifact, spec.artifact
    if ours is None or theirs is None or theirs.digest != ours.digest:
        has, pushed = (a.digest if a else "none yet" for a in (ours, theirs))
        raise Conflict(
            f"{name} exists with other bytes: it has {has}, pushed were {pushed}",
            hint="a version never changes; push under a new version",
        )
    if (theirs.format, theirs.command) != (ours.format, ours.command):
        raise Conflict(
            f"{name} exists with format {ours.format} and another way to run",
            hint="a version never changes; push under a new version",
        )
    other = [f for f in _IMMUTABLE if getattr(spec, f) != getattr(before.spec, f)]
    warnings = (
        (f"{name} exists; what was recorded first stays, other are now: {', '.join(other)}",)
        if other
        else ()
    )
    return Registration("unchanged", before, warnings)


def change_tags(version: ModelVersion, changes: Mapping[str, str | None]) -> ModelVersion:
    """Return `version` with tags set, and those given as None removed."""
    merged: dict[str, str | None] = {**version.status.tags, **changes}
    return version.with_status(tags={k: v for k, v in merged.items() if v is not None})


def free_version(model: str, number: int, taken: Collection[str]) -> str:
    """Return the semantic version of version `number`: N.0.0, or the next free patch.

    Examples
    --------
    >>> free_version("fraud", 3, {"fraud@3.0.0", "fraud@3.0.1"})
    '3.0.2'
    """
    patch = 0
    while f"{model}@{number}.0.{patch}" in taken:
        patch += 1
    return f"{number}.0.{patch}"


def count_version(model: Model, number: int) -> Model:
    """Return `model` with `number` as the one given last; written with each version.

    Two registrations at once cannot take the same number so.
    """
    return model.with_status(last_number=max(number, model.status.last_number))


def _kept_running(deployment: ModelDeployment, now: datetime) -> list[Revision]:
    """Return what serves, and what is still warm after a blue/green switch."""
    status = deployment.status
    warm = status.warm.revision if status.warm is not None and status.warm.until > now else None
    return [revision for revision in (status.stable, warm) if revision is not None]


def bury_version(
    version: ModelVersion,
    deployments: Iterable[ModelDeployment],
    promotions: Iterable[Promotion],
    now: datetime,
) -> ModelVersion:
    """Return the tombstone of `version`.

    Raises
    ------
    Conflict
        It is declared, serves, or is on its way somewhere; says where.
    """
    model, number = version.spec.model, version.spec.version
    places = {
        f"{d.metadata.environment}/{d.metadata.name}"
        for d in deployments
        if (d.spec.model, d.spec.version) == (model, number)
        or any((r.model, r.version) == (model, number) for r in _kept_running(d, now))
    } | {
        f"{p.metadata.environment}/{p.spec.deployment}"
        for p in promotions
        if p.status.phase not in FINISHED_PROMOTION
        and (p.spec.revision.model, p.spec.revision.version) == (model, number)
    }
    if places:
        raise Conflict(
            f"{version.metadata.name} is deployed: {', '.join(sorted(places))}",
            hint="deploy another version there first, or delete the deployment",
        )
    if version.status.deleted_at is not None:
        return version
    return version.with_status(deleted_at=now)
