"""Manifest reading: what people write becomes the canonical resource, or clear errors.

Called by the API for each PUT and by the CLI for ``validate``, ``apply`` and ``diff``. Accepts
the spellings that people already use (see `read_document`) and refuses everything it does not
know by name. Pure: it reads no files and knows no stored state.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from pydantic import ValidationError

from modelplane.errors import FieldError, InvalidResource
from modelplane.resources.alerting import AlertRules
from modelplane.resources.dataset import Dataset
from modelplane.resources.documents import (
    Document,
    Location,
    check_plain,
    format_location,
    parse_documents,
)
from modelplane.resources.faults import MAX_FAULTS, describe_faults
from modelplane.resources.fields import fields_of, outside_name, suggest
from modelplane.resources.kinds import KINDS, find_kind
from modelplane.resources.meta import (
    API_VERSION,
    DEFAULT_ENVIRONMENT,
    Part,
    Resource,
    check_name,
)
from modelplane.resources.model import Model
from modelplane.resources.model_deployment import ModelDeployment
from modelplane.resources.pipeline_shapes import (
    PipelineReader,
    expand_short_form,
    is_short_form,
)
from modelplane.resources.policy_shapes import PolicyReader, expand_policy, is_posted_form
from modelplane.resources.rule_shapes import (
    expand_rule_file,
    is_rule_file,
    name_of_file,
    read_rules,
)
from modelplane.resources.strategy_shapes import StrategyReader
from modelplane.resources.traffic_policy import TrafficPolicy
from modelplane.resources.validation_pipeline import ValidationPipeline
from modelplane.resources.versions import parse_version, version_in_document

AnyResource = Resource[Any, Any]

API_VERSIONS = frozenset({API_VERSION, "mcp.example.com/v1", "mcp.example/v1"})
"""Groups that are read as ours, because manifests with them exist."""

SERVER_SET = ("uid", "generation", "resourceVersion", "createdAt", "updatedAt")
"""Metadata that only the store gives; dropped, so that what `get` prints can be applied."""

_LONGEST_MESSAGE = 400
_TOP_FIELDS = ("apiVersion", "kind", "metadata", "spec", "status")
_METADATA_FIELDS = ("name", "environment", "namespace", "labels", "annotations")


def read_documents(text: str, source: str) -> list[AnyResource]:
    """Return the resources in a manifest's text, in order.

    Parameters
    ----------
    text
        YAML 1.2, one or more documents, or JSON; a ``…List`` with `items` stands for its items.
        Empty documents are passed over, and a Prometheus rule file (``groups`` without a kind)
        is AlertRules named after `source`. At most 1 MiB.
    source
        Where it comes from, for messages.

    Raises
    ------
    InvalidResource
        With all faults of all documents; each names its path and, for YAML, its line.
    """
    resources: list[AnyResource] = []
    faults: list[FieldError] = []
    messages: list[str] = []
    documents = [d for document in parse_documents(text, source) for d in _expand(document)]
    documents = _name_rule_files(documents, source)
    for document in documents:
        try:
            resources.append(_read(document))
        except InvalidResource as error:
            messages.append(error.message)
            faults.extend(error.fields)
    if messages:
        count = f"{len(messages)} of {len(documents)} documents are not valid"
        what = messages[0] if len(messages) == 1 else count
        raise InvalidResource(f"{source}: {what}", faults)
    return resources


def read_document(data: object) -> AnyResource:
    """Return the resource that one document's plain data means.

    Read as the same: the API versions `API_VERSIONS`; a kind in any spelling that `find_kind`
    knows; `metadata.namespace` and `spec.environment` for `metadata.environment`; fields of the
    spec at the top level; for a ModelDeployment also `modelVersion`, a strategy named by a word
    (``canary``, ``all-at-once``, any letter case), `canaryTraffic` or `canary.traffic` for one
    only step, metrics named by words, and no `model` when it is called like the deployment; for
    a ValidationPipeline what `pipeline_shapes` knows, also as a document ``pipeline: …``; for a
    TrafficPolicy what `policy_shapes` knows, also flat and without a kind; for AlertRules what
    `rule_shapes` knows.
    What the store sets (`status` and `SERVER_SET`) is dropped.

    Raises
    ------
    InvalidResource
        With every fault found, each with its path as written.
    """
    return _read(Document(data))


def canonical(resource: AnyResource) -> dict[str, Any]:
    """Return ``{apiVersion, kind, metadata, spec}`` without server-set fields and empty maps.

    Reading it again gives an equal resource.
    """
    metadata = _without_empty_maps(resource.metadata)
    for name in SERVER_SET:
        metadata.pop(name, None)
    return {
        "apiVersion": resource.api_version,
        "kind": resource.kind,
        "metadata": metadata,
        "spec": _without_empty_maps(resource.spec),
    }


def _without_empty_maps(part: Part) -> dict[str, Any]:
    """Leave out maps that are empty by default; an empty map that is a choice stays."""
    data = part.to_dict()
    for name, field in type(part).model_fields.items():
        outside, value = outside_name(name, field), getattr(part, name)
        if isinstance(value, Part):
            data[outside] = _without_empty_maps(value)
        if data.get(outside) == {} and not field.is_required() and field.default is not None:
            del data[outside]
    return data


def _expand(document: Document) -> list[Document]:
    """Return a list's items as documents of their own, and nothing for an empty document."""
    data = document.data
    if data is None:
        return []
    is_list = isinstance(data, dict) and str(data.get("kind", "")).endswith("List")
    if not is_list or not isinstance(data.get("items"), list):
        return [document]
    expanded = []
    for index, item in enumerate(data["items"]):
        start: Location = ("items", index)
        lines = {at[2:]: line for at, line in document.lines.items() if at[:2] == start}
        expanded.append(Document(item, lines))
    return expanded


