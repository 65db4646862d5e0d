"""The whole guarded road with real parts: a real model on real data goes from push to production,
and nothing is done by hand but the approval; and the road that ends with a rejection."""

from __future__ import annotations

import asyncio
import base64
import json
import shutil
import tempfile
import threading
from collections.abc import Coroutine, Iterator, Mapping
from pathlib import Path
from typing import Any

import httpx
import pytest
import skops.io
from sklearn.datasets import load_breast_cancer
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import train_test_split
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from standardwebhooks.webhooks import Webhook

from modelplane.client import Client
from modelplane.resources.approval import Approval
from modelplane.resources.gate_run import GateRun
from modelplane.resources.promotion import FINISHED_PROMOTION, Promotion
from modelplane.resources.rollout import Rollout
from tests.e2e.conftest import Modelplane, wait_for
from tests.e2e.load import Load
from tests.receivers import HttpReceiver, SmtpReceiver

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(600)]

POLICIES = """
apiVersion: modelplane.dev/v1
kind: Model
metadata: {{name: tumour, labels: {{team: 肿瘤科}}}}
---
pipeline:
  name: checks
  stages:
    - validate:accuracy: {{dataset: tumours-holdout, target: target, threshold: 0.92}}
    - validate:latency: {{requests: 200, p95: 2s}}
    - approve:security_scan
  triggers: {{on_model_push: true}}
---
apiVersion: modelplane.dev/v1
kind: PromotionPolicy
metadata: {{name: the-way}}
spec:
  environments: [staging, production]
  pipelines: [checks]
  conditions:
    - expression: metrics.accuracy >= 0.92
  automatic: true
---
apiVersion: modelplane.dev/v1
kind: ApprovalPolicy
metadata: {{name: lead}}
spec:
  team: 肿瘤科
  models: {{labels: {{team: 肿瘤科}}}}
  threshold: {{accuracy: 92%}}
  approvers: {{groups: [ml-leads]}}
---
apiVersion: modelplane.dev/v1
kind: NotificationChannel
metadata: {{name: hook}}
spec:
  webhook: {{url: "{hook}", secret: hook-secret}}
---
apiVersion: modelplane.dev/v1
kind: NotificationChannel
metadata: {{name: mail}}
spec:
  email:
    {{host: 127.0.0.1, port: {port}, tls: none, from: mp@example.com, to: [lead@example.com]}}
  approver: lead
---
apiVersion: modelplane.dev/v1
kind: RoleBinding
metadata: {{name: leads}}
spec: {{role: approver, groups: [ml-leads]}}
"""
DEPLOYMENT = """
apiVersion: modelplane.dev/v1
kind: ModelDeployment
metadata: {name: tumour, environment: staging}
spec: {version: 1.0.0}
"""
QUICK = """
apiVersion: modelplane.dev/v1
kind: Environment
metadata: {name: production}
spec:
  stage: production
  order: 20
  gateway: {port: %d}
  strategy:
    canary: {minBake: 2s, analysis: {interval: 1s, metrics: [{name: errors, margin: 0.05}]}}
"""


