"""Contracts over HTTP: published, deployed, verified by results, and what may go where."""

from __future__ import annotations

import asyncio
import json
from datetime import timedelta
from typing import Any

import httpx
import pytest

from modelplane.controllers.contracts import ContractController
from modelplane.controllers.loop import LEASE_NAME, Fence
from modelplane.ports.store import Transaction
from modelplane.resources.checks import ContractCheck, SchemaCheck
from modelplane.resources.contract import Contract
from modelplane.resources.gate_run import (
    GateRun,
    GateRunSpec,
    GateRunStatus,
    ServedModel,
    StageOutcome,
    StageResult,
    StageResultSpec,
    StageStatus,
)
from modelplane.resources.meta import Metadata
from modelplane.resources.model import Model, ModelVersion, Serving
from modelplane.resources.revision import RuntimeSpec, make_revision
from modelplane.resources.validation_pipeline import Stage
from tests.api.world import READER, SYSTEM, World
from tests.stages.pacts import interaction, pact


async def publish(world: World, version: str = "1", content: Any = None, **body: Any) -> Any:
    given = {"pact": content or pact(), "consumerVersion": version, **body}
    return await world.ok("POST", "/contracts", given)


async def refused(world: World, body: Any, status: int = 422) -> dict[str, Any]:
    response = await world.call("POST", "/contracts", body)
    assert response.status_code == status, response.text
    problem: dict[str, Any] = response.json()
    return problem


async def store_result(
    world: World, verdicts: dict[str, bool], *, version: str = "1.0.0", name: str = "result-1"
) -> None:
    """Put a result of a check of contracts and its run into the store, as the gates do."""
    found = await world.store.get(ModelVersion, f"fraud@{version}")
    assert found.spec.artifact is not None
    items = []
    for contract, passed in verdicts.items():
        digest = (await world.store.get(Contract, contract)).spec.digest
        message = "" if passed else "$.outputs[0].name: Expected 'risk'"
        items.append({"name": contract, "digest": digest, "passed": passed, "message": message})
    details = {"artifact": found.spec.artifact.digest, "contracts": items}
    spec = StageResultSpec(
        key=name,
        inputs={},
        check="contract",
        stage="contracts",
        model="fraud",
        version=version,
        outcome=StageOutcome(passed=all(verdicts.values()), details=details),
        run=f"gate-{name}",
        duration_s=1.0,
    )
    transaction = Transaction(SYSTEM)
    transaction.create(StageResult(metadata=Metadata(name=name), spec=spec))
    transaction.create(make_run(found, name))
    await world.store.commit(transaction)


def make_run(version: ModelVersion, result: str) -> GateRun:
    """A run of `version` whose stages ended with `result`, made in it or reused."""
    assert version.spec.artifact is not None
    revision = make_revision("fraud", version.spec.version, version.spec.artifact, RuntimeSpec())
    return GateRun(
        metadata=Metadata(name=f"gate-{result}"),
        spec=GateRunSpec(
            pipeline="gate",
            pipeline_digest="",
            stages=(
                Stage(name="contracts", contract=ContractCheck()),
                Stage(name="schema", schema_=SchemaCheck()),
            ),
            candidate=ServedModel(revision=revision),
            subject=SYSTEM,
        ),
        status=GateRunStatus(
            stages=(
                StageStatus(name="contracts", phase="Passed", result=result),
                StageStatus(name="schema", phase="Running"),
            )
        ),
    )


async def reconcile(world: World) -> None:
    """Run the controller over everything, twice: as after a restart."""
    fence = Fence()
    fence.set(await world.store.claim(LEASE_NAME, "test", 3600))
    controller = ContractController(world.store, fence)
    for _ in range(2):
        runs, _ = await world.store.list(GateRun)
        for run in runs:
            for key in controller.keys(run):
                await controller.reconcile(key)


async def serve_version(world: World, champion: str, challenger: str | None = None) -> None:
    """Let production serve versions, as the rollouts' record says."""
    model = await world.store.get(Model, "fraud")
    entry = Serving(
        environment="production", deployment="fraud", champion=champion, challenger=challenger
    )
    transaction = Transaction(SYSTEM)
    transaction.update(model.with_status(serving=(entry,)))
    await world.store.commit(transaction)


async def ask(world: World, name: str, version: str, environment: str = "production") -> Any:
    query = {"pacticipant": name, "version": version, "environment": environment}
    return await world.ok("GET", "/can-i-deploy", **query)


@pytest.fixture
async def fraud(world: World) -> World:
    await world.push("fraud", "1.0.0")
    return world


