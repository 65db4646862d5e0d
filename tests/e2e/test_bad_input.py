"""Bad input of every kind: a clear message that says what to do, an exit code, nothing changed."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import psutil
import pytest

from modelplane.resources.environment import Environment
from modelplane.resources.model import Model, ModelVersion
from modelplane.resources.model_deployment import ModelDeployment
from modelplane.resources.promotion import Promotion
from modelplane.resources.rollout import Rollout
from modelplane.resources.token import Token
from tests.e2e.conftest import MODEL, Modelplane, wait_for

pytestmark = [pytest.mark.e2e, pytest.mark.beside, pytest.mark.timeout(240)]

REQUEST = {"inputs": [{"name": "x", "datatype": "FP64", "shape": [1], "data": [1.0]}]}
CANARY = {"canary": {"minBake": "1s", "analysis": {"interval": "1s", "metrics": ["errors"]}}}
DECLARED = (Model, ModelVersion, Environment, ModelDeployment, Promotion, Rollout, Token)


@pytest.fixture(scope="module")
def plane() -> Iterator[Modelplane]:
    """A modelplane that serves version 1.0.0 of `test` in production."""
    folder = Path(tempfile.mkdtemp(prefix="mp-bad-"))
    plane = Modelplane(folder / "state")
    try:
        plane.up()
        plane.serve()
        yield plane
    finally:
        plane.cli("down", check=False)
        wait_for("end of all processes", lambda: not plane.processes(), 20)
        shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture
def folder() -> Iterator[Path]:
    """A folder whose path is short enough for a state directory."""
    folder = Path(tempfile.mkdtemp(prefix="mp-bad-"))
    yield folder
    shutil.rmtree(folder, ignore_errors=True)


def declared(plane: Modelplane) -> dict[str, Any]:
    """Return everything that people and the system have declared so far."""
    found = {}
    for kind in DECLARED:
        for item in plane.client.list(kind).items:
            data = item.to_dict()
            found[str(item.key)] = (data["spec"], data["metadata"]["generation"])
    return found


def refuse(
    plane: Modelplane, *arguments: str, code: int, says: tuple[str, ...], **more: Any
) -> None:
    """Run a command that must be refused with these words, this exit code, and no effect."""
    before = declared(plane)
    done = plane.cli(*arguments, check=False, **more)
    assert done.returncode == code, done.stdout + done.stderr
    assert "Traceback" not in done.stderr
    for words in says:
        assert words in done.stderr, done.stderr
    assert declared(plane) == before


def manifest(spec: str, name: str = "test", kind: str = "ModelDeployment") -> str:
    return f"""apiVersion: modelplane.dev/v1
kind: {kind}
metadata:
  name: {name}
