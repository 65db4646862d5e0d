"""Manifests from files, folders and standard input, checked as a whole before any is used.

Called by ``apply``, ``diff`` and ``validate``.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from modelplane.errors import FieldError, InvalidResource
from modelplane.resources.approval import ApprovalPolicy
from modelplane.resources.documents import MAX_BYTES
from modelplane.resources.environment import Environment
from modelplane.resources.manifest import read_documents
from modelplane.resources.meta import Resource
from modelplane.resources.model import Model
from modelplane.resources.notification import NotificationChannel
from modelplane.resources.promotion_policy import PromotionPolicy
from modelplane.resources.role import Role
from modelplane.resources.validation_pipeline import ValidationPipeline

AnyResource = Resource[Any, Any]

_ENDINGS = frozenset({".yaml", ".yml", ".json"})
_FIRST: tuple[type[AnyResource], ...] = (
    Environment, Model, Role, ValidationPipeline, PromotionPolicy, ApprovalPolicy,
    NotificationChannel,
)  # fmt: skip
"""Kinds that others refer to, and those that guard others: they are applied first."""


def load_manifests(sources: Sequence[str]) -> list[AnyResource]:
    """Return the resources in all `sources`, those that others refer to first.

    Parameters
    ----------
    sources
        Files, folders (all manifests below them) and ``-`` for standard input.

    Raises
    ------
    InvalidResource
        With the faults of all files; or a file cannot be read, is named twice, holds nothing.
    """
    resources: list[AnyResource] = []
    failures: list[InvalidResource] = []
    for name, text in _read_all(sources):
        try:
            resources.extend(read_documents(text, name))
        except InvalidResource as error:
            failures.append(error)
    if len(failures) == 1:
        raise failures[0]
    if failures:
        faults = [
            FieldError(f"{error.message.split(': ')[0]}: {fault.path}", fault.message)
            for error in failures
            for fault in error.fields or (FieldError("", error.message),)
        ]
        raise InvalidResource(f"{len(failures)} files are not valid", faults)
    if not resources:
        raise InvalidResource(f"no resources in {', '.join(sources)}")
    _check_twice(resources)
    return sorted(resources, key=_rank)


def _rank(resource: AnyResource) -> int:
    return _FIRST.index(type(resource)) if type(resource) in _FIRST else len(_FIRST)


def _read_all(sources: Sequence[str]) -> Iterator[tuple[str, str]]:
    for source in sources:
        if source == "-":
            yield "standard input", _decode("standard input", sys.stdin.buffer.read(MAX_BYTES + 1))
            continue
        path = Path(source)
        if path.is_dir():
            found = sorted(p for p in path.rglob("*") if p.suffix in _ENDINGS and p.is_file())
            if not found:
                raise InvalidResource(
                    f"{source}: no manifests in this folder", hint="they end in .yaml or .json"
                )
        elif path.exists():
            found = [path]
        else:
            raise InvalidResource(f"{source}: no such file or folder")
        for file in found:
            yield str(file), _read(file)


def _read(file: Path) -> str:
    try:
        with file.open("rb") as stream:
            raw = stream.read(MAX_BYTES + 1)
    except OSError as error:
        raise InvalidResource(f"{file}: cannot be read: {error.strerror}") from error
    return _decode(str(file), raw)


def _decode(name: str, raw: bytes) -> str:
    try:
        return raw.decode()
    except UnicodeDecodeError as error:
        raise InvalidResource(
            f"{name}: not UTF-8 text: byte {error.start} is {raw[error.start]:#x}"
        ) from None


def _check_twice(resources: Sequence[AnyResource]) -> None:
    seen = set()
    for resource in resources:
        if resource.key in seen:
            raise InvalidResource(
                f"{resource.key} is declared twice", hint="remove one of the two documents"
            )
        seen.add(resource.key)
