"""Consumers' pacts, replayed by pact's verifier against a running model."""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from typing import Any

import pandas as pd
import pytest
import skops.io
from sklearn.linear_model import LogisticRegression

from modelplane.decisions.contracts import contract_name
from modelplane.decisions.pacts import digest_pact
from modelplane.resources.checks import ContractCheck
from modelplane.resources.contract import Contract, ContractSpec
from modelplane.resources.gate_run import ServedModel, StageOutcome, StageTask
from modelplane.resources.meta import Metadata
from modelplane.resources.revision import Artifact, RuntimeSpec, make_revision
from modelplane.resources.validation_pipeline import Stage
from modelplane.stages.checks.contract import run
from modelplane.stages.checks.schema import run as check_schema
from tests.stages.pacts import answer, interaction, pact, version_2, version_4
from tests.stages.programs import workspace as real_workspace
from tests.stages.served import Scorer, served, workspace

pytestmark = pytest.mark.slow


def contract(content: dict[str, Any], consumer: str = "shop", version: str = "1") -> Contract:
    return Contract(
        metadata=Metadata(name=contract_name(consumer, "fraud", version)),
        spec=ContractSpec(
            consumer=consumer,
            consumer_version=version,
            model="fraud",
            digest=digest_pact(content),
            pact=content,
        ),
    )


def task(contracts: Sequence[Contract], **configuration: Any) -> StageTask:
    stage = Stage(name="contracts", contract=ContractCheck(**configuration))
    items = tuple(contract.to_dict() for contract in contracts)
    return StageTask(run="gate-1", stage=stage, candidate=served(), contracts=items)


async def verify(*contracts: Contract, model: Scorer | None = None, **asked: Any) -> StageOutcome:
    with workspace(model) as (place, _):
        return await run(task(contracts, **asked), place)


def measured(outcome: StageOutcome) -> dict[str, float]:
    return {m.name: m.value for m in outcome.measurements}


@pytest.mark.parametrize("form", [lambda same: same, version_2, version_4], ids=["3", "2", "4"])
async def test_a_kept_contract_passes_in_every_version_of_the_specification(form: Any) -> None:
    content = form(pact(interaction("a payment"), interaction("a refund")))
    one = contract(content)
    outcome = await verify(one)
    assert outcome.passed, outcome
    assert measured(outcome) == {"contracts_verified": 1, "contracts_broken": 0}
    assert [(case.name, case.passed) for case in outcome.cases] == [
        ("shop.fraud@1: a payment", True),
        ("shop.fraud@1: a refund", True),
    ]
    assert outcome.details == {
        "artifact": "sha256:1.0.0",
        "contracts": [
            {"name": "shop.fraud@1", "digest": one.spec.digest, "passed": True, "message": ""}
        ],
    }


async def test_a_renamed_output_breaks_the_contract_that_reads_it_and_no_other() -> None:
    reads_score = contract(pact(interaction("a payment")))
    reads_nothing = contract(pact(interaction("a ping", answer={})), "probe")
    outcome = await verify(reads_score, reads_nothing, model=Scorer("risk"))
    assert not outcome.passed
    assert measured(outcome) == {"contracts_verified": 1, "contracts_broken": 1}
    verdicts = {v["name"]: v for v in outcome.details["contracts"]}
    assert verdicts["probe.fraud@1"]["passed"]
    broken = verdicts["shop.fraud@1"]["message"]
    assert broken.startswith("shop.fraud@1: a payment: $.outputs[0].name: Expected 'risk'")
    assert "to be equal to 'score'" in broken
    assert [(f.code, f.where) for f in outcome.findings] == [("broken", "shop.fraud@1")]
    assert outcome.message.startswith("1 of 2 contracts broken: shop.fraud@1: ")
    failed = next(case for case in outcome.cases if not case.passed)
    assert failed.name == "shop.fraud@1: a payment"


async def test_a_request_that_the_model_refuses_is_told_by_its_status() -> None:
    lacks = {"inputs": [{"name": "amount", "datatype": "FP64", "shape": [1], "data": [1.0]}]}
    outcome = await verify(contract(pact(interaction(body=lacks, answer={}))))
    assert not outcome.passed
    assert "expected 200 but was 400" in outcome.message


async def test_an_expected_refusal_keeps_the_contract() -> None:
    refused = interaction("no inputs", body={"inputs": []}, answer={}, status=400)
    assert (await verify(contract(pact(refused)))).passed


async def test_a_pact_that_cannot_be_read_breaks_that_contract_only() -> None:
    unreadable = contract({"metadata": "?"}, "broken")
    # What is no fault to the reader here, and none that the verifier understands.
    odd = pact(interaction(rules={"body": {"$.outputs[": {"matchers": [{"match": "regex"}]}}}))
    outcome = await verify(contract(pact()), unreadable, contract(odd, "odd"))
    verdicts = {v["name"]: v for v in outcome.details["contracts"]}
    assert verdicts["shop.fraud@1"]["passed"]
    assert not verdicts["broken.fraud@1"]["passed"]
    assert "pact.interactions" in verdicts["broken.fraud@1"]["message"]
    assert not verdicts["odd.fraud@1"]["passed"]
    assert measured(outcome) == {"contracts_verified": 1, "contracts_broken": 2}


