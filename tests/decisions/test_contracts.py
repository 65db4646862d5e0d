"""Contracts published and deployed, verdicts recorded, and what may be deployed."""

from __future__ import annotations

import itertools
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from modelplane.decisions.contracts import (
    MAX_VERIFICATIONS,
    Verdict,
    add_verdict,
    contracts_of,
    publish_contract,
    read_contract,
    read_verdicts,
    record_deployment,
    record_undeployment,
)
from modelplane.decisions.deployability import (
    ServedVersion,
    can_deploy,
    rows_of_consumer,
    rows_of_model,
    summarize,
)
from modelplane.decisions.pacts import digest_pact
from modelplane.errors import Conflict, InvalidResource
from modelplane.resources.checks import CheckName, ContractCheck, SchemaCheck
from modelplane.resources.contract import Contract, Verification
from modelplane.resources.gate_run import StageOutcome, StageResult, StageResultSpec
from modelplane.resources.meta import Metadata
from tests.decisions.test_pacts import interaction, pact

NOW = datetime(2026, 3, 1, tzinfo=UTC)
MODELS = {"fraud", "ranker"}


def contract(
    consumer: str = "shop",
    version: str = "1",
    *,
    model: str = "fraud",
    environments: tuple[str, ...] = (),
    minute: int = 0,
) -> Contract:
    made = read_contract(pact(consumer, model), version, models=MODELS)
    metadata = made.metadata.with_(created_at=NOW + timedelta(minutes=minute), resource_version=1)
    return made.with_(metadata=metadata).with_spec(environments=environments)


def names(contracts: Any) -> list[str]:
    return [one.metadata.name for one in contracts]


# -- publishing -----------------------------------------------------------------------------


def test_a_contract_is_named_by_both_sides_and_the_version() -> None:
    made = read_contract(pact("Händler im Netz"), "8f2c1d0", models=MODELS)
    assert made.metadata.name == "Händler im Netz.fraud@8f2c1d0"
    assert made.metadata.labels == {"consumer": "Händler im Netz", "model": "fraud"}
    assert made.spec.digest == digest_pact(made.spec.pact)
    other = read_contract(pact(model="fraud-service"), "1", models=MODELS, model="fraud")
    assert other.spec.model == "fraud"


@pytest.mark.parametrize(
    ("content", "version", "model", "path"),
    [
        (pact(model="froud"), "1", None, "pact.provider.name"),
        (pact(), "1", "froud", "model"),
        (pact("a/b"), "1", None, "pact.consumer.name"),
        (pact("a" * 201), "1", None, "pact.consumer.name"),
        (pact("a" * 199), "1", None, "pact.consumer.name"),
        (pact(), "", None, "consumerVersion"),
        (pact(), "main branch", None, "consumerVersion"),
        (pact(), "1" * 101, None, "consumerVersion"),
    ],
)
def test_names_that_cannot_be_are_told_with_their_path(
    content: dict[str, Any], version: str, model: str | None, path: str
) -> None:
    with pytest.raises(InvalidResource) as caught:
        read_contract(content, version, models=MODELS, model=model)
    assert path in [fault.path for fault in caught.value.fields]


def test_publishing_again_changes_nothing() -> None:
    before = contract(environments=("production",))
    for environments in ((), ("production",)):
        again = publish_contract(contract(), environments, [before])
        assert (again.result, again.contract, again.written) == ("unchanged", before, ())


def test_another_pact_of_the_same_version_is_a_conflict() -> None:
    changed = pact(interactions=[interaction(description="a refund")])
    with pytest.raises(Conflict, match="another pact"):
        publish_contract(read_contract(changed, "1", models=MODELS), (), [contract()])


def test_names_that_meet_are_a_conflict() -> None:
    models = {"b.c", "c"}
    first = read_contract(pact("a", "b.c"), "1", models=models)
    second = read_contract(pact("a.b", "c"), "1", models=models)
    assert first.metadata.name == second.metadata.name
    with pytest.raises(Conflict, match=r"is taken by the contract of 'a' with 'b\.c'"):
        publish_contract(second, (), [first])


def test_publishing_as_deployed_moves_the_versions_before_out() -> None:
    old = contract(version="1", environments=("production", "staging"))
    other = contract("till", environments=("production",))
    new = read_contract(pact(), "2", models=MODELS)
    published = publish_contract(new, ["production", "production"], [old, other])
    assert published.result == "created"
    assert published.contract.spec.environments == ("production",)
    assert names(published.moved) == ["shop.fraud@1"]
    assert published.moved[0].spec.environments == ("staging",)
    later = publish_contract(new, ["staging"], [published.contract, *published.moved])
    assert (later.result, later.contract.spec.environments) == (
        "changed",
        ("production", "staging"),
    )


