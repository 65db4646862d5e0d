"""MLflow's registry as MLflow's clients see it: its names, its rules, its JSON.

Called by `api.mlflow`, and by `mlflow_changes`, which decides what the requests do. The rules and
the words are those of the server of MLflow 3 (``mlflow.utils.validation``, ``mlflow.server``), so
that a client cannot tell the difference. Pure; no request, no store.
"""

from __future__ import annotations

import posixpath
import re
from collections.abc import Mapping
from datetime import datetime
from typing import Any, Literal

from pydantic_core import to_json

from modelplane.errors import ModelplaneError
from modelplane.resources.meta import check_model_name
from modelplane.resources.model import Model, ModelVersion

Stage = Literal["None", "Staging", "Production", "Archived"]

REGISTERED_AT = "modelplane.dev/registered-at"
"""Annotation of a renamed model: when it was first created, ISO 8601."""

RUN_LINK = "modelplane.dev/run-link"
"""Annotation of a version: MLflow's link to the run."""

SHOWN_SOURCE = "modelplane.dev/shown-source"
"""Annotation of a copied version: the URI that it was copied from, ``models:/NAME/NUMBER``."""

NO_DESCRIPTION = "modelplane.dev/no-description"
"""Annotation of a version whose description was taken away: MLflow tells that from an empty one."""

IS_PROMPT = "mlflow.prompt.is_prompt"
"""Tag of the models and versions that hold a prompt; searches leave them out."""

UNKNOWN = "unknown"
"""What `Training` says of a run that is not known."""

STAGES: Mapping[str, Stage] = {
    "none": "None",
    "staging": "Staging",
    "production": "Production",
    "archived": "Archived",
}
ACTIVE_STAGES = ("Staging", "Production")

_MAX_TAG_KEY, _MAX_TAG_VALUE, _MAX_ALIAS = 250, 100_000, 255
_TAG_KEY = re.compile(r"[/\w.\- :]*")
_ALIAS = re.compile(r"[\w\-]*")
_LIKE_A_VERSION = re.compile(r"[vV]\d+")


class MlflowError(ModelplaneError):
    """A request that MLflow would refuse, with MLflow's error code and words.

    Where MLflow's server would answer with an internal error to what is the caller's mistake,
    which its clients repeat for minutes, the code is ``INVALID_PARAMETER_VALUE``.
    """

    code = "mlflow"
    status = 400

    def __init__(self, message: str, error_code: str = "INVALID_PARAMETER_VALUE") -> None:
        super().__init__(message)
        self.error_code = error_code


def invalid(message: str) -> MlflowError:
    """Return the error for a value that a parameter may not have."""
    return MlflowError(message)


def missing(message: str) -> MlflowError:
    """Return the error for something that does not exist."""
    return MlflowError(message, "RESOURCE_DOES_NOT_EXIST")


def describe_value(parameter: str, value: object, message: str = "") -> str:
    """Return MLflow's sentence about a value that does not fit."""
    text = to_json(value, inf_nan_mode="constants").decode()
    return f"Invalid value {text} for parameter '{parameter}' supplied" + (
        f": {message}" if message else "."
    )


def check_name(name: str) -> str:
    """Return `name` when MLflow would look for a model of that name.

    Raises
    ------
    MlflowError
        INVALID_PARAMETER_VALUE.
    """
    if not name.strip():
        raise invalid("Missing value for required parameter 'name'.")
    if "/" in name or ":" in name:
        raise invalid(f"Invalid model name '{name}'. Names cannot contain '/' or ':'.")
    _check_path("name", name)
    return name


def check_new_name(name: str) -> str:
    """Return `name` when a model may be given it: where it becomes part of files and addresses,
    modelplane allows less than MLflow.
    """
    check_name(name)
    try:
        return check_model_name(name)
    except ValueError as error:
        raise invalid(f"Invalid model name '{name[:300]}'. {error}") from None


def check_tag(key: str, value: str | None) -> None:
    """Raise `MlflowError` unless `key` and `value` may be a tag; no value: it is to be removed."""
    if not _TAG_KEY.fullmatch(key):
        message = (
            "Names may only contain alphanumerics, underscores (_), dashes (-), periods (.), "
            "spaces ( ), colon(:) and slashes (/)."
        )
        raise invalid(describe_value("key", key, message))
    _check_path("key", key)
    if value is not None:
        _check_length("key", key, _MAX_TAG_KEY)
        _check_length("value", value, _MAX_TAG_VALUE)


