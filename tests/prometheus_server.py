"""A real Prometheus and a real Alertmanager, as processes on loopback.

`make test` fetches them (tools/setup_prometheus.sh); without them the tests that need them are
skipped. The test that starts one ends it.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from tests.ports import free_port

ROOT = Path(__file__).resolve().parent.parent
FOLDER = Path(os.environ.get("MODELPLANE_TEST_PROMETHEUS", ROOT / ".venv" / "prometheus" / "bin"))
PROMTOOL = FOLDER / "promtool"


def require_prometheus() -> None:
    """Skip the test when the programs are not there."""
    if not (FOLDER / "prometheus").exists():
        pytest.skip("Prometheus is not there for the tests: run `make test`, which fetches it")


@dataclass
class RealServer:
    """One running program in a folder of its own."""

    url: str
    folder: Path
    process: subprocess.Popen[bytes]

    def get(self, path: str) -> Any:
        with urllib.request.urlopen(self.url + path, timeout=10) as answer:
            return json.load(answer)

    def metrics(self) -> str:
        with urllib.request.urlopen(f"{self.url}/metrics", timeout=10) as answer:
            text: str = answer.read().decode()
        return text

    def log(self) -> str:
        return (self.folder / "log").read_text()


@contextmanager
def prometheus(
    *,
    port: int | None = None,
    targets: Mapping[str, str] | None = None,
    token: str = "",
    alertmanagers: Sequence[str] = (),
    folder: Path | None = None,
    lifecycle: bool = True,
    web: Mapping[str, Any] | None = None,
) -> Iterator[RealServer]:
    """Run a Prometheus that scrapes and evaluates each second and reads ``FOLDER/rules``.

    Parameters
    ----------
    port
        Where it listens; a free one.
    targets
        Jobs that it scrapes, ``host:port`` by name.
    token
        What it shows to them.
    alertmanagers
        Where it sends alerts itself, ``host:port``.
    folder
        Of an earlier one, to go on there.
    lifecycle
        Whether it reloads when it is asked.
    web
        Its web configuration, for basic authentication.
    """
    require_prometheus()
    number = port or free_port()
    with _folder(folder) as place:
        (place / "rules").mkdir(exist_ok=True)
        credentials = {"authorization": {"credentials": token}} if token else {}
        configuration = {
            "global": {"scrape_interval": "1s", "evaluation_interval": "1s"},
            "rule_files": [str(place / "rules" / "*.yml")],
            "scrape_configs": [
                {"job_name": job, "static_configs": [{"targets": [target]}], **credentials}
                for job, target in (targets or {}).items()
            ],
            "alerting": {"alertmanagers": [{"static_configs": [{"targets": list(alertmanagers)}]}]},
        }
        (place / "prometheus.yml").write_text(json.dumps(configuration))
        (place / "web.yml").write_text(json.dumps(web or {}))
        command = [
            str(FOLDER / "prometheus"), f"--config.file={place}/prometheus.yml",
            f"--storage.tsdb.path={place}/data", f"--web.listen-address=127.0.0.1:{number}",
            f"--web.config.file={place}/web.yml", "--log.level=warn",
        ]  # fmt: skip
        command += ["--web.enable-lifecycle"] if lifecycle else []
        with _running(command, f"http://127.0.0.1:{number}", place) as server:
            yield server


@contextmanager
def alertmanager(
    *, port: int | None = None, webhook: str = "", token: str = "", folder: Path | None = None
) -> Iterator[RealServer]:
    """Run an Alertmanager that tells a webhook of everything at once.

    Parameters
    ----------
    port
        Where it listens; a free one.
    webhook, token
        Whom it tells, and what it shows there; nobody when empty.
    folder
        Of an earlier one, to go on there.
    """
    require_prometheus()
    number = port or free_port()
    with _folder(folder) as place:
        receiver: dict[str, Any] = {"name": "test"}
        if webhook:
            http = {"authorization": {"credentials": token}} if token else {}
            receiver["webhook_configs"] = [
                {"url": webhook, "send_resolved": True, "http_config": http}
            ]
        configuration = {
            "route": {
                "receiver": "test",
                "group_by": ["alertname"],
                "group_wait": "0s",
                "group_interval": "1s",
                "repeat_interval": "1h",
            },
            "receivers": [receiver],
        }
        (place / "alertmanager.yml").write_text(json.dumps(configuration))
        command = [
            str(FOLDER / "prometheus-alertmanager"), f"--config.file={place}/alertmanager.yml",
            f"--storage.path={place}/data", f"--web.listen-address=127.0.0.1:{number}",
            "--cluster.listen-address=", "--log.level=warn",
        ]  # fmt: skip
        with _running(command, f"http://127.0.0.1:{number}", place) as server:
            yield server


def wait_until(what: str, probe: Callable[[], Any], timeout_s: float = 60.0) -> Any:
    """Return what `probe` finds, once it finds something."""
    deadline = time.monotonic() + timeout_s
    while time.monotonic() < deadline:
        found = probe()
        if found:
            return found
        time.sleep(0.1)
    raise AssertionError(f"no {what} within {timeout_s:g} s")


@contextmanager
def _folder(given: Path | None) -> Iterator[Path]:
    if given is not None:
        yield given
        return
    with tempfile.TemporaryDirectory(prefix="mp-prom-", ignore_cleanup_errors=True) as made:
        yield Path(made)


@contextmanager
def _running(command: Sequence[str], url: str, folder: Path) -> Iterator[RealServer]:
    with (folder / "log").open("ab") as log:
        # The programs' own folder: Alertmanager finds its templates from there.
        process = subprocess.Popen(command, cwd=FOLDER.parent, stdout=log, stderr=log)
    server = RealServer(url, folder, process)
    try:
        _wait_until_ready(server)
        yield server
    finally:
        process.send_signal(signal.SIGTERM)
        try:
            process.wait(20)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait(20)


def _wait_until_ready(server: RealServer) -> None:
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        if server.process.poll() is not None:
            raise AssertionError(f"it ended\n{server.log()[-4000:]}")
        try:
            with urllib.request.urlopen(f"{server.url}/-/ready", timeout=2):
                return
        except urllib.error.HTTPError as error:
            if error.code == 401:
                return
        except OSError:
            pass
        time.sleep(0.05)
    raise AssertionError(f"it was not ready in 60 s\n{server.log()[-4000:]}")
