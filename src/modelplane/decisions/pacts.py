"""Pact files: what is in them, and what of it does not hold. Pure.

Called when a contract is published (`decisions.contracts`) and by the checks of stages. Reads
versions 2, 3 and 4 of the pact specification (github.com/pact-foundation/pact-specification), as
far as they speak HTTP, which is what models answer. Verifies nothing: that is done against a
running model.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any
from urllib.parse import unquote

from modelplane.errors import FieldError, InvalidResource

MAX_DEPTH = 64
"""Of the nesting in a pact; the verifier gives up not far beyond."""
MAX_INTERACTIONS = 1000

_VERSIONS = frozenset({2, 3, 4})
_HTTP = "Synchronous/HTTP"
_MODEL_PATH = re.compile(r"/v2/models/([^/?#]+)(?:/versions/[^/?#]+)?(/[^?#]*)?")
_MODEL_FIELDS = ("path", "method")


@dataclass(frozen=True, slots=True)
class Interaction:
    """One request of a consumer, and the answer that it expects.

    Attributes
    ----------
    index
        Its place among the pact's interactions.
    description, states
        What it is called, and what it says of the provider before the request.
    method, path
        Of the request; the method in capitals.
    request, response
        The bodies as JSON; None when there is none, or none that is JSON.
    status
        Of the answer.
    rules
        Matching rules of the answer's body: what kinds of match stand at which path.
    """

    index: int
    description: str
    states: tuple[str, ...]
    method: str
    path: str
    request: Any
    response: Any
    status: int
    rules: Mapping[str, frozenset[str]]

    @property
    def model(self) -> str | None:
        """The name of the model in the request's path; None when it names none."""
        return model_in_path(self.path)

    @property
    def is_inference(self) -> bool:
        """Whether it asks for a prediction and expects to get one."""
        found = _MODEL_PATH.fullmatch(self.path.partition("?")[0])
        asks = found is not None and found[2] == "/infer" and self.method == "POST"
        return asks and 200 <= self.status < 300


@dataclass(frozen=True, slots=True)
class Pact:
    """What a pact file says."""

    consumer: str
    provider: str
    version: int
    interactions: tuple[Interaction, ...]


def read_pact(data: Mapping[str, Any]) -> Pact:
    """Return what the pact file `data` says.

    Raises
    ------
    InvalidResource
        It is no pact of version 2 to 4, or expects what no model can do; with every fault and
        its path, which begins with ``pact``.
    """
    if not isinstance(data, Mapping):
        raise InvalidResource("the pact is not valid", [FieldError("pact", "must be an object")])
    faults = [*_depth_fault(data)]
    if faults:
        raise InvalidResource("the pact is not valid", faults)
    for side in ("consumer", "provider"):
        if not _name(data, side):
            faults.append(FieldError(f"pact.{side}.name", "required: a name"))
    version = _specification(data)
    if version not in _VERSIONS:
        faults.append(
            FieldError(
                "pact.metadata.pactSpecification.version",
                "required: the version of the pact specification, 2.0.0 to 4.0",
            )
        )
    faults += _unsupported(data)
    faults += _interaction_faults(data.get("interactions"), version)
    if faults:
        raise InvalidResource("the pact is not valid", faults)
    interactions = tuple(_read(item, index) for index, item in enumerate(data["interactions"]))
    return Pact(_name(data, "consumer"), _name(data, "provider"), version, interactions)


