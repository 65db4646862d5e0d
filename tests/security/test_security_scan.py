"""The check ``security_scan``: its outcome says what was found, and fails closed."""

from __future__ import annotations

import json
import pickle
from pathlib import Path
from typing import Any

import pytest
from sklearn.linear_model import LogisticRegression

from modelplane.client.signing import make_key_pair, sign_files
from modelplane.decisions.gate_metrics import metrics_of
from modelplane.resources.gate_run import ServedModel, StageOutcome, StageTask
from modelplane.resources.revision import Artifact, RuntimeSpec, make_revision
from modelplane.resources.validation_pipeline import Stage
from modelplane.stages.checks.security_scan import run
from modelplane.stages.failures import CheckImpossible
from modelplane.stages.workspace import Workspace
from tests.security.malicious import calling, shell, text


class Scan:
    """A version's files, and the check as it is configured."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.files = root / "candidate"
        self.files.mkdir()
        (self.files / "model.joblib").write_bytes(pickle.dumps(LogisticRegression()))

    async def run(
        self, requirements: str | None = None, task: dict[str, Any] | None = None, **check: Any
    ) -> StageOutcome:
        artifact = Artifact(format="joblib", digest=f"sha256:{64 * '0'}")
        revision = make_revision("fraud", "1.0.0", artifact, RuntimeSpec(requirements=requirements))
        stage = Stage.model_validate({"name": "scan", "securityScan": check})
        workspace = Workspace(
            work_dir=self.root / "work",
            output_dir=self.root / "output",
            candidate_dir=self.files,
            champion_dir=None,
            environments_dir=self.root / "environments",
            socket_dir=self.root / "sockets",
        )
        outcome = await run(
            StageTask.model_validate(
                {"run": "gates-1", "stage": stage, "candidate": ServedModel(revision=revision)}
                | (task or {})
            ),
            workspace,
        )
        measured = {m.name: m.value for m in outcome.measurements if not m.slice}
        assert set(metrics_of(stage)) == set(measured)
        errors = [finding for finding in outcome.findings if finding.severity == "error"]
        assert outcome.passed == (measured["security_errors"] == 0) == (not errors)
        return outcome


@pytest.fixture
def scan(tmp_path: Path) -> Scan:
    return Scan(tmp_path)


def codes(outcome: StageOutcome) -> set[str]:
    return {finding.code for finding in outcome.findings}


async def test_a_clean_version_passes_and_nothing_is_called_safe(scan: Scan) -> None:
    outcome = await scan.run()

    assert outcome.passed
    assert outcome.message.startswith("nothing outside the allowlist in 1 files")
    assert codes(outcome) == {"NotSigned", "NotChecked"}
    assert "safe" not in json.dumps(outcome.to_dict())
    assert "sklearn.linear_model._logistic.LogisticRegression" in outcome.details["imports"]
    evidence = json.loads((scan.root / "output" / "security.json").read_text())
    assert evidence["files"] == {"pickle": 1}


async def test_a_malicious_one_fails_and_says_where(scan: Scan) -> None:
    (scan.files / "model.joblib").write_bytes(shell())
    outcome = await scan.run()

    assert not outcome.passed
    first = outcome.findings[0]
    assert first.code == "PickleNotAllowed"
    assert first.where == "model.joblib, byte 14"
    assert "os.system" in outcome.message
    assert "Picklescan" in codes(outcome), "the second opinion agrees"


async def test_names_that_the_check_allows_pass(scan: Scan) -> None:
    (scan.files / "model.joblib").write_bytes(calling("shapes", "Circle", text("x")))

    assert not (await scan.run()).passed
    assert (await scan.run(allow=["shapes.Circle"])).passed


async def test_files_that_cannot_be_read_fail_the_stage(scan: Scan) -> None:
    (scan.files / "model.joblib").unlink()
    assert "Unreadable" in codes(await scan.run())

    (scan.files / "model.joblib").symlink_to("/dev/zero")
    assert "Unreadable" in codes(await scan.run())


async def test_a_required_signature_must_be_by_a_trusted_key(scan: Scan, tmp_path: Path) -> None:
    mine, other = tmp_path / "mine.pem", tmp_path / "other.pem"
    public = {key: make_key_pair(key).read_text() for key in (mine, other)}
    signed = sign_files(scan.files, mine)
    given = {
        "signatures": [{"keyId": signed.key_id, "bundle": signed.bundle}],
        "trusted_keys": [public[mine]],
    }

    assert "NotSigned" in codes(await scan.run(requireSignature=True))
    assert not (await scan.run(requireSignature=True)).passed
    good = await scan.run(task=given, requireSignature=True)
    assert good.passed
    assert "Signed" in codes(good)
    untrusted = await scan.run(task=given | {"trusted_keys": [public[other]]})
    assert untrusted.passed, "shown only where no signature is required"
    assert "SignatureRefused" in codes(untrusted)
    (scan.files / "model.joblib").write_bytes(pickle.dumps([1]))
    altered = await scan.run(task=given, requireSignature=True)
    assert not altered.passed
    assert "Hash mismatch" in altered.message


async def test_packages_are_held_against_the_records_that_are_given(
    scan: Scan, tmp_path: Path
) -> None:
    records = tmp_path / "osv.json"
    affected = {
        "package": {"ecosystem": "PyPI", "name": "Scikit_Learn"},
        "ranges": [{"type": "ECOSYSTEM", "events": [{"introduced": "0"}, {"fixed": "1.5.0"}]}],
    }
    records.write_text(
        json.dumps({"id": "GHSA-1", "affected": [affected], "severity": [
            {"type": "CVSS_V3", "score": "CVSS:3.1/AV:N/AC:L/PR:N/UI:N/S:U/C:H/I:H/A:H"}
        ]})
    )  # fmt: skip
    given: dict[str, Any] = {"vulnerabilities": str(records)}

    outcome = await scan.run("scikit-learn==1.4.2\n", **given)
    assert not outcome.passed
    assert outcome.findings[0].where == "scikit-learn 1.4.2"
    assert (await scan.run("scikit-learn==1.5.0\n", **given)).passed
    assert (await scan.run("scikit-learn==1.4.2\n", **given, maxSeverity="critical")).passed
    with pytest.raises(CheckImpossible, match="cannot be read"):
        await scan.run("scikit-learn==1.5.0\n", vulnerabilities=str(tmp_path / "absent.json"))
