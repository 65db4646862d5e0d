"""A real MLflow server beside a whole modelplane: what is registered there appears, serves, and
is told there."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from typing import Any

import httpx
import pytest

from modelplane.client import Client
from modelplane.errors import NotFound
from modelplane.resources.manifest import read_document
from modelplane.resources.model import AliasMove, Model, ModelVersion
from modelplane.resources.model_source import ModelSource
from tests.e2e.conftest import Modelplane, wait_for
from tests.mlflow_server import MlflowServer, mlflow_server, temporary_mlflow_server
from tests.ports import free_port

pytestmark = [pytest.mark.e2e, pytest.mark.beside, pytest.mark.slow, pytest.mark.timeout(600)]

SECRET = "hook-secret-of-the-test"
TRAIN = """
import json, sys
import mlflow, pandas
from mlflow import MlflowClient
from mlflow.models import infer_signature
from sklearn.linear_model import LogisticRegression

name, c = sys.argv[1], float(sys.argv[2])
table = pandas.DataFrame({"a": [0.0, 1.0, 2.0, 3.0], "b": [1.0, 0.0, 1.0, 0.0]})
labels = (table.a > 1.5).astype(int)
with mlflow.start_run() as run:
    model = LogisticRegression(C=c).fit(table, labels)
    mlflow.log_param("C", c)
    mlflow.log_metric("accuracy", 0.5)
    mlflow.log_metric("accuracy", 0.75, step=1)
    mlflow.set_tag("team", "risk")
    data = mlflow.data.from_pandas(table.assign(y=labels), source="/data/rows.csv", name="rows")
    mlflow.log_input(data, context="training")
    logged = mlflow.sklearn.log_model(
        model, name="model", signature=infer_signature(table, model.predict(table)),
        input_example=table[:2], pip_requirements=[], registered_model_name=name,
    )
client, version = MlflowClient(), logged.registered_model_version
client.set_model_version_tag(name, version, "origin", "test")
print(json.dumps({
    "run": run.info.run_id, "version": version,
    "predictions": [int(p) for p in model.predict(table)],
}))
"""


@pytest.fixture
def server() -> Iterator[MlflowServer]:
    # Its webhooks are looked up anew each second, so that the test need not wait a minute.
    with temporary_mlflow_server(env={"MLFLOW_WEBHOOK_CACHE_TTL": "1"}) as server:
        yield server


def declare(plane: Modelplane, server: MlflowServer, **spec: Any) -> None:
    document = {
        "apiVersion": "modelplane.dev/v1",
        "kind": "ModelSource",
        "metadata": {"name": "tracker"},
        "spec": {"url": server.url, **spec},
    }
    plane.client.apply(read_document(document))


def hook(plane: Modelplane) -> dict[str, Any]:
    """Keep the webhook's secret in the state directory; return what the source says of it."""
    secret = plane.state / "secrets" / "hook"
    secret.touch(mode=0o600)
    secret.write_text(SECRET)
    url = f"http://127.0.0.1:{plane.ports['api']}"
    return {"webhookUrl": url, "webhookSecret": "hook", "pollInterval": "10m"}


def find(client: Client, name: str) -> ModelVersion | None:
    try:
        return client.get(ModelVersion, name)
    except NotFound:
        return None


def condition(client: Client, kind: str, status: str) -> str | None:
    """Return the reason of the source's condition when it has this status."""
    conditions = client.get(ModelSource, "tracker").status.conditions
    return next((c.reason for c in conditions if c.type == kind and c.status == status), None)


def rest(server: MlflowServer, method: str, path: str, **body: Any) -> Any:
    url = f"{server.url}/api/2.0/mlflow/{path}"
    query = body if method == "GET" else None
    sent = None if method == "GET" else body
    response = httpx.request(method, url, params=query, json=sent, timeout=30)
    assert response.status_code == 200, response.text
    return response.json()


def register_again(server: MlflowServer, name: str) -> None:
    """Register the model of a version 1 as a further version."""
    first = rest(server, "GET", "model-versions/get", name=name, version="1")["model_version"]
    fields = {key: first[key] for key in ("name", "source", "run_id")}
    model_id = first["source"].removeprefix("models:/")
    rest(server, "POST", "model-versions/create", **fields, model_id=model_id)


