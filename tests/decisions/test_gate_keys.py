"""What a result depends on: each part changes the key, nothing else does, doubt is not reused."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from modelplane.decisions.gate_keys import StagePlace, compute_inputs, compute_key
from modelplane.decisions.gate_plans import (
    StagePlan,
    Surroundings,
    explain_stage,
    plan_stage,
    trusted_keys,
)
from modelplane.decisions.gate_runs import make_run
from modelplane.resources.contract import Contract, ContractSpec
from modelplane.resources.dataset import DatasetReference, DatasetVersion, DatasetVersionSpec
from modelplane.resources.environment import Environment
from modelplane.resources.gate_run import DataInput, ServedModel, StageResult
from modelplane.resources.meta import Metadata
from modelplane.resources.model import Signature
from modelplane.resources.model_deployment import ModelDeployment, ModelDeploymentSpec
from modelplane.resources.validation_pipeline import Stage
from tests.decisions.gate_worlds import ANA, NOW, PLACE, around, pipeline, served, stage, version


def data(dataset: str, number: str, content: str | None = None) -> DatasetVersion:
    digest = f"sha256:{content or dataset + number}" if content != "unknown" else "unknown"
    spec = DatasetVersionSpec(dataset=dataset, version=number, number=int(number), digest=digest)
    return DatasetVersion(metadata=Metadata(name=f"{dataset}@{number}"), spec=spec)


def contract(consumer: str, number: str) -> Contract:
    spec = ContractSpec(
        consumer=consumer, consumer_version=number, model="fraud", pact={"of": consumer}
    )
    return Contract(metadata=Metadata(name=f"{consumer}.fraud@{number}", created_at=NOW), spec=spec)


def plan(
    checked: Stage,
    candidate: ServedModel | None = None,
    champion: ServedModel | None = None,
    **surroundings: Any,
) -> StagePlan:
    run = make_run(
        pipeline(checked),
        candidate or served(),
        champion,
        number=3,
        trigger="hand",
        subject=ANA,
    )
    return plan_stage(checked, run, around(**surroundings))


ACCURACY = stage("a", "accuracy", config={"dataset": "test"})
DATA: dict[str, Any] = {"data": {"test": [data("test", "1")]}}


@pytest.mark.parametrize(
    "other",
    [
        stage("renamed", "accuracy", config={"dataset": "test"}),
        stage("a", "accuracy", config={"dataset": "test"}, timeout="1h", retries=7, memory="1Gi"),
        stage("a", "accuracy", config={"dataset": "test"}, role="approve"),
    ],
)
def test_how_a_stage_runs_is_not_what_it_found(other: Stage) -> None:
    assert plan(other, **DATA).key == plan(ACCURACY, **DATA).key


def test_the_version_number_does_not_matter_where_bytes_and_runtime_are_the_same() -> None:
    assert plan(ACCURACY, served("2.0.0"), **DATA).key == plan(ACCURACY, **DATA).key


@pytest.mark.parametrize(
    ("changed", "inputs"),
    [
        (lambda: plan(stage("a", "accuracy", config={"dataset": "test", "metric": "f1"}), **DATA),
         {"configuration"}),
        (lambda: plan(ACCURACY, served(content="others"), **DATA), {"model"}),
        (lambda: plan(ACCURACY, served(requirements="numpy==2"), **DATA), {"runtime"}),
        (lambda: plan(ACCURACY, served(env={"A": "1"}), **DATA), {"runtime"}),
        (lambda: plan(ACCURACY, served().with_(flavour="xgboost"), **DATA), {"interface"}),
        (lambda: plan(ACCURACY, served().with_(input_example={"inputs": []}), **DATA),
         {"interface"}),
        (lambda: plan(ACCURACY, data={"test": [data("test", "1"), data("test", "2")]}),
         {"data:test"}),
        (lambda: plan(ACCURACY, champion=served("0.9.0", "older"), **DATA), {"champion"}),
        (lambda: plan(ACCURACY, place=StagePlace("code-2", "lock-1"), **DATA), {"code"}),
        (lambda: plan(ACCURACY, place=StagePlace("code-1", "lock-2"), **DATA), {"environment"}),
    ],
)  # fmt: skip
def test_each_input_changes_the_key_alone(changed: Any, inputs: set[str]) -> None:
    before, after = plan(ACCURACY, **DATA), changed()
    assert after.key != before.key
    differing = {n for n in before.inputs if before.inputs[n] != after.inputs.get(n)}
    assert differing | (after.inputs.keys() - before.inputs.keys()) == inputs


def test_what_a_check_does_not_look_at_does_not_count() -> None:
    scan = stage("s", "security_scan")
    champion = served("0.9.0", "older")
    assert plan(scan).key == plan(scan, champion=champion, **DATA).key
    latency = stage("l", "latency")
    assert plan(latency).key == plan(latency, champion=champion).key
    compared = stage("l", "latency", config={"maxSlowdown": 0.2})
    assert plan(compared).key != plan(compared, champion=champion).key
    assert plan(latency).inputs["node"] == "local"
    assert "node" not in plan(scan).inputs


def test_contracts_count_by_what_they_say_and_not_by_what_was_verified() -> None:
    check = stage("c", "contract")
    one = contract("shop", "1")
    before = plan(check, contracts=[one])
    assert [c["metadata"]["name"] for c in before.task.contracts] == ["shop.fraud@1"]
    deployed = one.with_spec(environments=("production",))
    assert plan(check, contracts=[deployed]).key == before.key
    assert plan(check, contracts=[one, contract("bank", "1")]).key != before.key


def test_signatures_and_the_keys_that_are_trusted_count_for_the_scan() -> None:
    scan = stage("s", "security_scan")
    signature = Signature(key_id="k", bundle="{}", subject="ana", at=NOW)
    signed = version().with_status(signatures=(signature,))
    assert plan(scan, version=signed).key != plan(scan).key
    assert plan(scan, version=signed).task.signatures == (signature.to_dict(),)


def environment(name: str, order: int, **spec: Any) -> Environment:
    return Environment.model_validate(
        {
            "kind": "Environment",
            "metadata": {"name": name},
            "spec": {"stage": "staging", "order": order, "gateway": {"port": 7000}, **spec},
        }
    )


def test_an_environment_that_trusts_no_key_trusts_our_own() -> None:
    place = StagePlace("c", "e", "OWN")
    assert trusted_keys([environment("a", 1, trustedKeys=["K"])], place) == ("K",)
    both = [environment("a", 1, trustedKeys=["K"]), environment("b", 2)]
    assert trusted_keys(both, place) == ("K", "OWN")
    assert trusted_keys(both, PLACE) == ("K",)


# -- never reused ---------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("checked", "surroundings", "says"),
    [
        (ACCURACY, {"data": {"test": [data("test", "1", "unknown")]}}, "content of test"),
        (stage("p", "parity"), {}, "just now"),
        (stage("s", "security_scan", config={"vulnerabilities": "osv.json"}), {}, "osv.json"),
        (stage("c", config={"run": ["python", "checks/suite.py"]}), {}, "checks/suite.py"),
        (stage("c", config={"run": ["/opt/check"]}), {}, "/opt/check"),
    ],
)
def test_what_is_not_known_is_never_reused(
    checked: Stage, surroundings: dict[str, Any], says: str
) -> None:
    planned = plan(checked, **surroundings)
    assert says in planned.not_reused
    assert planned.inputs["run"] == "quality-3"
    told = explain_stage(planned, [], None)
    assert told.hit is None
    assert told.reason.startswith("never reused")


@pytest.mark.parametrize(
    "run",
    [
        ["python", "suite.py", "{model}/weights", "{data:test}", "--at={url}"],
        ["python", "-c", "print(1 / 2)"],
        ["curl", "http://127.0.0.1/x"],
        ["sh", "./suite.py"],
    ],
)
def test_commands_of_known_content_are_reused(run: list[str]) -> None:
    checked = stage("c", config={"run": run, "files": {"suite.py": "..."}})
    assert plan(checked).not_reused == ""


# -- data -----------------------------------------------------------------------------------


def test_data_is_the_newest_version_or_the_one_that_is_named() -> None:
    versions = [data("test", version) for version in ("1", "10", "9")]
    known: dict[str, Any] = {"data": {"test": versions}}
    assert [d.version for d in plan(ACCURACY, **known).task.datasets] == ["10"]
    named = stage("a", "accuracy", config={"dataset": "test@9"})
    assert [d.version for d in plan(named, **known).task.datasets] == ["9"]
    missing = plan(stage("a", "accuracy", config={"dataset": "test@7"}), **known)
    assert "there are versions 1, 10, 9" in missing.fault


@pytest.mark.parametrize(
    ("contexts", "chosen"),
    [
        (["training", "validation", "test"], "test"),
        (["training", "Evaluation"], "Evaluation"),
        (["training", "golden"], "golden"),
        (["training"], None),
        ([], None),
    ],
)
def test_without_a_name_it_is_what_the_version_was_evaluated_on(
    contexts: list[str], chosen: str | None
) -> None:
    references = [
        DatasetReference(name=f"of-{context}", digest="sha256:1", context=context)
        for context in contexts
    ]
    recorded = version(datasets=tuple(references))
    planned = plan(stage("a", "accuracy"), version=recorded)
    wanted = [] if chosen is None else [f"of-{chosen}"]
    assert [d.name for d in planned.task.datasets] == wanted
    assert planned.fault == ""


def test_parity_is_told_what_serves_where() -> None:
    deployment = ModelDeployment(
        metadata=Metadata(name="fraud-live", environment="staging"),
        spec=ModelDeploymentSpec(model="fraud"),
    ).with_status(stable=served("0.9.0", "older").revision)
    gateway = {"host": "0.0.0.0", "port": 7081}
    task = plan(
        stage("p", "parity"),
        environments=[environment("staging", 1, gateway=gateway), environment("other", 2)],
        deployments=[deployment],
    ).task
    assert task.endpoints == {"staging": "http://127.0.0.1:7081"}
    assert task.deployments["staging"]["name"] == "fraud-live"
    assert task.deployments["staging"]["version"] == "0.9.0"


# -- the explanation ------------------------------------------------------------------------


def result(planned: StagePlan, run: str = "quality-1") -> StageResult:
    return StageResult.model_validate(
        {
            "kind": "StageResult",
            "metadata": {"name": planned.key[:32]},
            "spec": {
                "key": planned.key, "inputs": dict(planned.inputs), "check": "accuracy",
                "stage": "a", "model": "fraud", "version": "1.0.0", "run": run, "durationS": 1,
                "outcome": {"passed": True},
            },
        }
    )  # fmt: skip


def test_the_explanation_names_the_inputs_that_changed() -> None:
    before = plan(ACCURACY, **DATA)
    known = result(before)
    hit = explain_stage(before, [known], known)
    assert (hit.hit, hit.reason) == (known, "nothing changed since quality-1")
    after = plan(ACCURACY, served(content="others"), data={"test": [data("test", "2")]})
    miss = explain_stage(after, [], known)
    assert miss.hit is None
    assert miss.changed == ("data:test", "model")
    assert miss.reason == "data:test, model changed since quality-1"
    assert "not run" in explain_stage(after, [], None).reason


@given(
    inputs=st.dictionaries(st.text(max_size=8), st.text(max_size=8), max_size=5),
    name=st.text(max_size=8),
    value=st.text(max_size=8),
)
def test_keys_are_equal_exactly_when_the_inputs_are(
    inputs: dict[str, str], name: str, value: str
) -> None:
    other = {**inputs, name: value}
    assert (compute_key(inputs) == compute_key(other)) == (inputs == other)


def test_inputs_are_digests_and_never_contents() -> None:
    task = plan(ACCURACY, served(env={"TOKEN": "hidden"}), **DATA).task
    assert "hidden" not in str(compute_inputs(task, PLACE))
    assert isinstance(task.datasets[0], DataInput)
    assert isinstance(around(), Surroundings)