# -- publishing -----------------------------------------------------------------------------


async def test_a_pact_is_published_once(fraud: World) -> None:
    first = await publish(fraud, "3.1.0", environments=["staging"])
    assert first["result"] == "created"
    resource = first["resource"]
    assert resource["metadata"]["name"] == "shop.fraud@3.1.0"
    assert resource["spec"]["pact"] == pact()
    assert resource["spec"]["environments"] == ["staging"]
    before = await fraud.store.audit()
    assert (before[-1].action, before[-1].name) == ("publish", "shop.fraud@3.1.0")
    again = await publish(fraud, "3.1.0")
    assert again["result"] == "unchanged"
    assert await fraud.store.audit() == before
    shown = await fraud.ok("GET", "/contracts/shop.fraud@3.1.0")
    assert shown == again["resource"]


async def test_a_changed_pact_needs_another_version(fraud: World) -> None:
    await publish(fraud, "1")
    changed = pact(interaction("a refund"))
    problem = await refused(fraud, {"pact": changed, "consumerVersion": "1"}, 409)
    assert "has published another pact" in problem["detail"]
    assert (await publish(fraud, "2", changed))["result"] == "created"


async def test_the_same_published_at_once_is_one_contract(fraud: World) -> None:
    answers = await asyncio.gather(*(publish(fraud) for _ in range(4)))
    assert sorted(answer["result"] for answer in answers) == ["created", *["unchanged"] * 3]


async def test_names_in_any_script(fraud: World) -> None:
    made = await publish(fraud, content=pact(consumer={"name": "不正検知 ポータル"}))
    name = made["resource"]["metadata"]["name"]
    assert name == "不正検知 ポータル.fraud@1"
    assert (await fraud.ok("GET", f"/contracts/{name}"))["spec"]["consumer"] == "不正検知 ポータル"


@pytest.mark.parametrize(
    ("body", "path"),
    [
        ({}, "pact"),
        ({"pact": pact()}, "consumerVersion"),
        ({"pact": "{}", "consumerVersion": "1"}, "pact"),
        ({"pact": {}, "consumerVersion": "1"}, "pact.interactions"),
        ({"pact": pact(), "consumerVersion": 1}, "consumerVersion"),
        ({"pact": pact(), "consumerVersion": "a b"}, "consumerVersion"),
        ({"pact": pact(), "consumerVersion": "1", "provider": "x"}, "provider"),
        ({"pact": pact(), "consumerVersion": "1", "environments": ["prod"]}, "environments[0]"),
        ({"pact": pact(), "consumerVersion": "1", "environments": [3]}, "environments[0]"),
        ({"pact": pact(), "consumerVersion": "1", "environments": [""] * 51}, "environments"),
        ({"pact": pact(), "consumerVersion": "1", "model": "ranker"}, "model"),
        ({"pact": pact(provider={"name": "ranker"}), "consumerVersion": "1"}, "pact.provider.name"),
    ],
)
async def test_what_cannot_be_published_is_told_with_its_path(
    fraud: World, body: Any, path: str
) -> None:
    before = await fraud.store.audit()
    problem = await refused(fraud, body)
    assert path in [field["path"] for field in problem["fields"]]
    assert await fraud.store.audit() == before


@pytest.mark.parametrize(
    ("body", "status"),
    [
        (b"{", 422),
        (b'{"pact": {"a": ' + b"[" * 5000 + b"]" * 5000 + b"}}", 422),
        (b'{"pact": {"a": "\\ud800"}}', 422),
        (json.dumps({"pact": {"a": "x" * 2**20}}).encode(), 413),
    ],
)
async def test_bodies_that_are_no_json_or_too_large(fraud: World, body: bytes, status: int) -> None:
    assert (await fraud.call("POST", "/contracts", body)).status_code == status


async def test_nesting_that_json_allows_and_a_pact_does_not(fraud: World) -> None:
    deep: Any = []
    for _ in range(100):
        deep = [deep]
    problem = await refused(fraud, {"pact": pact(extra=deep), "consumerVersion": "1"})
    assert problem["fields"] == [{"path": "pact", "message": "is nested deeper than 64 levels"}]


async def test_who_may_only_read_publishes_nothing(fraud: World) -> None:
    body = {"pact": pact(), "consumerVersion": "1"}
    for path in ("", ":record-deployment", ":record-undeployment"):
        response = await fraud.call("POST", f"/contracts{path}", body, token=READER)
        assert response.status_code == 403
    assert (await fraud.call("GET", "/contracts", token=READER)).status_code == 200


