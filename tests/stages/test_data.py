"""Data for checks: the version that was registered or nothing, and requests that models take."""

from __future__ import annotations

import hashlib
import json
import threading
from pathlib import Path
from typing import Any

import fsspec
import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sklearn.linear_model import LogisticRegression

from modelplane.client.datasets import describe_data
from modelplane.resources.gate_run import DataInput
from modelplane.stages import data_files
from modelplane.stages.data import (
    choose_labels,
    choose_probabilities,
    predict,
    predict_outputs,
    read_outputs,
    requests_of,
)
from modelplane.stages.data_tables import groups_of, load_table, take_target
from modelplane.stages.failures import CheckImpossible, InfrastructureFailed
from tests.stages.tabular import Answering, cancer, columns_signature, features_of, register, served

pytestmark = pytest.mark.slow

TABLE = pd.DataFrame(
    {"amount": [1.5, None, 3.0], "count": [1, 2, 3], "country": ["NL", "DE", "NL"]}
)


@pytest.mark.parametrize("name", ["data.csv", "data.parquet"])
def test_a_table_is_read_as_it_was_registered(tmp_path: Path, name: str) -> None:
    frame = load_table(register(tmp_path / name, TABLE))
    assert frame.columns.tolist() == TABLE.columns.tolist()
    assert frame["country"].tolist() == ["NL", "DE", "NL"]
    assert np.isnan(frame["amount"][1])


def test_a_folder_of_parquet_is_one_table(tmp_path: Path) -> None:
    for part, country in enumerate(["DE", "NL"]):
        (tmp_path / "data" / f"country={country}").mkdir(parents=True)
        rows = pd.DataFrame({"amount": [part, part + 0.5]})
        rows.to_parquet(tmp_path / "data" / f"country={country}" / "0.parquet")
    found = describe_data(tmp_path / "data")
    data = DataInput(
        name="data", version="1", digest=found.digest, uri=found.uri, format=found.format
    )
    frame = load_table(data)
    assert sorted(frame["amount"]) == [0, 0.5, 1, 1.5]
    assert [name for name, _ in groups_of(frame, "country")] == ["DE", "NL"]


def test_a_delta_table_is_read_at_its_version(tmp_path: Path) -> None:
    deltalake = pytest.importorskip("deltalake")
    deltalake.write_deltalake(str(tmp_path / "data"), pd.DataFrame({"amount": [1, 2]}))
    deltalake.write_deltalake(str(tmp_path / "data"), pd.DataFrame({"amount": [3]}), mode="append")
    found = describe_data(f"{tmp_path / 'data'}@0")
    data = DataInput(name="data", version="0", digest=found.digest, uri=found.uri, format="delta")
    assert load_table(data)["amount"].tolist() == [1, 2]


def test_data_that_changed_is_no_longer_that_version(tmp_path: Path) -> None:
    data = register(tmp_path / "data.csv", TABLE)
    with (tmp_path / "data.csv").open("a") as file:
        file.write("4.0,4,FR\n")
    with pytest.raises(CheckImpossible, match=r"no longer data\.csv@1.*restore it"):
        load_table(data)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"uri": "/nowhere/data.csv"}, "no such file"),
        ({"uri": None}, "not recorded"),
        ({"uri": "data/x.csv"}, "relative path data/x.csv"),
        ({"format": "frame"}, "data frame in memory"),
        ({"uri": "gopher://host/x.csv", "digest": "unknown"}, "cannot be read"),
    ],
)
def test_data_that_cannot_be_found_is_said_to_be_so(
    tmp_path: Path, changes: dict[str, Any], words: str
) -> None:
    data = register(tmp_path / "data.csv", TABLE, **changes)
    with pytest.raises(CheckImpossible, match=words):
        load_table(data)


@pytest.mark.parametrize(
    ("name", "content", "words"),
    [
        ("data.csv", b"", "no readable table"),
        ("data.csv", b"amount,country\n", "has no rows"),
        ("data.parquet", b"PAR1 and nothing more", "no readable table"),
        ("data.bin", b"\x00\x01", "neither CSV nor Parquet"),
    ],
)
def test_what_is_no_table_is_said_to_be_so(
    tmp_path: Path, name: str, content: bytes, words: str
) -> None:
    (tmp_path / name).write_bytes(content)
    data = DataInput(name="data", version="1", digest="unknown", uri=str(tmp_path / name))
    with pytest.raises(CheckImpossible, match=words):
        load_table(data)


def test_remote_data_is_fetched_and_checked_by_either_digest(tmp_path: Path) -> None:
    local = register(tmp_path / "remote.csv", TABLE)
    files = fsspec.filesystem("memory")
    files.pipe("/checks/remote.csv", (tmp_path / "remote.csv").read_bytes())
    remote = local.with_(uri="memory://checks/remote.csv")
    assert len(load_table(remote)) == 3
    assert len(load_table(remote.with_(digest=_content_digest(tmp_path / "remote.csv")))) == 3
    with pytest.raises(CheckImpossible, match="no longer"):
        load_table(remote.with_(digest="sha256:00"))
    with pytest.raises(CheckImpossible, match="FileNotFoundError"):
        load_table(remote.with_(uri="memory://checks/gone.csv"))


