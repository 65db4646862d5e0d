"""Known vulnerabilities of the packages that a version requires, from OSV records on disk.

Called by the security scan where a file is named. Nothing is looked up anywhere: what is known
is what the records say (https://ossf.github.io/osv-schema/). Versions are compared as PEP 440 has
it. What cannot be decided is said, never taken for good.
"""

from __future__ import annotations

import json
import math
import re
import zipfile
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from packaging.requirements import InvalidRequirement, Requirement
from packaging.utils import canonicalize_name
from packaging.version import InvalidVersion, Version

from modelplane.resources.gate_run import Finding
from modelplane.stages.failures import CheckImpossible

Severity = Literal["low", "medium", "high", "critical"]
SEVERITIES: tuple[Severity, ...] = ("low", "medium", "high", "critical")

_MAX_RECORD_BYTES = 64 * 2**20
_WORDS: dict[str, Severity] = {
    "low": "low",
    "moderate": "medium",
    "medium": "medium",
    "high": "high",
    "critical": "critical",
}


@dataclass(frozen=True, slots=True)
class Package:
    """One required package; without a version where the requirement does not pin it."""

    name: str
    version: Version | None
    text: str


@dataclass(frozen=True, slots=True)
class Advisory:
    """What one record says of one package.

    Attributes
    ----------
    ids
        Its own id first, then its aliases.
    severity
        None where the record does not say.
    affected
        The parts of the record that are about the package.
    """

    ids: tuple[str, ...]
    summary: str
    severity: Severity | None
    affected: tuple[Mapping[str, Any], ...]


def audit(requirements: str | None, source: Path, max_severity: Severity) -> list[Finding]:
    """Return what is known against the packages of `requirements`.

    Parameters
    ----------
    requirements
        Text of a requirements file.
    source
        An OSV record, a list of them, a zip file or a folder of them.
    max_severity
        What is worse than this is an error, the rest a warning. A severity that a record does
        not state counts as the worst.

    Raises
    ------
    CheckImpossible
        The records cannot be read.
    """
    if requirements is None:
        message = "the version names no requirements: its packages are not known"
        return [Finding(severity="warning", code="PackagesUnknown", message=message)]
    packages, findings = read_requirements(requirements)
    records = _read_records(source, {package.name for package in packages})
    for package in packages:
        findings += _judge(package, records.get(package.name, []), max_severity)
    return findings


def read_requirements(text: str) -> tuple[list[Package], list[Finding]]:
    """Return the packages of a requirements file, and what of it cannot be read."""
    packages, findings = [], []
    for line in re.sub(r"\\\r?\n", " ", text).splitlines():
        stated = re.sub(r"(^|\s)#.*", "", line)
        stated = re.sub(r"\s--hash[= ]\S+", "", stated).strip()
        if not stated:
            continue
        try:
            requirement = Requirement(stated)
        except InvalidRequirement:
            message = f"cannot be looked up: {stated[:200]}"
            where = "requirements"
            findings.append(
                Finding(severity="warning", code="PackageUnknown", message=message, where=where)
            )
            continue
        name = canonicalize_name(requirement.name)
        packages.append(Package(name, _pinned(requirement), stated[:200]))
    return packages, findings


def _pinned(requirement: Requirement) -> Version | None:
    exact = [s for s in requirement.specifier if s.operator in {"==", "==="}]
    if requirement.url is not None or len(exact) != 1 or exact[0].version.endswith("*"):
        return None
    try:
        return Version(exact[0].version)
    except InvalidVersion:
        return None


# Records ------------------------------------------------------------------------------------------