def aliases_there(server: MlflowServer, name: str) -> dict[str, str]:
    model = rest(server, "GET", "registered-models/get", name=name)["registered_model"]
    return {alias["alias"]: alias["version"] for alias in model.get("aliases", ())}


def test_from_a_training_run_to_production_and_back(
    modelplane: Modelplane, server: MlflowServer
) -> None:
    client = modelplane.client
    trained = server.run(TRAIN, "fraud", "1.0")
    declare(modelplane, server, **hook(modelplane))
    version = wait_for("the version of before", lambda: find(client, "fraud@1.0.0"))
    check_record(version, trained["run"])

    # The next poll is minutes away: only the webhook can bring this one.
    wait_for("the webhook", lambda: condition(client, "WebhookRegistered", "True"))
    time.sleep(2)  # until the server looks up its webhooks anew
    register_again(server, "fraud")
    began = time.monotonic()
    wait_for("the version that was announced", lambda: find(client, "fraud@2.0.0"))
    print(f"appeared {time.monotonic() - began:.2f} s after it was registered")
    forged = httpx.post(
        f"http://127.0.0.1:{modelplane.ports['api']}/api/v1/webhooks/mlflow/tracker",
        content=b"{}",
        headers={"x-mlflow-delivery-id": "1", "x-mlflow-signature": "v1,AAAA"},
    )
    assert forged.status_code == 401

    move_alias_there(client, server)
    serve_and_predict(modelplane, trained["predictions"])
    wait_for("the alias there", lambda: aliases_there(server, "fraud").get("champion") == "1")
    wait_for("the tags there", lambda: is_tagged(server))
    refused = modelplane.cli("push", "fraud", "--version", "9.0.0", "--command", "x", check=False)
    assert "come from the source" in refused.stderr


def check_record(version: ModelVersion, run_id: str) -> None:
    """What the run logged is in the version's record."""
    spec = version.spec
    assert (spec.number, spec.flavour, spec.metrics) == (1, "sklearn", {"accuracy": 0.75})
    assert (spec.parameters, spec.training.run_id) == ({"C": "1.0"}, run_id)
    assert version.status.tags == {"team": "risk", "origin": "test"}
    assert spec.signature is not None
    assert [one["name"] for one in spec.signature["inputs"]] == ["a", "b"]
    (data,) = spec.datasets
    assert (data.name, data.rows, data.version) == ("rows", 4, "1")
    assert spec.training.python.startswith("3.")
    assert spec.artifact is not None


def move_alias_there(client: Client, server: MlflowServer) -> None:
    """An alias moved by hand there is seen here, as such."""
    rest(server, "POST", "registered-models/alias", name="fraud", alias="checked", version="2")
    wait_for(
        "the alias moved there",
        lambda: client.get(Model, "fraud").status.aliases.get("checked") == "2.0.0",
    )
    moves = [m.spec for m in client.list(AliasMove)[0] if m.spec.alias == "checked"]
    assert [(m.origin, m.subject, m.after) for m in moves] == [("outside", "mlflow", "2.0.0")]


def serve_and_predict(plane: Modelplane, predictions: list[int]) -> None:
    """Deployed, it answers as the model that was trained."""
    document = {
        "apiVersion": "modelplane.dev/v1",
        "kind": "ModelDeployment",
        "metadata": {"name": "fraud"},
        "spec": {"model": "fraud", "version": "1"},
    }
    text = json.dumps(document)
    plane.cli("apply", "-f", "-", "--wait", "--timeout", "2m", input=text)
    columns = {"a": [0.0, 1.0, 2.0, 3.0], "b": [1.0, 0.0, 1.0, 0.0]}
    inputs = [
        {"name": name, "datatype": "FP64", "shape": [4], "data": data}
        for name, data in columns.items()
    ]
    answer = plane.client.predict("fraud", {"inputs": inputs})
    outputs = {one["name"]: one["data"] for one in answer.response["outputs"]}
    assert outputs["predictions"] == predictions


def is_tagged(server: MlflowServer) -> bool:
    """Whether MLflow shows where the version serves, and why."""
    there = rest(server, "GET", "model-versions/get", name="fraud", version="1")
    tags = {tag["key"]: tag["value"] for tag in there["model_version"]["tags"]}
    return (
        tags.get("modelplane.environment.production") == "champion"
        and tags.get("modelplane.promotion") == "production/fraud-1"
        and "/api/v1/rollouts/fraud-1" in tags.get("modelplane.evidence", "")
    )