class Clinic:
    """A modelplane with policies, people, receivers of notifications, data and models."""

    def __init__(self, plane: Modelplane, folder: Path) -> None:
        self.plane = plane
        self.folder = folder
        self.secret = f"whsec_{base64.b64encode(bytes(range(32))).decode()}"
        self.hook = HttpReceiver()
        self.mail = SmtpReceiver()
        self.loop = asyncio.new_event_loop()
        self.thread = threading.Thread(target=self.loop.run_forever, daemon=True)
        data = load_breast_cancer(as_frame=True)
        train, holdout = train_test_split(data.frame, test_size=0.5, random_state=3)
        self.train = train
        self.holdout = folder / "holdout.csv"
        holdout.to_csv(self.holdout, index=False)
        self.example = holdout.drop(columns="target").head(1)

    def __enter__(self) -> Clinic:
        self.thread.start()
        self.wait(self.hook.start())
        self.wait(self.mail.start())
        secrets = self.plane.state / "secrets"
        (secrets / "hook-secret").write_text(self.secret)
        (secrets / "hook-secret").chmod(0o600)
        client = self.plane.client
        client.push_dataset("tumours-holdout", self.holdout)
        text = POLICIES.format(hook=self.hook.url, port=self.mail.port)
        self.apply(text)
        self.apply(QUICK % self.plane.ports["production"])
        _, secret, *_ = client.create_token("lead", ("ml-leads",))
        self.lead = Client(url=client.endpoint.url, token=secret)
        return self

    def __exit__(self, *_: object) -> None:
        self.lead.close()
        self.wait(self.hook.stop())
        self.wait(self.mail.stop())
        self.loop.call_soon_threadsafe(self.loop.stop)
        self.thread.join(10)
        self.loop.close()

    def wait(self, receiving: Coroutine[Any, Any, None]) -> None:
        asyncio.run_coroutine_threadsafe(receiving, self.loop).result(10)

    def find_event(self, type_: str, version: str) -> tuple[Mapping[str, str], bytes] | None:
        for headers, body in self.hook.received:
            event = json.loads(body)
            if event["type"] == f"dev.modelplane.{type_}" and event["data"]["version"] == version:
                return headers, body
        return None

    def find_mail(self, *words: str) -> str | None:
        for message in self.mail.received:
            part = message.get_body(("plain",))
            text = f"{message['subject']}\n{part.get_content() if part else ''}"
            if all(word in text for word in words):
                return text
        return None

    def apply(self, text: str) -> None:
        file = self.folder / "manifest.yaml"
        file.write_text(text)
        self.plane.cli("apply", "-f", str(file))

    def push(self, version: str, regularisation: float, *, shuffled: bool = False) -> None:
        features, target = self.train.drop(columns="target"), self.train["target"]
        if shuffled:
            target = target.sample(frac=1.0, random_state=1).to_numpy()
        model = make_pipeline(StandardScaler(), LogisticRegression(C=regularisation))
        model.fit(features.to_numpy(), target)
        file = self.folder / f"{version}.skops"
        skops.io.dump(model, file)
        self.plane.client.push("tumour", version, file, input_example=self.request)

    @property
    def request(self) -> dict[str, Any]:
        row = self.example.to_numpy(dtype=float)
        return {
            "inputs": [
                {
                    "name": "x",
                    "datatype": "FP64",
                    "shape": list(row.shape),
                    "data": row.ravel().tolist(),
                }
            ]
        }

    def promotion(self, version: str, environment: str) -> Promotion | None:
        found = self.plane.client.list(Promotion, environment).items
        return next((p for p in found if p.spec.revision.version == version), None)

    def wait_for_phase(self, version: str, environment: str, *phases: str) -> Promotion:
        def there() -> Promotion | None:
            promotion = self.promotion(version, environment)
            if promotion and promotion.status.phase in FINISHED_PROMOTION - set(phases):
                raise AssertionError(f"{promotion.status.phase}: {promotion.status.message}")
            return promotion if promotion and promotion.status.phase in phases else None

        return wait_for(f"{version} {phases} in {environment}", there, 180)

    def approval(self, version: str) -> Approval:
        found = self.plane.client.list(Approval).items
        return next(a for a in found if a.spec.version == version)


@pytest.fixture(scope="module")
def clinic() -> Iterator[Clinic]:
    folder = Path(tempfile.mkdtemp(prefix="mp-gates-"))
    plane = Modelplane(folder / "state")
    try:
        plane.up()
        with Clinic(plane, folder) as clinic:
            yield clinic
    finally:
        plane.cli("down", check=False)
        wait_for("end of all processes", lambda: not plane.processes(), 30)
        shutil.rmtree(folder, ignore_errors=True)