def _read_records(source: Path, names: set[str]) -> dict[str, list[Advisory]]:
    found: dict[str, list[Advisory]] = {}
    count = 0
    try:
        for record in _records(source):
            count += 1
            if not isinstance(record, dict) or not isinstance(record.get("id"), str):
                raise ValueError("an entry is no OSV record: it has no id")
            if record.get("withdrawn"):
                continue
            for name, affected in _by_package(record).items():
                if name in names:
                    found.setdefault(name, []).append(_advisory(record, affected))
    except OSError as error:
        raise CheckImpossible(f"{source} cannot be read: {error.strerror or error}") from None
    except (ValueError, RecursionError, zipfile.BadZipFile) as error:
        raise CheckImpossible(f"{source} holds no OSV records: {error}") from None
    if not count:
        raise CheckImpossible(f"{source} holds no OSV records")
    return found


def _records(source: Path) -> Iterator[Any]:
    if source.is_dir():
        for file in sorted(source.rglob("*.json")):
            yield from _unpack(file.read_bytes())
    elif zipfile.is_zipfile(source):
        with zipfile.ZipFile(source) as archive:
            for member in archive.infolist():
                if member.filename.endswith(".json"):
                    if member.file_size > _MAX_RECORD_BYTES:
                        raise ValueError(f"{member.filename} is too large")
                    yield from _unpack(archive.read(member))
    else:
        yield from _unpack(source.read_bytes())


def _unpack(content: bytes) -> Iterator[Any]:
    data = json.loads(content)
    if isinstance(data, dict) and isinstance(data.get("vulns"), list):
        data = data["vulns"]
    yield from data if isinstance(data, list) else [data]


def _by_package(record: Mapping[str, Any]) -> dict[str, list[Mapping[str, Any]]]:
    """Return the parts of a record by the PyPI package they are about."""
    parts: dict[str, list[Mapping[str, Any]]] = {}
    for affected in record.get("affected") or ():
        package = affected.get("package") or {}
        if str(package.get("ecosystem", "")).partition(":")[0] == "PyPI":
            name = canonicalize_name(str(package.get("name", "")))
            parts.setdefault(name, []).append(affected)
    return parts


def _advisory(record: Mapping[str, Any], affected: Sequence[Mapping[str, Any]]) -> Advisory:
    ids = (str(record["id"]), *map(str, record.get("aliases") or ()))
    summary = str(record.get("summary") or record.get("details") or "")
    stated = [_severity_of(part) for part in (record, *affected)]
    known = [severity for severity in stated if severity is not None]
    worst = max(known, key=SEVERITIES.index) if known else None
    return Advisory(ids, " ".join(summary.split())[:300], worst, tuple(affected))


def _severity_of(part: Mapping[str, Any]) -> Severity | None:
    known: list[Severity] = []
    for entry in part.get("severity") or ():
        if entry.get("type") == "CVSS_V3" and (score := cvss3_score(str(entry.get("score")))):
            known.append(_severity_of_score(score))
    for field in ("database_specific", "ecosystem_specific"):
        word = str((part.get(field) or {}).get("severity", "")).lower()
        if word in _WORDS:
            known.append(_WORDS[word])
    return max(known, key=SEVERITIES.index) if known else None


def _severity_of_score(score: float) -> Severity:
    if score >= 9:
        return "critical"
    if score >= 7:
        return "high"
    return "medium" if score >= 4 else "low"


_METRICS: dict[str, dict[str, float]] = {
    "AV": {"N": 0.85, "A": 0.62, "L": 0.55, "P": 0.2},
    "AC": {"L": 0.77, "H": 0.44},
    "PR": {"N": 0.85, "L": 0.62, "H": 0.27},
    "UI": {"N": 0.85, "R": 0.62},
    "C": {"H": 0.56, "L": 0.22, "N": 0.0},
    "I": {"H": 0.56, "L": 0.22, "N": 0.0},
    "A": {"H": 0.56, "L": 0.22, "N": 0.0},
}


