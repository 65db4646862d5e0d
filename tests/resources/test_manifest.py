"""Manifest reading promises: every spelling people use means the same, and nothing is ignored."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from modelplane.errors import InvalidResource
from modelplane.resources.manifest import canonical, read_document, read_documents
from modelplane.resources.model_deployment import ModelDeployment

HEAD = "apiVersion: modelplane.dev/v1\nkind: ModelDeployment\n"

FULL = """
apiVersion: modelplane.dev/v1
kind: ModelDeployment
metadata: {name: fraud, environment: production}
spec:
  model: fraud
  version: 3.2.1
  metricsEndpoint: /metrics
  strategy: {canary: {steps: [10]}}
"""

SAME_AS_FULL = {
    "words, mcp.example.com": """
apiVersion: mcp.example.com/v1
kind: ModelDeployment
metadata: {name: fraud, namespace: production}
spec:
  modelVersion: v3.2.1
  strategy: Canary
  canaryTraffic: 10%
  metricsEndpoint: /metrics
""",
    "number for traffic, no environment, mcp.example": """
apiVersion: mcp.example/v1
kind: modeldeployment
metadata: {name: fraud}
spec: {modelVersion: 3.2.1, strategy: CANARY, canaryTraffic: 10, metricsEndpoint: /metrics}
""",
    "traffic without a strategy's name": """
apiVersion: modelplane.dev/v1
kind: model-deployments
metadata: {name: fraud}
spec: {version: 3.2.1, canaryTraffic: 10 %, metricsEndpoint: /metrics, environment: production}
""",
    "strategy as a map under spec": """
apiVersion: mcp.example/v1
kind: ModelDeployment
metadata: {name: fraud}
spec:
  modelVersion: v3.2.1
  metricsEndpoint: /metrics
  strategy:
    canary:
      traffic: 10%
      analysis:
        metrics: [errors, latency]
        interval: 5s
""",
    "strategy as a key beside metadata": """
apiVersion: mcp.example/v1
kind: ModelDeployment
metadata: {name: fraud}
spec: {modelVersion: v3.2.1, metricsEndpoint: /metrics}
strategy:
  canary:
    traffic: 10%
    analysis: {metrics: [errors, latency], interval: 5s}
""",
    "everything beside metadata": """
apiVersion: mcp.example/v1
kind: ModelDeployment
metadata: {name: fraud}
modelVersion: v3.2.1
metricsEndpoint: /metrics
canaryTraffic: 10%
environment: production
""",
    "a word and a map that agree": """
apiVersion: mcp.example/v1
kind: ModelDeployment
metadata: {name: fraud}
spec: {modelVersion: v3.2.1, metricsEndpoint: /metrics, strategy: canary, canaryTraffic: 10%}
strategy: {canary: {traffic: 10%, analysis: {metrics: [{name: errors}, latency]}}}
""",
    "JSON": json.dumps(
        {
            "apiVersion": "modelplane.dev/v1",
            "kind": "ModelDeployment",
            "metadata": {"name": "fraud"},
            "spec": {
                "version": "v3.2.1",
                "metricsEndpoint": "/metrics",
                "strategy": {"canary": {"steps": ["10%"]}},
            },
        },
        indent="\t",
    ),
    "as the API prints it": """
apiVersion: modelplane.dev/v1
kind: ModelDeployment
metadata: {name: fraud, environment: production, uid: abc, generation: 3, resourceVersion: 9,
           createdAt: 2025-01-01T00:00:00Z, updatedAt: 2025-01-01T00:00:00Z}
