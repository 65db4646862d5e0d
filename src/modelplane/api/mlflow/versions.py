"""Model versions: registered, found, described, moved between stages, deleted, tagged.

Handlers that `routes` names. Each reads the index, lets `decisions.mlflow_changes` decide, and
commits.
"""

from __future__ import annotations

from pydantic_core import to_json

from modelplane.api.mlflow.artifacts import download_uri
from modelplane.api.mlflow.models import deployed_of
from modelplane.api.mlflow.reading import (
    find_model,
    find_version,
    latest_by_stage,
    living_versions,
)
from modelplane.api.mlflow.writing import Call, written
from modelplane.api.publishing import publish
from modelplane.decisions.admission import Asked
from modelplane.decisions.mlflow_changes import (
    NewVersion,
    check_transition,
    create_version,
    describe_version,
    move_to_stage,
    remove_version,
)
from modelplane.decisions.mlflow_registry import (
    STAGES,
    MlflowError,
    check_name,
    check_tag,
    invalid,
    is_prompt,
    missing,
    read_number,
    read_stage,
    run_id_of,
)
from modelplane.decisions.mlflow_sources import (
    check_prompt_source,
    check_source,
    is_models_uri,
    parse_models_uri,
)
from modelplane.decisions.publishing import NoDeployment, choose_environment
from modelplane.decisions.registration import change_tags
from modelplane.decisions.registry_check import label_of
from modelplane.decisions.registry_index import RegistryIndex
from modelplane.errors import ModelplaneError, TransientError
from modelplane.ports.store import Transaction
from modelplane.resources.environment import Environment
from modelplane.resources.model import ModelVersion
from modelplane.resources.promotion import Promotion


async def create(call: Call) -> bytes:
    """Register a version under the next number."""
    name, tags = check_name(call.values["name"]), call.values.get("tags", {})
    for key, value in tags.items():
        check_tag(key, value)

    async def prepare(transaction: Transaction) -> ModelVersion:
        index = await call.index()
        new = _read_new(call, index)
        model = find_model(index, name)
        asked = call.asked
        version, counted = create_version(
            model, index.versions_of(name), new, call.subject, asked.now
        )
        if version.spec.artifact is not None:
            await call.context.dependencies.blobs.label(label_of(version.spec, asked.now))
        transaction.create(version, "register")
        transaction.update(counted, "register")
        return version

    version, resources = await call.change([name], prepare)
    shown = call.encoder.version(written(resources, version), None)
    return b'{"model_version":' + shown + b"}"


def _read_new(call: Call, index: RegistryIndex) -> NewVersion:
    """Return what a request registers, its source checked."""
    values = call.values
    source, run_id = values["source"], values.get("run_id", "")
    model_id, tags = values.get("model_id", ""), values.get("tags", {})
    copied = None
    if is_prompt(tags):
        check_prompt_source(source)
    else:
        copied = _find_copied(index, source)
        if copied is not None:
            source = f"models:/{copied.spec.model}/{copied.spec.number}"
            known = run_id_of(copied)
            if values.get("run_id", known) != known or model_id:
                raise invalid(
                    f"Invalid model version source: '{source}'. The run_id and model_id request "
                    "parameters must match the referenced model version."
                )
            run_id = known
        else:
            check_source(source, run_id, model_id)
    return NewVersion(
        source=source,
        run_id=run_id,
        run_link=values.get("run_link", ""),
        description=values.get("description", ""),
        tags=tags,
        copied=copied,
    )


def _find_copied(index: RegistryIndex, source: str) -> ModelVersion | None:
    """Return the version of this registry that a source names, if it names one."""
    if not is_models_uri(source):
        return None
    reference = parse_models_uri(source)
    if reference.model_id is not None:
        return None
    model = find_model(index, reference.name)
    if is_prompt(model.status.tags):
        raise invalid(
            f"Invalid model version source: '{source}'. Prompt versions cannot be used as model "
            "version sources."
        )
    if reference.version is not None:
        return find_version(index, reference.name, reference.version)
    if reference.alias is not None:
        return find_by_alias(index, reference.name, reference.alias)
    versions = living_versions(index, reference.name)
    if reference.stage is not None:
        stage = read_stage(reference.stage)
        versions = [version for version in versions if version.status.stage == stage]
    if not versions:
        where = f" and stage '{reference.stage}'" if reference.stage else ""
        raise invalid(f"No versions of model with name '{reference.name}'{where} found")
    return max(versions, key=lambda version: version.spec.number)


def find_by_alias(index: RegistryIndex, name: str, alias: str) -> ModelVersion:
    """Return the version that an alias names; ``latest`` is the one with the highest number."""
    model = find_model(index, name)
    if alias.lower() == "latest":
        versions = living_versions(index, name)
        if not versions:
            raise missing(f"Latest version not found for model {name}.")
        return max(versions, key=lambda version: version.spec.number)
    if alias not in model.status.aliases:
        raise invalid(f"Registered model alias {alias} not found.")
    found = index.find_alias(name, alias)
    if found is None or found.status.deleted_at is not None:
        to = model.status.aliases[alias]
        raise missing(f"Model Version (name={name}, version={to}) not found")
    return found