def _content_digest(path: Path) -> str:
    return f"sha256:{hashlib.sha256(path.read_bytes()).hexdigest()}"


def test_a_store_that_does_not_answer_is_tried_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    forever = threading.Event()
    monkeypatch.setattr(data_files, "_copy", lambda uri, folder: forever.wait())
    data = DataInput(name="data", version="1", digest="unknown", uri="s3://bucket/data.csv")
    with (
        pytest.raises(InfrastructureFailed, match=r"did not arrive within 0\.05 seconds"),
        data_files.local_files(data, timeout_s=0.05),
    ):
        pass
    forever.set()


def test_a_sample_is_seeded_and_keeps_the_numbers_of_its_rows(tmp_path: Path) -> None:
    data = register(tmp_path / "data.parquet", cancer())
    sample = load_table(data, max_rows=50)
    assert len(sample) == 50
    assert sample.index.is_monotonic_increasing
    assert sample.index.is_unique
    pd.testing.assert_frame_equal(sample, load_table(data, max_rows=50))
    assert sample.index.tolist() != load_table(data, max_rows=50, seed=1).index.tolist()
    assert len(load_table(data, max_rows=10_000)) == 569


def test_the_truth_is_found_or_its_lack_is_said() -> None:
    frame = pd.DataFrame({"x": [1, 2], "label": ["a", "b"], "late": [True, None]})
    assert take_target(frame, None)[0] == "label"
    with pytest.raises(CheckImpossible, match=r"no column `churned`.*`x`, `label`, `late`"):
        take_target(frame, "churned")
    with pytest.raises(CheckImpossible, match="no column `target` or `label`"):
        take_target(frame.drop(columns="label"), None)
    with pytest.raises(CheckImpossible, match=r"missing in 1 of 2 rows.*first in row 1"):
        take_target(frame, "late")


def test_a_column_of_many_values_is_no_grouping() -> None:
    frame = pd.DataFrame({"id": range(51), "half": [0.5, None, 2.0] * 17})
    assert [name for name, _ in groups_of(frame, "half")] == ["0.5", "2", "missing"]
    with pytest.raises(CheckImpossible, match="51 values, more than 50"):
        groups_of(frame, "id")


def test_requests_name_the_columns_of_the_signature_and_nothing_else() -> None:
    signature = columns_signature(TABLE, ["country", "amount", "count"])
    (request,) = requests_of(TABLE.assign(label=1), served(signature=signature), batch=10)
    assert request["inputs"] == [
        {"name": "country", "datatype": "BYTES", "shape": [3], "data": ["NL", "DE", "NL"]},
        {"name": "amount", "datatype": "FP64", "shape": [3], "data": [1.5, None, 3.0]},
        {"name": "count", "datatype": "INT64", "shape": [3], "data": [1, 2, 3]},
    ]


def test_a_matrix_takes_the_numbers_or_the_named_features() -> None:
    frame = pd.DataFrame({"b": [1, 2], "a": [3.5, None], "name": ["x", "y"]})
    matrix = served(signature={"inputs": [{"name": "x", "datatype": "FP64", "shape": [-1, 2]}]})
    (request,) = requests_of(frame, matrix, batch=10)
    assert request["inputs"][0]["data"] == [1.0, 3.5, 2.0, None]
    (request,) = requests_of(frame, matrix, batch=10, features=("a", "b"))
    assert request["inputs"][0]["data"] == [3.5, 1.0, None, 2.0]
    with pytest.raises(CheckImpossible, match="matrix of 2 columns and the data has 3"):
        list(requests_of(frame.assign(c=1), matrix, batch=10))
    # The truth is a column of numbers too, and no feature.
    assert len(list(requests_of(frame.assign(target=1), matrix, batch=10))) == 1


def test_an_input_example_says_what_a_version_takes_when_no_signature_does() -> None:
    example = {"inputs": [{"name": "count", "datatype": "INT64", "shape": [1], "data": [7]}]}
    (request,) = requests_of(TABLE, served(input_example=example), batch=10)
    assert [one["name"] for one in request["inputs"]] == ["count"]
    with pytest.raises(CheckImpossible, match="does not say what it takes"):
        list(requests_of(TABLE, served(), batch=10))


@pytest.mark.parametrize(
    ("column", "datatype", "words"),
    [
        (["a", "b"], "FP64", "`x` holds text such as 'a'; the model takes FP64"),
        ([1.0, None], "INT64", "missing values .first in row 1."),
        ([1.0, 2.5], "INT64", "fractions such as 2.5"),
        ([1, 2], "BOOL", "other than 0 and 1"),
        ([1.0, float("inf")], "FP64", "infinite"),
        (["a", None], "BYTES", "1 missing values"),
    ],
)
def test_a_column_that_does_not_fit_is_said_to_be_so(
    column: list[Any], datatype: str, words: str
) -> None:
    model = served(signature={"inputs": [{"name": "x", "datatype": datatype, "shape": [-1]}]})
    with pytest.raises(CheckImpossible, match=words):
        list(requests_of(pd.DataFrame({"x": column}), model, batch=10))