spec: {model: fraud, version: 3.2.1, metricsEndpoint: /metrics, strategy: {canary: {steps: [10]}}}
status: {readyReplicas: 1}
""",
}


def read_one(text: str) -> Any:
    (resource,) = read_documents(text, "test.yaml")
    return resource


def faults_of(text: str) -> dict[str, str]:
    with pytest.raises(InvalidResource) as caught:
        read_documents(text, "test.yaml")
    return {fault.path: fault.message for fault in caught.value.fields}


@pytest.mark.parametrize("text", SAME_AS_FULL.values(), ids=SAME_AS_FULL.keys())
def test_every_shape_is_read_as_the_same_deployment(text: str) -> None:
    assert read_one(text) == read_one(FULL)


@pytest.mark.parametrize("word", ["allAtOnce", "all-at-once", "ALL_AT_ONCE", "allatonce"])
def test_all_at_once_in_any_spelling(word: str) -> None:
    resource = read_one(HEAD + f"metadata: {{name: a}}\nspec: {{strategy: {word}}}")
    assert canonical(resource)["spec"]["strategy"] == {"allAtOnce": {}}


def test_defaults_are_the_name_the_latest_version_and_production() -> None:
    resource = read_one(HEAD + "metadata: {name: fraud}")
    assert (resource.spec.model, resource.spec.version) == ("fraud", "latest")
    assert resource.metadata.environment == "production"
    assert resource.spec.strategy is None


def test_an_integer_is_the_number_of_a_version() -> None:
    for text in ("3", '"3"'):
        assert read_one(HEAD + f"metadata: {{name: a}}\nmodelVersion: {text}").spec.version == "3"
    faults = faults_of(deployment("{modelVersion: 3, version: 3.0.0}"))
    assert "differs" in faults["spec.modelVersion"]


def test_full_form_keeps_every_value() -> None:
    resource = read_one(
        HEAD
        + """
metadata: {name: fraud}
spec:
  strategy:
    canary:
      steps: [1, 5%, 25, 50]
      minBake: 1m30s
      deadline: 1d
      analysis:
        metrics: [{name: errors, margin: 0.005}, precision]
        alpha: 0.01
        onInconclusive: rollback
"""
    )
    canary = canonical(resource)["spec"]["strategy"]["canary"]
    assert canary["steps"] == [1, 5, 25, 50]
    assert (canary["minBake"], canary["deadline"]) == ("1m30s", "24h")
    assert canary["analysis"]["alpha"] == 0.01
    assert canary["analysis"]["onInconclusive"] == "rollback"
    assert [metric["name"] for metric in canary["analysis"]["metrics"]] == ["errors", "precision"]
    assert canary["analysis"]["metrics"][0]["margin"] == 0.005


def test_several_documents_and_lists_keep_their_order() -> None:
    text = """
apiVersion: modelplane.dev/v1
kind: Model
metadata: {name: fraud, labels: {team: risk}}
---
---
apiVersion: modelplane.dev/v1
kind: ModelDeploymentList
items:
  - {apiVersion: modelplane.dev/v1, kind: ModelDeployment, metadata: {name: a}}
  - {apiVersion: modelplane.dev/v1, kind: ModelDeployment, metadata: {name: b}}
