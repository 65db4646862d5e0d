"""With a real Prometheus and Alertmanager: from a dead model server to an alert that is over.

The seconds of each leg are printed; with ``MODELPLANE_TEST_REPORTS`` set to a folder they are
written to ``prometheus.json`` there.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from modelplane.adapters.alerting.rule_files import render_rules
from modelplane.decisions.alert_delivery import SOURCE_LABEL
from modelplane.decisions.built_in_rules import built_in_rules
from modelplane.resources.alerting import Alert, AlertRules, Silence
from modelplane.resources.manifest import read_document
from modelplane.resources.playbook import PlaybookRun
from modelplane.resources.replica import Replica
from tests.e2e.conftest import Modelplane, wait_for
from tests.ports import free_port
from tests.prometheus_server import (
    PROMTOOL,
    RealServer,
    alertmanager,
    prometheus,
    require_prometheus,
)

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(400)]

RULES = {
    "groups": [
        {
            "name": "replicas",
            "rules": [
                {
                    "alert": "ModelServerDown",
                    "expr": "modelplane_replica_up == 0",
                    "labels": {"severity": "page"},
                    "annotations": {"summary": "{{ $labels.replica }} is down"},
                }
            ],
        }
    ]
}
PLAYBOOK = {
    "apiVersion": "modelplane.dev/v1",
    "kind": "Playbook",
    "metadata": {"name": "restart"},
    "spec": {
        "matchers": ['alertname="ModelServerDown"'],
        "steps": [{"name": "restart", "restartReplica": {}, "timeout": "60s"}],
        "verify": {
            "expr": 'modelplane_replica_up{replica="{{ $labels.replica }}"} == 1',
            "for": "2s",
            "timeout": "60s",
        },
    },
}
DOCS = Path(__file__).resolve().parent.parent.parent / "docs"
CRASHES = 6
"""Before the one that counts: by then the agent waits so long that the playbook is the first."""


@dataclass
class Surroundings:
    plane: Modelplane
    prometheus: RealServer
    alertmanager: RealServer

    def there(self) -> list[dict[str, Any]]:
        """Return what Alertmanager has of our alerts."""
        alerts = self.alertmanager.get("/api/v2/alerts?silenced=true")
        return [a for a in alerts if a["labels"]["alertname"] == "ModelServerDown"]

    def alert(self) -> Alert | None:
        found = self.plane.client.list(Alert).items
        return next((a for a in found if a.spec.alert == "ModelServerDown"), None)

    def replica(self) -> Replica:
        [replica] = self.plane.client.list(Replica, "production").items
        return replica

    def apply_rules(self) -> None:
        manifest = {
            "apiVersion": "modelplane.dev/v1",
            "kind": "AlertRules",
            "metadata": {"name": "replicas"},
            "spec": RULES,
        }
        self.plane.client.apply(read_document(manifest))

        def is_evaluated() -> bool:
            rules = self.plane.client.get(AlertRules, "replicas").status.rules
            return [r.evaluated_by for r in rules] == ["prometheus"]

        wait_for("evaluation by Prometheus", is_evaluated)


@pytest.fixture
def around() -> Iterator[Surroundings]:
    """A modelplane beside a Prometheus that scrapes it and an Alertmanager that tells it."""
    require_prometheus()
    folder = Path(tempfile.mkdtemp(prefix="mp-e2e-"))
    plane = Modelplane(folder / "state")
    api = f"127.0.0.1:{plane.ports['api']}"
    plane.state.mkdir(mode=0o700)
    with ExitStack() as stack:
        stack.callback(shutil.rmtree, folder, ignore_errors=True)
        metrics = stack.enter_context(prometheus(targets={"modelplane": api}))
        port = free_port()
        settings = {
            "prometheus_url": metrics.url,
            "prometheus_rules_dir": str(metrics.folder / "rules"),
            "alertmanager_url": f"http://127.0.0.1:{port}",
        }
        lines = [f"{name} = {json.dumps(value)}" for name, value in settings.items()]
        (plane.state / "config.toml").write_text("\n".join(lines) + "\n")
        stack.callback(_down, plane)
        plane.up()
        token = (plane.state / "admin-token").read_text().strip()
        webhook = f"http://{api}/api/v1/alertmanager"
        pager = stack.enter_context(alertmanager(port=port, webhook=webhook, token=token))
        yield Surroundings(plane, metrics, pager)


def _down(plane: Modelplane) -> None:
    plane.cli("down", check=False)
    wait_for("end of all processes", lambda: not plane.processes(), 30)


def _kill(around: Surroundings) -> datetime:
    """Kill the model server; return when."""
    replica = wait_for("a ready server", lambda: _ready(around), 90)
    pid = replica.status.pid
    assert pid is not None
    at = datetime.now(UTC)
    os.kill(pid, signal.SIGKILL)

    def is_noticed() -> bool:
        now = around.replica().status
        return now.pid != pid or now.phase != "Ready"

    wait_for("notice of its end", is_noticed)
    return at


def _ready(around: Surroundings) -> Replica | None:
    replica = around.replica()
    return replica if replica.status.phase == "Ready" else None


def _is_up_there(around: Surroundings) -> bool:
    answer = around.prometheus.get("/api/v1/query?query=modelplane_replica_up")
    return [one["value"][1] for one in answer["data"]["result"]] == ["1"]


def test_a_dead_model_server_is_repaired_and_its_alert_ends_in_alertmanager(
    around: Surroundings,
) -> None:
    plane = around.plane
    plane.serve()
    for _ in range(CRASHES):
        _kill(around)
    wait_for("a ready server", lambda: _ready(around), 90)
    wait_for("that Prometheus knows it", lambda: _is_up_there(around))
    around.apply_rules()
    plane.client.apply(read_document(PLAYBOOK))

    killed_at = _kill(around)
    told_at = wait_for("the alert in Alertmanager", lambda: _now_if(bool(around.there())))
    [told] = around.there()
    assert told["labels"][SOURCE_LABEL] == "replicas"
    assert told["annotations"]["summary"] == f"{around.replica().metadata.name} is down"

    gone: list[datetime] = []

    def run_is_over() -> PlaybookRun | None:
        if not gone and not around.there():
            gone.append(datetime.now(UTC))
        runs = plane.client.list(PlaybookRun).items
        return next((r for r in runs if r.status.phase in {"Succeeded", "Failed"}), None)

    run = wait_for("end of the playbook's run", run_is_over, 90)
    assert run.status.phase == "Succeeded", run.status
    assert around.replica().status.restarted, "the agent was faster than the playbook"

    def is_over() -> Alert | None:
        found = around.alert()
        return found if found is not None and found.status.phase == "Resolved" else None

    ended = wait_for("end of the alert", is_over)
    gone_at = wait_for(
        "its end in Alertmanager", lambda: gone[0] if gone else _now_if(not around.there())
    )
    assert ended.status.episode == 1
    assert ended.status.posted == "Resolved"
    assert ended.spec.source == "prometheus"

    def closing() -> str:
        found = around.alert()
        return found.status.closing if found is not None else ""

    assert "restarted" in wait_for("what was done", closing)
    assert plane.client.predict("test", _BODY).version == "1.0.0"

    seconds = _legs(killed_at, told_at, gone_at, ended, run)
    _report({"seconds_after_the_kill": seconds, "steps": [s.message for s in run.status.steps]})
    in_order = ("killed", "alert_here", "first_step", "repaired", "recovery_verified")
    assert [seconds[name] for name in in_order] == sorted(seconds[name] for name in in_order)


def _legs(
    killed_at: datetime, told_at: datetime, gone_at: datetime, alert: Alert, run: PlaybookRun
) -> dict[str, float]:
    """Return how many seconds after the kill each step was; all of them must have been."""
    status = run.status
    moments = {
        "killed": killed_at,
        "breach_seen_by_prometheus": alert.status.active_at,
        "alert_here": alert.status.fired_at,
        "alert_in_alertmanager": told_at,
        "first_step": status.first_step_at,
        "repaired": status.verifying_at,
        "recovery_verified": status.recovered_at,
        "alert_over_here": alert.status.resolved_at,
        "alert_over_in_alertmanager": gone_at,
    }
    seconds = {n: (at - killed_at).total_seconds() for n, at in moments.items() if at is not None}
    assert set(seconds) == set(moments)
    return {name: round(value, 2) for name, value in seconds.items()}


def test_alerts_and_silences_of_an_alertmanager_are_ours_too(around: Surroundings) -> None:
    """What somebody else posts there arrives by the webhook; silences go both ways."""
    amtool = f"{around.alertmanager.url}/api/v2"
    _post(f"{amtool}/alerts", [{"labels": {"alertname": "DiskFull", "host": "a"}}])

    def arrived() -> Alert | None:
        found = around.plane.client.list(Alert).items
        return next((a for a in found if a.spec.alert == "DiskFull"), None)

    alert = wait_for("the alert from Alertmanager", arrived)
    assert (alert.spec.source, alert.status.phase) == ("alertmanager", "Firing")

    matchers = [{"name": "alertname", "value": "DiskFull", "isRegex": False, "isEqual": True}]
    now = time.time()
    silence = {
        "matchers": matchers,
        "startsAt": datetime.fromtimestamp(now, UTC).isoformat(),
        "endsAt": datetime.fromtimestamp(now + 3600, UTC).isoformat(),
        "createdBy": "ada",
        "comment": "we are at it",
    }
    _post(f"{amtool}/silences", silence)

    def taken() -> Silence | None:
        found = around.plane.client.list(Silence).items
        return next((s for s in found if s.spec.comment == "we are at it"), None)

    assert wait_for("the silence from Alertmanager", taken).spec.created_by == "ada"

    own = {
        "apiVersion": "modelplane.dev/v1",
        "kind": "Silence",
        "metadata": {"name": "quiet"},
        "spec": {
            "matchers": ['alertname="ModelServerDown"'],
            "endsAt": datetime.fromtimestamp(now + 3600, UTC).isoformat(),
            "comment": "moving house",
        },
    }
    around.plane.client.apply(read_document(own))

    def held() -> list[str]:
        found = around.alertmanager.get("/api/v2/silences")
        return [s["comment"] for s in found if s["status"]["state"] == "active"]

    wait_for("both silences there", lambda: sorted(held()) == ["moving house", "we are at it"])
    around.plane.client.delete(Silence, "quiet")
    wait_for("the end of ours there", lambda: held() == ["we are at it"])


def test_promtool_finds_the_shipped_rules_right(tmp_path: Path) -> None:
    require_prometheus()
    file = tmp_path / "modelplane.yml"
    file.write_text(render_rules("modelplane", built_in_rules().spec))
    shipped = [file, *(path for path in DOCS.rglob("*.yml") if "groups:" in path.read_text())]
    done = subprocess.run(
        [str(PROMTOOL), "check", "rules", "--lint-fatal", *map(str, shipped)],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr


_BODY = {"inputs": [{"name": "x", "datatype": "FP64", "shape": [1], "data": [1.0]}]}


def _now_if(condition: bool) -> datetime | None:
    return datetime.now(UTC) if condition else None


def _post(url: str, body: Any) -> None:
    request = urllib.request.Request(
        url, json.dumps(body).encode(), {"content-type": "application/json"}
    )
    with urllib.request.urlopen(request, timeout=10) as answer:
        assert answer.status == 200


def _report(figures: dict[str, Any]) -> None:
    sys.stdout.write(json.dumps(figures, indent=1) + "\n")
    folder = os.environ.get("MODELPLANE_TEST_REPORTS")
    if folder:
        (Path(folder) / "prometheus.json").write_text(json.dumps(figures, indent=1) + "\n")