spec:
{spec}
"""


# What is written ------------------------------------------------------------------------------


FAULTS = {
    "malformed": ("version: [1.0.0", ("line 7, column 1", "look at the indentation")),
    "type": ("replicas: many", ("spec.replicas", "many", "line 6")),
    "101-percent": (
        "strategy: {canary: {traffic: 101 %}}",
        ("strategy.canary.traffic", "101", "100"),
    ),
    "falling-steps": (
        "strategy: {canary: {steps: [5, 25, 10]}}",
        ("strategy.canary.steps", "rise"),
    ),
    "unknown-field": ("replcas: 2", ("spec.replcas", "did you mean", "replicas")),
    "version": ("version: one", ("spec.version", "one", "1.2.0")),
    "twice": ("version: 1.0.0\n  version: 2.0.0", ("version", "line 7")),
    "duration": ("startTimeout: soon", ("spec.startTimeout", "30s")),
}


@pytest.mark.parametrize(("spec", "says"), FAULTS.values(), ids=FAULTS.keys())
def test_a_manifest_with_a_fault_is_refused_at_its_place(
    plane: Modelplane, spec: str, says: tuple[str, ...]
) -> None:
    text = manifest(f"  {spec}")
    refuse(plane, "validate", "-f", "-", input=text, code=2, says=says)
    refuse(plane, "apply", "-f", "-", input=text, code=2, says=says)


def test_an_unknown_kind_is_told_with_the_nearest_one(plane: Modelplane) -> None:
    text = manifest("  {}", kind="ModelDeploiment")
    refuse(
        plane, "apply", "-f", "-", input=text, code=2, says=("ModelDeploiment", "ModelDeployment")
    )


def test_one_fault_in_a_folder_keeps_all_of_it_from_being_applied(
    plane: Modelplane, folder: Path
) -> None:
    (folder / "a.yaml").write_text(manifest("  version: 1.0.0", name="other"))
    (folder / "b.yaml").write_text(manifest("  replicas: 0", name="another"))
    refuse(plane, "apply", "-f", str(folder), code=2, says=("b.yaml", "spec.replicas"))
    refuse(plane, "apply", "-f", str(folder / "c.yaml"), code=2, says=("c.yaml",))


@pytest.mark.parametrize(
    ("arguments", "text", "code", "says"),
    [
        (("apply", "-f", "-"), manifest("  version: 9.9.9"), 4, ("test", "9.9.9", "1.0.0")),
        (
            ("apply", "-f", "-"),
            manifest("  version: 1.0.0", name="tset"),
            4,
            ("tset", "modelplane push tset"),
        ),
        (
            ("apply", "-f", "-"),
            manifest("  version: 1.0.0").replace("name: test", "name: test\n  environment: prd"),
            2,
            ("prd", "production"),
        ),
        (("promote", "test", "--version", "9.9.9", "--to", "production"), None, 4, ("9.9.9",)),
        (("promote", "test", "--version", "1.0.0", "--to", "prd"), None, 2, ("prd", "production")),
        (("rollout", "pause", "nothing"), None, 4, ("nothing",)),
        (("get", "deployment", "nothing"), None, 4, ("nothing",)),
        (("predict", "test", "-e", "prd", "--data", json.dumps(REQUEST)), None, 4, ("prd",)),
    ],
    ids=["version", "model", "environment", "promoted", "to", "rollout", "get", "predict"],
)
def test_a_name_that_nothing_has_is_said_to_be_unknown(
    plane: Modelplane,
    arguments: tuple[str, ...],
    text: str | None,
    code: int,
    says: tuple[str, ...],
) -> None:
    refuse(plane, *arguments, input=text, code=code, says=says)


SHAPES = {
    "word": """
apiVersion: mcp.example.com/v1
kind: ModelDeployment
metadata: {name: fraud, namespace: production}
spec: {modelVersion: v3.2.1, strategy: Canary, canaryTraffic: 10%, metricsEndpoint: /metrics}
""",
    "number": """
apiVersion: mcp.example/v1
kind: ModelDeployment
metadata: {name: fraud}
spec: {environment: production, modelVersion: v3.2.1, strategy: CANARY, canaryTraffic: 10,
       metricsEndpoint: /metrics}
""",
    "beside-metadata": """
apiVersion: mcp.example/v1
kind: ModelDeployment
metadata: {name: fraud}
spec: {modelVersion: 3.2.1, metricsEndpoint: /metrics}
strategy: {canary: {traffic: 10%}}
""",
    "steps": """
apiVersion: modelplane.dev/v1
kind: ModelDeployment
metadata: {name: fraud, environment: production}
spec: {model: fraud, version: 3.2.1, metricsEndpoint: /metrics, strategy: {canary: {steps: [10]}}}
""",
}
ANALYSED = {
    "short": """
apiVersion: mcp.example.com/v1
kind: ModelDeployment
metadata: {name: fraud}
spec: {modelVersion: v3.2.1}
strategy: {canary: {traffic: 10%, analysis: {metrics: [latency, precision], interval: 30s}}}
""",
    "long": """
apiVersion: modelplane.dev/v1
kind: ModelDeployment
metadata: {name: fraud}
spec:
  version: 3.2.1
  strategy:
    canary:
      steps: [10]
      analysis: {metrics: [{name: latency}, {name: precision}], interval: 30s}