"""
    resources = read_documents(text, "test.yaml")
    assert [r.metadata.name for r in resources] == ["fraud", "a", "b"]
    assert resources[0].metadata.environment is None


def deployment(spec: str) -> str:
    return HEAD + "metadata: {name: fraud}\nspec: " + spec


BAD_FIELDS = [
    # what is written, the path as written, words of the message
    (deployment("{replcas: 3}"), "spec.replcas", "did you mean 'replicas'? (line 4)"),
    (deployment("{colour: red}"), "spec.colour", "known are"),
    (deployment("{strategy: {canary: {minbake: 3m}}}"), "spec.strategy.canary.minbake", "minBake"),
    (deployment("{strategy: {canary: {min_bake_s: 3}}}"), "spec.strategy.canary.min_bake_s", "min"),
    (deployment("{}\nstrateg: canary"), "strateg", "did you mean 'strategy'?"),
    (deployment("{strategy: canry}"), "spec.strategy", "did you mean 'canary'?"),
    (deployment("{strategy: 3}"), "spec.strategy", "canary, allAtOnce"),
    (deployment("{strategy: {canary: {}, allAtOnce: {}}}"), "spec.strategy", "exactly one"),
    (deployment("{canaryTraffic: 101%}"), "spec.canaryTraffic", "between 0 and 100, got 101%"),
    (deployment("{canaryTraffic: 100%}"), "spec.canaryTraffic", "allAtOnce"),
    (deployment("{}\ncanaryTraffic: -1"), "canaryTraffic", "between 0 and 100, got -1"),
    (deployment("{}\nstrategy: {canary: {traffic: much}}"), "strategy.canary.traffic", "10%"),
    (
        deployment("{strategy: {canary: {steps: [5, 101%, 3]}}}"),
        "spec.strategy.canary.steps[1]",
        "between 0 and 100, got 101%",
    ),
    (
        deployment("{strategy: {canary: {steps: [50, 20]}}}"),
        "spec.strategy.canary.steps",
        "must rise, got",
    ),
    (deployment("{strategy: {canary: {steps: fast}}}"), "spec.strategy.canary.steps", "'auto' or"),
    (deployment("{strategy: {canary: {steps: []}}}"), "spec.strategy.canary.steps", "below 100"),
    (
        deployment("{strategy: {canary: {steps: [20], traffic: 10%}}}"),
        "spec.strategy.canary.traffic",
        "differs from steps",
    ),
    (
        deployment("{canaryTraffic: 10%}\nstrategy: {canary: {traffic: 20%}}"),
        "spec.canaryTraffic",
        "written twice",
    ),
    (
        deployment("{strategy: {canary: {analysis: {metrics: [errors, errors]}}}}"),
        "spec.strategy.canary.analysis.metrics",
        "named twice",
    ),
    (
        deployment("{}\nstrategy: {canary: {analysis: {alpha: 2}}}"),
        "strategy.canary.analysis.alpha",
        "below 0.5, got the number 2",
    ),
    (
        deployment("{strategy: {canary: {analysis: {onInconclusive: maybe}}}}"),
        "spec.strategy.canary.analysis.onInconclusive",
        "'hold', 'rollback' or 'promote'",
    ),
    (deployment('{replicas: "3"}'), "spec.replicas", "a whole number, got the text '3'"),
    (deployment("{replicas: true}"), "spec.replicas", "a whole number, got true"),
    (deployment("{replicas: 0}"), "spec.replicas", "at least 1, got the number 0"),
    (deployment("{replicas: [1]}"), "spec.replicas", "a whole number, got a list"),
    (deployment("{idempotent: yes}"), "spec.idempotent", "true or false"),
    (deployment("{env: {THREADS: 4}}"), "spec.env.THREADS", "text, got the number 4"),
    (deployment("{timeout: soon}"), "spec.timeout", "30s"),
    (deployment("{resources: {memory: lots}}"), "spec.resources.memory", "512Mi"),
    (deployment("{modelVersion: 1.10}"), "spec.modelVersion", "put it in quotes"),
    (deployment("{modelVersion: newest}"), "spec.modelVersion", "not a semantic version"),
    (deployment("{modelVersion: v1.0.0, version: 2.0.0}"), "spec.modelVersion", "differs"),
    (deployment("{replicas: 2}\nreplicas: 3"), "replicas", "differs from spec.replicas"),
    (deployment("{environment: staging}\nenvironment: qa"), "environment", "differs"),
    (deployment("[1]"), "spec", "a map of fields"),
    (HEAD + "metadata: {name: a, namespace: b, environment: c}", "metadata.namespace", "differs"),
    (HEAD + "metadata: {name: a, environment: a/b}", "metadata.environment", "not a name"),
    (HEAD + "metadata: {name: a b}", "metadata.name", "not a name"),
    (HEAD + "metadata: {name: 7}", "metadata.name", "must be text, got the number 7"),
    (HEAD + "metadata: {labels: {}}", "metadata.name", "required"),
    (HEAD + "metadata: {name: a, labels: {tier: 1}}", "metadata.labels.tier", "must be text"),
    (HEAD + "metadata: {name: a, label: {}}", "metadata.label", "did you mean 'labels'?"),
    ("kind: Model\nmetadata: {name: a}", "apiVersion", "required; write modelplane.dev/v1"),
    ("apiVersion: v1\nkind: Model\nmetadata: {name: a}", "apiVersion", "write modelplane.dev/v1"),
    ("apiVersion: modelplane.dev/v1\nmetadata: {name: a}", "kind", "required; one of"),
    ("apiVersion: modelplane.dev/v1\nkind: Deploy", "kind", "'ModelDeployment'"),
    ("apiVersion: modelplane.dev/v1\nkind: Rollout", "kind", "made by the system"),
    (
        "apiVersion: modelplane.dev/v1\nkind: Model\nmetadata: {name: a, environment: b}",
        "metadata.environment",
        "belongs to no environment",
    ),
    (
        "apiVersion: modelplane.dev/v1\nkind: Environment\nmetadata: {name: a}\n"
        "spec: {stage: staging, gateway: {port: 99999}}",
        "spec.gateway.port",
        "at most 65535",
    ),
    (
        "apiVersion: modelplane.dev/v1\nkind: Environment\nmetadata: {name: a}\n"
        "spec: {stage: prod, gateway: {port: 1}}",
        "spec.stage",
        "'development', 'staging' or 'production', got the text 'prod'",
    ),
    (
        HEAD + "metadata: {name: a}\nspec: {model: a, userHeader: x-modelplane-user}",
        "spec.userHeader",
        "gateways drop what clients send as x-modelplane-user",
    ),
    ("just words", "", "a map with apiVersion and kind"),
]


@pytest.mark.parametrize(("text", "path", "words"), BAD_FIELDS, ids=[row[1] for row in BAD_FIELDS])
def test_a_bad_field_is_told_by_its_path_as_written(text: str, path: str, words: str) -> None:
    faults = faults_of(text)
    assert path in faults
    assert words in faults[path]


def test_all_faults_of_all_documents_are_told_at_once() -> None:
    text = deployment("{replicas: 0, timeout: soon}") + "\n---\n" + deployment("{sped: 1}")
    with pytest.raises(InvalidResource) as caught:
        read_documents(text, "two.yaml")
    assert {fault.path for fault in caught.value.fields} == {
        "spec.replicas",
        "spec.timeout",
        "spec.sped",
    }
    assert caught.value.message == "two.yaml: 2 of 2 documents are not valid"
    assert all("(line" in fault.message for fault in caught.value.fields)


BAD_TEXT = [
    ("a: b: c", "test.yaml: not YAML: line 1, column 5"),
    ("a: [1, 2", "test.yaml: not YAML: line 1"),
    ("a: 1\na: 2", "line 2, column 1"),
    ('{"a": 1, "a": 2}', "the key 'a' is written twice"),
    ("a: !!python/object:os.system x", "line 1, column 4"),
    ("1: a", "line 1, column 1"),
    ("a: !!float x", "not YAML"),
    ("a: !!bool x", "not YAML"),
    ("%YAML 9.9\n---\na: 1", "not YAML"),
    ("a: \x01", "not YAML"),
    ("a: &a [*a]", "line 1"),
    ("[" * 5000, "nested deeper than 50"),
    ('{"a":' * 60 + "1" + "}" * 60, "not a manifest"),
    ("a: " + "x" * 2**20, "larger than 1 MiB"),
    ('{"a": 1' + "0" * 5000 + "}", "too many digits"),
]


@pytest.mark.parametrize(("text", "words"), BAD_TEXT, ids=[words for _, words in BAD_TEXT])
def test_bad_text_is_refused_with_its_place(text: str, words: str) -> None:
    with pytest.raises(InvalidResource) as caught:
        read_documents(text, "test.yaml")
    assert words in str(caught.value)


def test_a_json_file_gets_json_errors() -> None:
    with pytest.raises(InvalidResource, match="not JSON: line 2, column 1"):
        read_documents('{"a": 1,\n', "bad.json")


def test_aliases_cannot_make_a_small_file_enormous() -> None:
    lines = ["a0: &a0 [x, x, x, x, x, x, x, x, x, x]"]
    lines += [f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 10)}]" for i in range(1, 10)]
    with pytest.raises(InvalidResource, match="not a manifest"):
        read_documents("\n".join(lines), "bomb.yaml")


def test_modest_aliases_are_read() -> None:
    text = deployment("{env: &e {A: b}}\n---\n" + HEAD + "metadata: {name: b, labels: &l {x: y}, ")
    assert read_one(text.split("\n---\n")[0]).spec.env == {"A": "b"}


# -- properties -------------------------------------------------------------------------------

names = st.from_regex(r"[a-z][a-z0-9-]{0,20}[a-z0-9]", fullmatch=True)
short_text = st.text(st.characters(codec="utf-8"), max_size=20)
steps = st.lists(st.integers(1, 99), min_size=1, max_size=6, unique=True).map(sorted)
metrics = st.lists(
    st.fixed_dictionaries(
        {"name": names}, optional={"margin": st.floats(0.001, 0.9), "weight": st.floats(0.1, 9)}
    ),
    min_size=1,
    max_size=3,
    unique_by=lambda metric: str(metric["name"]),
)
canaries = st.fixed_dictionaries(
    {},
    optional={
        "steps": st.one_of(st.just("auto"), steps),
        "minBake": st.integers(0, 10**6),
        "deadline": st.integers(0, 10**6).map(lambda s: f"{s}s"),
        "analysis": st.fixed_dictionaries(
            {},
            optional={
                "metrics": metrics,
                "alpha": st.floats(0.001, 0.4),
                "onInconclusive": st.sampled_from(["hold", "rollback", "promote"]),
            },
        ),
    },
)
deployments = st.fixed_dictionaries(
    {
        "apiVersion": st.just("modelplane.dev/v1"),
        "kind": st.just("ModelDeployment"),
        "metadata": st.fixed_dictionaries(
            {"name": names},
            optional={
                "environment": names,
                "labels": st.dictionaries(names, short_text, max_size=3),
                "annotations": st.dictionaries(names, short_text, max_size=3),
            },
        ),
        "spec": st.fixed_dictionaries(
            {},
            optional={
                "version": st.sampled_from(["latest", "1.2.3", "v2", "1.0.0-rc.1"]),
                "replicas": st.integers(1, 100),
                "env": st.dictionaries(names, short_text, max_size=3),
                "resources": st.fixed_dictionaries(
                    {}, optional={"cpu": st.floats(0.1, 64), "memory": st.just("512Mi")}
                ),
                "strategy": st.one_of(
                    st.just({"allAtOnce": {}}), st.fixed_dictionaries({"canary": canaries})
                ),
            },
        ),
    }
)


@given(deployments)
@settings(max_examples=100, deadline=None)
def test_the_canonical_form_reads_back_as_itself(document: dict[str, Any]) -> None:
    first = read_document(document)
    again = read_document(canonical(first))
    assert again == first
    assert canonical(again) == canonical(first)
    assert set(canonical(first)) == {"apiVersion", "kind", "metadata", "spec"}
    assert read_documents(json.dumps(canonical(first)), "x.json") == [first]
    assert read_document(first.to_dict()) == first


@given(deployments, st.integers(1, 99), st.data())
@settings(max_examples=60, deadline=None)
def test_a_field_means_the_same_under_spec_and_beside_metadata(
    document: dict[str, Any], share_pct: int, data: st.DataObject
) -> None:
    document["spec"]["strategy"] = {"canary": {"traffic": f"{share_pct}%"}}
    moved = data.draw(st.lists(st.sampled_from(sorted(document["spec"])), unique=True))
    kept = {key: value for key, value in document["spec"].items() if key not in moved}
    beside = {key: document["spec"][key] for key in moved}
    assert read_document({**document, "spec": kept, **beside}) == read_document(document)


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=12),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner),
    max_leaves=12,
)


@pytest.mark.slow
@given(deployments, st.data())
@settings(max_examples=200, deadline=None)
def test_garbage_in_a_manifest_is_only_ever_an_invalid_resource(
    document: dict[str, Any], data: st.DataObject
) -> None:
    part: Any = document
    while True:
        key = data.draw(st.sampled_from(sorted(part)) | st.text(max_size=8))
        if isinstance(part.get(key), dict) and part[key] and data.draw(st.booleans()):
            part = part[key]
            continue
        part[key] = data.draw(json_values)
        break
    try:
        resource = read_document(document)
    except InvalidResource as error:
        told = bool(error.fields)
    else:
        told = isinstance(resource, ModelDeployment)
    assert told


def assert_refused_or_empty(text: str) -> None:
    resources, message = [], "garbage.yaml"
    try:
        resources = read_documents(text, "garbage.yaml")
    except InvalidResource as error:
        message = error.message
    assert resources == []
    assert message.startswith("garbage.yaml")


@given(st.text(alphabet=st.sampled_from("{}[]:,-#&*!|>'\"%@`? \n\tab1.~=<"), max_size=60))
@settings(max_examples=400, deadline=None)
def test_garbage_text_is_only_ever_an_invalid_resource(text: str) -> None:
    assert_refused_or_empty(text)


@given(st.binary(max_size=40))
@settings(max_examples=100, deadline=None)
def test_any_bytes_are_only_ever_an_invalid_resource(raw: bytes) -> None:
    assert_refused_or_empty(raw.decode("utf-8", "surrogateescape"))