def _name_rule_files(documents: list[Document], source: str) -> list[Document]:
    """Return documents with Prometheus rule files as AlertRules, named after their file."""
    named = []
    count = 0
    for document in documents:
        if not is_rule_file(document.data):
            named.append(document)
            continue
        count += 1
        data = expand_rule_file(document.data, name_of_file(source, count))
        named.append(Document(data, document.lines))
    return named


def _read(document: Document) -> AnyResource:
    check_plain(document.data)
    return _Reader(document).read()


class _Reader:
    """Reads one document: moves what was written into canonical places, then validates.

    ``origins`` remembers where each moved value was written, so that faults found in the
    canonical form are told in terms of the document.
    """

    def __init__(self, document: Document) -> None:
        self._document = document
        self._faults: list[FieldError] = []
        self._origins: dict[Location, Location] = {}
        self._kind: type[AnyResource] | None = None
        self._name = ""

    def read(self) -> AnyResource:
        top = self._document.data
        if not isinstance(top, dict):
            raise InvalidResource(
                "not a manifest", [FieldError("", "a document is a map with apiVersion and kind")]
            )
        if is_short_form(top):
            top = expand_short_form(top, self._origins, self._fault)
        if is_posted_form(top) or find_kind(str(top.get("kind", ""))) is TrafficPolicy:
            top = expand_policy(top, self._origins, self._fault)
        self._check_api_version(top)
        kind = self._kind = self._read_kind(top)
        metadata = self._read_map(top, "metadata")
        name = metadata.get("name")
        self._name = self._check_own_name(name, kind) if isinstance(name, str) else ""
        self._check_known(metadata, ("metadata",), (*_METADATA_FIELDS, *SERVER_SET))
        spec = self._gather_spec(top, kind)
        environment = self._read_environment(metadata, spec, kind)
        if kind is ModelDeployment:
            self._read_deployment(spec)
        if kind is ValidationPipeline:
            PipelineReader(self._origins, self._written, self._fault).read(spec)
        if kind is AlertRules:
            read_rules(spec)
        if kind is TrafficPolicy:
            PolicyReader(self._origins, self._written, self._fault).read(spec)
        if "strategy" in fields_of(_spec_part(kind)):
            self._read_strategy(top, spec)
        kept: dict[str, Any] = {
            key: metadata[key] for key in ("name", "labels", "annotations") if key in metadata
        }
        if environment is not None:
            kept["environment"] = environment
        return self._validate(kind, {"kind": kind.__name__, "metadata": kept, "spec": spec})

    # -- the head -------------------------------------------------------------------------

    def _check_api_version(self, top: Mapping[str, Any]) -> None:
        version = top.get("apiVersion")
        if version is None:
            self._fault(("apiVersion",), f"required; write {API_VERSION}")
        elif not isinstance(version, str) or version not in API_VERSIONS:
            self._fault(("apiVersion",), f"not known: {version!r}; write {API_VERSION}")

    def _read_kind(self, top: Mapping[str, Any]) -> type[AnyResource]:
        word = top.get("kind")
        declared = [name for name, kind in KINDS.items() if kind.declared]
        kind = find_kind(word) if isinstance(word, str) else None
        if kind is not None and kind.declared:
            return kind
        if word is None:
            self._fault(("kind",), f"required; one of {', '.join(declared)}")
        elif kind is not None:
            self._fault(
                ("kind",),
                f"{kind.__name__} resources are made by the system; "
                f"people declare {', '.join(declared)}",
            )
        else:
            self._fault(("kind",), f"not known: {word!r}; {suggest(str(word), declared)}")
        raise self._error()

    def _read_map(self, top: Mapping[str, Any], name: str) -> dict[str, Any]:
        value = top.get(name)
        if value is not None and not isinstance(value, dict):
            self._fault((name,), "must be a map of fields")
        return dict(value) if isinstance(value, dict) else {}

    def _check_known(self, data: Mapping[str, Any], at: Location, known: tuple[str, ...]) -> None:
        suggested = [name for name in known if name not in SERVER_SET]
        unknown = [key for key in data if key not in known]
        for key in unknown[:MAX_FAULTS]:
            self._fault((*at, key), f"unknown field; {suggest(key, suggested)}")

    # -- the spec -------------------------------------------------------------------------

    def _gather_spec(self, top: Mapping[str, Any], kind: type[AnyResource]) -> dict[str, Any]:
        """Return the spec with the fields that were written at the top level moved into it."""
        spec = self._read_map(top, "spec")
        spec_names = _written_names(kind)
        self._check_known(top, (), (*_TOP_FIELDS, *spec_names))
        self._check_known(spec, ("spec",), spec_names)
        spec = {key: value for key, value in spec.items() if key in spec_names}
        for key in spec_names:
            if key not in top or key in _TOP_FIELDS:
                continue
            if key == "strategy":  # both places are merged, later
                continue
            if spec.get(key) is not None and spec[key] != top[key]:
                self._fault((key,), f"differs from spec.{key}; write it once, under spec")
                continue
            spec[key] = top[key]
            self._origins["spec", key] = (key,)
        return {key: value for key, value in spec.items() if value is not None}

    def _read_environment(
        self, metadata: Mapping[str, Any], spec: dict[str, Any], kind: type[AnyResource]
    ) -> str | None:
        """Return the environment, however it was written; None for global kinds."""
        written: dict[Location, Any] = {}
        for key in ("environment", "namespace"):
            if metadata.get(key) is not None:
                written["metadata", key] = metadata[key]
        if "environment" in spec:
            written[self._written(("spec", "environment"))] = spec.pop("environment")
        first: str | None = None
        for at, value in written.items():
            if not kind.scoped:
                self._fault(at, f"kind {kind.__name__} belongs to no environment; remove this")
            elif not isinstance(value, str):
                self._fault(at, f"must be the name of an environment, got {value!r}")
            elif first is not None and value != first:
                self._fault(at, f"{value!r} differs from {first!r} written above; write it once")
            else:
                first = self._checked_name(at, value)
        return (first or DEFAULT_ENVIRONMENT) if kind.scoped else None

    def _check_own_name(self, name: str, kind: type[AnyResource]) -> str:
        """Return the name; those of models and datasets may be what other registries allow."""
        if kind not in {Model, Dataset} and "@" not in name:
            self._checked_name(("metadata", "name"), name)
        return name

    def _checked_name(self, at: Location, value: str) -> str:
        try:
            return check_name(value)
        except ValueError as error:
            self._fault(at, str(error))
            return value

    def _read_deployment(self, spec: dict[str, Any]) -> None:
        if self._name:
            spec.setdefault("model", self._name)
        if "modelVersion" in spec:
            at = self._written(("spec", "modelVersion"))
            value = spec.pop("modelVersion")
            if "version" not in spec:
                spec["version"] = value
                self._origins["spec", "version"] = at
            elif _comparable_version(value) != _comparable_version(spec["version"]):
                self._fault(at, f"differs from version {spec['version']!r}; write one of them")
        try:
            if "version" in spec:
                spec["version"] = version_in_document(spec["version"])
        except ValueError as error:
            self._fault(self._written(("spec", "version")), str(error))
            del spec["version"]

    def _read_strategy(self, top: Mapping[str, Any], spec: dict[str, Any]) -> None:
        """Put everything that says how a revision takes over into one `spec.strategy`."""
        reader = StrategyReader(self._origins, self._fault)
        reader.add(("spec", "strategy"), spec.pop("strategy", None))
        reader.add(("strategy",), top.get("strategy"))
        traffic_at = self._written(("spec", "canaryTraffic"))
        reader.add_traffic(traffic_at, spec.pop("canaryTraffic", None))
        if reader.strategy:
            spec["strategy"] = reader.strategy

    # -- the end --------------------------------------------------------------------------

    def _validate(self, kind: type[AnyResource], data: dict[str, Any]) -> AnyResource:
        resource = None
        try:
            # JSON's strict mode takes "3" for text and true for no number.
            resource = kind.model_validate_json(
                json.dumps(data), strict=True, by_alias=True, by_name=False
            )
        except ValidationError as error:
            for location, message in describe_faults(error, kind, data):
                self._fault(self._written(location), message)
        except OverflowError:
            self._fault((), "a number is too large")
        if self._faults or resource is None:
            raise self._error()
        return resource

    def _written(self, location: Location) -> Location:
        """Return where the value at a canonical location was written."""
        for length in range(len(location), 0, -1):
            origin = self._origins.get(location[:length])
            if origin is not None:
                return (*origin, *location[length:])
        return location

    def _fault(self, location: Location, message: str) -> None:
        line = self._document.lines.get(location)
        place = f" (line {line})" if line else ""
        if len(message) > _LONGEST_MESSAGE:
            message = message[:_LONGEST_MESSAGE] + "…"
        fault = FieldError(format_location(location), message + place)
        if fault not in self._faults:
            self._faults.append(fault)

    def _error(self) -> InvalidResource:
        what = f"{self._kind.__name__} {self._name}".strip() if self._kind else "this document"
        return InvalidResource(f"{what} is not valid", self._faults)


def _spec_part(kind: type[AnyResource]) -> type[Part]:
    part: type[Part] = kind.model_fields["spec"].annotation  # type: ignore[assignment]
    return part


def _written_names(kind: type[AnyResource]) -> tuple[str, ...]:
    """Return the names that people may write in a kind's spec."""
    also = ("modelVersion", "canaryTraffic") if kind is ModelDeployment else ()
    return (*fields_of(_spec_part(kind)), *also, "environment")


def _comparable_version(value: object) -> object:
    """Return a version so that spellings of the same are equal; numbers are the registry's."""
    text = str(value)
    try:
        return text if text.isdecimal() else parse_version(text)
    except ValueError:
        return value
