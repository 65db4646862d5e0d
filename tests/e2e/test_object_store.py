"""Model files in an S3 bucket: from push to an answer, found from both sides, and checked."""

from __future__ import annotations

import json
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import fsspec
import psutil
import pytest

from modelplane.resources.model import ModelVersion
from tests.e2e.conftest import Modelplane, wait_for
from tests.ports import free_port
from tests.s3_server import KEY, SECRET, S3Server, s3_server

pytestmark = [pytest.mark.e2e, pytest.mark.beside, pytest.mark.timeout(300)]


@pytest.fixture
def s3(monkeypatch: pytest.MonkeyPatch) -> Iterator[S3Server]:
    with s3_server() as server:
        for name, value in server.variables.items():
            monkeypatch.setenv(name, value)
        yield server


@pytest.fixture
def plane() -> Iterator[Modelplane]:
    """A modelplane that is not up yet; afterwards it is down and nothing is left."""
    folder = Path(tempfile.mkdtemp(prefix="mp-s3-"))
    plane = Modelplane(folder / "state")
    plane.state.mkdir()
    yield plane
    plane.cli("down", check=False)
    wait_for("end of all processes", lambda: not plane.processes(), 20)
    shutil.rmtree(folder, ignore_errors=True)


def keep_in(plane: Modelplane, url: str) -> None:
    (plane.state / "config.toml").write_text(f'artifacts_url = "{url}"\n')


def opened(url: str) -> tuple[Any, str]:
    files, root = fsspec.core.url_to_fs(url, skip_instance_cache=True, use_listings_cache=False)
    return files, root


def check(plane: Modelplane, *words: str) -> tuple[int, dict[str, Any]]:
    done = plane.cli("registry", "check", *words, "-o", "json", check=False)
    return done.returncode, json.loads(done.stdout)


def test_a_version_lives_in_a_bucket(plane: Modelplane, s3: S3Server) -> None:
    url = f"s3://{s3.make_bucket()}/team/models"
    keep_in(plane, url)
    plane.up()
    plane.serve("1.0.0")
    spec = plane.client.get(ModelVersion, "test@1.0.0").spec
    assert spec.artifact is not None

    files, root = opened(url)
    tree = f"{root}/{spec.artifact.digest.removeprefix('sha256:')}"
    record = f"{root}/.versions/{spec.id}.json"
    found = json.loads(files.cat_file(record))
    assert (found["model"], found["version"]) == ("test", "1.0.0")
    assert found["digest"] == spec.artifact.digest
    assert [path.name for path in (plane.state / "artifacts").iterdir()] == []
    assert check(plane)[0] == 0

    files.rm(record)
    (stored,) = files.find(tree)
    files.pipe_file(stored, b"other")
    code, report = check(plane)
    assert code == 8
    assert {(fault["kind"], *fault["versions"]) for fault in report["faults"]} == {
        ("altered", "test@1.0.0"),
        ("unrecorded", "test@1.0.0"),
    }
    assert check(plane, "--quick", "--repair")[0] == 0
    assert json.loads(files.cat_file(record))["id"] == spec.id

    for log in (plane.state / "logs").rglob("*"):
        assert not log.is_file() or SECRET not in log.read_text(errors="replace"), log
    server = psutil.Process(replica_pid(plane))
    assert KEY not in server.environ().values(), "a model never sees the storage's credentials"


def replica_pid(plane: Modelplane) -> int:
    (record,) = (plane.state / "processes/agent").glob("replica-*.json")
    return int(json.loads(record.read_text())["pid"])


def test_a_bucket_that_is_missing_is_named_at_the_start(plane: Modelplane, s3: S3Server) -> None:
    keep_in(plane, "s3://nobody-made-this/models")
    started = plane.up(check=False)
    assert started.returncode != 0
    assert "the bucket of nobody-made-this/models does not exist" in started.stderr


def test_a_storage_that_is_down_keeps_nothing_else_from_working(
    plane: Modelplane, monkeypatch: pytest.MonkeyPatch
) -> None:
    port = free_port()
    with s3_server() as server:
        bucket = server.make_bucket()
        for name, value in server.variables.items():
            monkeypatch.setenv(name, value)
    monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://127.0.0.1:{port}")
    keep_in(plane, f"s3://{bucket}/models")
    plane.up()
    words = ("push", "test", "--version", "1.0.0", "--command", "serve {socket}")
    refused = plane.cli(*words, check=False)
    assert refused.returncode == 6
    assert "cannot be reached" in refused.stderr
    with s3_server(port):
        plane.cli(*words)
        assert check(plane)[0] == 0
