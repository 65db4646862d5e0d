"""Known vulnerabilities: versions as PEP 440 has them, ranges as the OSV schema has them."""

from __future__ import annotations

import json
import zipfile
from pathlib import Path
from typing import Any

import pytest

from modelplane.stages.failures import CheckImpossible
from modelplane.stages.vulnerabilities import Severity, audit, cvss3_score, read_requirements


def record(identity: str = "OSV-1", **fields: Any) -> dict[str, Any]:
    events = fields.pop("events", None)
    part: dict[str, Any] = {"package": {"ecosystem": "PyPI", "name": "lib"}}
    part |= {name: fields.pop(name) for name in ("versions", "package") if name in fields}
    if events is not None:
        part["ranges"] = [{"type": "ECOSYSTEM", "events": events}]
    return {"id": identity, "summary": "bad", "affected": [part], **fields}


def found(
    tmp_path: Path, requirements: str | None, *records: Any, max_severity: Severity = "low"
) -> list[tuple[str, str]]:
    source = tmp_path / "osv.json"
    source.write_text(json.dumps(list(records)))
    return [(f.severity, f.code) for f in audit(requirements, source, max_severity)]


ERROR = [("error", "Vulnerability")]


@pytest.mark.parametrize(
    ("version", "events", "affected"),
    [
        ("1.4", [{"introduced": "0"}], True),
        ("1.4", [{"introduced": "0"}, {"fixed": "1.4"}], False),
        ("1.4rc1", [{"introduced": "0"}, {"fixed": "1.4"}], True),
        ("1.4.post1", [{"introduced": "0"}, {"fixed": "1.4"}], False),
        ("1.10", [{"introduced": "1.9"}, {"fixed": "1.11"}], True),
        ("1.4", [{"introduced": "1.5"}], False),
        ("1.4", [{"introduced": "0"}, {"last_affected": "1.4"}], True),
        ("1.4.1", [{"introduced": "0"}, {"last_affected": "1.4"}], False),
        (
            "2.1",
            [{"introduced": "0"}, {"fixed": "1.2"}, {"introduced": "2.0"}, {"fixed": "2.3"}],
            True,
        ),
        (
            "1.3",
            [{"fixed": "2.3"}, {"introduced": "2.0"}, {"fixed": "1.2"}, {"introduced": "0"}],
            False,
        ),
    ],
)
def test_ranges(version: str, events: Any, affected: bool, tmp_path: Path) -> None:
    assert found(tmp_path, f"lib=={version}", record(events=events)) == (ERROR if affected else [])


def test_versions_and_names_are_compared_and_not_spelled(tmp_path: Path) -> None:
    named = record(versions=["1.0"], package={"ecosystem": "PyPI", "name": "My.Lib"})

    assert found(tmp_path, "my_lib==1.0.0", named) == ERROR
    assert found(tmp_path, "my_lib==1.0.1", named) == []
    elsewhere = record(versions=["1.0"], package={"ecosystem": "npm", "name": "my-lib"})
    assert found(tmp_path, "my_lib==1.0.0", elsewhere) == []
    assert found(tmp_path, "my_lib==1.0.0", named | {"withdrawn": "2024-01-01T00:00:00Z"}) == []


def test_what_cannot_be_decided_is_said(tmp_path: Path) -> None:
    known = record(events=[{"introduced": "0"}])
    undecided = [("warning", "VulnerabilityUndecided")]

    assert found(tmp_path, "lib>=1.0", known) == undecided
    assert found(tmp_path, "lib @ https://example.org/lib.zip", known) == undecided
    assert found(tmp_path, "other>=1.0", known) == []
    assert found(tmp_path, None, known) == [("warning", "PackagesUnknown")]
    assert found(tmp_path, "-r more.txt", known) == [("warning", "PackageUnknown")]
    odd = record(events=[{"introduced": "0"}, {"fixed": "not a version"}])
    assert found(tmp_path, "lib==1.0", odd) == undecided


def test_lock_files_are_read() -> None:
    hashes = "\\\n    --hash=sha256:ab \\\n    --hash=sha256:cd\n"
    text = f"lib==1.0 {hashes}# note\nb==2 ; os_name == 'x'\n"
    packages, faults = read_requirements(text)

    assert [(p.name, str(p.version)) for p in packages] == [("lib", "1.0"), ("b", "2")]
    assert faults == []


def test_severities(tmp_path: Path) -> None:
    def severity(**fields: Any) -> str:
        vulnerable = record(events=[{"introduced": "0"}], **fields)
        ((severity, _),) = found(tmp_path, "lib==1", vulnerable, max_severity="medium")
        return severity

    assert severity(database_specific={"severity": "MODERATE"}) == "warning"
    assert severity(database_specific={"severity": "HIGH"}) == "error"
    low = {"type": "CVSS_V3", "score": "CVSS:3.1/AV:L/AC:H/PR:H/UI:R/S:U/C:L/I:N/A:N"}
    assert severity(severity=[low]) == "warning"
    assert severity() == "error", "not stated counts as the worst"


@pytest.mark.parametrize(
    ("vector", "score"),
    [  # Of the examples that FIRST publishes with the specification.
        ("CVSS:3.1/AV:N/AC:L/PR:N/UI:N/S:U/C:N/I:N/A:N", 0.0),
        ("CVSS:3.0/AV:N/AC:L/PR:L/UI:N/S:C/C:L/I:L/A:N", 6.4),
        ("CVSS:3.0/AV:N/AC:H/PR:N/UI:R/S:U/C:L/I:N/A:N", 3.1),
        ("CVSS:3.0/AV:N/AC:L/PR:N/UI:N/S:C/C:H/I:H/A:H", 10.0),
        ("CVSS:3.0/AV:L/AC:L/PR:L/UI:N/S:U/C:H/I:H/A:H", 7.8),
        ("CVSS:4.0/AV:N", None),
        ("CVSS:3.1/AV:N/AC:L", None),
    ],
)
def test_scores(vector: str, score: float | None) -> None:
    assert cvss3_score(vector) == score


def test_one_vulnerability_under_two_names_counts_once(tmp_path: Path) -> None:
    first = record("GHSA-1", aliases=["CVE-1"], events=[{"introduced": "0"}])
    second = record("PYSEC-1", aliases=["CVE-1"], events=[{"introduced": "0"}])

    assert found(tmp_path, "lib==1.0", first, second) == ERROR


def test_records_come_as_files_folders_or_archives(tmp_path: Path) -> None:
    content = json.dumps(record(versions=["1"]))
    folder = tmp_path / "osv"
    folder.mkdir()
    (folder / "a.json").write_text(content)
    (folder / "b.json").write_text(json.dumps({"vulns": [record("OSV-2", versions=["1"])]}))
    with zipfile.ZipFile(tmp_path / "all.zip", "w") as archive:
        archive.writestr("a.json", content)

    assert len(audit("lib==1", folder, "low")) == 2
    assert len(audit("lib==1", tmp_path / "all.zip", "low")) == 1


@pytest.mark.parametrize("content", ["", "nonsense", "[]", "[1]", "{}", '{"id": 3}'])
def test_records_that_are_none_are_no_pass(content: str, tmp_path: Path) -> None:
    source = tmp_path / "osv.json"
    source.write_text(content)

    with pytest.raises(CheckImpossible):
        audit("lib==1", source, "low")
