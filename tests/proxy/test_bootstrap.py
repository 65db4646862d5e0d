"""How Envoy is started: sockets, secrets, limits."""

from __future__ import annotations

import json
import os
import stat
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from modelplane.adapters.proxy.bootstrap import (
    GatewayConfig,
    bootstrap,
    envoy_binary,
    envoy_command,
    write_bootstrap,
)


@pytest.fixture
def config() -> Iterator[GatewayConfig]:
    with tempfile.TemporaryDirectory(prefix="mp", dir="/tmp") as directory:
        yield GatewayConfig("production", "127.0.0.1", 7082, Path(directory), token="s3cret")


def test_the_bootstrap_file_is_private_and_holds_no_secret(config: GatewayConfig) -> None:
    path = write_bootstrap(config)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert json.loads(path.read_text()) == bootstrap(config)
    shown = (path.read_text(), " ".join(envoy_command(config)), repr(config))
    assert not any("s3cret" in text for text in shown)
    assert os.listdir(path.parent) == [path.name]


def test_the_admin_interface_is_a_private_socket(config: GatewayConfig) -> None:
    address = bootstrap(config)["admin"]["address"]
    assert address == {"pipe": {"path": str(config.admin_socket), "mode": 0o600}}


def test_a_socket_path_that_is_too_long_is_refused() -> None:
    with pytest.raises(ValueError, match="longer than 107 bytes"):
        GatewayConfig("production", "127.0.0.1", 7082, Path("/tmp") / ("x" * 100))


@pytest.mark.e2e
def test_envoy_takes_the_bootstrap(config: GatewayConfig) -> None:
    write_bootstrap(config)
    command = [*envoy_command(config), "--mode", "validate"]
    assert command[0] == str(envoy_binary())
    ended = subprocess.run(command, capture_output=True, text=True, timeout=30, check=False)
    assert ended.returncode == 0, ended.stderr


def test_a_process_with_the_configuration_server_forks_without_grpcs_handlers() -> None:
    # With them, a child that only execs crashes now and then before it does.
    program = (
        "import modelplane.adapters.proxy.ads, os; print(os.environ['GRPC_ENABLE_FORK_SUPPORT'])"
    )
    environment = {**os.environ, "GRPC_ENABLE_FORK_SUPPORT": "1"}
    done = subprocess.run(
        [sys.executable, "-c", program],
        env=environment,
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )
    assert done.stdout == "0\n"
