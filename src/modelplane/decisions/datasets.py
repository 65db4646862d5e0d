"""Which version of which dataset a piece of data is: registering data, and linking models to it.

Called by the API when data or a model version is pushed, and by the controllers that import
from other registries. Pure: what is known comes in as a `RegistryIndex` (whole, or filled with
the datasets of `dataset_names` and their versions), what is to be written goes out.

The digest decides: the same digest under the same name is the same version, for ever.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Literal
from urllib.parse import parse_qsl, urlencode, urlsplit, urlunsplit

from modelplane.decisions.registry_index import RegistryIndex
from modelplane.errors import Conflict, FieldError, InvalidResource
from modelplane.resources.dataset import (
    Dataset,
    DatasetReference,
    DatasetSpec,
    DatasetVersion,
    DatasetVersionSpec,
)
from modelplane.resources.meta import Metadata, check_model_name, check_resource_name

DATASET_LABEL = "modelplane.dev/dataset"
"""Label of every dataset version: its dataset's name."""

UNKNOWN = "unknown"
_NAMELESS = "data"
_MAX_NAME = 200
_MAX_DIGEST = 300
_NOT_IN_NAMES = re.compile(r"[/\\:@?#%]+")
_SECRET = re.compile(r"(?i)token|secret|passw|signature|credential|key|^sig$|^sas$")
_DESCRIBED = ("format", "uri", "rows", "size_bytes", "files", "columns")


@dataclass(frozen=True, slots=True)
class LinkedDatasets:
    """References that name the versions of data they are, and what to write for that.

    Attributes
    ----------
    references
        In the order they were given, with clean names; `version` is filled in where the data
        is registered, or will be with `written`.
    written
        New versions, and datasets that are new or have counted one: for `Transaction.put`, in
        the transaction that writes whatever refers to them.
    """

    references: tuple[DatasetReference, ...]
    written: tuple[Dataset | DatasetVersion, ...] = ()


@dataclass(frozen=True, slots=True)
class RegisteredData:
    """What registering a version of data does.

    Attributes
    ----------
    result
        ``unchanged`` when this very data is registered already.
    version
        The version to write, or the one that is there.
    written
        For `Transaction.put`; empty when nothing changes.
    warnings
        What should be known about it.
    """

    result: Literal["created", "unchanged"]
    version: DatasetVersion
    written: tuple[Dataset | DatasetVersion, ...] = ()
    warnings: tuple[str, ...] = ()


def clean_dataset_name(name: str) -> str:
    """Return the nearest name that a dataset may have.

    Examples
    --------
    >>> clean_dataset_name("s3://bucket/march 2026.csv"), clean_dataset_name(" ")
    ('s3-bucket-march 2026.csv', 'data')
    """
    try:
        return check_model_name(name)
    except ValueError:
        pass
    printable = "".join(c if c.isprintable() else " " for c in name)
    cleaned = _NOT_IN_NAMES.sub("-", printable).strip(" -")[:_MAX_NAME].strip()
    return cleaned if cleaned not in {"", ".", ".."} else _NAMELESS


def clean_uri(uri: str) -> str:
    """Return a URI without what could be a secret: password, token, signed part of a query.

    Examples
    --------
    >>> clean_uri("https://ana:s3cret@example.com/team/code.git?ref=main&token=x")
    'https://example.com/team/code.git?ref=main'
    >>> clean_uri("ssh://git@example.com/team/code.git"), clean_uri("git@example.com:team/code")
    ('ssh://git@example.com/team/code.git', 'git@example.com:team/code')
    """
    if "://" not in uri:
        return uri
    try:
        parts = urlsplit(uri)
        pairs = parse_qsl(parts.query, keep_blank_values=True)
    except ValueError:
        return UNKNOWN
    user, at, host = parts.netloc.rpartition("@")
    # With ssh the user is part of the address, and no secret; elsewhere it may be a token. In
    # abfss://CONTAINER@ACCOUNT it is no user at all.
    kept = user.partition(":")[0] + at if re.search("ssh|abfs|wasb", parts.scheme) else ""
    query = [(name, value) for name, value in pairs if not _SECRET.search(name)]
    ending = parts.query if len(query) == len(pairs) else urlencode(query)
    return urlunsplit((parts.scheme, kept + host, parts.path, ending, ""))


def dataset_names(references: Iterable[DatasetReference]) -> tuple[str, ...]:
    """Return the names of the datasets that `link_datasets` must know, each once."""
    return tuple(dict.fromkeys(clean_dataset_name(reference.name) for reference in references))


def link_datasets(
    references: Sequence[DatasetReference], known: RegistryIndex, author: str
) -> LinkedDatasets:
    """Link references to versions of data, and register the data that is new.

    Parameters
    ----------
    references
        What a model version was made from. One without a digest is left as it is, or takes
        over what is recorded when it names a registered version.
    known
        The registry; not changed.
    author
        Who pushes: stands in the records of new versions.
    """
    book = _Book(known, author)
    linked = tuple(_link(reference, book) for reference in references)
    return LinkedDatasets(linked, tuple(book.written.values()))


def _link(reference: DatasetReference, book: _Book) -> DatasetReference:
    named = _without_secrets(reference).with_(name=clean_dataset_name(reference.name))
    if has_digest(named):
        found = book.find(named) or book.add(named)
        return named.with_(version=found.spec.version)
    key = f"{named.name}@{named.version}"
    recorded = book.known.dataset_versions.get(key) if named.version else None
    if recorded is None:
        return named
    spec = recorded.spec
    return named.with_(digest=spec.digest, **{name: getattr(spec, name) for name in _DESCRIBED})


