"""Resources as the JSON texts that the tables hold, and back.

Used by the modules of this package. Pure but for the cache of parsed resources, which may be
shared because resources are immutable.
"""

from __future__ import annotations

import hashlib
import json
import threading
from collections import OrderedDict
from typing import Any, NamedTuple

from pydantic import ValidationError

from modelplane.errors import FieldError, InvalidResource, TerminalError
from modelplane.ports.store import AnyResource
from modelplane.resources.kinds import KINDS
from modelplane.resources.meta import Metadata, ResourceKey

MAX_CHANGED_FIELDS = 20


class Document(NamedTuple):
    """A stored resource: its three JSON texts."""

    metadata: str
    spec: str
    status: str


def write_part(part: Any) -> str:
    """Return the JSON text of a spec, a status or metadata; absent values stand as null."""
    text: str = part.model_dump_json(by_alias=True)
    return text


def read_document(kind: str, document: Document) -> AnyResource:
    """Return the resource that `document` holds.

    Raises
    ------
    TerminalError
        When this release does not know the kind or cannot read the text.
    """
    try:
        return KINDS[kind].model_validate_json(_join(kind, document))
    except KeyError:
        raise TerminalError(
            f"the store holds a {kind}, which this release does not know",
            hint="install the release that wrote it",
        ) from None
    except ValidationError as error:
        raise TerminalError(f"a stored {kind} cannot be read: {error}") from error


def check_resource(resource: AnyResource) -> tuple[AnyResource, Document]:
    """Return `resource` as it will be read back, and its texts.

    What cannot be read back is never written; and the copy shares nothing with the caller's.

    Raises
    ------
    InvalidResource
        When a value does not fit its type.
    """
    document = Document(
        write_part(resource.metadata), write_part(resource.spec), write_part(resource.status)
    )
    try:
        return type(resource).model_validate_json(_join(resource.kind, document)), document
    except ValidationError as error:
        faults = [
            FieldError(".".join(str(part) for part in fault["loc"]), fault["msg"])
            for fault in error.errors()
        ]
        raise InvalidResource(f"{resource.key} cannot be stored", faults) from error


def _join(kind: str, document: Document) -> str:
    return (
        f'{{"kind":"{kind}","metadata":{document.metadata},'
        f'"spec":{document.spec},"status":{document.status}}}'
    )


def same_content(old: str, new: str) -> bool:
    """Whether two JSON texts mean the same; the order of keys does not count."""
    return old == new or bool(json.loads(old) == json.loads(new))


def same_labels(old: Metadata, new: Metadata) -> bool:
    """Whether the part of the metadata that people write is the same."""
    return old.labels == new.labels and old.annotations == new.annotations


def digest_text(text: str) -> str:
    """Return the first 32 hex digits of the SHA-256 of a stored text.

    Half as many, and somebody could make two texts of one digest.
    """
    return hashlib.sha256(text.encode()).hexdigest()[:32]


def changed_fields(old: str, new: str) -> list[str]:
    """Return the paths that differ between two JSON texts: names only, never values.

    Examples
    --------
    >>> changed_fields('{"a": {"b": 1, "c": 2}, "d": 3}', '{"a": {"b": 1}, "d": [4]}')
    ['a.c', 'd']
    """
    paths: list[str] = []
    _compare(json.loads(old), json.loads(new), "", paths)
    return paths[:MAX_CHANGED_FIELDS]


def _compare(old: Any, new: Any, path: str, paths: list[str]) -> None:
    if old == new:
        return
    if isinstance(old, dict) and isinstance(new, dict):
        for name in sorted({*old, *new}):
            _compare(old.get(name), new.get(name), f"{path}.{name}" if path else name, paths)
    else:
        paths.append(path)


class ResourceCache:
    """The most recently used parsed resources, by key and version; safe between threads."""

    def __init__(self, max_entries: int) -> None:
        self._max_entries = max_entries
        self._entries: OrderedDict[tuple[ResourceKey, int], AnyResource] = OrderedDict()
        self._lock = threading.Lock()

    def get(self, key: ResourceKey, version: int) -> AnyResource | None:
        """Return the resource as it was at `version`, or None."""
        with self._lock:
            found = self._entries.get((key, version))
            if found is not None:
                self._entries.move_to_end((key, version))
            return found

    def put(self, resource: AnyResource) -> None:
        """Keep `resource` under its own version; the least recently used one goes."""
        entry = (resource.key, resource.metadata.resource_version)
        with self._lock:
            self._entries[entry] = resource
            self._entries.move_to_end(entry)
            if len(self._entries) > self._max_entries:
                self._entries.popitem(last=False)