# -- what is deployed where -----------------------------------------------------------------


async def record(world: World, version: str, verb: str = "record-deployment", **more: str) -> Any:
    body = {"consumer": "shop", "consumerVersion": version, "environment": "production", **more}
    return await world.call("POST", f"/contracts:{verb}", body)


async def places(world: World) -> dict[str, list[str]]:
    listed = await world.ok("GET", "/contracts")
    spec = {item["metadata"]["name"]: item["spec"] for item in listed["items"]}
    return {name: one.get("environments", []) for name, one in spec.items()}


async def test_one_version_of_a_consumer_is_in_an_environment(fraud: World) -> None:
    await publish(fraud, "1", environments=["production", "staging"])
    fraud.clock.step(60)
    await publish(fraud, "2", pact(interaction("a refund")))
    answer = (await record(fraud, "latest")).json()
    assert (answer["result"], answer["consumerVersion"]) == ("changed", "2")
    assert answer["contracts"] == ["shop.fraud@2"]
    assert await places(fraud) == {"shop.fraud@1": ["staging"], "shop.fraud@2": ["production"]}
    assert (await record(fraud, "2")).json()["result"] == "unchanged"
    assert (await record(fraud, "2", "record-undeployment")).json()["result"] == "changed"
    assert await places(fraud) == {"shop.fraud@1": ["staging"], "shop.fraud@2": []}


@pytest.mark.parametrize(
    ("version", "more", "status"),
    [
        ("9", {}, 404),
        ("1", {"consumer": "till"}, 404),
        ("1", {"environment": "prod"}, 422),
        ("", {}, 422),
    ],
)
async def test_what_was_never_published_is_deployed_nowhere(
    fraud: World, version: str, more: dict[str, str], status: int
) -> None:
    await publish(fraud)
    assert (await record(fraud, version, **more)).status_code == status


# -- verifications and can-i-deploy ---------------------------------------------------------


async def test_results_are_recorded_with_the_contracts(fraud: World) -> None:
    await publish(fraud)
    await publish(fraud, content=pact(consumer={"name": "till"}))
    await store_result(fraud, {"shop.fraud@1": True, "till.fraud@1": False})
    await reconcile(fraud)
    shop = await fraud.store.get(Contract, "shop.fraud@1")
    (found,) = shop.status.verifications
    assert (found.version, found.passed, found.result) == ("1.0.0", True, "result-1")
    till = await fraud.store.get(Contract, "till.fraud@1")
    assert not till.status.verifications[0].passed
    records = [r for r in await fraud.store.audit() if r.action == "verify"]
    assert [(r.name, r.subject, r.reason) for r in records] == [
        ("shop.fraud@1", "system:contracts", "verified by gate-result-1"),
        ("till.fraud@1", "system:contracts", "verified by gate-result-1"),
    ]
    fraud.clock.step(60)
    await store_result(fraud, {"till.fraud@1": True}, name="result-0")  # later, by time
    await reconcile(fraud)
    till = await fraud.store.get(Contract, "till.fraud@1")
    assert [(v.passed, v.result) for v in till.status.verifications] == [(True, "result-0")]


async def test_a_result_that_is_reused_counts_for_the_version_that_it_is_reused_for(
    fraud: World,
) -> None:
    await publish(fraud, environments=["production"])
    await store_result(fraud, {"shop.fraud@1": True})
    await fraud.push("fraud", "1.0.1", content="fraud 1.0.0")
    assert (await ask(fraud, "fraud", "1.0.1"))["summary"]["deployable"] is None
    same_files = await fraud.store.get(ModelVersion, "fraud@1.0.1")
    transaction = Transaction(SYSTEM)
    run = make_run(same_files, "result-1")
    transaction.create(run.with_(metadata=Metadata(name="gate-2")))
    await fraud.store.commit(transaction)
    await reconcile(fraud)
    assert (await ask(fraud, "fraud", "1.0.1"))["summary"]["deployable"] is True


async def test_a_result_about_contracts_that_are_gone_is_passed_over(fraud: World) -> None:
    await publish(fraud)
    await store_result(fraud, {"shop.fraud@1": True})
    transaction = Transaction(SYSTEM)
    transaction.delete(await fraud.store.get(Contract, "shop.fraud@1"))
    await fraud.store.commit(transaction)
    await reconcile(fraud)
    assert (await fraud.store.list(Contract))[0] == []