def digest_pact(data: Mapping[str, Any]) -> str:
    """Return the SHA-256 of a pact as canonical JSON, hex: of its meaning, not of its layout.

    Examples
    --------
    >>> digest_pact({"b": 1, "a": 2}) == digest_pact({"a": 2, "b": 1})
    True
    """
    text = json.dumps(data, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
    return hashlib.sha256(text.encode()).hexdigest()


def model_in_path(path: str) -> str | None:
    """Return the model that a path of the Open Inference Protocol names.

    Examples
    --------
    >>> model_in_path("/v2/models/fraud/infer"), model_in_path("/v2/health/ready")
    ('fraud', None)
    """
    found = _MODEL_PATH.fullmatch(path.partition("?")[0])
    return unquote(found[1]) if found else None


def split_by_model(data: Mapping[str, Any], default: str) -> dict[str, dict[str, Any]]:
    """Return a pact as one pact for each model name that its requests use.

    A model server has one name, and consumers call models by the names of their deployments.
    What names no model (health) goes with the first; `default` names it when nothing does.
    """
    interactions = data["interactions"]
    named = [model_in_path(item["request"].get("path", "/")) for item in interactions]
    first = next((name for name in named if name), default)
    parts: dict[str, list[Any]] = {}
    for name, item in zip(named, interactions, strict=True):
        parts.setdefault(name or first, []).append(item)
    return {name: {**data, "interactions": items} for name, items in parts.items()}


# -- what does not hold ---------------------------------------------------------------------


def _depth_fault(data: Mapping[str, Any]) -> Iterator[FieldError]:
    waiting: list[tuple[Any, int]] = [(data, 1)]
    while waiting:
        value, depth = waiting.pop()
        if depth > MAX_DEPTH:
            yield FieldError("pact", f"is nested deeper than {MAX_DEPTH} levels")
            return
        children = value.values() if isinstance(value, Mapping) else value
        if isinstance(value, Mapping | list):
            waiting.extend((child, depth + 1) for child in children)


def _unsupported(data: Mapping[str, Any]) -> Iterator[FieldError]:
    if data.get("messages"):
        yield FieldError("pact.messages", "a model answers HTTP requests and sends no messages")
    metadata = data.get("metadata")
    if isinstance(metadata, Mapping) and metadata.get("plugins"):
        yield FieldError("pact.metadata.plugins", "pacts that need plugins are not verified")


def _interaction_faults(items: Any, version: int) -> Iterator[FieldError]:
    place = "pact.interactions"
    if not isinstance(items, list) or not items:
        yield FieldError(place, "required: a list with at least one interaction")
        return
    if len(items) > MAX_INTERACTIONS:
        yield FieldError(place, f"{MAX_INTERACTIONS} at most; there are {len(items)}")
        return
    for index, item in enumerate(items):
        here = f"{place}[{index}]"
        if not isinstance(item, Mapping):
            yield FieldError(here, "must be an object")
            continue
        kind = item.get("type", _HTTP)
        if version == 4 and kind != _HTTP:
            yield FieldError(f"{here}.type", f"is {str(kind)[:40]!r}; models answer {_HTTP!r}")
            continue
        if not isinstance(item.get("description"), str) or not item["description"].strip():
            yield FieldError(f"{here}.description", "required: text")
        yield from _request_faults(item.get("request"), f"{here}.request")
        yield from _response_faults(item.get("response"), f"{here}.response")


def _request_faults(request: Any, here: str) -> Iterator[FieldError]:
    if not isinstance(request, Mapping):
        yield FieldError(here, "required: an object")
        return
    for name in _MODEL_FIELDS:
        if not isinstance(request.get(name, "/"), str):
            yield FieldError(f"{here}.{name}", "must be text")
            return
    if not request.get("path", "/").startswith("/"):
        yield FieldError(f"{here}.path", "must begin with /")


def _response_faults(response: Any, here: str) -> Iterator[FieldError]:
    if not isinstance(response, Mapping):
        yield FieldError(here, "required: an object")
        return
    status = response.get("status", 200)
    if isinstance(status, bool) or not isinstance(status, int) or not 100 <= status <= 599:
        yield FieldError(f"{here}.status", "must be an HTTP status, 100 to 599")


# -- what is there --------------------------------------------------------------------------


def _name(data: Mapping[str, Any], side: str) -> str:
    part = data.get(side)
    name = part.get("name") if isinstance(part, Mapping) else None
    return name.strip() if isinstance(name, str) else ""


def _specification(data: Mapping[str, Any]) -> int:
    """Return the major version of the specification; 0 when it is not said."""
    metadata = data.get("metadata")
    if not isinstance(metadata, Mapping):
        return 0
    said = metadata.get("pactSpecificationVersion")
    for key in ("pactSpecification", "pact-specification"):
        part = metadata.get(key)
        said = part.get("version", said) if isinstance(part, Mapping) else said
    major = str(said).partition(".")[0]
    return int(major) if major.isascii() and major.isdecimal() and len(major) < 3 else 0


def _read(item: Mapping[str, Any], index: int) -> Interaction:
    request, response = item["request"], item["response"]
    return Interaction(
        index=index,
        description=item["description"].strip(),
        states=_states(item),
        method=request.get("method", "GET").upper(),
        path=request.get("path", "/"),
        request=_body(request),
        response=_body(response),
        status=response.get("status", 200),
        rules=_rules(response),
    )


def _states(item: Mapping[str, Any]) -> tuple[str, ...]:
    states = item.get("providerStates", item.get("providerState", item.get("provider_state")))
    if isinstance(states, str):
        return (states,)
    items = states if isinstance(states, list) else []
    named = [state.get("name") for state in items if isinstance(state, Mapping)]
    return tuple(name for name in named if isinstance(name, str))


def _body(message: Mapping[str, Any]) -> Any:
    """Return a body as JSON: as it stands, or in version 4 below ``content``."""
    body = message.get("body")
    if isinstance(body, Mapping) and "content" in body and body.keys() <= _CONTENT_KEYS:
        body = body["content"] if body.get("encoded") in {None, False} else None
    return body


_CONTENT_KEYS = {"content", "contentType", "encoded", "contentTypeHint"}


def _rules(response: Mapping[str, Any]) -> dict[str, frozenset[str]]:
    """Return the kinds of match at each path of the body; of all versions in one form."""
    given = response.get("matchingRules")
    if not isinstance(given, Mapping):
        return {}
    below = given.get("body")
    rules = dict(below) if isinstance(below, Mapping) else {}
    for path, rule in given.items():  # version 2 writes `$.body.outputs`
        if path == "$.body" or path.startswith(("$.body.", "$.body[")):
            rules["$" + path.removeprefix("$.body")] = rule
    return {path: frozenset(_kinds(rule)) for path, rule in rules.items()}


def _kinds(rule: Any) -> Iterator[str]:
    matchers = rule.get("matchers", [rule]) if isinstance(rule, Mapping) else []
    for matcher in matchers if isinstance(matchers, list) else []:
        if isinstance(matcher, Mapping):
            yield str(matcher.get("match", "regex" if "regex" in matcher else "type"))
