"""Requests about stored artifacts: whether they and the registry agree, and mending it.

Used by ``registry check``; scripts may use it too. Holds no rules and decides nothing: the
comparison is the control plane's.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from modelplane.client.calls import PREFIX, Call, artifact
from modelplane.client.synchronous import Client
from modelplane.errors import TerminalError

_LISTING_TIMEOUT_S = 600.0
_READING_TIMEOUT_S = 3600.0
_BATCH = 500


@dataclass(frozen=True, slots=True)
class FoundFault:
    """One thing that is wrong: `decisions.registry_check.Fault`, as the API tells it.

    `key` names it in `repair`.
    """

    kind: str
    key: str
    digest: str
    versions: tuple[str, ...]
    message: str
    size_bytes: int = 0


@dataclass(frozen=True, slots=True)
class RegistryCheck:
    """What comparing the registry with the storage found.

    Attributes
    ----------
    versions
        How many versions have files.
    artifacts
        Digests of their stored artifacts, with the versions' names.
    faults
        What is wrong without having read any bytes.
    unused, unused_bytes
        Artifacts that only deleted versions name: no fault.
    """

    versions: int
    artifacts: Mapping[str, tuple[str, ...]]
    faults: tuple[FoundFault, ...]
    unused: int
    unused_bytes: int


@dataclass(frozen=True, slots=True)
class Repaired:
    """Names of versions whose records were written, and keys of what was removed."""

    recorded: tuple[str, ...]
    removed: tuple[str, ...]


def check_artifacts(client: Client, *, grace: str = "24h") -> RegistryCheck:
    """Compare what is registered with what is stored; nothing is read of the files."""
    call = Call("GET", f"{PREFIX}/artifacts:check", {"grace": grace})
    data = client.send(call, timeout_s=_LISTING_TIMEOUT_S)
    try:
        return RegistryCheck(
            versions=data["versions"],
            artifacts={digest: tuple(names) for digest, names in data["artifacts"].items()},
            faults=tuple(_read_fault(fault) for fault in data["faults"]),
            unused=data["unused"]["artifacts"],
            unused_bytes=data["unused"]["sizeBytes"],
        )
    except (KeyError, TypeError, AttributeError) as error:
        raise TerminalError(
            f"the answer is no check that this version of modelplane knows: {error!r}",
            hint="use the same version on both sides",
        ) from None


def verify_artifact(client: Client, digest: str) -> tuple[int, str]:
    """Let the control plane read an artifact; return its bytes and how it differs, or "".

    Raises
    ------
    NotFound
        Nothing is stored under `digest`.
    """
    data = client.send(artifact("POST", digest, ":verify"), timeout_s=_READING_TIMEOUT_S)
    return int(data["sizeBytes"]), str(data["difference"])


def repair_artifacts(
    client: Client, remove: Sequence[str], *, grace: str = "24h", reason: str = ""
) -> Repaired:
    """Write lacking records again and remove the faults with the keys in `remove`.

    What was put to use since the check is not removed.
    """
    recorded: list[str] = []
    removed: list[str] = []
    for keys in _batches(remove):
        body = {"remove": keys, "grace": grace, "reason": reason}
        call = Call("POST", f"{PREFIX}/artifacts:repair", body=body)
        data = client.send(call, timeout_s=_LISTING_TIMEOUT_S)
        recorded += data["recorded"]
        removed += data["removed"]
    return Repaired(tuple(recorded), tuple(removed))


def _batches(keys: Sequence[str]) -> Iterator[list[str]]:
    for start in range(0, max(1, len(keys)), _BATCH):
        yield list(keys[start : start + _BATCH])


def _read_fault(data: dict[str, Any]) -> FoundFault:
    return FoundFault(
        kind=data["kind"],
        key=data["key"],
        digest=data["digest"],
        versions=tuple(data["versions"]),
        message=data["message"],
        size_bytes=data["sizeBytes"],
    )
