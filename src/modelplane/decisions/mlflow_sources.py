"""Where MLflow's users may say that a version's files are.

Called by `api.mlflow` when a version is created. The rules are those of MLflow's server, as far
as they need no tracking server: modelplane is the registry and knows no runs, so that a source
within a run or a logged model is believed when the request names that run or model. Nothing is
read here or by the registry; the files come only through a declared `ModelSource`. Pure.
"""

from __future__ import annotations

import posixpath
import re
import urllib.parse
from dataclasses import dataclass

from modelplane.decisions.mlflow_registry import MlflowError, invalid

_ARTIFACTS = ("api", "2.0", "mlflow-artifacts", "artifacts")
_PROMPT_SOURCES = frozenset({"dummy-source", "prompt-template"})


@dataclass(frozen=True, slots=True)
class ModelReference:
    """What a ``models:/`` URI names: a logged model by its id, or a registered one and one of
    version, stage and alias (none of them: the newest version).
    """

    model_id: str | None = None
    name: str = ""
    version: str | None = None
    stage: str | None = None
    alias: str | None = None


def parse_models_uri(source: str) -> ModelReference:
    """Return what a source with the scheme ``models`` names.

    Raises
    ------
    MlflowError
        INVALID_PARAMETER_VALUE: it has another form, or names a host.
    """
    parsed = _parse(source)
    if parsed.netloc:
        raise invalid(
            f"Invalid model version source: '{source}'. Registered model sources must use the "
            "active model registry."
        )
    parts = parsed.path.lstrip("/").split("/")
    if not parsed.path.startswith("/") or len(parts) > 2 or not parts[0].strip():
        raise _belongs_elsewhere(source, "model_id")
    if len(parts) == 2:
        name, suffix = parts
        if not suffix.strip():
            raise _belongs_elsewhere(source, "model_id")
        if suffix.isdigit():
            return ModelReference(name=name, version=suffix)
        return ModelReference(name=name, stage=None if suffix.lower() == "latest" else suffix)
    name, at, alias = parts[0].rpartition("@")
    if not at:
        return ModelReference(model_id=parts[0])
    if not alias.strip():
        raise _belongs_elsewhere(source, "model_id")
    return ModelReference(name=name, alias=alias)


def is_models_uri(source: str) -> bool:
    """Whether a source names a logged or a registered model."""
    return _parse(source).scheme == "models"


def check_source(source: str, run_id: str, model_id: str) -> None:
    """Raise `MlflowError` unless a version may be registered with this source.

    Parameters
    ----------
    source
        As given, or ``models:/NAME/NUMBER`` for a version of this registry.
    run_id, model_id
        As given; empty when they were not.
    """
    owner = "model_id" if model_id else "run_id"
    if _is_local(source):
        if not (model_id or run_id):
            raise invalid(
                f"Invalid model version source: '{source}'. To use a local path as a model "
                f"version source, the {owner} request parameter has to be specified and the "
                "local path has to be contained within the artifact directory of the run "
                f"specified by the {owner}."
            )
        return
    _check_absolute(source)
    parsed = _parse(source)
    if parsed.scheme == "models":
        logged = parse_models_uri(source).model_id
        if logged is not None and logged != model_id:
            raise _belongs_elsewhere(source, "model_id")
    elif parsed.scheme == "runs":
        named = parsed.path.removeprefix("/").split("/")[0]
        if model_id or parsed.netloc or not run_id or named != run_id:
            raise _belongs_elsewhere(source, owner)
    elif _is_served_artifact(source) and not (run_id or model_id):
        raise _belongs_elsewhere(source, owner)


def check_prompt_source(source: str) -> None:
    """Raise `MlflowError` unless this is what MLflow writes where a prompt has no files."""
    if source not in _PROMPT_SOURCES:
        raise invalid(
            f"Invalid prompt source: '{source}'. Prompt sources must use an MLflow placeholder."
        )


def _parse(source: str) -> urllib.parse.ParseResult:
    try:
        return urllib.parse.urlparse(source, allow_fragments=False)
    except ValueError as error:
        raise invalid(f"Invalid model version source: '{source}'. {error}.") from None


def _is_local(source: str) -> bool:
    parsed = _parse(source)
    if parsed.scheme == "file" and parsed.hostname not in {None, "", ".", "localhost", "127.0.0.1"}:
        raise invalid(
            f"{source} is not a valid remote uri. For remote access on windows, please consider "
            "using a different scheme such as SMB (e.g. smb://<hostname>/<path>)."
        )
    return parsed.scheme in {"", "file"}


def _check_absolute(source: str) -> None:
    """Refuse what could lead out of the place that it seems to name."""
    plain = source
    while (unquoted := urllib.parse.unquote_plus(plain)) != plain:
        plain = unquoted
    path = re.sub(r"/+", "/", _parse(plain).path.rstrip("/"))
    if (
        "\x00" in path
        or ".." in plain.split("/")
        or not path.startswith("/")
        or posixpath.normpath(path) != path
    ):
        raise invalid(
            f"Invalid model version source: '{source}'. If supplying a source as an http, https, "
            "local file path, ftp, objectstore, or mlflow-artifacts uri, an absolute path must "
            "be provided without relative path references present. Please provide an absolute "
            "path."
        )


def _is_served_artifact(source: str) -> bool:
    parsed = _parse(source)
    if parsed.scheme.lower() == "mlflow-artifacts":
        return True
    parts = tuple(urllib.parse.unquote(part) for part in parsed.path.split("/") if part)
    length = len(_ARTIFACTS)
    return parsed.scheme.lower() in {"http", "https"} and any(
        parts[start : start + length] == _ARTIFACTS for start in range(len(parts) - length + 1)
    )


def _belongs_elsewhere(source: str, owner: str) -> MlflowError:
    return invalid(
        f"Invalid model version source: '{source}'. The {owner} request parameter must identify "
        "the resource that contains the source."
    )