def check_alias(alias: str, *, is_new: bool) -> None:
    """Raise `MlflowError` unless `alias` may name a version; some words only old ones may have."""
    if not _ALIAS.fullmatch(alias):
        raise invalid(
            f"Invalid alias name: '{alias}'. Names may only contain alphanumerics, "
            "underscores (_), and dashes (-)."
        )
    _check_length("Registered model alias name", alias, _MAX_ALIAS)
    if is_new and alias.lower() == "latest":
        raise invalid("'latest' alias name (case insensitive) is reserved.")
    if is_new and _LIKE_A_VERSION.fullmatch(alias):
        raise invalid(f"Version alias name '{alias}' is reserved.")


def read_number(version: str) -> int:
    """Return the number that a request calls a version by; raises `MlflowError`."""
    try:
        return int(version)
    except ValueError:
        raise invalid(f"Parameter 'version' must be an integer, got '{version}'.") from None


def read_stage(stage: str) -> Stage:
    """Return the stage that a request means, whatever its case; raises `MlflowError`."""
    found = STAGES.get(stage.lower())
    if found is None:
        names = ", ".join(STAGES.values())
        raise invalid(f"Invalid Model Version stage: {stage}. Value must be one of {names}.")
    return found


def is_prompt(tags: Mapping[str, str]) -> bool:
    """Whether something with these tags holds a prompt."""
    return tags.get(IS_PROMPT, "false").lower() == "true"


def _check_path(parameter: str, name: str) -> None:
    normal = posixpath.normpath(name)
    if normal != name or normal == "." or normal.startswith(("..", "/")):
        message = (
            "Names may be treated as files in certain cases, and must not resolve to other names "
            f"when treated as such. This name would resolve to {normal!r}"
        )
        raise invalid(describe_value(parameter, name, message))


def _check_length(what: str, value: str, limit: int) -> None:
    if len(value) > limit:
        raise invalid(f"'{what}' exceeds the maximum length of {limit} characters")


def created_at(resource: Model | ModelVersion) -> datetime | None:
    """Return when MLflow's users would say that a model or version was created."""
    if isinstance(resource, ModelVersion):
        return resource.spec.registered_at or resource.metadata.created_at
    text = resource.metadata.annotations.get(REGISTERED_AT)
    return datetime.fromisoformat(text) if text else resource.metadata.created_at


def changed_at(resource: Model | ModelVersion) -> datetime | None:
    """Return when MLflow's users would say that it was last updated."""
    created = created_at(resource)
    changed = resource.status.changed_at or resource.metadata.updated_at
    return max(changed, created) if changed and created else changed


def milliseconds(time: datetime | None) -> int:
    """Return a time as MLflow writes it: milliseconds since 1970, 0 for no time."""
    return int(time.timestamp() * 1000) if time is not None else 0


def source_of(version: ModelVersion) -> str:
    """Return the source that MLflow's users see; a version pushed here names its own files."""
    shown = version.metadata.annotations.get(SHOWN_SOURCE)
    return shown or version.spec.source or f"modelplane:/{version.spec.id}"


def run_id_of(version: ModelVersion) -> str:
    """Return the id of the run that made a version, empty when it is not known."""
    run_id = version.spec.training.run_id
    return "" if run_id == UNKNOWN else run_id


def show_version(version: ModelVersion) -> dict[str, Any]:
    """Return a version as MLflow's JSON, but for its aliases, which belong to the model."""
    spec, status, annotations = version.spec, version.status, version.metadata.annotations
    shown: dict[str, Any] = {
        "name": spec.model,
        "version": str(spec.number),
        "creation_timestamp": milliseconds(created_at(version)),
        "last_updated_timestamp": milliseconds(changed_at(version)),
        "user_id": spec.author,
        "current_stage": status.stage,
        "description": status.description,
        "source": source_of(version),
        "run_id": run_id_of(version),
        "run_link": annotations.get(RUN_LINK, ""),
        "status": "READY",
        "tags": show_tags(status.tags),
    }
    if NO_DESCRIPTION in annotations and not status.description:
        del shown["description"]
    return shown


def show_tags(tags: Mapping[str, str]) -> list[dict[str, str]]:
    """Return tags as MLflow's JSON."""
    return [{"key": key, "value": value} for key, value in tags.items()]


def show_model(model: Model, numbers: Mapping[str, int]) -> dict[str, Any]:
    """Return a model as MLflow's JSON, but for its latest versions.

    Parameters
    ----------
    model
        As it is stored.
    numbers
        The number of each version that an alias names, by its semantic version.
    """
    shown: dict[str, Any] = {
        "name": model.metadata.name,
        "creation_timestamp": milliseconds(created_at(model)),
        "last_updated_timestamp": milliseconds(changed_at(model)),
        "description": model.spec.description,
        "tags": show_tags(model.status.tags),
        "aliases": [
            {"alias": alias, "version": str(numbers[to])}
            for alias, to in model.status.aliases.items()
            if to in numbers
        ],
    }
    return {name: value for name, value in shown.items() if value}
