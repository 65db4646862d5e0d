"""The closed loop without a Prometheus: a model server hangs, a playbook starts it again.

The control plane is killed in the middle of that. The seconds of each leg are printed; with
``MODELPLANE_TEST_REPORTS`` set to a folder they are written to ``playbooks.json`` there.
"""

from __future__ import annotations

import json
import os
import signal
import sys
from pathlib import Path

import pytest

from modelplane.decisions.playbook import legs_of
from modelplane.resources.alerting import Alert
from modelplane.resources.manifest import read_documents
from modelplane.resources.playbook import PlaybookRun
from modelplane.resources.replica import Replica
from tests.e2e.conftest import Modelplane, wait_for

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(300)]

MANIFEST = """
apiVersion: modelplane.dev/v1
kind: AlertRules
metadata: {name: hanging}
spec:
  groups:
  - name: hanging
    interval: 1s
    rules:
    - {alert: ModelServerHangs, expr: modelplane_replica_up == 0}
---
apiVersion: modelplane.dev/v1
kind: Playbook
metadata: {name: start-again}
spec:
  matchers: ['alertname="ModelServerHangs"']
  steps:
  - {name: collect, runCommand: {command: [uptime], environment: production}}
  - {name: restart, restartReplica: {}, timeout: 2m}
  - name: see
    waitFor: {expr: 'modelplane_replica_up{replica="{{ $labels.replica }}"} == 1'}
  verify: {timeout: 2m}
"""


def test_a_server_that_hangs_is_started_again_once(modelplane: Modelplane) -> None:
    client = modelplane.client
    modelplane.serve()
    for document in read_documents(MANIFEST, "manifest"):
        client.apply(document)
    rehearsal = modelplane.cli("playbook", "run", "start-again", "--dry-run", check=False)
    assert "the alert has no label" in rehearsal.stdout, rehearsal.stderr

    def is_ready() -> Replica | None:
        [replica] = client.list(Replica, "production").items
        return replica if replica.status.phase == "Ready" else None

    pid = wait_for("a ready server", is_ready).status.pid
    assert pid is not None
    os.kill(pid, signal.SIGSTOP)

    def last_run() -> PlaybookRun | None:
        runs = client.list(PlaybookRun).items
        return next((run for run in runs if not run.spec.dry_run), None)

    wait_for("the run of a playbook", last_run)
    os.kill(modelplane.pid("control-plane"), signal.SIGKILL)

    def ended() -> PlaybookRun | None:
        run = last_run()
        return run if run is not None and run.finished else None

    run = wait_for("the end of the run", ended, 120)
    assert run.status.phase == "Succeeded", run.status
    replica = wait_for("a ready server", is_ready)
    assert (replica.status.restarts, replica.status.restarted) == (
        1,
        f"{run.metadata.name}.restart",
    )
    alert = client.get(Alert, run.spec.alert)
    assert (alert.status.phase, alert.status.episode) == ("Resolved", 1)
    assert f"restarted {replica.metadata.name}" in alert.status.closing
    history = modelplane.cli("playbook", "history", run.metadata.name).stdout
    assert "recovery verified" in history
    _report(run)


def _report(run: PlaybookRun) -> None:
    legs = {name: None if s is None else round(s, 2) for name, s in legs_of(run.status).items()}
    sys.stdout.write(json.dumps(legs) + "\n")
    folder = os.environ.get("MODELPLANE_TEST_REPORTS")
    if folder:
        (Path(folder) / "playbooks.json").write_text(json.dumps(legs) + "\n")
