"""Evidence: what happened verifies without a server, and nothing else does."""

from __future__ import annotations

import copy
import json
import random
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from modelplane.client.evidence import verify_evidence
from modelplane.decisions.evidence import read_bundle, signed_text
from modelplane.decisions.evidence_story import tell_story
from modelplane.errors import InvalidResource
from modelplane.resources.revision import RuntimeSpec, make_revision
from tests.evidence.story import ARTIFACT, Story, open_story

pytestmark = pytest.mark.slow


@pytest.fixture
async def story(tmp_path: Path) -> AsyncIterator[Story]:
    async with open_story(tmp_path) as story:
        yield story


def _failed(data: Any, key: str | None = None) -> list[str]:
    return [c.name for c in verify_evidence(data, public_key=key).checks if not c.passed]


async def test_the_whole_way_verifies_and_is_told_in_order(story: Story) -> None:
    await story.go_the_whole_way()
    bundle = await story.bundle()
    report = verify_evidence(bundle, public_key=story.public_key)
    assert report.verified, report.checks
    assert [check.name for check in report.checks] == [
        "key", "signature", "head", "records", "chain", "documents", "revision", "gates",
        "approvals", "policies", "order",
    ]  # fmt: skip
    text = "\n".join(tell_story(report.bundle))
    told = [text.index(word) for word in ("push", "request", "approve", "rollout.start", "Done")]
    assert told == sorted(told)
    assert "other@" not in text, "what has nothing to do with it is not told"


async def test_it_is_made_once(story: Story) -> None:
    await story.go_the_whole_way()
    await story.bundle()
    before = await story.promotion()
    await story.controller.reconcile(before.key)
    assert await story.promotion() == before
    assert list(story.controller.keys(before)) == []


async def test_every_alteration_is_noticed(story: Story) -> None:
    await story.go_the_whole_way()
    bundle = await story.bundle()
    places = [path for path in _leaves(bundle) if path != ("publicKey",)]
    assert len(places) > 200
    for path in random.Random(4).sample(places, 120):
        altered = copy.deepcopy(bundle)
        _alter(altered, path)
        try:
            assert _failed(altered, story.public_key), path
        except InvalidResource:
            continue  # it is not even read


async def test_who_has_another_key_cannot_make_evidence(story: Story) -> None:
    await story.go_the_whole_way()
    bundle = await story.bundle()
    forger = Ed25519PrivateKey.generate()
    bundle["publicKey"] = (
        forger.public_key()
        .public_bytes(serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo)
        .decode()
    )
    bundle["signature"] = forger.sign(signed_text(read_bundle(bundle))).hex()
    assert "key" in _failed(bundle, story.public_key)
    assert _failed(bundle) == ["head"], "nor does the log's head carry the forger's signature"


async def test_who_has_the_key_still_cannot_swap_a_document(story: Story, tmp_path: Path) -> None:
    """The records tell of every document: altering one means rewriting the log after it."""
    await story.go_the_whole_way()
    bundle = await story.bundle()
    document = next(d for d in bundle["documents"] if d["kind"] == "StageResult")
    document["spec"] = document["spec"].replace("nothing outside", "nothing at all outside")
    pem = (story.audit / "key.pem").read_bytes()
    key = serialization.load_pem_private_key(pem, password=None)
    assert isinstance(key, Ed25519PrivateKey)
    bundle["signature"] = key.sign(signed_text(read_bundle(bundle))).hex()
    assert _failed(bundle, story.public_key) == ["documents"]


OTHER = make_revision("fraud", "2.0.0", ARTIFACT, RuntimeSpec(env={"MODE": "fast"}))


@pytest.mark.parametrize(
    ("faults", "check"),
    [
        ({"failed": True}, "gates"),
        ({"run": "Failed"}, "gates"),
        ({"key": "0" * 64}, "gates"),
        ({"scanned": OTHER}, "gates"),
        ({"results": ()}, "gates"),
        ({"approved_revision": OTHER.digest}, "approvals"),
        ({"quorum": 2}, "approvals"),
        ({"answers": "ana"}, "approvals"),
        ({"answers": "somebody"}, "approvals"),
        ({"unanswered": True}, "approvals"),
        ({"policy": "refused"}, "policies"),
        ({"rollout_first": True}, "order"),
    ],
    ids=lambda value: ",".join(value) if isinstance(value, dict) else value,
)
async def test_what_does_not_add_up_is_named(
    story: Story, faults: dict[str, Any], check: str
) -> None:
    await story.go_the_whole_way(**faults)
    assert check in _failed(await story.bundle(), story.public_key)


async def test_a_long_log_leaves_out_what_lies_between(
    story: Story, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("modelplane.ports.evidence.MAX_SEGMENT", 3)
    await story.go_the_whole_way()
    bundle = await story.bundle()
    assert bundle["segment"] == "records"
    assert _failed(bundle, story.public_key) == []
    bundle["records"][2]["reason"] = "altered"
    assert {"signature", "records"} <= set(_failed(bundle, story.public_key))


@pytest.mark.parametrize("data", [None, [], {}, {"format": "x"}, {"format": 7}, "text"])
def test_what_is_no_evidence_is_refused_in_words(data: object) -> None:
    with pytest.raises(InvalidResource, match="no evidence"):
        verify_evidence(data)


async def test_a_key_that_is_none_is_refused(story: Story) -> None:
    await story.go_the_whole_way()
    with pytest.raises(InvalidResource, match="not a public key"):
        verify_evidence(await story.bundle(), public_key="ssh-rsa AAAA")


def _leaves(data: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    if isinstance(data, dict | list):
        items = data.items() if isinstance(data, dict) else enumerate(data)
        for key, value in items:
            yield from _leaves(value, (*path, key))
    else:
        yield path


def _alter(data: Any, path: tuple[Any, ...]) -> None:
    for step in path[:-1]:
        data = data[step]
    value = data[path[-1]]
    if isinstance(value, bool) or value is None:
        data[path[-1]] = "x" if value is None else not value
    elif isinstance(value, int | float):
        data[path[-1]] = value + 1
    else:
        data[path[-1]] = _alter_text(value)


def _alter_text(text: str) -> str:
    try:
        inner = json.loads(text)
    except ValueError:
        inner = None
    if isinstance(inner, dict):
        return json.dumps({**inner, "added": 1})
    return f"{text[:-1]}{'0' if text[-1:] != '0' else '1'}"
