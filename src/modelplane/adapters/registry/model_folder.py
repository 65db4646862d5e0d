"""Reads what a model's folder says of itself: MLmodel, requirements, environment, example.

Called after a download. The files come from elsewhere: they are bounded, parsed without running
anything, and where one cannot be read, what it would say is left out.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from modelplane.client.artifacts import detect_format
from modelplane.decisions.external import ExternalFiles
from modelplane.errors import InvalidResource
from modelplane.ports.registries import ArtifactUnavailable

_MAX_FILE_BYTES = 2**20
_GENERIC = ("python_function",)
_PYTHON = re.compile(r"python\s*=+\s*([0-9][0-9A-Za-z.]*)")


def read_model_folder(folder: Path) -> ExternalFiles:
    """Return what the files in `folder` say.

    Raises
    ------
    ArtifactUnavailable
        The tree holds links, or its MLmodel file cannot be read.
    """
    try:
        found = detect_format(folder)
    except InvalidResource as error:
        raise ArtifactUnavailable("ArtifactRefused", str(error)) from None
    if found != "mlflow":
        return ExternalFiles(format=found, flavour=found or "")
    document = _read_yaml(folder / "MLmodel")
    if not isinstance(document.get("flavors"), dict):
        message = "the MLmodel file cannot be read: it is no YAML that names flavours"
        raise ArtifactUnavailable("ArtifactUnsupported", message)
    flavours = [str(name) for name in document["flavors"]]
    pyfunc = document["flavors"].get("python_function")
    conda = _read_yaml(folder / "conda.yaml")
    size = document.get("model_size_bytes")
    return ExternalFiles(
        format="mlflow",
        flavour=next((f for f in flavours if f not in _GENERIC), flavours[0] if flavours else ""),
        signature=_read_signature(document.get("signature")),
        input_example=_read_example(folder, document.get("saved_input_example_info")),
        requirements=_read_text(folder / "requirements.txt") or _conda_requirements(conda),
        python=_python(_read_yaml(folder / "python_env.yaml"), conda, pyfunc),
        run_id=str(document.get("run_id") or ""),
        size_bytes=size if type(size) is int and size >= 0 else None,
    )


def _read_text(path: Path) -> str | None:
    try:
        if path.stat().st_size > _MAX_FILE_BYTES:
            return None
        return path.read_text(encoding="utf-8").strip() or None
    except (OSError, UnicodeDecodeError):
        return None


def _read_yaml(path: Path) -> Mapping[str, Any]:
    from ruamel.yaml import YAML  # noqa: PLC0415 - only imports need it
    from ruamel.yaml.error import YAMLError  # noqa: PLC0415

    text = _read_text(path)
    try:
        document = YAML(typ="safe", pure=True).load(text) if text else None
    except (YAMLError, ValueError, RecursionError):
        return {}
    return document if isinstance(document, dict) else {}


def _read_json(text: object) -> Any:
    try:
        return json.loads(text) if isinstance(text, str) else None
    except (ValueError, RecursionError):
        return None


def _read_signature(document: object) -> dict[str, Any] | None:
    if not isinstance(document, dict):
        return None
    sides = {side: _read_json(document.get(side)) for side in ("inputs", "outputs")}
    found = {side: items for side, items in sides.items() if isinstance(items, list)}
    return found or None


def _read_example(folder: Path, saved: object) -> dict[str, Any] | None:
    name = saved.get("serving_input_path") if isinstance(saved, dict) else None
    if not isinstance(name, str) or "/" in name or "\\" in name:
        return None
    data = _read_json(_read_text(folder / name))
    return data if isinstance(data, dict) else None


def _conda_requirements(conda: Mapping[str, Any]) -> str | None:
    """Return the requirements in the ``pip`` part of a conda environment."""
    parts = conda.get("dependencies")
    for part in parts if isinstance(parts, list) else ():
        if isinstance(part, dict) and isinstance(part.get("pip"), list):
            return "\n".join(str(line) for line in part["pip"]) or None
    return None


def _python(environment: Mapping[str, Any], conda: Mapping[str, Any], pyfunc: object) -> str:
    if environment.get("python"):
        return str(environment["python"])
    parts = conda.get("dependencies")
    for part in parts if isinstance(parts, list) else ():
        if isinstance(part, str) and (match := _PYTHON.fullmatch(part)):
            return match[1]
    return str(pyfunc.get("python_version") or "") if isinstance(pyfunc, dict) else ""
