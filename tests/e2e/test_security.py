"""What must be signed and what must not be loaded, from the push to the agent's refusal."""

from __future__ import annotations

import json
from pathlib import Path

import joblib
import numpy as np
import pytest
from sklearn.linear_model import LogisticRegression

from modelplane.client import Client
from modelplane.client.signing import Signed
from modelplane.resources.model import ModelVersion
from modelplane.resources.replica import Replica
from modelplane.resources.rollout import Rollout
from tests.e2e.conftest import Modelplane
from tests.security.malicious import shell

pytestmark = [pytest.mark.e2e, pytest.mark.beside, pytest.mark.timeout(300)]

ROWS = np.random.default_rng(7).normal(size=(50, 2))


def deploy(plane: Modelplane, version: str) -> Rollout:
    """Ask for a version in staging and return its rollout when that is over."""
    manifest = {
        "apiVersion": "modelplane.dev/v1",
        "kind": "ModelDeployment",
        "metadata": {"name": "delay", "environment": "staging"},
        "spec": {"version": version},
    }
    plane.cli("apply", "-f", "-", input=json.dumps(manifest))
    rollout = plane.client.wait_for_rollout("delay", "staging", timeout_s=120)
    assert rollout is not None
    return rollout


def test_only_what_is_signed_and_on_the_allowlist_starts(
    modelplane: Modelplane, tmp_path: Path
) -> None:
    plane = modelplane
    for version in ("1.0.0", "2.0.0"):
        model = LogisticRegression(C=float(version[0])).fit(ROWS, ROWS[:, 0] > 0)
        joblib.dump(model, tmp_path / f"{version}.joblib")
    (tmp_path / "3.0.0.joblib").write_bytes(shell())
    place = json.loads(plane.cli("get", "environment", "staging", "-o", "json").stdout)
    place["spec"]["requireSignature"] = True
    plane.cli("apply", "-f", "-", input=json.dumps(place))

    # Signed by the push itself, with modelplane's own key.
    plane.cli("push", "delay", "--version", "1.0.0", "--artifact", str(tmp_path / "1.0.0.joblib"))
    assert deploy(plane, "1.0.0").status.phase == "Promoted"
    (replica,) = plane.client.list(Replica, "staging").items
    assert (replica.status.phase, replica.spec.allow_pickle) == ("Ready", "scanned")

    # Not signed: nobody gets as far as asking for it.
    token = plane.client._connection.endpoint.token
    with Client(plane.client.endpoint.url, token, state=tmp_path / "elsewhere") as elsewhere:
        elsewhere.push("delay", "2.0.0", tmp_path / "2.0.0.joblib")
    refused = plane.cli("promote", "delay", "--version", "2.0.0", "--to", "staging", check=False)
    assert refused.returncode != 0
    assert "lacks the signature" in refused.stderr

    # A signature over other files: the control plane cannot tell, the agent can.
    (held,) = plane.client.get(ModelVersion, "delay@1.0.0").status.signatures
    plane.client.add_signature("delay@2.0.0", Signed(held.bundle, held.key_id))
    forged = deploy(plane, "2.0.0")
    assert forged.status.phase == "Failed"
    assert "signature refused: no signature by a trusted key holds" in forged.status.message

    # Signed, and malicious.
    plane.cli("push", "delay", "--version", "3.0.0", "--artifact", str(tmp_path / "3.0.0.joblib"))
    malicious = deploy(plane, "3.0.0")
    assert malicious.status.phase == "Failed"
    assert "imports os.system, which is not on the allowlist" in malicious.status.message