async def test_from_push_to_production_by_hand_only_the_approval(clinic: Clinic) -> None:
    clinic.push("1.0.0", 1.0)
    clinic.apply(DEPLOYMENT)
    await asyncio.to_thread(clinic.wait_for_phase, "1.0.0", "staging", "AwaitingApproval")
    first = clinic.approval("1.0.0")
    clinic.lead.approve(first.metadata.name, "staging", reason="a good first one")
    await asyncio.to_thread(clinic.wait_for_phase, "1.0.0", "staging", "Done")
    await asyncio.to_thread(clinic.wait_for_phase, "1.0.0", "production", "Done")

    async with Load(f"{clinic.plane.url}/tumour/infer", 80, body=clinic.request) as load:
        await asyncio.to_thread(clinic.push, "1.1.0", 0.1)
        await asyncio.to_thread(clinic.wait_for_phase, "1.1.0", "staging", "AwaitingApproval")
        asked = clinic.approval("1.1.0")
        await asyncio.to_thread(
            clinic.lead.approve, asked.metadata.name, "staging", reason="better"
        )
        done = await asyncio.to_thread(clinic.wait_for_phase, "1.1.0", "production", "Done")
        await asyncio.sleep(1)
    assert load.failures == []
    assert set(load.served) == {"1.0.0", "1.1.0"}
    assert done.status.rollout is not None
    rollout = clinic.plane.client.get(Rollout, done.status.rollout, "production")
    assert rollout.status.reason == "WithinMargins"
    assert rollout.status.steps[0].weight_pct <= 5, "it ramped"
    assert done.status.approvals == (f"staging/{asked.metadata.name}",), "one approval, all the way"
    runs = clinic.plane.client.list(GateRun).items
    assert {run.status.phase for run in runs} == {"Passed"}

    await asyncio.to_thread(_check_evidence, clinic, done)


def _check_evidence(clinic: Clinic, promotion: Promotion) -> None:
    """The bundle verifies without the server, and not once a word of it is changed."""
    name, folder = promotion.metadata.name, clinic.folder
    wait_for(
        "evidence",
        lambda: clinic.plane.client.get(Promotion, name, "production").status.evidence,
    )
    plane = clinic.plane
    plane.cli("evidence", "export", name, "-e", "production", "--to", str(folder / "bundle.json"))
    (folder / "key.pub").write_text(plane.cli("evidence", "key").stdout)
    check = ("evidence", "verify", "--key", str(folder / "key.pub"))
    assert "holds" in plane.cli(*check, str(folder / "bundle.json")).stderr
    text = (folder / "bundle.json").read_text()
    assert "better" in text
    (folder / "altered.json").write_text(text.replace("better", "bettor"))
    altered = plane.cli(*check, str(folder / "altered.json"), check=False)
    assert altered.returncode == 7


def test_a_rejected_version_goes_nowhere_and_people_are_told(clinic: Clinic) -> None:
    clinic.push("1.2.0", 0.01)
    clinic.wait_for_phase("1.2.0", "staging", "AwaitingApproval")
    approval = clinic.approval("1.2.0")
    text = wait_for("the mail with a link", lambda: clinic.find_mail("1.2.0", "/approvals/links/"))
    link = next(word for word in text.split() if "/approvals/links/" in word)
    page = httpx.get(link)
    assert page.status_code == 200
    assert "1.2.0" in page.text
    assert clinic.approval("1.2.0").status.phase == "Pending", "to read it answers nothing"
    clinic.lead.reject(approval.metadata.name, "staging", reason="the trial is not over")
    rejected = clinic.wait_for_phase("1.2.0", "staging", "Rejected")
    assert "the trial is not over" in rejected.status.message
    assert rejected.status.rollout is None

    told = wait_for("the webhook", lambda: clinic.find_event("approval.rejected", "1.2.0"))
    headers, body = told
    Webhook(clinic.secret).verify(body, {name.lower(): value for name, value in headers.items()})
    wait_for("the mail", lambda: clinic.find_mail("rejected", "1.2.0"))
    assert clinic.promotion("1.2.0", "production") is None


def test_a_version_below_the_threshold_never_comes_to_an_approver(clinic: Clinic) -> None:
    clinic.push("1.3.0", 1.0, shuffled=True)
    refused = clinic.wait_for_phase("1.3.0", "staging", "Refused")
    assert "accuracy" in refused.status.message
    approvals = clinic.plane.client.list(Approval).items
    assert not [a for a in approvals if a.spec.version == "1.3.0"]
    scan = next(
        run for run in clinic.plane.client.list(GateRun).items
        if run.spec.candidate.revision.version == "1.3.0"
    )  # fmt: skip
    by_name = {stage.name: stage.phase for stage in scan.status.stages}
    assert by_name["accuracy"] == "Failed"
    assert by_name["security_scan"] == "Skipped", "approve stages run only for compliant versions"
