"""Pacts of a consumer called shop with the model fraud, in every version of the specification."""

from __future__ import annotations

from typing import Any

from tests.stages.served import request

PATH = "/v2/models/fraud/infer"


def interaction(description: str = "a payment", **changes: Any) -> dict[str, Any]:
    """One interaction in the form of versions 2 and 3."""
    return {
        "description": description,
        "request": {
            "method": "POST",
            "path": changes.get("path", PATH),
            "headers": {"Content-Type": "application/json"},
            "body": changes.get("body", request()),
        },
        "response": {
            "status": changes.get("status", 200),
            "body": changes.get("answer", answer()),
            "matchingRules": changes.get(
                "rules", {"body": {"$.outputs[0].data": {"matchers": [{"match": "type"}]}}}
            ),
        },
        **changes.get("extra", {}),
    }


def answer(name: str = "score", datatype: str = "FP64") -> dict[str, Any]:
    return {"outputs": [{"name": name, "datatype": datatype, "data": [0.5]}]}


def pact(*interactions: dict[str, Any], version: str = "3.0.0", **changes: Any) -> dict[str, Any]:
    return {
        "consumer": {"name": "shop"},
        "provider": {"name": "fraud"},
        "interactions": list(interactions or [interaction()]),
        "metadata": {"pactSpecification": {"version": version}},
        **changes,
    }


def version_2(given: dict[str, Any]) -> dict[str, Any]:
    """The same pact as version 2 writes it."""
    items = []
    for item in given["interactions"]:
        rules = {
            path.replace("$", "$.body", 1): rule["matchers"][0]
            for path, rule in item["response"]["matchingRules"]["body"].items()
        }
        response = {**item["response"], "matchingRules": rules}
        items.append({**item, "response": response, "providerState": "weights are loaded"})
    return {**given, "interactions": items, "metadata": {"pactSpecification": {"version": "2.0.0"}}}


def version_4(given: dict[str, Any]) -> dict[str, Any]:
    """The same pact as version 4 writes it."""

    def wrap(message: dict[str, Any]) -> dict[str, Any]:
        content = {
            "content": message["body"],
            "contentType": "application/json",
            "encoded": False,
        }
        headers = {"Content-Type": ["application/json"]}
        return {**message, "body": content, "headers": headers}

    items = [
        {
            **item,
            "type": "Synchronous/HTTP",
            "request": wrap(item["request"]),
            "response": wrap(item["response"]),
        }
        for item in given["interactions"]
    ]
    return {**given, "interactions": items, "metadata": {"pactSpecification": {"version": "4.0"}}}
