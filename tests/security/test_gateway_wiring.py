"""Which gateway an environment gets: who has to show what, and where secrets come from."""

from __future__ import annotations

import os
import stat
from pathlib import Path
from typing import Any

import pytest

from modelplane.adapters.proxy.bootstrap import GatewayConfig, bootstrap
from modelplane.adapters.proxy.listener import listener
from modelplane.errors import TerminalError
from modelplane.resources.environment import Environment, EnvironmentSpec
from modelplane.resources.meta import Metadata
from modelplane.settings import Paths, Settings
from modelplane.wiring.gateways import EnvoyGateways
from modelplane.wiring.secrets import make_secrets
from modelplane.wiring.state import prepare_state

JWT = {"issuer": "https://issuer.example.org", "jwksFile": "/keys.json", "claims": ["sub"]}
TLS = {"certificate": "chain", "key": "key"}


@pytest.fixture
def settings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Settings:
    """Settings of a prepared state directory."""
    monkeypatch.setenv("XDG_RUNTIME_DIR", "")
    settings = Settings(state=tmp_path / "state")
    prepare_state(settings.paths)
    return settings


def config_of(settings: Settings, **gateway: Any) -> GatewayConfig:
    spec = EnvironmentSpec.model_validate(
        {"stage": "production", "gateway": {"port": 7082, **gateway}}
    )
    environment = Environment(metadata=Metadata(name="production"), spec=spec)
    return EnvoyGateways(settings)(environment, []).config


@pytest.mark.parametrize(
    ("gateway", "wants_gateway_token", "verifies"),
    [
        ({}, False, False),
        ({"host": "0.0.0.0"}, True, False),
        ({"jwt": JWT}, False, True),
        ({"host": "0.0.0.0", "jwt": JWT}, False, True),
        ({"host": "0.0.0.0", "tls": TLS}, True, False),
    ],
)
def test_beyond_loopback_nobody_comes_in_without_a_token(
    settings: Settings, gateway: dict[str, Any], wants_gateway_token: bool, verifies: bool
) -> None:
    config = config_of(settings, **gateway)
    assert (config.token is not None) == wants_gateway_token
    assert (config.jwt is not None) == verifies
    assert config.tls == ("tls" in gateway)
    sent = listener(config).packed.value
    assert (b"envoy.filters.http.api_key_auth" in sent) == wants_gateway_token
    assert (b"envoy.filters.http.jwt_authn" in sent) == verifies
    assert (b"DownstreamTlsContext" in sent) == ("tls" in gateway)
    token = settings.paths.gateway_token.read_text().strip()
    assert token not in repr(config) + str(bootstrap(config))


def test_a_secret_is_a_private_file_or_a_variable_and_read_anew_each_time(
    settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    secret = make_secrets(settings)
    file = settings.paths.secrets / "tls.key"
    file.parent.mkdir(exist_ok=True)
    assert secret("tls.key") is None
    assert secret("../admin-token") is None
    file.write_text("one\n")
    file.chmod(0o644)
    assert secret("tls.key") is None
    file.chmod(0o600)
    assert secret("tls.key") == "one"
    file.write_text("two")
    assert secret("tls.key") == "two"
    os.unlink(file)
    monkeypatch.setenv("MODELPLANE_SECRET_TLS_KEY", "three")
    assert secret("tls.key") == "three"


def test_sockets_and_keys_lie_in_a_directory_of_this_user_alone(
    settings: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where everybody can make directories, somebody else may have made this one before."""
    directory = settings.paths.runtime_dir
    directory.chmod(0o777)
    prepare_state(settings.paths)
    assert stat.S_IMODE(directory.stat().st_mode) == 0o700

    elsewhere = tmp_path / "elsewhere"
    directory.rename(elsewhere)
    directory.symlink_to(elsewhere)
    try:
        with pytest.raises(TerminalError, match="not a directory of this user"):
            prepare_state(settings.paths)
    finally:
        directory.unlink()

    directory.mkdir()
    owner = os.getuid()
    monkeypatch.setattr(Paths, "runtime_dir", directory)
    monkeypatch.setattr("modelplane.wiring.state.os.getuid", lambda: owner + 1)
    with pytest.raises(TerminalError, match="not a directory of this user"):
        prepare_state(settings.paths)
