"""What the agent saw last, on disk, so that it can serve without a control plane.

A journal of JSON lines: the newest line of a key counts. Appended to before anything acts on what
it says, so that a restarted agent never goes back behind what it did; rewritten whole when most
of it is old. Not flushed to the disk: after a crash of the machine a torn or missing last line
costs one look at the control plane. Used by `agent.Agent` only.
"""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import structlog

from modelplane.resources.kinds import KINDS
from modelplane.resources.meta import Resource
from modelplane.resources.traffic_split import TrafficSplit

log = structlog.get_logger(__name__)

_MIN_LINES_TO_COMPACT = 1000
_ACCEPTED = "accepted"
_SEEN = "seen"


class Cache:
    """The journal in one file.

    Parameters
    ----------
    path
        The file; read by the constructor, made when it is not there.
    """

    def __init__(self, path: Path) -> None:
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        self._path = path
        self._lines: dict[str, bytes] = {}
        self._resources: dict[str, Resource[Any, Any]] = {}
        self._load()
        self._written = 0
        self._torn = False
        self._rewrite()

    def seen(self) -> Sequence[Resource[Any, Any]]:
        """Return the resources last seen."""
        return [r for key, r in self._resources.items() if key.startswith(_SEEN)]

    def accepted(self) -> Sequence[TrafficSplit]:
        """Return the splits last acknowledged by a gateway."""
        return [
            resource
            for key, resource in self._resources.items()
            if key.startswith(_ACCEPTED) and isinstance(resource, TrafficSplit)
        ]

    def put(self, resource: Resource[Any, Any]) -> None:
        """Note a resource as it is now."""
        self._append(_key(_SEEN, resource), resource)

    def put_accepted(self, split: TrafficSplit) -> None:
        """Note a split that a gateway acknowledged."""
        self._append(_key(_ACCEPTED, split), split)

    def remove(self, resource: Resource[Any, Any]) -> None:
        """Note that a resource is gone."""
        self._append(_key(_SEEN, resource), None)
        self._append(_key(_ACCEPTED, resource), None)

    def _append(self, key: str, resource: Resource[Any, Any] | None) -> None:
        if resource is None:
            if self._lines.pop(key, None) is None:
                return
            self._resources.pop(key, None)
            line = json.dumps([key, None]).encode()
        else:
            line = json.dumps([key, resource.to_dict()]).encode()
            if self._lines.get(key) == line:
                return
            self._lines[key] = line
            self._resources[key] = resource
        self._write(line)
        if self._written > max(_MIN_LINES_TO_COMPACT, 4 * len(self._lines)):
            self._rewrite()

    def _write(self, line: bytes) -> None:
        try:
            with self._path.open("ab") as file:
                # What a full disk left of a line ends here, and is skipped when read.
                file.write((b"\n" if self._torn else b"") + line + b"\n")
            self._torn = False
            self._written += 1
        except OSError as error:
            self._torn = True
            log.warning("cache_not_written", path=str(self._path), error=str(error))

    def _rewrite(self) -> None:
        scratch = self._path.with_suffix(".new")
        try:
            descriptor = os.open(scratch, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
            with os.fdopen(descriptor, "wb") as file:
                file.writelines(line + b"\n" for line in self._lines.values())
            scratch.replace(self._path)
            self._written = len(self._lines)
        except OSError as error:
            log.warning("cache_not_written", path=str(self._path), error=str(error))

    def _load(self) -> None:
        try:
            content = self._path.read_bytes()
        except OSError:
            return
        for line in content.splitlines():
            try:
                key, data = json.loads(line)
                if data is None:
                    self._lines.pop(key, None)
                    self._resources.pop(key, None)
                    continue
                resource = KINDS[data["kind"]].model_validate(data)
            except (ValueError, KeyError, TypeError):
                continue  # torn, or of another release
            self._lines[key] = line
            self._resources[key] = resource


def _key(role: str, resource: Resource[Any, Any]) -> str:
    return f"{role} {resource.key}"
