"""The check ``security_scan``: what loading a version's files could do, and its packages.

Called by `stages.running`. Passes when nothing outside the allowlists was found; it never says
that a model is safe. Whatever cannot be read or decided about a file is an error.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Sequence
from pathlib import Path

from modelplane.client.signing import SignatureRefused, verify_files
from modelplane.decisions.signatures import key_id
from modelplane.errors import ModelplaneError
from modelplane.resources.checks import SecurityScanCheck
from modelplane.resources.gate_run import Finding, Measurement, StageOutcome, StageTask
from modelplane.stages.artifact_scan import ArtifactScan
from modelplane.stages.failures import CheckImpossible
from modelplane.stages.vulnerabilities import audit
from modelplane.stages.workspace import Workspace

_MAX_FINDINGS = 300
_REPORT = "security.json"


async def run(task: StageTask, workspace: Workspace) -> StageOutcome:
    """Look at the candidate's files, its signature and its packages.

    Raises
    ------
    CheckImpossible
        The records of vulnerabilities cannot be read.
    """
    return await asyncio.to_thread(_run, task, workspace)


def _run(task: StageTask, workspace: Workspace) -> StageOutcome:
    check = task.stage.configuration
    if not isinstance(check, SecurityScanCheck):
        raise CheckImpossible(f"stage {task.stage.name} is no security scan")
    revision = task.candidate.revision
    scan = ArtifactScan(frozenset(check.allow), frozenset(check.trusted_types))
    try:
        scan.scan(workspace.candidate_dir, revision.artifact.format)
    except ModelplaneError as error:
        scan.add("error", "Unreadable", f"the files cannot be read: {error}", "")
    findings = [*scan.findings, _check_signature(task, check, workspace.candidate_dir)]
    findings += _audit(check, revision.runtime.requirements)
    _write_report(workspace.output_dir, findings, scan)
    return _outcome(findings, scan)


def _check_signature(task: StageTask, check: SecurityScanCheck, files: Path) -> Finding:
    lacking = "error" if check.require_signature else "info"
    if not task.signatures:
        return _finding(lacking, "NotSigned", "the files are not signed")
    try:
        trusted = {key_id(key) for key in task.trusted_keys}
        bundles = [str(s["bundle"]) for s in task.signatures if s.get("keyId") in trusted]
        by = verify_files(files, bundles, task.trusted_keys)
    except SignatureRefused as error:
        lacking = "error" if check.require_signature else "warning"
        return _finding(lacking, "SignatureRefused", str(error))
    except ModelplaneError as error:
        lacking = "error" if check.require_signature else "warning"
        return _finding(lacking, "SignatureNotChecked", f"{error} {error.hint}".strip())
    return _finding("info", "Signed", f"a trusted key signed the files: {by[:12]}")


def _finding(severity: str, code: str, message: str) -> Finding:
    return Finding.model_validate(
        {"severity": severity, "code": code, "message": message[:1000], "where": "signature"}
    )


def _audit(check: SecurityScanCheck, requirements: str | None) -> Sequence[Finding]:
    if check.vulnerabilities is None:
        message = "known vulnerabilities of the packages: not checked, no OSV file is given"
        return [Finding(severity="info", code="NotChecked", message=message, where="requirements")]
    return audit(requirements, Path(check.vulnerabilities), check.max_severity)


def _write_report(output_dir: Path, findings: Sequence[Finding], scan: ArtifactScan) -> None:
    """Leave everything as evidence: the outcome has room for some of it only."""
    output_dir.mkdir(parents=True, exist_ok=True)
    report = {
        "findings": [finding.to_dict() for finding in findings],
        "imports": sorted(scan.names),
        "files": scan.kinds,
    }
    (output_dir / _REPORT).write_text(json.dumps(report, indent=1, ensure_ascii=False))


def _outcome(findings: Sequence[Finding], scan: ArtifactScan) -> StageOutcome:
    order = ("error", "warning", "info")
    found = sorted(findings, key=lambda finding: order.index(finding.severity))
    errors = sum(finding.severity == "error" for finding in found)
    warnings = sum(finding.severity == "warning" for finding in found)
    if errors:
        more = f", and {errors - 1} more" if errors > 1 else ""
        where = f" ({found[0].where})" if found[0].where else ""
        message = f"{found[0].message}{where}{more}"
    else:
        names = f", {len(scan.names)} imported names" if scan.names else ""
        message = f"nothing outside the allowlist in {sum(scan.kinds.values())} files{names}"
    return StageOutcome(
        passed=not errors,
        message=message[:2000],
        measurements=(
            Measurement(name="security_errors", value=errors, at_most=0, passed=not errors),
            Measurement(name="security_warnings", value=warnings),
        ),
        findings=tuple(found[:_MAX_FINDINGS]),
        details={"imports": sorted(scan.names)[:200], "files": scan.kinds},
    )