def test_missing_columns_are_named_and_optional_ones_may_be_missing() -> None:
    inputs: list[dict[str, Any]] = [
        {"name": "count", "datatype": "INT64", "shape": [-1]},
        {"name": "age", "datatype": "FP64", "shape": [-1], "required": False},
    ]
    (request,) = requests_of(TABLE, served(signature={"inputs": inputs}), batch=10)
    assert len(request["inputs"]) == 1
    required = [{**inputs[1], "required": True}]
    with pytest.raises(CheckImpossible, match="no column `age`; it has `amount`"):
        list(requests_of(TABLE, served(signature={"inputs": required}), batch=10))
    image = {"inputs": [{"name": "pixels", "datatype": "FP32", "shape": [-1, 8, 8]}]}
    with pytest.raises(CheckImpossible, match="no columns of a table"):
        list(requests_of(TABLE, served(signature=image), batch=10))


@given(
    rows=st.integers(1, 60),
    batch=st.integers(1, 70),
    values=st.lists(st.floats(allow_nan=True, allow_infinity=False), min_size=60, max_size=60),
)
def test_requests_hold_each_row_once_and_are_json(
    rows: int, batch: int, values: list[float]
) -> None:
    frame = pd.DataFrame({"x": values[:rows]})
    model = served(signature=columns_signature(frame, ["x"]))
    requests = list(requests_of(frame, model, batch=batch))
    sizes = [request["inputs"][0]["shape"][0] for request in requests]
    assert max(sizes) <= batch
    sent = [value for request in requests for value in request["inputs"][0]["data"]]
    json.dumps(requests, allow_nan=False)
    assert [np.nan if value is None else value for value in sent] == pytest.approx(
        values[:rows], nan_ok=True
    )


def test_long_rows_make_small_requests() -> None:
    frame = pd.DataFrame({"text": ["x" * 100_000] * 100})
    model = served(signature=columns_signature(frame, ["text"]))
    requests = list(requests_of(frame, model, batch=500))
    assert len(requests) >= 2
    assert max(len(json.dumps(request)) for request in requests) < 5 * 2**20


async def test_predictions_come_in_the_order_of_the_rows() -> None:
    frame = cancer()
    names = features_of(frame)
    model = LogisticRegression(max_iter=5000).fit(frame[names], frame["target"])
    version = served(signature=columns_signature(frame, names))
    asked = Answering(model)
    predicted = await predict(asked, frame, version, batch=50)
    assert len(asked.requests) == 12
    np.testing.assert_array_equal(predicted, model.predict(frame[names]))
    outputs = await predict_outputs(asked, frame, version)
    np.testing.assert_allclose(outputs["probabilities"], model.predict_proba(frame[names]))


async def test_a_row_that_the_model_refuses_ends_the_check_with_its_words() -> None:
    frame = cancer()
    names = features_of(frame)
    model = LogisticRegression(max_iter=5000).fit(frame[names], frame["target"])
    frame.loc[200, names[0]] = None
    version = served(signature=columns_signature(frame, names))
    with pytest.raises(CheckImpossible, match="contains NaN"):
        await predict(Answering(model), frame, version, batch=50)


@pytest.mark.parametrize(
    "answer",
    [
        {},
        {"outputs": []},
        {"outputs": [{"name": "y", "datatype": "FP64", "shape": [2], "data": [1.0, 2.0]}]},
        {"outputs": [{"name": "y", "datatype": "FP64", "shape": [3], "data": ["a", 1, 2]}]},
        {"outputs": [{"name": "y", "datatype": "FP64", "shape": [3]}]},
    ],
)
def test_malformed_answers_are_refused(answer: dict[str, Any]) -> None:
    with pytest.raises(CheckImpossible):
        read_outputs(answer, 3)


def test_the_judged_output_is_the_named_the_usual_or_the_only_one() -> None:
    labels, scores = np.array([1, 0]), np.array([[0.2, 0.8], [0.9, 0.1]])
    assert choose_labels({"predictions": labels, "extra": labels}) is not None
    assert choose_labels({"label": labels, "probabilities": scores}).tolist() == [1, 0]
    assert choose_labels({"out": scores}).tolist() == [1, 0]
    assert choose_labels({"a": labels, "b": 1 - labels}, "b").tolist() == [0, 1]
    assert choose_labels({"one": labels.reshape(-1, 1)}).shape == (2,)
    with pytest.raises(CheckImpossible, match="which output"):
        choose_labels({"a": labels, "b": labels})
    with pytest.raises(CheckImpossible, match="no output `c`"):
        choose_labels({"a": labels}, "c")
    assert choose_probabilities({"label": labels, "probabilities": scores}).shape == (2, 2)
    assert choose_probabilities({"label": labels, "score": scores[:, :1]}).shape == (2,)
    with pytest.raises(CheckImpossible, match="takes probabilities"):
        choose_probabilities({"predictions": labels})
