"""A script publishes a version; afterwards one command says what was what, when and why."""

from __future__ import annotations

import json
import os
import signal
from datetime import UTC, datetime
from typing import Any

import httpx
import pytest

from modelplane.resources.model import Model, ModelVersion
from tests.e2e.conftest import Modelplane, wait_for

pytestmark = [pytest.mark.e2e, pytest.mark.beside, pytest.mark.timeout(300)]


def publish(plane: Modelplane, content_type: str | None, **body: str) -> httpx.Response:
    """Send JSON as scripts do: without a content type, or with the one curl makes up."""
    headers = {"authorization": f"Bearer {(plane.state / 'admin-token').read_text().strip()}"}
    if content_type:
        headers["content-type"] = content_type
    url = f"http://127.0.0.1:{plane.ports['api']}/v1/models"
    return httpx.put(url, content=json.dumps(body).encode(), headers=headers, timeout=10)


def serving(plane: Modelplane) -> tuple[str | None, str | None]:
    status = plane.client.get(Model, "test").status
    entry = next(s for s in status.serving if s.environment == "production")
    return entry.champion, entry.challenger


def named(plane: Modelplane, *words: str) -> dict[str, dict[str, Any]]:
    """Ask the command line what was named; by role."""
    done = plane.cli("registry", "history", "test", "-e", "production", *words, "-o", "json")
    return {item["alias"]: item for item in json.loads(done.stdout)["items"]}


async def test_what_a_script_published_is_in_the_history(modelplane: Modelplane) -> None:
    modelplane.push("1.0.0")
    refused = publish(modelplane, None, id="test@1.0.0", status="production")
    assert (refused.status_code, refused.json()["code"]) == (404, "no-deployment")
    modelplane.serve()
    wait_for("the first champion", lambda: serving(modelplane) == ("1.0.0", None))
    before = datetime.now(UTC)

    modelplane.push("2.0.0")
    unique_id = modelplane.client.get(ModelVersion, "test@2.0.0").spec.id
    form = "application/x-www-form-urlencoded"
    wanted = {"id": unique_id, "status": "production", "reason": "better recall"}
    published = publish(modelplane, form, **wanted)
    assert published.status_code == 202, published.text
    assert published.json()["promotion"] == "test-2"
    wait_for("a challenger", lambda: serving(modelplane) == ("1.0.0", "2.0.0"))
    assert publish(modelplane, None, **wanted).json()["result"] == "unchanged"

    modelplane.cli("rollout", "promote", "test", "--reason", "tested elsewhere")
    wait_for("the new champion", lambda: serving(modelplane) == ("2.0.0", None))
    again = publish(modelplane, "text/plain", **wanted)
    assert (again.status_code, again.json()["result"]) == (200, "unchanged")

    then = named(modelplane, "--at", before.isoformat())
    assert {role: item["version"] for role, item in then.items()} == {"champion": "1.0.0"}
    now = named(modelplane, "--at", "now")["champion"]
    assert (now["version"], now["before"], now["subject"]) == ("2.0.0", "1.0.0", "admin")
    assert (now["reason"], now["promotion"]) == ("tested elsewhere", "test-2")
    finished_at = modelplane.rollout().status.finished_at
    assert finished_at is not None
    assert datetime.fromisoformat(now["since"]) == finished_at
    assert modelplane.client.get(Model, "test").status.aliases == {"champion": "2.0.0"}

    told = modelplane.cli("lineage", "test@2.0.0", "-o", "openlineage").stdout.splitlines()
    live = next(e for e in map(json.loads, told) if e["job"]["name"].endswith(".deployment"))
    assert live["outputs"][0]["name"] == "deployments/production/test"
    assert live["run"]["facets"]["modelplane_deployment"]["promotion"] == "test-2"

    moves = modelplane.client.history("test")
    os.kill(modelplane.pid("control-plane"), signal.SIGKILL)
    wait_for("another control plane", lambda: modelplane.client.history("test") == moves)
    modelplane.cli("delete", "deployment", "test", "--reason", "season over")
    wait_for("its end", lambda: not modelplane.client.get(Model, "test").status.serving)
    ended = next(m.spec for m in modelplane.client.history("test", environment="production"))
    assert (ended.after, ended.subject, ended.reason) == (None, "admin", "season over")
    assert len(modelplane.client.history("test")) == len(moves) + 2
    text = modelplane.cli("registry", "history", "test", "--at", before.isoformat()).stdout
    assert "1.0.0" in text
