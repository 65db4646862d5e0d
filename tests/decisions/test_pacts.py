"""Pact files of every version, and of none."""

from __future__ import annotations

import copy
import itertools
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from modelplane.decisions.pacts import (
    MAX_DEPTH,
    MAX_INTERACTIONS,
    digest_pact,
    read_pact,
    split_by_model,
)
from modelplane.errors import FieldError, InvalidResource


def interaction(**changes: Any) -> dict[str, Any]:
    return {
        "description": "a payment",
        "request": {"method": "post", "path": "/v2/models/fraud/infer", "body": {"inputs": []}},
        "response": {"status": 200, "body": {"outputs": []}},
        **changes,
    }


def pact(consumer: str = "shop", model: str = "fraud", **changes: Any) -> dict[str, Any]:
    return {
        "consumer": {"name": consumer},
        "provider": {"name": model},
        "interactions": [interaction()],
        "metadata": {"pactSpecification": {"version": "3.0.0"}},
        **changes,
    }


def test_a_pact_is_read_alike_in_every_version() -> None:
    body = {"inputs": [1]}
    version_4 = interaction(
        type="Synchronous/HTTP",
        providerStates=[{"name": "loaded"}],
        request={"path": "/v2/models/fraud/infer", "method": "POST",
                 "body": {"content": body, "contentType": "application/json", "encoded": False}},
        response={"matchingRules": {"body": {"$": {"matchers": [{"match": "type"}]}}}},
    )  # fmt: skip
    older = interaction(
        providerState="loaded",
        request={"path": "/v2/models/fraud/infer", "method": "post", "body": body},
        response={"matchingRules": {"$.body": {"match": "type"}}},
    )
    of = {
        "4.0": ([version_4], {"pactSpecification": {"version": "4.0"}}),
        "2.0.0": ([older], {"pact-specification": {"version": "2.0.0"}}),
        "3": ([older], {"pactSpecificationVersion": "3"}),
    }
    read = {v: read_pact(pact(interactions=i, metadata=m)) for v, (i, m) in of.items()}
    assert [one.version for one in read.values()] == [4, 2, 3]
    assert len({repr(one.interactions) for one in read.values()}) == 1
    (found,) = read["4.0"].interactions
    assert (found.method, found.model, found.states) == ("POST", "fraud", ("loaded",))
    assert (found.request, found.response, found.is_inference) == (body, None, True)
    assert found.rules == {"$": frozenset({"type"})}


@pytest.mark.parametrize(
    ("changes", "path"),
    [
        ({"consumer": None}, "pact.consumer.name"),
        ({"consumer": {"name": "  "}}, "pact.consumer.name"),
        ({"provider": {"name": 7}}, "pact.provider.name"),
        ({"metadata": None}, "pact.metadata.pactSpecification.version"),
        ({"metadata": {"pactSpecification": {"version": "1.0.0"}}},
         "pact.metadata.pactSpecification.version"),
        ({"metadata": {"pactSpecification": {"version": "5.0"}}},
         "pact.metadata.pactSpecification.version"),
        ({"metadata": {"pactSpecification": {"version": {}}}},
         "pact.metadata.pactSpecification.version"),
        ({"interactions": None}, "pact.interactions"),
        ({"interactions": []}, "pact.interactions"),
        ({"interactions": {"a": 1}}, "pact.interactions"),
        ({"interactions": [interaction()] * (MAX_INTERACTIONS + 1)}, "pact.interactions"),
        ({"interactions": ["?"]}, "pact.interactions[0]"),
        ({"interactions": [interaction(description=" ")]}, "pact.interactions[0].description"),
        ({"interactions": [interaction(request=None)]}, "pact.interactions[0].request"),
        ({"interactions": [interaction(request={"path": 3})]}, "pact.interactions[0].request.path"),
        ({"interactions": [interaction(request={"path": "@host/x"})]},
         "pact.interactions[0].request.path"),
        ({"interactions": [interaction(), interaction(response=[])]},
         "pact.interactions[1].response"),
        ({"interactions": [interaction(response={"status": True})]},
         "pact.interactions[0].response.status"),
        ({"interactions": [interaction(response={"status": 99})]},
         "pact.interactions[0].response.status"),
        ({"interactions": [interaction(type="Asynchronous/Messages")],
          "metadata": {"pactSpecification": {"version": "4.0"}}}, "pact.interactions[0].type"),
        ({"messages": [{}]}, "pact.messages"),
        ({"metadata": {"pactSpecification": {"version": "4.0"}, "plugins": [{"name": "x"}]}},
         "pact.metadata.plugins"),
    ],
)  # fmt: skip
def test_what_is_no_pact_is_told_with_its_path(changes: dict[str, Any], path: str) -> None:
    with pytest.raises(InvalidResource) as caught:
        read_pact(pact(**changes))
    assert path in [fault.path for fault in caught.value.fields]


def test_a_pact_is_nested_within_bounds() -> None:
    deep: Any = {}
    for _ in range(MAX_DEPTH):
        deep = [deep]
    with pytest.raises(InvalidResource, match="nested deeper than 64"):
        read_pact(pact(interactions=[interaction(extra=deep)]))


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=15,
)


KEYS = (
    "body", "consumer", "description", "interactions", "matchingRules", "messages", "metadata",
    "method", "name", "pactSpecification", "path", "provider", "providerState", "providerStates",
    "request", "response", "status", "type", "version",
)  # fmt: skip


ODD: tuple[Any, ...] = (
    None, True, 5, 1.5, "", "4.0", [], [5], ["x"], [{}], {}, {"name": 5}, {"matchers": 5},
    {"body": {"$": 5}}, {"$.body": {"matchers": [5]}}, {"version": []}, {"content": 5},
)  # fmt: skip


@pytest.mark.parametrize("key", KEYS)
def test_whatever_stands_in_it_a_pact_is_read_or_refused(key: str) -> None:
    for place, value in itertools.product(range(5), ODD):
        given_ = copy.deepcopy(pact())
        (one,) = given_["interactions"]
        places = [given_, given_["metadata"], one, one["request"], one["response"]]
        places[place][key] = value
        faults: tuple[FieldError, ...] = ()
        try:
            read = read_pact(given_)
        except InvalidResource as error:
            faults = error.fields
        if faults:
            assert all(fault.path.startswith("pact") for fault in faults)
        else:
            assert len(read.interactions) == len(given_["interactions"])
            assert split_by_model(given_, "fraud")


@given(st.dictionaries(st.text(min_size=1), json_values, min_size=2), st.randoms())
def test_the_digest_is_of_the_meaning_not_of_the_order(data: dict[str, Any], random: Any) -> None:
    items = list(data.items())
    random.shuffle(items)
    assert digest_pact(dict(items)) == digest_pact(data)
    assert digest_pact({**data, "more": 1}) != digest_pact(data) or data.get("more") == 1


def test_a_pact_is_split_by_the_names_that_its_requests_use() -> None:
    def ask(path: str) -> dict[str, Any]:
        return interaction(request={"path": path})

    items = [ask("/v2/health/ready"), ask("/v2/models/a/infer"), ask("/v2/models/b%20c/versions/1")]
    parts = split_by_model(pact(interactions=items), "fraud")
    assert {name: part["interactions"] for name, part in parts.items()} == {
        "a": items[:2],
        "b c": items[2:],
    }
    assert list(split_by_model(pact(interactions=items[:1]), "fraud")) == ["fraud"]
