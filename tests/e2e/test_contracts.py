"""Publishing a contract has it verified against the real model server, and `can-i-deploy` knows."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from modelplane.resources.contract import Contract
from modelplane.resources.model_deployment import ModelDeployment
from tests.e2e.conftest import Modelplane, wait_for
from tests.stages.pacts import interaction, pact

pytestmark = [pytest.mark.e2e, pytest.mark.beside, pytest.mark.timeout(300)]

PIPELINE = """
apiVersion: modelplane.dev/v1
pipeline:
  name: consumers
  stages: [validate:contract]
  triggers: {on_contract: true}
"""
BODY = {"inputs": [{"name": "x", "datatype": "FP64", "shape": [1], "data": [1.0]}]}


def reads(output: str) -> dict[str, Any]:
    answer = {"outputs": [{"name": output, "datatype": "BYTES"}]}
    asked = interaction(path="/v2/models/test/infer", body=BODY, answer=answer, rules={})
    return pact(asked, provider={"name": "test"})


def publish(plane: Modelplane, folder: Path, version: str, content: dict[str, Any]) -> Contract:
    """Publish a pact as deployed in production, and wait until it was verified."""
    file = folder / f"{version}.json"
    file.write_text(json.dumps(content))
    given = ("--consumer-version", version, "--environment", "production")
    plane.cli("contract", "publish", str(file), *given)

    def verified() -> Contract | None:
        found = plane.client.get(Contract, f"shop.test@{version}")
        return found if found.status.verifications else None

    return wait_for(f"verification of shop {version}", verified, 120)


def test_a_published_contract_is_verified_and_decides_what_may_be_deployed(
    modelplane: Modelplane, tmp_path: Path
) -> None:
    manifest = tmp_path / "pipeline.yaml"
    manifest.write_text(PIPELINE)
    modelplane.cli("apply", "-f", str(manifest))
    modelplane.push("1.0.0")
    kept = publish(modelplane, tmp_path, "1", reads("version"))
    assert [(v.version, v.passed) for v in kept.status.verifications] == [("1.0.0", True)]
    ask = ("contract", "can-i-deploy", "test@1.0.0", "--to", "production")
    assert modelplane.cli(*ask).stdout.endswith("yes: the contract is kept in production\n")
    broken = publish(modelplane, tmp_path, "2", reads("score"))
    (found,) = broken.status.verifications
    assert not found.passed
    assert "Expected 'version' (String) to be equal to 'score' (String)" in found.message
    refused = modelplane.cli(*ask, check=False)
    assert refused.returncode == 1
    assert "no: broken: shop.test@2 by test@1.0.0" in refused.stdout
    assert modelplane.client.list(ModelDeployment).items == ()