@given(
    st.lists(
        st.tuples(
            st.booleans(), st.sampled_from(["1", "2", "3"]), st.sampled_from(["staging", "prod"])
        ),
        max_size=12,
    )
)
def test_one_version_of_a_consumer_is_in_an_environment(steps: list[tuple[bool, str, str]]) -> None:
    pairs = itertools.product(["1", "2", "3"], ["fraud", "ranker"])
    state = {c.metadata.name: c for c in (contract(version=v, model=m) for v, m in pairs)}
    state["till.fraud@1"] = till = contract("till", environments=("prod",))
    for deployed, version, environment in steps:
        act = record_deployment if deployed else record_undeployment
        changed = act(state.values(), "shop", version, environment)
        state |= {one.metadata.name: one for one in changed}
        assert act(state.values(), "shop", version, environment) == ()
        there = {
            c.spec.consumer_version
            for c in state.values()
            if c.spec.consumer == "shop" and environment in c.spec.environments
        }
        assert there == {version} if deployed else version not in there
    assert state["till.fraud@1"] == till


# -- what a stage looks at ------------------------------------------------------------------


def test_a_stage_looks_at_the_newest_version_and_at_every_deployed_one() -> None:
    contracts = [
        contract(version="9", minute=1),
        contract(version="10", minute=2, environments=("production",)),
        contract(version="11", minute=3),
        contract(version="2", minute=4),
        contract("till", "1", environments=("staging",), minute=0),
        contract("till", "2", minute=5),
        contract("other", model="ranker"),
    ]

    def chosen(configuration: ContractCheck | SchemaCheck) -> list[str]:
        found = contracts_of(contracts, "fraud", configuration)
        assert found == contracts_of(contracts[::-1], "fraud", configuration)
        return names([Contract.model_validate(item) for item in found])

    everything = ["shop.fraud@10", "shop.fraud@2", "till.fraud@1", "till.fraud@2"]
    assert chosen(ContractCheck()) == everything
    assert chosen(ContractCheck(consumers=("till",))) == everything[2:]
    assert chosen(SchemaCheck()) == everything
    assert chosen(SchemaCheck(compatible_with="consumers")) == everything
    assert chosen(SchemaCheck(compatible_with="champion")) == []


def test_what_a_stage_is_given_does_not_change_with_what_it_found() -> None:
    plain = contract(environments=("production",))
    verified = add_verdict(plain, verdict()).with_spec(environments=("production", "staging"))
    check = ContractCheck()
    assert contracts_of([plain], "fraud", check) == contracts_of([verified], "fraud", check)


# -- verdicts -------------------------------------------------------------------------------


def verification(
    version: str = "1.0.0", *, passed: bool = True, minute: int = 0, message: str = ""
) -> Verification:
    return Verification(
        version=version,
        artifact=f"sha256:{version}",
        passed=passed,
        result=f"r{minute:03}",
        at=NOW + timedelta(minutes=minute),
        message=message,
    )


def verdict(digest: str = "", **changes: Any) -> Verdict:
    return Verdict("shop.fraud@1", digest or digest_pact(pact()), verification(**changes))


def result(details: dict[str, Any], check: CheckName = "contract") -> StageResult:
    return StageResult(
        metadata=Metadata(name="r", created_at=NOW),
        spec=StageResultSpec(
            key="k",
            inputs={},
            check=check,
            stage="contracts",
            model="fraud",
            version="1.0.0",
            outcome=StageOutcome(passed=True, details=details),
            run="gate-1",
            duration_s=1.0,
        ),
    )


def test_a_result_says_what_it_found_of_each_contract() -> None:
    items: list[Any] = [
        {"name": "shop.fraud@1", "digest": "d", "passed": True},
        {"name": "till.fraud@1", "digest": "e", "passed": False, "message": "x" * 900},
        {"name": "odd.fraud@1", "passed": "yes"},
        "junk",
        {"name": 3},
    ]
    found = read_verdicts(result({"artifact": "sha256:a", "contracts": items}), "1.0.1")
    assert [(v.contract, v.digest, v.verification.passed) for v in found] == [
        ("shop.fraud@1", "d", True), ("till.fraud@1", "e", False), ("odd.fraud@1", "", False),
    ]  # fmt: skip
    first = found[0].verification
    assert (first.version, first.artifact, first.at) == ("1.0.1", "sha256:a", NOW)
    assert len(found[1].verification.message) == 500


@pytest.mark.parametrize(
    "given_",
    [
        result({"artifact": "a", "contracts": [{"name": "shop.fraud@1"}]}, "command"),
        result({"contracts": [{"name": "shop.fraud@1"}]}),
        result({"artifact": "a", "contracts": "all"}),
        result({}),
    ],
)
def test_other_results_say_nothing_of_contracts(given_: StageResult) -> None:
    assert read_verdicts(given_, "1.0.0") == ()


