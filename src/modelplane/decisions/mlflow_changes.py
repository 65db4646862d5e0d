"""What the requests of MLflow's clients change in the registry.

Called by `api.mlflow` between reading and committing. Pure: each function returns resources to
write. MLflow's semantics where MLflow's users look, modelplane's rules where it matters: nothing
that is deployed goes away, no version's record changes, every move of an alias is recorded.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from modelplane.decisions.aliases import Mover, continue_history, move_alias
from modelplane.decisions.mlflow_registry import (
    ACTIVE_STAGES,
    NO_DESCRIPTION,
    REGISTERED_AT,
    RUN_LINK,
    SHOWN_SOURCE,
    UNKNOWN,
    MlflowError,
    Stage,
    created_at,
    invalid,
    is_prompt,
    read_stage,
)
from modelplane.decisions.registration import (
    MODEL_LABEL,
    await_files,
    bury_version,
    count_version,
    free_version,
    register_version,
)
from modelplane.errors import Conflict
from modelplane.resources.meta import Metadata, Subject
from modelplane.resources.model import (
    AliasMove,
    Model,
    ModelSpec,
    ModelStatus,
    ModelVersion,
    ModelVersionSpec,
    Training,
    version_id,
)
from modelplane.resources.model_deployment import ModelDeployment
from modelplane.resources.promotion import Promotion


@dataclass(frozen=True, slots=True)
class NewVersion:
    """A version as a request describes it.

    Attributes
    ----------
    source
        Where its files are, as it is shown.
    copied
        The version that it is a copy of, when the source names one of this registry.
    """

    source: str
    run_id: str = ""
    run_link: str = ""
    description: str = ""
    tags: Mapping[str, str] = field(default_factory=dict)
    copied: ModelVersion | None = None


@dataclass(frozen=True, slots=True)
class Deployed:
    """What could need a version: the deployments of its model, and the promotions."""

    deployments: Sequence[ModelDeployment]
    promotions: Sequence[Promotion]


def create_model(
    name: str,
    tags: Mapping[str, str],
    description: str,
    now: datetime,
    *,
    moves: Iterable[AliasMove],
) -> Model:
    """Return the model to create; `moves` are those that its name ever had."""
    model = Model(
        metadata=Metadata(name=name),
        spec=ModelSpec(description=description),
        status=ModelStatus(tags=dict(tags), changed_at=now),
    )
    return continue_history(model, moves)


def check_name_free(name: str, tags: Mapping[str, str], existing: Model | None) -> None:
    """Raise `MlflowError` when the name of a new model with these tags is taken."""
    if existing is not None:
        raise _name_taken(name, is_prompt(existing.status.tags), is_prompt(tags))


def _name_taken(name: str, is_prompt_there: bool, is_prompt_new: bool) -> MlflowError:
    words = {True: "Prompt", False: "Registered Model"}
    old, new = words[is_prompt_there], words[is_prompt_new]
    message = f"{new} (name={name}) already exists."
    if old != new:
        message = (
            f"Tried to create a {new.lower()} with name {name!r}, but the name is already taken "
            f"by a {old.lower()}. MLflow does not allow creating a model and a prompt with the "
            "same name."
        )
    return MlflowError(message, "RESOURCE_ALREADY_EXISTS")


def create_version(
    model: Model, names: Collection[str], new: NewVersion, subject: Subject, now: datetime
) -> tuple[ModelVersion, Model]:
    """Return the version that a request registers, and its model with the new number.

    Parameters
    ----------
    model
        As it is stored.
    names
        Of all its versions, deleted ones too: a semantic version is used once.
    new
        What is registered. A copy takes the files and the record of what it was copied from.
    subject, now
        Who asks, and when.
    """
    check_registered_here(model)
    number = model.status.last_number + 1
    name = model.metadata.name
    record: dict[str, Any] = {}
    if new.copied is not None:
        theirs = new.copied.spec
        kept = ModelVersionSpec.model_fields.keys() - {"author", "training", "registered_at", "id"}
        record = {name: getattr(theirs, name) for name in kept}
    copied_from = new.copied.spec.training if new.copied else Training()
    spec = ModelVersionSpec(
        **{
            **record,
            "model": name,
            "version": free_version(name, number, names),
            "source": record["source"] if record else new.source,
            "training": copied_from.with_(run_id=new.run_id or UNKNOWN),
            "registered_at": now,
        }
    )
    registered = register_version(
        spec, None, subject, number=number, tags=new.tags, description=new.description
    ).version
    notes = {RUN_LINK: new.run_link, SHOWN_SOURCE: new.source if new.copied else ""}
    annotations = {key: value for key, value in notes.items() if value}
    if annotations:
        registered = registered.with_(metadata=registered.metadata.with_(annotations=annotations))
    registered = await_files(registered, now)
    return registered.with_status(changed_at=now), count_version(model, number).with_status(
        changed_at=now
    )


def check_registered_here(model: Model) -> None:
    """Raise `Conflict` when the model is registered elsewhere and only watched here."""
    if model.status.source is not None:
        raise Conflict(
            f"model {model.metadata.name} is registered in {model.status.source!r} and watched "
            "here",
            hint="make this change there",
        )


def describe_version(version: ModelVersion, description: str | None, now: datetime) -> ModelVersion:
    """Return a version with another description; None takes it away."""
    annotations = {k: v for k, v in version.metadata.annotations.items() if k != NO_DESCRIPTION}
    if description is None:
        annotations[NO_DESCRIPTION] = "true"
    metadata = version.metadata.with_(annotations=annotations)
    return version.with_(metadata=metadata).with_status(
        description=description or "", changed_at=now
    )


def check_transition(stage: str, *, archive: bool) -> Stage:
    """Return the stage that a transition leads to.

    Parameters
    ----------
    stage
        As written.
    archive
        Whether the versions that are in the stage now are to leave it for ``Archived``.

    Raises
    ------
    MlflowError
        There is no such stage, or versions do not leave it so.
    """
    wanted = read_stage(stage)
    if archive and wanted not in ACTIVE_STAGES:
        raise invalid(
            "Model version transition cannot archive existing model versions because "
            f"'{stage}' is not an Active stage. Valid stages are {list(ACTIVE_STAGES)}"
        )
    return wanted


def move_to_stage(
    version: ModelVersion,
    others: Iterable[ModelVersion],
    stage: Stage,
    now: datetime,
    *,
    archive: bool,
) -> list[ModelVersion]:
    """Return the versions that a transition changes, the one asked for first.

    `others` are the model's other versions that are not deleted.
    """
    changed = [version.with_status(stage=stage, changed_at=now)]
    if archive:
        changed += [
            other.with_status(stage="Archived", changed_at=now)
            for other in others
            if other.status.stage == stage
        ]
    return changed


@dataclass(frozen=True, slots=True)
class Removal:
    """What a removal writes: tombstones, the records of moved aliases, perhaps the model."""

    model: Model
    buried: tuple[ModelVersion, ...] = ()
    moves: tuple[AliasMove, ...] = ()


def remove_version(
    model: Model, version: ModelVersion, deployed: Deployed, mover: Mover
) -> Removal:
    """Return what deleting one version writes; raises `Conflict` when it is deployed."""
    check_registered_here(model)
    buried = bury_version(version, deployed.deployments, deployed.promotions, mover.at)
    gone = _drop_aliases(model, {version.spec.version}, mover)
    return Removal(gone.model.with_status(changed_at=mover.at), (buried,), gone.moves)


def remove_model(
    model: Model, versions: Iterable[ModelVersion], deployed: Deployed, mover: Mover
) -> Removal:
    """Return what deleting a model writes before it is removed itself.

    Raises
    ------
    Conflict
        One of its versions is deployed.
    """
    check_registered_here(model)
    buried = tuple(
        bury_version(version, deployed.deployments, deployed.promotions, mover.at)
        for version in versions
    )
    gone = _drop_aliases(model, set(model.status.aliases.values()), mover)
    return Removal(model, buried, gone.moves)


def _drop_aliases(model: Model, versions: Collection[str], mover: Mover) -> Removal:
    moves: tuple[AliasMove, ...] = ()
    for alias, to in list(model.status.aliases.items()):
        if to in versions:
            moved = move_alias(model, alias, None, mover)
            model, moves = moved.model, moves + moved.moves
    return Removal(model, (), moves)


@dataclass(frozen=True, slots=True)
class Renamed:
    """A model under its new name: everything that is to be created."""

    model: Model
    versions: tuple[ModelVersion, ...]
    moves: tuple[AliasMove, ...]


def rename_model(
    model: Model,
    versions: Sequence[ModelVersion],
    new: Model,
    names: Collection[str],
    mover: Mover,
) -> Renamed:
    """Return a model under another name: numbers, aliases, tags and times stay.

    What becomes of the old name is for `remove_model` to say.

    Parameters
    ----------
    model, versions
        As they are stored, without deleted versions.
    new
        The model of the new name, as `create_model` returns it.
    names
        Of all versions that the new name ever had.
    mover
        Who renames it, when.
    """
    created = created_at(model)
    annotations = dict(model.metadata.annotations)
    if created is not None:
        annotations[REGISTERED_AT] = created.isoformat()
    name = new.metadata.name
    metadata = Metadata(name=name, labels=model.metadata.labels, annotations=annotations)
    kept = model.status.with_(aliases={}, moves=new.status.moves, serving=(), changed_at=mover.at)
    renamed = Model(metadata=metadata, spec=model.spec, status=kept)
    copies: dict[str, ModelVersion] = {}
    for version in versions:
        copies[version.spec.version] = _under(name, version, names, mover.at)
    moves: tuple[AliasMove, ...] = ()
    for alias, to in model.status.aliases.items():
        if to in copies:
            moved = move_alias(renamed, alias, copies[to].spec.version, mover)
            renamed, moves = moved.model, moves + moved.moves
    return Renamed(renamed, tuple(copies.values()), moves)


def _under(
    model: str, version: ModelVersion, names: Collection[str], now: datetime
) -> ModelVersion:
    """Return the record of `version` under another model's name."""
    spec, semantic = version.spec, version.spec.version
    if f"{model}@{semantic}" in names:
        semantic = free_version(model, spec.number, names)
    unique = version_id(model, semantic, spec.artifact.digest) if spec.artifact else ""
    moved = spec.with_(model=model, version=semantic, id=unique, registered_at=created_at(version))
    labels = {**version.metadata.labels, MODEL_LABEL: model}
    return ModelVersion(
        metadata=Metadata(
            name=f"{model}@{semantic}", labels=labels, annotations=version.metadata.annotations
        ),
        spec=moved,
        status=version.status.with_(changed_at=now),
    )