""",
}


@pytest.mark.parametrize("shapes", [SHAPES, ANALYSED], ids=["traffic", "analysis"])
def test_every_shape_that_people_write_means_the_same_without_a_server(
    folder: Path, shapes: dict[str, str]
) -> None:
    nowhere = Modelplane(folder / "state")
    for name, text in shapes.items():
        (folder / f"{name}.yaml").write_text(text)
    printed = [
        json.loads(nowhere.cli("validate", "-f", str(folder / f"{name}.yaml"), "-o", "json").stdout)
        for name in shapes
    ]
    first = printed[0]
    assert all(one == first for one in printed)
    assert list(first) == ["apiVersion", "kind", "metadata", "spec"]
    assert first["metadata"] == {"name": "fraud", "environment": "production"}
    assert (first["spec"]["model"], first["spec"]["version"]) == ("fraud", "3.2.1")
    assert first["spec"]["strategy"]["canary"]["steps"] == [10]
    assert not (folder / "state").exists()


# What is pushed -------------------------------------------------------------------------------


def test_an_artifact_that_cannot_be_read_is_refused(plane: Modelplane, folder: Path) -> None:
    push = ("push", "test", "--version", "5.0.0")
    refuse(plane, *push, "--artifact", str(folder / "none"), code=2, says=("no artifact at",))
    (folder / "empty").mkdir()
    refuse(plane, *push, "--artifact", str(folder / "empty"), code=2, says=("holds no file",))
    (folder / "model.bin").write_bytes(b"?")
    says: tuple[str, ...] = ("format of", "name it: mlflow, onnx, skops, joblib or command")
    refuse(plane, *push, "--artifact", str(folder / "model.bin"), code=2, says=says)
    tree = folder / "tree"
    tree.mkdir()
    (tree / "model.skops").symlink_to("/etc/passwd")
    says = ("model.skops", "no links")
    refuse(plane, *push, "--artifact", str(tree), "--format", "skops", code=2, says=says)
    refuse(plane, *push, code=2, says=("nothing to push", "--artifact"))
    good = ("--artifact", str(folder / "model.bin"), "--format", "skops")
    says = ("--metric", "accuracy=high")
    refuse(plane, *push, *good, "--metric", "accuracy=high", code=2, says=says)
    refuse(plane, "push", "test", "--version", "five", *good, code=2, says=("five", "1.2.0"))
    refuse(plane, "push", "Te:st", "--version", "5.0.0", *good, code=2, says=("Te:st",))
    # The memory at address 0 is a file that not even root can read.
    unreadable = ("--artifact", "/proc/self/mem", "--format", "skops")
    refuse(plane, *push, *unreadable, code=2, says=("/proc/self/mem", "Input/output error"))


def test_a_version_keeps_its_bytes(plane: Modelplane, folder: Path) -> None:
    file = folder / "model.skops"
    file.write_bytes(b"one")
    push = ("push", "kept", "--version", "1.0.0", "--artifact", str(file))
    plane.cli(*push)
    first = plane.client.get(ModelVersion, "kept@1.0.0").spec.artifact
    assert first is not None
    again = json.loads(plane.cli(*push, "-o", "json").stdout)
    assert again["result"] == "unchanged"
    file.write_bytes(b"two")
    refuse(plane, *push, code=5, says=("exists with other bytes", first.digest,
                                       "pushed were sha256:", "under a new version"))  # fmt: skip
    assert plane.client.get(ModelVersion, "kept@1.0.0").spec.artifact == first


def test_a_version_that_is_deployed_is_not_deleted(plane: Modelplane) -> None:
    says = ("test@1.0.0 is deployed: production/test", "deploy another version there first")
    refuse(plane, "delete", "version", "test@1.0.0", code=5, says=says)


# What does not run ----------------------------------------------------------------------------


def fail_to_deploy(plane: Modelplane, version: str, **spec: Any) -> Rollout:
    """Declare a version that cannot serve; return its failed rollout. Stable is not touched."""
    stable = plane.deployment().status.stable
    text = manifest("  " + json.dumps({"version": version, "strategy": CANARY, **spec}))
    done = plane.cli("apply", "-f", "-", "--wait", "--timeout", "90s", input=text, check=False)
    assert done.returncode == 1, done.stdout + done.stderr
    rollout = plane.rollout()
    assert rollout.spec.candidate.version == version
    assert rollout.status.phase == "Failed"
    assert rollout.status.weight_pct == 0
    assert rollout.status.message.splitlines()[0] in done.stdout + done.stderr
    assert plane.deployment().status.stable == stable
    assert plane.client.predict("test", REQUEST).version == "1.0.0"
    return rollout


def push_command(plane: Modelplane, version: str, program: str) -> None:
    plane.client.push("test", version, command=["/bin/sh", "-c", program])


def running(word: str) -> list[str]:
    """Return the command lines that hold `word`."""
    found = []
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error):
            found.append(" ".join(process.cmdline()))
    return [line for line in found if word in line and "pytest" not in line]


def test_a_model_that_does_not_start_ends_with_the_tail_of_its_log(plane: Modelplane) -> None:
    push_command(plane, "2.0.0", "echo the weights are gone >&2; exit 9")
    rollout = fail_to_deploy(plane, "2.0.0")
    assert "StartFailed: the model server ended with code 9" in rollout.status.message
    assert "the weights are gone" in rollout.status.message


def test_a_file_that_is_no_model_ends_with_what_is_wrong_with_it(
    plane: Modelplane, folder: Path
) -> None:
    (folder / "model.skops").write_bytes(b"not a zip")
    plane.cli("push", "test", "--version", "2.0.1", "--artifact", str(folder / "model.skops"))
    rollout = fail_to_deploy(plane, "2.0.1")
    assert "StartFailed: the model cannot be loaded" in rollout.status.message


def test_a_model_that_never_gets_ready_ends_at_its_time_out(plane: Modelplane) -> None:
    push_command(plane, "2.1.0", "echo warming up; exec sleep 4711")
    rollout = fail_to_deploy(plane, "2.1.0", startTimeout="2s")
    assert "NotReadyInTime: the model server was not ready within 2s" in rollout.status.message
    assert "warming up" in rollout.status.message
    wait_for("its end", lambda: not running("sleep 4711"), 20)


def test_a_model_that_eats_memory_ends_at_its_limit(plane: Modelplane) -> None:
    program = "list(bytearray(2**20) for _ in range(8192))"
    plane.client.push("test", "2.2.0", command=[sys.executable, "-c", program])
    rollout = fail_to_deploy(plane, "2.2.0", resources={"memory": "256Mi"})
    assert "OutOfMemory: " in rollout.status.message
    assert "needs more memory than its limit of 256Mi" in rollout.status.message
    assert "raise resources.memory" in rollout.status.message


def test_an_artifact_changed_in_the_store_is_not_run(plane: Modelplane, folder: Path) -> None:
    shutil.copyfile(MODEL, folder / "server.py")
    command = f"{sys.executable} {{artifact}}/server.py {{socket}} 2.3.0"
    push = ("push", "test", "--version", "2.3.0", "--artifact", str(folder / "server.py"))
    plane.cli(*push, "--command", command)
    files = plane.client.get(ModelVersion, "test@2.3.0").spec.artifact
    assert files is not None
    stored = plane.state / "artifacts" / files.digest.removeprefix("sha256:")
    with (stored / "server.py").open("a") as file:
        file.write("\nprint('something else')\n")
    rollout = fail_to_deploy(plane, "2.3.0")
    assert "ArtifactChanged: " in rollout.status.message
    assert "was altered: server.py has other bytes" in rollout.status.message
    assert f"restore {stored} from a backup, or remove it" in rollout.status.message
    says = (f"{stored} was altered", "push the same bytes again")
    refuse(plane, "backup", str(folder / "copy"), code=1, says=says)
    assert not (folder / "copy").exists()

    shutil.rmtree(stored)
    assert "unchanged" in plane.cli(*push, "--command", command).stdout
    plane.cli("promote", "test", "--version", "2.3.0", "--to", "production")
    wait_for("its first step", lambda: plane.rollout().status.phase == "Ramping")
    plane.cli("rollout", "rollback", "test", "--reason", "only a test")
    assert plane.wait_until_finished("2.3.0").status.phase == "RolledBack"


def test_requirements_that_cannot_be_had_end_with_the_installers_words(
    plane: Modelplane, folder: Path
) -> None:
    (folder / "model.skops").write_bytes(b"model")
    (folder / "requirements.txt").write_text("numpy==0.0.0.1\n")
    plane.cli(
        "push", "test", "--version", "2.4.0", "--artifact", str(folder / "model.skops"),
        "--requirements", str(folder / "requirements.txt"),
    )  # fmt: skip
    rollout = fail_to_deploy(plane, "2.4.0")
    assert "EnvironmentFailed: uv failed (exit code 1)" in rollout.status.message
    assert "numpy==0.0.0.1" in rollout.status.message


# Who asks -------------------------------------------------------------------------------------


def api(plane: Modelplane, token: str, method: str, path: str, **more: Any) -> httpx.Response:
    url = f"http://127.0.0.1:{plane.ports['api']}/api/v1{path}"
    headers = {"authorization": f"Bearer {token}"} if token else {}
    return httpx.request(method, url, headers=headers, **more)


def with_token(
    plane: Modelplane, token: str, *arguments: str, text: str = ""
) -> subprocess.CompletedProcess[str]:
    """Run a command as the holder of `token`, who has no state directory."""
    url = f"http://127.0.0.1:{plane.ports['api']}"
    return subprocess.run(
        [sys.executable, "-m", "modelplane.cli", "--url", url, *arguments],
        env={**os.environ, "MODELPLANE_TOKEN": token, "MODELPLANE_STATE": "/nowhere"},
        input=text,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


def test_a_token_that_is_not_known_opens_nothing(plane: Modelplane) -> None:
    for token in ("", "wrong"):
        assert api(plane, token, "GET", "/models").status_code == 401
    before = declared(plane)
    done = with_token(plane, "wrong", "get", "models")
    assert done.returncode == 3
    assert "the token is not known, or was revoked" in done.stderr
    done = with_token(plane, "wrong", "apply", "-f", "-", text=manifest("  version: 1.0.0"))
    assert done.returncode == 3
    assert declared(plane) == before


def test_tokens_are_made_listed_and_revoked_and_readers_only_read(plane: Modelplane) -> None:
    secret = plane.cli("token", "create", "stranger", "--group", "readers").stdout.strip()
    nothing = with_token(plane, secret, "get", "models")
    assert nothing.returncode == 3
    assert "no role is bound to its groups (readers)" in nothing.stderr
    plane.cli("token", "revoke", "stranger")
    secret = plane.cli("token", "create", "reader", "--group", "auditor").stdout.strip()
    assert with_token(plane, secret, "get", "models").returncode == 0
    before = declared(plane)
    text = manifest("  version: 1.0.0\n  replicas: 2")
    for arguments in (
        ("apply", "-f", "-"),
        ("delete", "deployment", "test"),
        ("promote", "test", "--version", "1.0.0", "--to", "production"),
        ("rollout", "pause", "test"),
        ("token", "create", "friend", "--group", "admin"),
    ):
        done = with_token(plane, secret, *arguments, text=text)
        assert done.returncode == 3, done.stdout + done.stderr
        assert "'reader' may not" in done.stderr
        assert "(rule default-deny)" in done.stderr or "(rule only-admin-grants)" in done.stderr
        assert "that takes role" in done.stderr
    assert declared(plane) == before
    assert api(plane, secret, "PUT", "/artifacts/sha256:" + 64 * "0").status_code == 403

    listed = plane.cli("token", "list", "-o", "json").stdout
    assert {item["metadata"]["name"] for item in json.loads(listed)["items"]} == {
        "admin", "agent", "reader"
    }  # fmt: skip
    assert secret not in listed
    assert with_token(plane, secret, "token", "list", "-o", "json").stdout.count("sha") == 0
    plane.cli("token", "revoke", "reader")
    assert with_token(plane, secret, "get", "models").returncode == 3
    refuse(plane, "token", "revoke", "reader", code=4, says=("reader",))
    refuse(plane, "token", "create", "x", "--expires-in", "soon", code=2, says=("30s",))


# Where it runs --------------------------------------------------------------------------------


def test_a_backup_taken_while_it_runs_comes_up_as_another_modelplane(
    plane: Modelplane, folder: Path
) -> None:
    plane.cli("backup", str(folder / "copy"))
    again = plane.cli("backup", str(folder / "copy"), check=False)
    assert again.returncode == 5
    assert "exists already" in again.stderr
    no_backup = plane.cli("restore", str(folder), check=False)
    assert no_backup.returncode == 4
    in_use = plane.cli("restore", str(folder / "copy"), check=False)
    assert in_use.returncode == 5
    assert "modelplane down" in in_use.stderr
    restored = Modelplane(folder / "state")
    restored.cli("restore", str(folder / "copy"))
    try:
        restored.up()
        assert declared(restored).keys() >= declared(plane).keys()
        verified = json.loads(restored.cli("audit", "verify", "-o", "json").stdout)
        assert verified["verified"] is True

        def served() -> bool:
            return restored.client.predict("test", REQUEST).version == "1.0.0"

        wait_for("what the first one serves", served)
    finally:
        restored.down()
    assert "nothing was running" in restored.cli("down").stdout
    wait_for("end of all processes", lambda: not restored.processes(), 20)
