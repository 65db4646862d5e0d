"""Whether a candidate's signature breaks the champion's users, the consumers, or its own word."""

from __future__ import annotations

import copy
from typing import Any

import pytest

from modelplane.resources.checks import SchemaCheck
from modelplane.resources.gate_run import ServedModel, StageOutcome, StageTask
from modelplane.resources.validation_pipeline import Stage
from modelplane.stages.checks.schema import run
from tests.stages.pacts import answer, interaction, pact
from tests.stages.served import SIGNATURE, Scorer, request, served, workspace
from tests.stages.test_contract import contract

pytestmark = pytest.mark.slow


def signature(**changes: Any) -> dict[str, Any]:
    return {**copy.deepcopy(SIGNATURE), **changes}


async def check(
    candidate: ServedModel,
    champion: ServedModel | None = None,
    *pacts: dict[str, Any],
    model: Scorer | None = None,
    against: Any = "both",
) -> StageOutcome:
    stage = Stage.model_validate({"name": "schema", "schema": {"compatibleWith": against}})
    assert isinstance(stage.configuration, SchemaCheck)
    task = StageTask(
        run="gate-1",
        stage=stage,
        candidate=candidate,
        champion=champion,
        contracts=tuple(contract(content).to_dict() for content in pacts),
    )
    with workspace(model) as (place, _):
        return await run(task, place)


def breaks(outcome: StageOutcome) -> list[str]:
    errors = [f"{f.where}: {f.message}" for f in outcome.findings if f.severity == "error"]
    assert outcome.passed == (not errors)
    (measurement,) = outcome.measurements
    assert (measurement.name, measurement.value) == ("schema_breaks", len(errors))
    return errors


async def test_the_same_signature_breaks_nobody() -> None:
    outcome = await check(served("2.0.0", input_example=request()), served(), pact())
    assert breaks(outcome) == []
    assert [case.name for case in outcome.cases] == [
        "champion 1.0.0", "shop.fraud@1", "server", "input example",
    ]  # fmt: skip


async def test_a_removed_output_breaks_the_champions_users_and_who_reads_it() -> None:
    renamed = signature(outputs=[{"name": "risk", "datatype": "FP64", "shape": [-1]}])
    candidate = served("2.0.0", signature=renamed)
    outcome = await check(candidate, served(), pact(), model=Scorer("risk"))
    assert breaks(outcome) == [
        "champion 1.0.0: outputs.score is gone; there are: risk",
        "shop.fraud@1: outputs.score is read and not given; there are: risk",
    ]


async def test_only_what_is_asked_for_is_compared() -> None:
    renamed = signature(outputs=[{"name": "risk", "datatype": "FP64", "shape": [-1]}])
    candidate = served("2.0.0", signature=renamed)
    outcome = await check(candidate, served(), against="consumers", model=Scorer("risk"))
    assert breaks(outcome) == []
    outcome = await check(candidate, served(), against="champion", model=Scorer("risk"))
    assert breaks(outcome) == ["champion 1.0.0: outputs.score is gone; there are: risk"]


async def test_what_a_consumer_sends_must_be_accepted() -> None:
    sends = interaction(
        body={"inputs": [{"name": "amount", "datatype": "BYTES", "shape": [1], "data": ["1"]}]}
    )
    assert breaks(await check(served(), None, pact(sends))) == [
        "shop.fraud@1: inputs.amount is sent as BYTES, must be FP64",
        "shop.fraud@1: inputs.country is required and not sent",
    ]


async def test_a_datatype_that_the_pact_leaves_open_is_not_held() -> None:
    reads = answer(datatype="FP32")
    assert breaks(await check(served(), None, pact(interaction(answer=reads)))) == [
        "shop.fraud@1: outputs.score is read as FP32, is FP64"
    ]
    loose = {"body": {"$.outputs[*]": {"matchers": [{"match": "type"}]}}}
    open_ = interaction(answer=reads, rules=loose)
    assert breaks(await check(served(), None, pact(open_))) == []


async def test_without_a_signature_it_passes_only_where_nothing_rests_on_one() -> None:
    bare = served("2.0.0", signature=None)
    assert breaks(await check(bare)) == []
    for champion, pacts in ((served(), ()), (None, (pact(),))):
        outcome = await check(bare, champion, *pacts)
        assert "declares no signature" in breaks(outcome)[0]


async def test_a_champion_without_a_signature_is_not_compared_with() -> None:
    outcome = await check(served("2.0.0"), served(signature=None))
    assert breaks(outcome) == []
    assert "champion 1.0.0 declares no signature" in outcome.findings[0].message


async def test_a_signature_that_is_none_is_told_with_its_path() -> None:
    odd = {"inputs": [{"name": "amount", "datatype": "FLOAT"}]}
    assert breaks(await check(served(signature=odd))) == [
        "signature: signature.inputs[0] has an unknown datatype 'FLOAT'"
    ]


async def test_the_server_must_keep_the_declared_signature() -> None:
    more = signature()
    more["inputs"].append({"name": "city", "datatype": "BYTES", "shape": [-1]})
    found = breaks(await check(served(signature=more)))
    assert found == ["server: inputs.city is not accepted any more; there are: amount, country"]


@pytest.mark.parametrize("told", [True, False])
async def test_the_answer_to_the_example_must_have_the_declared_outputs(told: bool) -> None:
    model = Scorer("risk", told=told)
    found = breaks(await check(served(input_example=request()), model=model))
    assert "input example: outputs.score is gone; there are: risk" in found
    assert ("server: outputs.score is gone; there are: risk" in found) is told


async def test_an_example_that_the_model_refuses_is_a_break_with_its_words() -> None:
    example = {"inputs": [{"name": "amount", "datatype": "FP64", "shape": [1], "data": [1.0]}]}
    (found,) = breaks(await check(served(input_example=example)))
    assert found.startswith("input example: the input example fails: candidate answers 400: ")
    assert "missing input" in found


async def test_a_pact_that_cannot_be_read_is_a_break() -> None:
    (found,) = breaks(await check(served(), None, {"consumer": {"name": "shop"}}))
    assert found.startswith("shop.fraud@1: its pact cannot be read: ")
