"""Signatures over a version's files: made by a push, verified by whoever has the files."""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from modelplane.adapters.runtime.signatures import ModelSignatures
from modelplane.client import Client
from modelplane.client.signing import (
    SignatureRefused,
    Signed,
    make_key_pair,
    read_public_key,
    sign_files,
    verify_files,
)
from modelplane.decisions.signatures import key_id
from modelplane.errors import InvalidResource, TerminalError
from tests.api.world import ADMIN, make_world, serve

pytestmark = pytest.mark.slow


@pytest.fixture
def model(tmp_path: Path) -> Path:
    folder = tmp_path / "model"
    (folder / ".git").mkdir(parents=True)
    (folder / "weights.bin").write_bytes(b"\1" * 5000)
    (folder / ".git" / "hook").write_text("x")
    return folder


@pytest.fixture
def key(tmp_path: Path) -> Path:
    make_key_pair(tmp_path / "key.pem")
    return tmp_path / "key.pem"


def test_a_key_pair_is_private_and_is_made_once(tmp_path: Path) -> None:
    public = make_key_pair(tmp_path / "key.pem")
    before = (tmp_path / "key.pem").read_bytes()
    public.unlink()

    assert make_key_pair(tmp_path / "key.pem") == public
    assert (tmp_path / "key.pem").read_bytes() == before
    assert (tmp_path / "key.pem").stat().st_mode & 0o777 == 0o600
    assert read_public_key(tmp_path / "key.pem") == public.read_text() == read_public_key(public)
    assert "PRIVATE" not in public.read_text()


def test_what_was_signed_verifies_by_its_key(model: Path, key: Path) -> None:
    signed = sign_files(model, key)
    public = read_public_key(key)

    assert signed.key_id == key_id(public)
    assert verify_files(model, [signed.bundle], [public]) == signed.key_id
    assert json.loads(signed.bundle)["dsseEnvelope"]


def test_a_file_is_signed_as_the_folder_that_holds_it(tmp_path: Path, key: Path) -> None:
    (tmp_path / "model.onnx").write_bytes(b"graph")
    signed = sign_files(tmp_path / "model.onnx", key)
    kept = tmp_path / "kept"
    kept.mkdir()
    (kept / "model.onnx").write_bytes(b"graph")

    assert verify_files(kept, [signed.bundle], [read_public_key(key)]) == signed.key_id


def _change(folder: Path) -> None:
    (folder / "weights.bin").write_bytes(b"\2" * 5000)


def _add(folder: Path) -> None:
    (folder / "more.py").write_text("")


def _add_hidden(folder: Path) -> None:
    (folder / ".git" / "config").write_text("")


def _remove(folder: Path) -> None:
    (folder / "weights.bin").unlink()


def _rename(folder: Path) -> None:
    (folder / "weights.bin").rename(folder / "other.bin")


@pytest.mark.parametrize("alter", [_change, _add, _add_hidden, _remove, _rename])
def test_any_alteration_is_refused(alter: Callable[[Path], None], model: Path, key: Path) -> None:
    signed = sign_files(model, key)
    alter(model)

    with pytest.raises(SignatureRefused, match="no signature by a trusted key holds"):
        verify_files(model, [signed.bundle], [read_public_key(key)])


def test_only_trusted_keys_count(model: Path, key: Path, tmp_path: Path) -> None:
    signed = sign_files(model, key)
    other = make_key_pair(tmp_path / "other.pem").read_text()

    for bundles, keys in (
        ([signed.bundle], [other]),
        ([], [read_public_key(key)]),
        ([signed.bundle], []),
        ([signed.bundle], [""]),
        (["{}"], [other]),
        (["nonsense"], [other]),
        ([_with_signature_of(signed, "AAAA")], [read_public_key(key)]),
    ):
        with pytest.raises(SignatureRefused):
            verify_files(model, bundles, keys)


def _with_signature_of(signed: Signed, signature: str) -> str:
    bundle = json.loads(signed.bundle)
    bundle["dsseEnvelope"]["signatures"][0]["sig"] = signature
    return json.dumps(bundle)


@pytest.mark.parametrize("content", [b"", b"nonsense", b"-----BEGIN PRIVATE KEY-----\nAAAA\n"])
def test_what_is_no_key_is_refused(content: bytes, model: Path, tmp_path: Path) -> None:
    (tmp_path / "bad.pem").write_bytes(content)

    with pytest.raises(InvalidResource, match="no key that can sign"):
        sign_files(model, tmp_path / "bad.pem")
    with pytest.raises(InvalidResource, match="cannot be read"):
        sign_files(model, tmp_path / "absent.pem")


async def test_the_agent_is_told_what_is_wrong(
    model: Path, key: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    verifier, public = ModelSignatures(), read_public_key(key)
    signed = sign_files(model, key)
    assert await verifier.find_fault(model, [signed.bundle], [public]) is None
    assert "no signature" in str(await verifier.find_fault(model, [], [public]))

    monkeypatch.setitem(sys.modules, "model_signing", None)
    fault = await verifier.find_fault(model, [signed.bundle], [public])
    assert "pip install 'modelplane[signing]'" in str(fault)
    with pytest.raises(TerminalError):
        sign_files(model, key)


async def test_a_push_is_signed_with_the_key_of_the_state(model: Path, tmp_path: Path) -> None:
    signing = tmp_path / "state" / "signing"
    signing.mkdir(parents=True)
    public = make_key_pair(signing / "key.pem").read_text()
    other = tmp_path / "other.pem"
    make_key_pair(other)

    def push_and_verify(url: str) -> None:
        with Client(url, ADMIN, state=tmp_path / "state") as client:
            first = client.push("fraud", "1.0.0", model, format="mlflow")
            again = client.push("fraud", "1.0.0", model, format="mlflow")
            assert (first.result, again.result) == ("created", "unchanged")
            assert again.resource.status.signatures == first.resource.status.signatures
            (signature,) = first.resource.status.signatures
            assert signature.subject == "admin"
            artifact = first.resource.spec.artifact
            assert artifact is not None
            client.download_artifact(artifact.digest, tmp_path / "fetched")
            assert verify_files(tmp_path / "fetched", [signature.bundle], [public])
            more = client.push("fraud", "1.0.0", model, sign_key=other, format="mlflow")
            assert [s.key_id for s in more.resource.status.signatures] == [
                key_id(public),
                key_id(read_public_key(other)),
            ]
        with Client(url, ADMIN, state=tmp_path / "elsewhere") as client:
            assert (
                client.push("fraud", "2.0.0", model, format="mlflow").resource.status.signatures
                == ()
            )

    async with make_world() as world, serve(world) as url:
        await asyncio.to_thread(push_and_verify, url)


def test_nothing_of_signing_is_imported_before_it_is_used() -> None:
    code = "import sys, modelplane.client.synchronous; print('model_signing' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)

    assert done.stdout.strip() == "False"