def test_what_happened_while_either_was_down_is_caught_up(
    modelplane: Modelplane, server: MlflowServer
) -> None:
    client = modelplane.client
    server.run(TRAIN, "risk", "1.0")
    declare(modelplane, server, pollInterval="1s", timeout="5s")
    wait_for("the first version", lambda: find(client, "risk@1.0.0"))

    modelplane.down()
    for _ in range(29):
        register_again(server, "risk")
    rest(server, "POST", "registered-models/alias", name="risk", alias="best", version="3")
    rest(server, "DELETE", "model-versions/delete", name="risk", version="2")
    modelplane.up()
    wait_for("the last version", lambda: find(client, "risk@30.0.0"))
    wait_for("the alias", lambda: client.get(Model, "risk").status.aliases == {"best": "3.0.0"})
    wait_for("all of them, once", lambda: living(client) == [1, *range(3, 31)])

    port = int(server.url.rpartition(":")[2])
    server.process.terminate()
    server.process.wait(timeout=30)
    wait_for("its absence", lambda: condition(client, "Ready", "False"))
    assert condition(client, "Ready", "False") in {"Unreachable", "TimedOut"}
    with mlflow_server(server.folder, port=port):
        wait_for("its return", lambda: condition(client, "Ready", "True"))
        register_again(server, "risk")
        wait_for("the version of after", lambda: find(client, "risk@31.0.0"))


def test_a_version_registered_here_gets_its_files_from_there(
    modelplane: Modelplane, server: MlflowServer
) -> None:
    client = modelplane.client
    trained = server.run(TRAIN, "elsewhere", "2.0")
    there = rest(server, "GET", "model-versions/get", name="elsewhere", version="1")
    source = there["model_version"]["source"]
    token = (modelplane.state / "admin-token").read_text().strip()
    api = f"http://127.0.0.1:{modelplane.ports['api']}/api/2.0/mlflow"
    with httpx.Client(headers={"authorization": f"Bearer {token}"}, timeout=30) as http:
        made = http.post(f"{api}/registered-models/create", json={"name": "own"})
        assert made.status_code == 200, made.text
        body = {"name": "own", "source": source, "run_id": trained["run"]}
        body["model_id"] = source.removeprefix("models:/")
        made = http.post(f"{api}/model-versions/create", json=body)
        assert made.status_code == 200, made.text

    def reason() -> str | None:
        version = client.get(ModelVersion, "own@1.0.0")
        return next((c.reason for c in version.status.conditions), None)

    wait_for("the lack of a source", lambda: reason() == "Waiting")
    declare(modelplane, server, models=["nothing-else"], pollInterval="1s")
    wait_for("its files", lambda: reason() == "Fetched")
    spec = client.get(ModelVersion, "own@1.0.0").spec
    assert spec.artifact is not None
    assert (spec.flavour, spec.metrics) == ("sklearn", {"accuracy": 0.75})
    assert living(client) == [1]


def living(client: Client) -> list[int]:
    """Return the numbers of all versions that were not deleted."""
    versions, _ = client.list(ModelVersion)
    return sorted(v.spec.number for v in versions if not v.status.deleted_at)


def test_an_address_that_is_no_mlflow_is_told(modelplane: Modelplane) -> None:
    client = modelplane.client
    nowhere = MlflowServer(f"http://127.0.0.1:{free_port()}", modelplane.state, None)  # type: ignore[arg-type]
    declare(modelplane, nowhere, pollInterval="1s")
    wait_for("its absence", lambda: condition(client, "Ready", "False") == "Unreachable")
    document = client.get(ModelSource, "tracker").to_dict()
    document["spec"]["url"] = f"http://127.0.0.1:{modelplane.ports['api']}"
    client.apply(read_document({key: document[key] for key in ("apiVersion", "kind", "spec")} | {
        "metadata": {"name": "tracker"}
    }))  # fmt: skip
    wait_for("the refusal", lambda: condition(client, "Ready", "False") != "Unreachable")
    modelplane.cli("registry", "sync", "tracker")