def test_a_verdict_on_another_pact_is_not_taken() -> None:
    assert add_verdict(contract(), verdict("other")) == contract()


@given(
    st.lists(
        st.tuples(st.sampled_from(["1.0.0", "2.0.0"]), st.booleans(), st.integers(0, 50)),
        max_size=10,
        unique_by=lambda item: item[2],
    ),
    st.randoms(),
)
def test_verdicts_in_any_order_and_again_end_alike(
    given_: list[tuple[str, bool, int]], random: Any
) -> None:
    verdicts = [verdict(version=v, passed=p, minute=m) for v, p, m in given_]
    shuffled = [*verdicts, *verdicts]
    random.shuffle(shuffled)
    in_order = some_order = contract()
    for one in sorted(verdicts, key=lambda v: v.verification.at):
        in_order = add_verdict(in_order, one)
    for one in shuffled:
        some_order = add_verdict(some_order, one)
    assert some_order == in_order
    latest = {v.version: v.at for v in in_order.status.verifications}
    for version, _, minute in given_:
        assert latest[version] >= NOW + timedelta(minutes=minute)


def test_the_newest_versions_stay() -> None:
    kept = contract()
    count = MAX_VERIFICATIONS + 5
    for number in range(count):
        kept = add_verdict(kept, verdict(version=f"{number}.0.0", minute=number))
    versions = [v.version for v in kept.status.verifications]
    assert versions == [f"{n}.0.0" for n in range(5, count)]
    assert add_verdict(kept, verdict(version="0.0.0", minute=0)) == kept


# -- can it be deployed ---------------------------------------------------------------------

SERVED = ServedVersion("1.0.0", "sha256:1.0.0")


def kept(by: Contract, **changes: Any) -> Contract:
    return add_verdict(by, Verdict(by.metadata.name, by.spec.digest, verification(**changes)))


def test_a_version_may_go_where_every_deployed_consumer_is_content() -> None:
    production = ("production",)
    shop = kept(contract("shop", environments=production))
    till = contract("till", environments=production)
    elsewhere = contract("lab", environments=("staging",))

    def ask(*contracts: Contract) -> tuple[bool, str]:
        return can_deploy(contracts, "fraud", "1.0.0", "sha256:1.0.0", "production")

    assert ask(shop) == (True, "the contract is kept in production")
    assert ask(shop, kept(till)) == (True, "all 2 contracts are kept in production")
    yes, reason = ask(elsewhere)
    assert yes
    assert "no consumer is recorded as deployed there" in reason
    assert ask(shop, till) == (False, "not verified: till.fraud@1 by fraud@1.0.0")
    broken = kept(till, passed=False, message="score is gone")
    assert ask(shop, broken) == (False, "broken: till.fraud@1 by fraud@1.0.0 (score is gone)")


def test_other_files_under_the_same_version_were_not_verified() -> None:
    shop = kept(contract(environments=("production",)))
    assert can_deploy([shop], "fraud", "1.0.0", "sha256:1.0.0", "production")[0]
    assert not can_deploy([shop], "fraud", "1.0.0", "sha256:other", "production")[0]


def test_a_consumer_may_go_where_what_serves_keeps_its_contract() -> None:
    shop = kept(contract())
    rows = rows_of_consumer([shop], "shop", "1", {"fraud": [SERVED]})
    assert summarize(rows, "production").deployable is True
    rolling = [SERVED, ServedVersion("2.0.0", "sha256:2.0.0")]
    rows = rows_of_consumer([shop], "shop", "1", {"fraud": rolling})
    summary = summarize(rows, "production")
    assert (summary.deployable, summary.success, summary.unknown) == (None, 1, 1)
    rows = rows_of_consumer([shop], "shop", "1", {})
    summary = summarize(rows, "production")
    assert summary.deployable is None
    assert "no version of fraud serves in production" in summary.reason
    assert (rows[0].provider.name, rows[0].provider.version) == ("fraud", None)
    assert rows_of_consumer([shop], "shop", "2", {"fraud": [SERVED]}) == []


@given(st.lists(st.sampled_from([True, False, None]), max_size=6))
def test_the_summary_is_yes_only_when_every_row_is(outcomes: list[bool | None]) -> None:
    contracts = []
    for index, outcome in enumerate(outcomes):
        one = contract(f"c{index}", environments=("production",))
        contracts.append(one if outcome is None else kept(one, passed=outcome))
    rows = rows_of_model(contracts, "fraud", SERVED, "production")
    summary = summarize(rows, "production")
    expected = False if False in outcomes else None if None in outcomes else True
    assert summary.deployable is expected
    assert (summary.success, summary.failed, summary.unknown) == (
        outcomes.count(True), outcomes.count(False), outcomes.count(None),
    )  # fmt: skip
