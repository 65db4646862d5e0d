"""Where an environment requires a signature, nothing starts whose files it does not cover."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from tests.agent.test_replicas import make_ready, status
from tests.agent.world import World


class Verifier:
    """Trusts one bundle, and notes what it was asked."""

    def __init__(self) -> None:
        self.asked: list[tuple[list[str], list[str], list[str]]] = []

    async def find_fault(
        self, artifact: Path, bundles: Sequence[str], public_keys: Sequence[str]
    ) -> str | None:
        files = [path.name for path in artifact.iterdir()]
        self.asked.append((files, list(bundles), list(public_keys)))
        return None if "good" in bundles else "no signature by a trusted key holds"


async def test_signed_files_are_verified_before_anything_is_built(world: World) -> None:
    verifier = Verifier()
    world.signatures = verifier
    await make_ready(world, signatures=("good",), trusted_keys=("key",))

    assert verifier.asked == [(["model.onnx"], ["good"], ["key"])]


async def test_others_fail_and_nothing_of_them_runs(world: World) -> None:
    world.signatures = Verifier()
    replica = world.put_replica(signatures=("bad",), trusted_keys=("key",))
    world.start_agent()
    await world.until(lambda: status(world, replica).phase == "Failed")

    found = status(world, replica)
    assert found.reason == "SignatureInvalid"
    assert found.message == "signature refused: no signature by a trusted key holds"
    assert world.machine.started == []
    await world.settle(60)
    assert status(world, replica).phase == "Failed", "it is not tried again"


async def test_an_agent_that_cannot_verify_starts_nothing_that_must_be_signed(
    world: World,
) -> None:
    replica = world.put_replica(signatures=("good",), trusted_keys=("key",))
    world.start_agent()
    await world.until(lambda: status(world, replica).phase == "Failed")

    assert status(world, replica).reason == "SignatureInvalid"
    assert world.machine.started == []


async def test_where_none_is_required_none_is_looked_at(world: World) -> None:
    verifier = Verifier()
    world.signatures = verifier
    await make_ready(world, signatures=("bad",))

    assert verifier.asked == []