def _without_secrets(reference: DatasetReference) -> DatasetReference:
    return reference.with_(uri=clean_uri(reference.uri)) if reference.uri else reference


def register_data(
    reference: DatasetReference,
    known: RegistryIndex,
    author: str,
    *,
    version: str | None = None,
    description: str = "",
) -> RegisteredData:
    """Decide what registering one version of data does.

    Parameters
    ----------
    reference
        The data; its own `version` is what the data's tool calls it, taken when it is free.
    known
        The registry; not changed.
    author
        Who registers it.
    version
        What the person wants it called; refused when that names other data.
    description
        Of a dataset that is new; one that exists keeps its own.

    Raises
    ------
    InvalidResource
        The name or the version cannot be one, or the digest is missing.
    Conflict
        `version` names other data.
    """
    name = _check_data(reference, version)
    reference = _without_secrets(reference)
    book = _Book(known, author, description)
    found = book.find(reference)
    if found is not None:
        other = version is not None and version != found.spec.version
        told = (f"this data is registered already, as {found.metadata.name}",) if other else ()
        return RegisteredData("unchanged", found, tuple(book.written.values()), told)
    taken = known.dataset_versions.get(f"{name}@{version}") if version else None
    if taken is not None:
        raise Conflict(
            f"{taken.metadata.name} is other data: it has digest {taken.spec.digest}, "
            f"this is {reference.digest}",
            hint="a version never changes; register it under another version, or leave it out",
        )
    made = book.add(reference.with_(version=version or reference.version))
    return RegisteredData("created", made, tuple(book.written.values()))


def _check_data(reference: DatasetReference, version: str | None) -> str:
    faults = []
    try:
        check_model_name(reference.name)
    except ValueError as error:
        faults.append(FieldError("name", str(error)))
    if not has_digest(reference) or len(reference.digest) > _MAX_DIGEST:
        faults.append(FieldError("digest", "what tells this data from other data: `sha256:…`"))
    if version is not None and not _may_be_version(reference.name, version):
        message = f"{version[:80]!r} cannot be a version; use letters, digits, '-', '.' and '+'"
        faults.append(FieldError("version", message))
    if faults:
        raise InvalidResource("the data cannot be registered", faults)
    return reference.name


def has_digest(reference: DatasetReference) -> bool:
    """Whether it is known which data this is."""
    return reference.digest not in {"", UNKNOWN}


def _may_be_version(dataset: str, version: str) -> bool:
    try:
        check_resource_name(f"{dataset}@{version}")
    except ValueError:
        return False
    return "@" not in version


@dataclass(slots=True)
class _Book:
    """What is known and what this transaction adds to it."""

    known: RegistryIndex
    author: str
    description: str = ""
    written: dict[str, Dataset | DatasetVersion] = field(default_factory=dict)
    added: dict[tuple[str, str], DatasetVersion] = field(default_factory=dict)

    def find(self, reference: DatasetReference) -> DatasetVersion | None:
        """Return the version that is this data; its dataset is made again when it was deleted."""
        key = reference.name, reference.digest
        found = self.added.get(key) or self.known.find_data(*key)
        if found is not None and reference.name not in self.known.datasets:
            self._count(reference.name, self._last_number(reference.name))
        return found

    def add(self, reference: DatasetReference) -> DatasetVersion:
        """Register new data."""
        name, number = reference.name, self._last_number(reference.name) + 1
        spec = DatasetVersionSpec.model_construct(
            dataset=name,
            version=self._free_version(reference, number),
            number=number,
            digest=reference.digest,
            author=self.author,
            **{described: getattr(reference, described) for described in _DESCRIBED},
        )
        metadata = Metadata(name=f"{name}@{spec.version}", labels={DATASET_LABEL: name})
        made = DatasetVersion(metadata=metadata, spec=spec)
        self.added[name, spec.digest] = made
        self._count(name, number)
        self.written[metadata.name] = made
        return made

    def _count(self, name: str, number: int) -> None:
        # Written with each version, so that two registrations at once cannot take one number.
        before = self.written.get(name) or self.known.datasets.get(name)
        if not isinstance(before, Dataset):
            spec = DatasetSpec(description=self.description)
            before = Dataset(metadata=Metadata(name=name), spec=spec)
        self.written[name] = before.with_status(last_number=number)

    def _last_number(self, name: str) -> int:
        """Return the number given last; a dataset that was deleted does not begin again."""
        dataset = self.written.get(name) or self.known.datasets.get(name)
        if isinstance(dataset, Dataset):
            return dataset.status.last_number
        versions = self.known.versions_of_dataset(name).values()
        return max((version.spec.number for version in versions), default=0)

    def _free_version(self, reference: DatasetReference, number: int) -> str:
        """Return what the data's tool calls it when that is free, otherwise the number."""
        name, told = reference.name, reference.version
        if told and _may_be_version(name, told) and self._is_free(name, told):
            return told
        version, attempt = str(number), 0
        while not self._is_free(name, version):
            attempt += 1
            version = f"{number}.{attempt}"
        return version

    def _is_free(self, name: str, version: str) -> bool:
        key = f"{name}@{version}"
        return key not in self.known.dataset_versions and key not in self.written
