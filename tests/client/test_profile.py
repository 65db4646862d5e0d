"""The profile of training data: the same whatever holds the table, and little."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import deltalake
import numpy as np
import pandas as pd
import pyarrow
import pytest

from modelplane.client import profile as profiling
from modelplane.client.datasets import DataWarning
from modelplane.client.profile import profile_data
from modelplane.client.pushing import describe_push
from modelplane.resources.data_profile import DataProfile
from modelplane.resources.model import Training


@pytest.fixture
def frame() -> pd.DataFrame:
    random = np.random.default_rng(1)
    found = pd.DataFrame(
        {
            "distance": random.normal(500, 100, 1000).round(3),
            "carrier": random.choice(["AA", "UA", "DL"], 1000),
            "stops": random.integers(0, 3, 1000),
            "late": random.integers(0, 2, 1000),
        }
    )
    found.loc[:99, "distance"] = np.nan
    return found


def columns_of(profile: DataProfile | None) -> dict[str, Any]:
    assert profile is not None
    return {column.name: column.to_dict() for column in profile.columns}


def test_a_table_has_one_profile_whatever_holds_it(frame: pd.DataFrame, tmp_path: Path) -> None:
    frame.to_csv(tmp_path / "a.csv", index=False)
    frame.to_parquet(tmp_path / "a.parquet")
    (tmp_path / "parts").mkdir()
    frame[:400].to_parquet(tmp_path / "parts" / "1.parquet")
    frame[400:].to_parquet(tmp_path / "parts" / "2.parquet")
    deltalake.write_deltalake(str(tmp_path / "delta"), pyarrow.Table.from_pandas(frame))
    expected = columns_of(profile_data(frame, "flights"))
    assert expected["distance"]["missing"] == 100
    assert len(expected["distance"]["counts"]) == 20
    assert set(expected["carrier"]["values"]) == {"AA", "DL", "UA"}
    assert len(expected["stops"]["counts"]) == 3
    for name in ("a.csv", "a.parquet", "parts", "delta"):
        assert columns_of(profile_data(tmp_path / name, "flights")) == expected, name


def test_only_inputs_of_the_model_are_looked_at(frame: pd.DataFrame) -> None:
    signature = {"inputs": [{"name": "distance"}, {"name": "carrier"}], "outputs": []}
    assert set(columns_of(profile_data(frame, "flights", signature))) == {"distance", "carrier"}
    other = {"inputs": [{"name": "x"}]}
    assert set(columns_of(profile_data(frame, "flights", other))) == set(frame.columns)


def test_of_too_many_rows_an_even_part_is_read(
    frame: pd.DataFrame, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(profiling, "MAX_ROWS", 300)
    frame["row"] = np.arange(1000)
    frame.to_csv(tmp_path / "a.csv", index=False)
    for data in (frame, tmp_path / "a.csv"):
        profile = profile_data(data, "flights")
        assert profile is not None
        assert 200 <= profile.rows <= 300
        (row,) = [column for column in profile.columns if column.name == "row"]
        assert abs(np.mean(row.means) - 500) < 10


def test_data_that_is_not_read_leaves_no_profile_and_says_so(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("no table")
    for data in ("s3://bucket/data.parquet", tmp_path / "notes.txt"):
        with pytest.warns(DataWarning, match=r"drift|profile"):
            assert profile_data(data, "flights") is None


def test_a_push_records_its_training_data_once_and_sends_the_profile(
    frame: pd.DataFrame, tmp_path: Path
) -> None:
    data, model = tmp_path / "flights.csv", tmp_path / "model.onnx"
    frame.to_csv(data, index=False)
    model.write_bytes(b"onnx")
    body = describe_push(
        "delay",
        "1.0.0",
        model,
        {"dataset": data, "datasets": [data], "format": "onnx", "training": Training()},
    )
    assert [reference["name"] for reference in body["datasets"]] == ["flights.csv"]
    sent = DataProfile.model_validate(body["profile"])
    assert (sent.name, sent.rows, sent.origin) == ("flights.csv", 1000, "data")
    plain = describe_push("delay", "1.0.0", model, {"format": "onnx", "training": Training()})
    assert "profile" not in plain