async def get(call: Call) -> bytes:
    """Return a version."""
    index = await call.index()
    return _wrap(call, index, find_version(index, call.values["name"], call.values["version"]))


async def update(call: Call) -> bytes:
    """Change the description; without one it is taken away."""
    name, description = call.values["name"], call.values.get("description")

    async def prepare(transaction: Transaction) -> ModelVersion:
        version = find_version(await call.index(), name, call.values["version"])
        changed = describe_version(version, description, call.asked.now)
        transaction.update(changed, "describe")
        return changed

    version, resources = await call.change([name], prepare)
    return _wrap(call, await call.index(), written(resources, version))


async def delete(call: Call) -> bytes:
    """Delete a version; refused while it is deployed."""
    name = call.values["name"]
    read_number(call.values["version"])
    mover = call.mover("the version was deleted")

    async def prepare(transaction: Transaction) -> None:
        promotions, _ = await call.context.store.list(Promotion)
        index = await call.index()
        version = find_version(index, name, call.values["version"])
        deployed = deployed_of(index, name, promotions)
        removal = remove_version(find_model(index, name), version, deployed, mover)
        for buried in removal.buried:
            transaction.update(buried, "delete")
        transaction.update(removal.model, "alias" if removal.moves else "delete")
        for move in removal.moves:
            transaction.create(move, "alias")

    await call.change([name], prepare)
    return b"{}"


async def move_stage(call: Call) -> bytes:
    """Move a version to a stage; to Production it is promoted as well."""
    name = call.values["name"]
    archive = call.values.get("archive_existing_versions", False)
    stage = check_transition(call.values["stage"], archive=archive)

    async def prepare(transaction: Transaction) -> ModelVersion:
        index = await call.index()
        now = call.asked.now
        version = find_version(index, name, call.values["version"])
        others = [v for v in living_versions(index, name) if v is not version]
        changed = move_to_stage(version, others, stage, now, archive=archive)
        lacking = await _promote(call, version) if stage == "Production" else ""
        for one in changed:
            transaction.update(one, "stage")
        transaction.update(find_model(index, name).with_status(changed_at=now), "stage")
        if lacking:
            transaction.note("not-promoted", version.key, reason=lacking)
        return changed[0]

    version, resources = await call.change([name], prepare)
    return _wrap(call, await call.index(), written(resources, version))


async def _promote(call: Call, version: ModelVersion) -> str:
    """Promote a version to production; return why not, where it has no place to go.

    Raises
    ------
    MlflowError
        INVALID_STATE: the promotion was refused.
    """
    context = call.context
    environments, _ = await context.store.list(Environment)
    try:
        place = choose_environment("production", environments).metadata.name
        asked = Asked(call.subject, call.asked.now, "moved to the stage Production with MLflow")
        await publish(context, version, place, asked)
    except NoDeployment as error:
        return error.message
    except TransientError:
        raise
    except ModelplaneError as error:
        if error.status in {401, 403}:
            raise
        raise MlflowError(
            f"{version.metadata.name} was not moved to Production: {error}", "INVALID_STATE"
        ) from error
    return ""


async def latest(call: Call) -> bytes:
    """Return the newest version of each stage, or of the stages asked for."""
    name, stages = call.values["name"], call.values.get("stages")
    index = await call.index()
    find_model(index, name)
    newest = latest_by_stage(living_versions(index, name))
    wanted = {read_stage(stage) for stage in stages} if stages else set(STAGES.values())
    found = [version for stage, version in newest.items() if stage in wanted]
    if not found:
        return b"{}"
    return b'{"model_versions":' + call.encoder.versions(found, index) + b"}"


async def set_tag(call: Call) -> bytes:
    """Set a tag of a version."""
    key, value = call.values["key"], call.values.get("value", "")
    check_name(call.values["name"])
    read_number(call.values["version"])
    check_tag(key, value)
    return await _change_tags(call, key, value)


async def delete_tag(call: Call) -> bytes:
    """Remove a tag of a version; one that is not there changes nothing."""
    check_name(call.values["name"])
    read_number(call.values["version"])
    check_tag(call.values["key"], None)
    return await _change_tags(call, call.values["key"], None)


async def get_download_uri(call: Call) -> bytes:
    """Return where the files of a version are: here, when they are stored here."""
    values = call.values
    version = find_version(await call.index(), values.get("name", ""), values.get("version", ""))
    if version.spec.artifact is not None:
        uri = download_uri(str(call.request.base_url), version.spec.id)
    else:
        uri = version.spec.source or ""
    return to_json({"artifact_uri": uri})


async def _change_tags(call: Call, key: str, value: str | None) -> bytes:
    name = call.values["name"]

    async def prepare(transaction: Transaction) -> None:
        version = find_version(await call.index(), name, call.values["version"])
        changed = change_tags(version, {key: value})
        if changed != version:
            transaction.update(changed, "tag")

    await call.change([name], prepare)
    return b"{}"


def _wrap(call: Call, index: RegistryIndex, version: ModelVersion) -> bytes:
    model = index.models.get(version.spec.model)
    return b'{"model_version":' + call.encoder.version(version, model) + b"}"
