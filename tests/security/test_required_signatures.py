"""An environment that requires signatures: what it admits, and what its replicas are told."""

from __future__ import annotations

import tempfile
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from modelplane.client.signing import make_key_pair
from modelplane.decisions.gate_keys import StagePlace
from modelplane.decisions.signatures import (
    MAX_SIGNATURES,
    add_signature,
    check_keys,
    check_signed,
    key_id,
    signatures_by,
    trusted_keys,
)
from modelplane.errors import InvalidResource
from modelplane.ports.store import Transaction
from modelplane.resources.environment import Environment
from modelplane.resources.meta import Metadata
from modelplane.resources.model import ModelVersion, ModelVersionSpec, Signature
from modelplane.resources.replica import Replica
from modelplane.settings import Paths
from modelplane.wiring.state import prepare_state
from tests.api.world import World, make_world
from tests.controllers.plane import ANA, Plane, open_plane, revision
from tests.decisions.test_admission import V1, environment

BUNDLE = '{"dsseEnvelope": {}}'


def new_key() -> str:
    with tempfile.TemporaryDirectory() as directory:
        return make_key_pair(Path(directory) / "key.pem").read_text()


OWN, OTHER = new_key(), new_key()


def signed(version: ModelVersion, *keys: str) -> ModelVersion:
    for key in keys:
        version = add_signature(version, signature_of(key))
    return version


def signature_of(key: str, bundle: str = BUNDLE) -> Signature:
    at = datetime(2026, 3, 1, tzinfo=UTC)
    return Signature(key_id=key_id(key), bundle=bundle, subject="ann", at=at)


def test_the_keys_that_count() -> None:
    assert trusted_keys(environment("staging"), OWN) == ()
    required = environment("staging", requireSignature=True)
    assert trusted_keys(required, OWN) == (OWN,)
    assert trusted_keys(required, "") == ("",), "a lost key is no leave to start anything"
    named = environment("staging", requireSignature=True, trustedKeys=[OTHER])
    assert trusted_keys(named, OWN) == (OTHER,)


def test_a_version_needs_a_signature_by_one_of_them() -> None:
    required = environment("staging", requireSignature=True)

    check_signed(V1, environment("staging"), OWN)
    check_signed(signed(V1, OTHER, OWN), required, OWN)
    check_signed(signed(V1, OTHER), required, "")  # the agent decides
    for version in (V1, signed(V1, OTHER)):
        with pytest.raises(InvalidResource, match="lacks the signature") as raised:
            check_signed(version, required, OWN)
        assert "registry sign fraud@1.0.0" in raised.value.hint
    with pytest.raises(InvalidResource):
        check_signed(V1, required, "")
    assert [s.key_id for s in signatures_by(signed(V1, OTHER, OWN), (OWN,))] == [key_id(OWN)]


def test_a_key_has_one_signature_of_a_version() -> None:
    once = signed(V1, OWN)

    assert add_signature(once, signature_of(OWN)) == once
    again = add_signature(once, signature_of(OWN, '{"dsseEnvelope": {"payload": ""}}'))
    assert len(again.status.signatures) == 1
    full = once.with_status(
        signatures=[signature_of(OWN).with_(key_id=f"{n:064x}") for n in range(MAX_SIGNATURES)]
    )
    with pytest.raises(InvalidResource):
        add_signature(full, signature_of(OTHER))


@pytest.mark.parametrize("bundle", ["", "nonsense", "[]", "{}", '{"dsseEnvelope": 1}'])
def test_what_is_no_bundle_is_refused(bundle: str) -> None:
    with pytest.raises(InvalidResource):
        add_signature(V1, signature_of(OWN, bundle))


@pytest.mark.parametrize("key", ["", "nonsense", "-----BEGIN PUBLIC KEY-----\n!\n"])
def test_trusted_keys_must_be_keys(key: str) -> None:
    with pytest.raises(InvalidResource) as raised:
        check_keys(environment("staging", trustedKeys=[OWN, key]))
    assert [fault.path for fault in raised.value.fields] == ["spec.trustedKeys.1"]


def test_a_state_has_a_key_of_its_own_which_stays(tmp_path: Path) -> None:
    paths = Paths(tmp_path / "state")
    prepare_state(paths)
    private, public = paths.signing / "key.pem", paths.signing / "key.pub"
    before = private.read_bytes()
    prepare_state(paths)

    assert private.read_bytes() == before
    assert private.stat().st_mode & 0o777 == 0o600
    assert key_id(public.read_text())


async def require(world: World, **spec: Any) -> Any:
    place = await world.ok("GET", "/environments/staging")
    body = {**place, "spec": {**place["spec"], "requireSignature": True, **spec}}
    return await world.call("PUT", "/environments/staging", body)


async def test_the_api_admits_only_what_is_signed_there() -> None:
    async with make_world(stage_place=StagePlace("", "", OWN)) as world:
        await world.push("fraud", "1.0.0")
        assert (await require(world, trustedKeys=["x"])).status_code == 422
        assert (await require(world)).status_code == 200
        body = {"metadata": {"name": "fraud", "environment": "staging"}, "spec": {}}
        refused = await world.call("PUT", "/model-deployments/fraud", body)
        assert refused.status_code == 422
        assert "lacks the signature" in refused.text
        sign = "/model-versions/fraud@1.0.0:sign"
        assert (await world.call("POST", sign, {"bundle": "x", "keyId": "y"})).status_code == 422
        given = {"bundle": BUNDLE, "keyId": key_id(OWN)}
        answer = await world.ok("POST", sign, given)
        (stored,) = answer["resource"]["status"]["signatures"]
        assert (stored["keyId"], stored["subject"]) == (key_id(OWN), "admin")
        assert (await world.ok("POST", sign, given))["result"] == "unchanged"
        assert (await world.ok("PUT", "/model-deployments/fraud", body))["promotion"]
        (record,) = [r for r in await world.store.audit() if r.action == "sign"]
        assert record.subject == "admin"


async def test_replicas_are_told_the_keys_and_the_signatures_by_them() -> None:
    with tempfile.TemporaryDirectory(prefix="mp-") as directory:
        async with open_plane(Path(directory)) as plane:
            await plane.declare()
            await make_required(plane)
            await plane.promote(revision("1.0.0"))
            await plane.settle()
            (replica,), _ = await plane.store.list(Replica)

    assert replica.spec.trusted_keys == (OTHER,)
    assert replica.spec.signatures == (BUNDLE,)
    assert replica.spec.allow_pickle == "scanned"


async def make_required(plane: Plane) -> None:
    place = await plane.store.get(Environment, "production")
    spec = ModelVersionSpec(model="delay", version="1.0.0", artifact=revision("1.0.0").artifact)
    version = ModelVersion(metadata=Metadata(name="delay@1.0.0"), spec=spec)
    transaction = Transaction(ANA)
    transaction.update(place.with_spec(require_signature=True, trusted_keys=(OTHER,)))
    transaction.create(signed(version, OTHER))
    await plane.store.commit(transaction)