async def test_a_version_of_a_model_against_its_consumers(fraud: World) -> None:
    nobody = await ask(fraud, "fraud", "1.0.0")
    assert (nobody["summary"]["deployable"], nobody["matrix"]) == (True, [])
    await publish(fraud, "3", environments=["production"])
    unknown = await ask(fraud, "fraud", "latest")
    assert unknown["summary"]["deployable"] is None
    assert unknown["matrix"] == [
        {
            "contract": "shop.fraud@3",
            "consumer": {"name": "shop", "version": "3"},
            "provider": {"name": "fraud", "version": "1.0.0"},
            "verificationResult": None,
        }
    ]
    await store_result(fraud, {"shop.fraud@3": True})
    await reconcile(fraud)
    kept = await ask(fraud, "fraud", "1")
    assert kept["summary"]["deployable"] is True
    found = kept["matrix"][0]["verificationResult"]
    assert (found["success"], found["result"]) == (True, "result-1")
    assert found["verifiedAt"].startswith(fraud.clock.now().isoformat()[:19])
    assert (await ask(fraud, "fraud", "1.0.0", "staging"))["matrix"] == []
    await fraud.push("fraud", "2.0.0")
    await store_result(fraud, {"shop.fraud@3": False}, version="2.0.0", name="result-2")
    await reconcile(fraud)
    broken = await ask(fraud, "fraud", "latest")
    assert broken["summary"]["deployable"] is False
    assert "shop.fraud@3 by fraud@2.0.0 ($.outputs[0].name" in broken["summary"]["reason"]


async def test_a_version_of_a_consumer_against_what_serves(fraud: World) -> None:
    await publish(fraud, "3")
    nothing = await ask(fraud, "shop", "latest")
    assert nothing["summary"]["deployable"] is None
    assert nothing["matrix"][0]["provider"] == {"name": "fraud", "version": None}
    await store_result(fraud, {"shop.fraud@3": True})
    await reconcile(fraud)
    await serve_version(fraud, "1.0.0")
    assert (await ask(fraud, "shop", "3"))["summary"]["deployable"] is True
    # While another version is rolled out, both answer.
    await fraud.push("fraud", "2.0.0")
    await serve_version(fraud, "1.0.0", "2.0.0")
    rolling = await ask(fraud, "shop", "3")
    assert rolling["summary"] | {"reason": ""} == {
        "deployable": None, "reason": "", "success": 1, "failed": 0, "unknown": 1,
    }  # fmt: skip


async def test_a_model_that_is_a_consumer_too_has_to_be_both(fraud: World) -> None:
    await fraud.push("ranker", "1.0.0")
    await publish(fraud, "1.0.0", pact(consumer={"name": "ranker"}))
    both = pact(provider={"name": "ranker"})
    await publish(fraud, "3", both, environments=["production"])
    answer = await ask(fraud, "ranker", "1.0.0")
    assert [row["contract"] for row in answer["matrix"]] == ["shop.ranker@3", "ranker.fraud@1.0.0"]
    await fraud.push("ranker", "2.0.0")
    only_model = await ask(fraud, "ranker", "2.0.0")
    assert [row["contract"] for row in only_model["matrix"]] == ["shop.ranker@3"]


async def answer_to(world: World, **query: str) -> httpx.Response:
    return await world.call("GET", "/can-i-deploy", None, **query)


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"pacticipant": "nobody"}, "neither a model nor a consumer"),
        ({"version": "9.9.9"}, "no version 9.9.9"),
        ({"version": "main branch"}, "names no version"),
        ({"pacticipant": "shop", "version": "9"}, "no contract as version '9'"),
        ({"environment": "prod"}, "no environment 'prod'"),
    ],
)
async def test_unknown_names_are_not_found(
    fraud: World, changes: dict[str, str], says: str
) -> None:
    await publish(fraud)
    query = {"pacticipant": "fraud", "version": "1.0.0", "environment": "production", **changes}
    response = await answer_to(fraud, **query)
    assert response.status_code == 404, response.text
    assert says in response.json()["detail"]


async def test_a_question_without_its_parts_is_not_valid(fraud: World) -> None:
    assert (await answer_to(fraud, pacticipant="fraud")).status_code == 422
    assert (await answer_to(fraud, pacticipant="fraud", version="1", env="x")).status_code == 422


async def test_the_moment_of_a_verification_is_that_of_its_result(fraud: World) -> None:
    await publish(fraud)
    await store_result(fraud, {"shop.fraud@1": True})
    at = fraud.clock.now()
    fraud.clock.step(3600)
    await reconcile(fraud)
    contract = await fraud.store.get(Contract, "shop.fraud@1")
    assert abs(contract.status.verifications[0].at - at) < timedelta(seconds=1)
