"""``contract`` on the command line, against the real API."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from tests.api.test_contracts import reconcile, store_result
from tests.api.world import World
from tests.cli.test_lineage import Run, run, world
from tests.stages.pacts import interaction, pact

__all__ = ["run", "world"]


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return write(tmp_path / "shop-fraud.json", pact(interaction("a payment"), interaction("more")))


def write(path: Path, content: Any) -> Path:
    path.write_text(json.dumps(content), encoding="utf-8")
    return path


async def publish(run: Run, file: Path, version: str, *more: str) -> Any:
    result = await run("contract", "publish", str(file), "--consumer-version", version, *more)
    assert result.exit_code == 0, result.output
    return result


async def test_a_pact_is_published_listed_and_shown(world: World, run: Run, file: Path) -> None:
    await world.push("fraud", "1.0.0")
    result = await publish(run, file, "3.1.0", "-e", "staging", "-e", "production")
    assert result.stdout == (
        "contract/shop.fraud@3.1.0 created: 2 interactions with fraud, "
        "deployed in production, staging\n"
    )
    assert "unchanged" in (await publish(run, file, "3.1.0")).stdout
    listed = await run("contract", "list", "--model", "fraud", "--consumer", "shop")
    header, row = listed.stdout.splitlines()
    assert header.split()[:2] == ["NAME", "CONSUMER"]
    assert row.split()[:4] == ["shop.fraud@3.1.0", "shop", "3.1.0", "fraud"]
    assert len((await run("contract", "list", "--model", "other")).stdout.splitlines()) == 1
    listed = await run("contract", "list", "-o", "json")
    assert [item["spec"]["consumer"] for item in json.loads(listed.stdout)["items"]] == ["shop"]
    shown = await run("contract", "show", "shop.fraud@3.1.0")
    lines = shown.stdout.splitlines()
    assert lines[0] == "shop 3.1.0 expects of fraud:"
    assert lines[2].split("  ")[0] == "a payment"
    assert "POST /v2/models/fraud/infer" in lines[2]
    assert "deployed: production, staging" in lines
    assert lines[-1] == "not verified yet"
    await store_result(world, {"shop.fraud@3.1.0": True})
    await reconcile(world)
    shown = await run("contract", "show", "shop.fraud@3.1.0")
    assert shown.stdout.splitlines()[-1].split()[:2] == ["1.0.0", "yes"]
    as_json = json.loads((await run("contract", "show", "shop.fraud@3.1.0", "-o", "json")).stdout)
    assert as_json["status"]["verifications"][0]["passed"] is True


async def test_can_i_deploy_answers_by_exit_code(world: World, run: Run, file: Path) -> None:
    await world.push("fraud", "1.0.0")
    ask = ("contract", "can-i-deploy", "fraud@latest", "--to", "production")
    nobody = await run(*ask)
    assert nobody.exit_code == 0
    assert nobody.stdout.startswith("yes: no contract binds it in production")
    await publish(run, file, "3")
    recorded = await run("contract", "record-deployment", "shop", "3", "-e", "production")
    assert recorded.stdout == "shop 3 is in production (changed)\n"
    unknown = await run(*ask)
    assert unknown.exit_code == 1
    lines = unknown.stdout.splitlines()
    assert lines[1].split() == ["shop", "3", "fraud", "1.0.0", "not", "known"]
    assert lines[-1] == "not known: not verified: shop.fraud@3 by fraud@1.0.0"
    await store_result(world, {"shop.fraud@3": False})
    await reconcile(world)
    broken = await run(*ask)
    assert broken.exit_code == 1
    assert broken.stdout.splitlines()[-1].startswith("no: broken: shop.fraud@3 by fraud@1.0.0")
    as_json = await run(*ask, "-o", "json")
    assert as_json.exit_code == 1
    told = json.loads(as_json.stdout)
    assert told["summary"]["deployable"] is False
    assert told["matrix"][0]["verificationResult"]["success"] is False
    world.clock.step(1)
    await store_result(world, {"shop.fraud@3": True}, name="result-2")
    await reconcile(world)
    kept = await run(*ask)
    assert kept.exit_code == 0
    assert kept.stdout.splitlines()[-1] == "yes: the contract is kept in production"
    consumer = await run("contract", "can-i-deploy", "shop@3", "--to", "production")
    assert consumer.exit_code == 1  # nothing serves there yet
    assert "no version of fraud serves in production" in consumer.stdout
    left = await run("contract", "record-undeployment", "shop", "3", "-e", "production")
    assert left.stdout == "shop 3 left production (changed)\n"


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (b"{not json", "is not JSON"),
        (b"[]", "is no pact"),
        (b"[" * 100_000, "is not JSON"),
        (b" " * (2**20 + 1), "larger than 1,048,576 bytes"),
        (b"{}", "pact.interactions"),
    ],
)
async def test_a_file_that_is_no_pact_is_a_usage_error(
    world: World, run: Run, tmp_path: Path, content: bytes, says: str
) -> None:
    file = tmp_path / "pact.json"
    file.write_bytes(content)
    result = await run("contract", "publish", str(file), "--consumer-version", "1")
    assert result.exit_code == 2
    assert says in result.stderr


async def test_a_file_that_is_not_there_and_a_name_without_a_version(run: Run) -> None:
    missing = await run("contract", "publish", "none.json", "--consumer-version", "1")
    assert missing.exit_code == 2
    assert "cannot read none.json" in missing.stderr
    for name in ("fraud", "@1", "fraud@"):
        result = await run("contract", "can-i-deploy", name, "--to", "production")
        assert result.exit_code == 2
        assert "write it NAME@VERSION" in result.stderr
    unknown = await run("contract", "can-i-deploy", "fraud@1", "--to", "production")
    assert unknown.exit_code == 4
