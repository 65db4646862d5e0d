"""``dataset push`` and ``push --dataset``: data described here, registered there."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from pyarrow import Table, parquet

from modelplane.client import datasets_parquet
from modelplane.resources.dataset import DatasetVersion
from modelplane.resources.model import ModelVersion
from tests.api.world import World
from tests.cli.test_lineage import Run, run, world

__all__ = ["run", "world"]


@pytest.fixture
def data(tmp_path: Path) -> Path:
    file = tmp_path / "day=1" / "march.parquet"
    file.parent.mkdir()
    parquet.write_table(Table.from_pydict({"id": [1, 2, 3]}), file)
    return file


async def test_data_is_registered_with_what_it_says_of_itself(
    world: World, run: Run, data: Path
) -> None:
    result = await run("dataset", "push", "tx", str(data), "--description", "card payments")
    assert result.exit_code == 0, result.output
    version = await world.store.get(DatasetVersion, "tx@1")
    digest = version.spec.digest.removeprefix("sha256:")[:12]
    assert result.stdout.startswith("datasetversion/tx@1 created: number 1, parquet, 3 rows, ")
    assert result.stdout.endswith(f"sha256:{digest}\n")
    assert {column.name for column in version.spec.columns} == {"id", "day"}
    again = await run("dataset", "push", "tx", str(data), "--version", "march")
    assert "datasetversion/tx@1 unchanged" in again.stdout
    assert "registered already, as tx@1" in again.stderr
    shown = await run("get", "dsv", "tx@1", "-o", "json")
    assert json.loads(shown.stdout)["spec"]["uri"] == str(data)


async def test_a_path_is_registered_so_that_others_find_it(
    world: World, run: Run, data: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(data.parent)
    await run("dataset", "push", "tx", "march.parquet")
    version = await world.store.get(DatasetVersion, "tx@1")
    assert version.spec.uri == str(data)


async def test_the_answer_as_json(run: Run, data: Path) -> None:
    result = await run("dataset", "push", "tx", str(data), "--version", "march", "-o", "json")
    told = json.loads(result.stdout)
    assert (told["result"], told["resource"]["metadata"]["name"]) == ("created", "tx@march")


async def test_what_cannot_be_known_is_a_warning(
    run: Run, data: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(datasets_parquet, "_import_arrow", lambda: None)
    result = await run("dataset", "push", "tx", str(data))
    assert result.exit_code == 0
    assert result.stderr.startswith("warning: ")
    assert "pyarrow, which is not installed" in result.stderr


async def test_data_that_is_not_there_is_a_usage_error(run: Run, data: Path) -> None:
    result = await run("dataset", "push", "tx", str(data / "none"))
    assert result.exit_code == 2
    assert "there is no dataset at" in result.stderr


async def test_a_push_takes_data_with_and_without_a_name(
    world: World, run: Run, data: Path, tmp_path: Path
) -> None:
    model, features = tmp_path / "model.onnx", tmp_path / "features.yaml"
    model.write_bytes(b"onnx")
    features.write_text("window: 7\n")
    result = await run(
        "push", "fraud", "--version", "1.0.0", "--artifact", str(model),
        "--dataset", f"tx={data}", "--dataset", str(data.parent),
        "--feature-configuration", str(features), "--flavour", "torch",
    )  # fmt: skip
    assert result.exit_code == 0, result.output
    spec = (await world.store.get(ModelVersion, "fraud@1.0.0")).spec
    assert [(one.name, one.version) for one in spec.datasets] == [("tx", "1"), ("day=1", "1")]
    assert (spec.feature_configuration, spec.flavour) == ({"window": 7}, "torch")