async def test_the_server_runs_under_each_name_that_consumers_call() -> None:
    eu = interaction("in Europe", path="/v2/models/fraud-eu/infer")
    ready = {
        "description": "ready",
        "request": {"path": "/v2/health/ready"},
        "response": {"status": 200, "body": {"ready": True}},
    }
    content = pact(interaction("here"), eu, ready)
    with workspace() as (place, own):
        outcome = await run(task([contract(content)]), place)
    assert outcome.passed, outcome
    assert own.names == ["fraud", "fraud-eu"]
    assert {case.name for case in outcome.cases} == {
        "shop.fraud@1: here", "shop.fraud@1: in Europe", "shop.fraud@1: ready",
    }  # fmt: skip
    said = [f for f in outcome.findings if f.code == "deployment-name"]
    assert "calls the model fraud-eu" in said[0].message


async def test_a_name_that_no_deployment_can_have_breaks_the_contract() -> None:
    odd = contract(pact(interaction(path="/v2/models/%C3%A9t%C3%A9%20x/infer")))
    outcome = await verify(odd)
    assert not outcome.passed
    assert "no deployment can be called 'été x'" in outcome.message


async def test_provider_states_have_no_effect_and_are_told() -> None:
    given = interaction(extra={"providerStates": [{"name": "a model is loaded"}]})
    outcome = await verify(contract(pact(given)))
    assert outcome.passed
    (finding,) = outcome.findings
    assert (finding.severity, finding.code) == ("info", "provider-states")
    assert "a model is loaded" in finding.message


async def test_a_pending_interaction_fails_nothing_and_is_shown() -> None:
    content = version_4(pact(interaction("now"), interaction("soon", answer=answer("soon"))))
    content["interactions"][1]["pending"] = True
    outcome = await verify(contract(content))
    assert outcome.passed
    soon = next(case for case in outcome.cases if case.name.endswith("soon"))
    assert soon.skipped
    assert soon.message.startswith("pending: ")


async def test_nothing_published_is_nothing_broken() -> None:
    with workspace() as (place, own):
        outcome = await run(task([], consumers=("till",)), place)
    assert outcome.passed
    assert own.names == []
    assert outcome.message == "no consumer has published a contract with fraud"
    assert [(f.severity, f.where) for f in outcome.findings] == [("warning", "till")]


async def test_what_the_verifier_saw_is_evidence_and_nobody_else_is_told(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.delenv("PACT_DO_NOT_TRACK", raising=False)
    with workspace() as (place, _):
        await run(task([contract(pact())]), place)
        folder = place.output_dir / "contracts"
        assert json.loads((folder / "0.pact.json").read_text()) == pact()
        assert "has a matching body (OK)" in (folder / "0.verification.txt").read_text()
    assert os.environ["PACT_DO_NOT_TRACK"] == "true"
    monkeypatch.delenv("PACT_DO_NOT_TRACK")


async def test_of_a_large_suite_every_contract_is_told_and_failures_come_first() -> None:
    long = "é" * 3000
    many = [interaction(f"{n} {long}") for n in range(60)]
    broken = interaction("broken", answer=answer("other"))
    contracts = [contract(pact(*many, broken), version=str(n)) for n in range(3)]
    outcome = await verify(*contracts)
    assert len(json.dumps(outcome.to_dict())) < 250_000
    assert len(outcome.details["contracts"]) == 3
    assert [case.passed for case in outcome.cases[:4]] == [False, False, False, True]


async def test_a_real_model_on_its_real_server_keeps_a_contract() -> None:
    frame = pd.DataFrame({"amount": [1.0, 2.0, 3.0, 4.0], "age": [30.0, 40.0, 50.0, 60.0]})
    model = LogisticRegression().fit(frame, [0, 0, 1, 1])
    columns = [{"name": name, "datatype": "FP64", "shape": [-1]} for name in frame]
    inputs = [{**column, "shape": [1], "data": [2.0]} for column in columns]
    asks = {"inputs": inputs}
    reads = {"outputs": [{"name": "predictions", "datatype": "INT64", "shape": [1], "data": [0]}]}
    # A pact wants lists as long as its own: who reads one output asks for that one.
    only = {**asks, "outputs": [{"name": "predictions"}]}
    kept = contract(pact(interaction(body=only, answer=reads)))
    broken = contract(pact(interaction(body=asks, answer=answer("score"))), "till")
    artifact = Artifact(format="skops", digest="sha256:a")
    candidate = ServedModel(
        revision=make_revision("fraud", "1.0.0", artifact, RuntimeSpec()),
        signature={
            "inputs": columns,
            "outputs": [{"name": "predictions", "datatype": "INT64", "shape": [-1]}],
        },
        input_example=asks,
    )
    with real_workspace() as place:
        (place.candidate_dir / "model.bin").unlink()
        skops.io.dump(model, place.candidate_dir / "model.skops")
        given = task([kept, broken]).with_(candidate=candidate)
        verified = await run(given, place)
        schema = Stage.model_validate({"name": "schema", "schema": {}})
        compared = await check_schema(given.with_(stage=schema, champion=candidate), place)
    assert [v["passed"] for v in verified.details["contracts"]] == [True, False]
    assert "to be equal to 'score'" in verified.message
    errors = [f"{f.where}: {f.message}" for f in compared.findings if f.severity == "error"]
    assert errors == ["till.fraud@1: outputs.score is read and not given; there are: predictions"]
    assert [case.passed for case in compared.cases] == [True, True, False, True, True]
