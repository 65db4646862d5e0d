"""Unchanged MLflow clients on modelplane as their registry, beside a real MLflow server."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from modelplane.resources.model import ModelVersion
from tests.e2e.conftest import Modelplane
from tests.mlflow_server import MlflowServer, run_script, temporary_mlflow_server

pytestmark = [pytest.mark.e2e, pytest.mark.beside, pytest.mark.slow, pytest.mark.timeout(600)]

SCRIPTS = Path(__file__).parent / "mlflow_scripts"

ON_PURPOSE = {
    "version remote file": "a caller's mistake is a 400; MLflow's 500 is repeated by its client",
    "version copy stage": "a caller's mistake is a 400; MLflow's 500 is repeated by its client",
    "archive what is archived": "a caller's mistake is a 400, not a 500",
    "versions ordered ['version_number ASC', 'version_number DESC']": "a 400, not a 500",
    "models ordered ['name', 'name DESC']": "a 400, not a 500",
    "rename onto existing": "MLflow's message shows its SQL",
    "versions bad token": "page tokens hold a place in the order, not an offset",
    "models bad token": "page tokens hold a place in the order, not an offset",
    "versions \"name = 'bulk', version_number = 4\" []": "names the word that is wrong",
    "versions \"name = 'bulk', version_number = 4\" ['version_number ASC']": "names the word",
}
"""Where modelplane differs, and why; everything else has to be equal."""


@pytest.fixture(scope="module")
def mlflow() -> Iterator[MlflowServer]:
    with temporary_mlflow_server() as server:
        yield server


def mlflow_script(
    script: Path, mlflow: MlflowServer, modelplane: Modelplane, *arguments: str
) -> Any:
    """Run a script whose tracking server is MLflow's and whose registry is modelplane."""
    env = {
        "MLFLOW_TRACKING_URI": mlflow.url,
        "MLFLOW_REGISTRY_URI": f"http://127.0.0.1:{modelplane.ports['api']}",
        "MLFLOW_TRACKING_TOKEN": (modelplane.state / "admin-token").read_text().strip(),
    }
    return run_script(script, *arguments, timeout_s=300, **env)


def test_the_client_cannot_tell_the_difference(
    mlflow: MlflowServer, modelplane: Modelplane
) -> None:
    script = SCRIPTS / "semantics.py"
    theirs = mlflow.run(script)
    ours = mlflow_script(script, mlflow, modelplane)
    assert [label for label, _ in ours] == [label for label, _ in theirs]
    assert len(ours) > 400
    differing = {
        label: (expected, found)
        for (label, expected), (_, found) in zip(theirs, ours, strict=True)
        if plain(expected, label) != plain(found, label)
    }
    assert {label: differing[label] for label in differing if label not in ON_PURPOSE} == {}
    assert differing.keys() == ON_PURPOSE.keys()


def test_models_are_logged_registered_pushed_and_loaded(
    mlflow: MlflowServer, modelplane: Modelplane, tmp_path: Path
) -> None:
    folder = tmp_path / "model"
    trained = mlflow_script(SCRIPTS / "training.py", mlflow, modelplane, str(folder))
    assert trained["predicted"] == 3 * [trained["expected"]]
    assert trained["version"] == "1"

    (recorded,) = modelplane.client.list(ModelVersion).items
    assert recorded.metadata.name == "trained model@1.0.0"
    assert recorded.spec.source == trained["source"]

    # The same model pushed here, with its files: loaded from modelplane itself.
    pushed = modelplane.client.push("pushed", "2.1.0", folder)
    modelplane.client.act(ModelVersion, pushed.resource.metadata.name, "alias", alias="champion")
    uris = ("models:/pushed@champion", "models:/pushed/1")
    predictions = mlflow_script(SCRIPTS / "loading.py", mlflow, modelplane, *uris)
    assert predictions == 2 * [trained["expected"]]


def plain(value: Any, label: str = "", *, listed: bool = False) -> Any:
    """Return a result without what has no meaning: addresses, the order within printed sets.

    MLflow leaves the aliases of versions out of searches and of the latest versions of a model,
    "for performance reasons"; modelplane has them at hand.
    """
    if isinstance(value, str):
        value = re.sub(r"http://127\.0\.0\.1:\d+", "http://registry", value)
        return re.sub(r"\{'[^{}]*'\}", _sort_set, value)
    if isinstance(value, list):
        return [plain(item, listed=listed or label.startswith("searched")) for item in value]
    if isinstance(value, dict):
        inside = listed or label.startswith("searched")
        return {
            key: plain(item, listed=inside or key == "latest")
            for key, item in value.items()
            if not (listed and key == "aliases" and isinstance(item, list))
        }
    return value


def _sort_set(match: re.Match[str]) -> str:
    return "{" + ", ".join(sorted(match.group()[1:-1].split(", "))) + "}"