def cvss3_score(vector: str) -> float | None:
    """Return the base score of a CVSS 3 vector, 0 to 10; None when it is none.

    The equations of section 7.1 of the CVSS 3.1 specification (FIRST, 2019).

    Examples
    --------
    >>> cvss3_score("CVSS:3.1/AV:N/AC:L/PR:N/UI:N/S:U/C:H/I:H/A:H")
    9.8
    """
    if not vector.startswith("CVSS:3"):
        return None
    given = dict(part.split(":", 1) for part in vector.split("/")[1:] if ":" in part)
    try:
        values = {name: table[given[name]] for name, table in _METRICS.items()}
        changed = {"C": True, "U": False}[given["S"]]
    except KeyError:
        return None
    if changed and given["PR"] != "N":
        values["PR"] = {"L": 0.68, "H": 0.5}[given["PR"]]
    base = 1 - (1 - values["C"]) * (1 - values["I"]) * (1 - values["A"])
    impact = 7.52 * (base - 0.029) - 3.25 * (base - 0.02) ** 15 if changed else 6.42 * base
    if impact <= 0:
        return 0.0
    ease = 8.22 * values["AV"] * values["AC"] * values["PR"] * values["UI"]
    total = min(10.0, (1.08 if changed else 1.0) * (impact + ease))
    # The specification's own rounding up: to one decimal, without the dust of binary numbers.
    whole = round(total * 100_000)
    return whole / 100_000 if whole % 10_000 == 0 else (math.floor(whole / 10_000) + 1) / 10


# Judging ------------------------------------------------------------------------------------------


def _judge(
    package: Package, advisories: Sequence[Advisory], max_severity: Severity
) -> Iterable[Finding]:
    if package.version is None:
        if advisories:
            yield Finding(
                severity="warning",
                code="VulnerabilityUndecided",
                message=f"{len(advisories)} known vulnerabilities of {package.name} cannot be "
                f"decided: the requirement names no exact version",
                where=package.text,
            )
        return
    seen: set[str] = set()
    by_severity = sorted(advisories, key=lambda a: -_rank(a.severity))
    for advisory in by_severity:
        hit = _affects(advisory, package.version)
        if hit is False or seen & set(advisory.ids):  # the same one under another name
            continue
        seen |= set(advisory.ids)
        above = _rank(advisory.severity) > SEVERITIES.index(max_severity)
        named = ", ".join(advisory.ids[:4])
        how = advisory.severity or "severity not stated"
        unsure = "" if hit else "; whether this version is affected cannot be decided"
        yield Finding(
            severity="error" if above and hit else "warning",
            code="Vulnerability" if hit else "VulnerabilityUndecided",
            message=f"{named} ({how}): {advisory.summary}{unsure}"[:600],
            where=f"{package.name} {package.version}",
        )


def _rank(severity: Severity | None) -> int:
    return SEVERITIES.index(severity) if severity else len(SEVERITIES)


def _affects(advisory: Advisory, version: Version) -> bool | None:
    """Whether a version is affected; None when the record cannot be decided."""
    undecided = False
    for part in advisory.affected:
        if any(_equals(version, str(listed)) for listed in part.get("versions") or ()):
            return True
        for span in part.get("ranges") or ():
            if span.get("type") != "ECOSYSTEM":
                continue
            try:
                if _in_range(version, span.get("events") or ()):
                    return True
            except (InvalidVersion, ValueError):
                undecided = True
        if not part.get("versions") and not part.get("ranges"):
            return True  # the schema: then all versions are
    return None if undecided else False


def _equals(version: Version, listed: str) -> bool:
    try:
        return version == Version(listed)
    except InvalidVersion:
        return False


def _in_range(version: Version, events: Sequence[Mapping[str, str]]) -> bool:
    """Evaluate the events of a range in the order of their versions, as the schema says."""
    known = ("introduced", "fixed", "last_affected")
    dated = []
    for event in events:
        for kind in known:
            if kind in event:
                text = str(event[kind])
                at = None if text == "0" and kind == "introduced" else Version(text)
                dated.append((at, kind))
    dated.sort(key=lambda item: (item[0] is not None, item[0] or version, known.index(item[1])))
    affected = False
    for at, kind in dated:
        if kind == "introduced":
            affected = affected or at is None or version >= at
        elif at is not None and (version >= at if kind == "fixed" else version > at):
            affected = False
    return affected
