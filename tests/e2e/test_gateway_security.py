"""TLS and tokens on a gateway, as a user turns them on: by a manifest, secrets and a file."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

import httpx
import pytest
from joserfc import jwk, jwt

from modelplane.resources.environment import Environment
from modelplane.resources.manifest import read_document
from tests.e2e.conftest import Modelplane, wait_for
from tests.proxy.certificates import Authority

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(180)]

ISSUER = "https://login.example.org"
BODY = {"inputs": [{"name": "x", "datatype": "FP64", "shape": [1], "data": [1.0]}]}
AUTHORITY = Authority()


def declare(modelplane: Modelplane, **gateway: Any) -> None:
    spec = modelplane.client.get(Environment, "production").spec.to_dict()
    spec["gateway"] |= gateway
    modelplane.client.apply(
        read_document(
            {
                "apiVersion": "modelplane.dev/v1",
                "kind": "Environment",
                "metadata": {"name": "production"},
                "spec": spec,
            }
        )
    )


def write_certificate(modelplane: Modelplane, chain: str, key: str) -> None:
    folder = modelplane.state / "secrets"
    folder.mkdir(mode=0o700, exist_ok=True)
    for name, text in {"gateway-chain": chain, "gateway-key": key}.items():
        scratch = folder / f"{name}.new"
        scratch.touch(mode=0o600)
        scratch.write_text(text)
        scratch.replace(folder / name)


def write_keys(file: Path, *keys: jwk.RSAKey) -> None:
    scratch = file.with_suffix(".new")
    scratch.write_text(json.dumps({"keys": [key.as_dict(private=False) for key in keys]}))
    scratch.replace(file)


def token(key: jwk.RSAKey) -> str:
    claims = {"iss": ISSUER, "sub": "ada", "exp": int(time.time()) + 600}
    return jwt.encode({"alg": "RS256", "kid": key.kid}, claims, key)


def ask(modelplane: Modelplane, key: jwk.RSAKey | None) -> int:
    """Return the status of a request over TLS; 0 for no answer."""
    headers = {"authorization": f"Bearer {token(key)}"} if key else {}
    url = f"https://127.0.0.1:{modelplane.ports['production']}/v2/models/test/infer"
    try:
        context = AUTHORITY.context()
        return httpx.post(url, json=BODY, headers=headers, verify=context, timeout=5).status_code
    except httpx.TransportError:
        return 0


def fault(modelplane: Modelplane) -> str:
    return modelplane.client.get(Environment, "production").status.gateway_fault


def test_tls_and_tokens_are_turned_on_renewed_and_kept(modelplane: Modelplane) -> None:
    first, second = (jwk.RSAKey.generate_key(2048, {"kid": name}) for name in ("one", "two"))
    keys = modelplane.state.parent / "keys.json"
    modelplane.serve()
    declare(
        modelplane,
        tls={"certificate": "gateway-chain", "key": "gateway-key"},
        jwt={"issuer": ISSUER, "jwksFile": str(keys)},
    )
    told = wait_for("a fault of the gateway", lambda: fault(modelplane))
    assert "no secret 'gateway-chain'" in told
    assert "keys.json" in told
    assert "no secret 'gateway-chain'" in modelplane.cli("status").stdout

    write_certificate(modelplane, *AUTHORITY.issue())
    write_keys(keys, first)
    wait_for("an answer over TLS", lambda: ask(modelplane, first) == 200)
    wait_for("no fault", lambda: not fault(modelplane))
    assert ask(modelplane, None) == ask(modelplane, second) == 401
    url = f"https://127.0.0.1:{modelplane.ports['production']}"
    assert url in modelplane.cli("status").stdout

    write_keys(keys, first, second)
    wait_for("the new key", lambda: ask(modelplane, second) == 200)
    write_certificate(modelplane, "nonsense", "nonsense")
    told = wait_for("a fault of the certificate", lambda: fault(modelplane))
    assert "the one before serves on" in told
    assert ask(modelplane, first) == 200

    modelplane.down()
    assert "does not listen: the gateway's certificate" in modelplane.up().stdout
    chain, key = AUTHORITY.issue()
    write_certificate(modelplane, chain, key)
    wait_for("an answer after a restart", lambda: ask(modelplane, second) == 200)
    mark = key.splitlines()[1].encode()
    folders = (modelplane.state, modelplane.runtime_dir)
    files = [file for folder in folders for file in folder.rglob("*") if file.is_file()]
    assert [file.name for file in files if mark in file.read_bytes()] == ["gateway-key"]
