"""Answers: resources and lists of them as JSON, and what of them nobody gets to see.

Used by the routes. Resources were validated when they were stored and are not validated again.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence
from typing import Any

from pydantic_core import to_json
from starlette.responses import Response

from modelplane.decisions.aliases import aliases_of
from modelplane.decisions.registry_index import RegistryIndex
from modelplane.resources.meta import API_VERSION, Part, Resource, ResourceKey
from modelplane.resources.model import ModelVersion
from modelplane.resources.token import Token

AnyResource = Resource[Any, Any]

JSON = "application/json"


def show(resource: AnyResource, index: RegistryIndex | None = None) -> AnyResource:
    """Return `resource` as it is seen: a token without its digest, a version with its aliases."""
    if isinstance(resource, Token):
        return resource.with_spec(digest="")
    if isinstance(resource, ModelVersion) and index is not None:
        aliases = aliases_of(index.models.get(resource.spec.model), resource.spec.version)
        if aliases and resource.status.deleted_at is None:
            return resource.with_status(aliases=aliases)
    return resource


def encode(part: Part) -> bytes:
    """Return the outside form as JSON."""
    return part.model_dump_json(by_alias=True, exclude_none=True).encode()


def part_response(part: Part, status: int = 200) -> Response:
    """Answer with one resource or other part."""
    return Response(encode(part), status, media_type=JSON)


def json_response(data: object, status: int = 200) -> Response:
    """Answer with plain data."""
    return Response(to_json(data), status, media_type=JSON)


class EncodedResources:
    """The JSON of what was shown lately, so that lists shown again are not encoded again.

    Parameters
    ----------
    max_bytes
        How much is kept; the oldest goes first.
    """

    def __init__(self, max_bytes: int = 32 * 1024 * 1024) -> None:
        self._max_bytes = max_bytes
        self._bytes = 0
        self._kept: OrderedDict[ResourceKey, tuple[int, tuple[str, ...], bytes]] = OrderedDict()

    def encode(self, resource: AnyResource) -> bytes:
        """Return what `encode` does for a resource as `show` returned it."""
        version, key = resource.metadata.resource_version, resource.key
        # Aliases are filled in from the model: they change without a new resource version.
        aliases = resource.status.aliases if isinstance(resource, ModelVersion) else ()
        kept = self._kept.get(key)
        if kept is not None and kept[0] == version and kept[1] == aliases:
            self._kept.move_to_end(key)
            return kept[2]
        data = encode(resource)
        self._bytes += len(data) - (len(kept[2]) if kept else 0)
        self._kept[key] = (version, aliases, data)
        self._kept.move_to_end(key)
        while self._bytes > self._max_bytes:
            _, (_, _, oldest) = self._kept.popitem(last=False)
            self._bytes -= len(oldest)
        return data


def list_response(
    kind: str,
    resources: Sequence[AnyResource],
    resource_version: int,
    token: str = "",
    *,
    encoded: EncodedResources | None = None,
) -> Response:
    """Answer with a list of what `show` returned; `token` continues it when there is more."""
    head: dict[str, Any] = {"resourceVersion": resource_version}
    if token:
        head["continue"] = token
    items = b",".join(map(encoded.encode if encoded else encode, resources))
    start = to_json({"apiVersion": API_VERSION, "kind": f"{kind}List", "metadata": head})
    return Response(start[:-1] + b',"items":[' + items + b"]}", media_type=JSON)
