"""The second act's data: chosen by the calendar alone, recorded whole, really getting harder."""

from __future__ import annotations

from datetime import date
from pathlib import Path

import numpy as np
import pytest
from sklearn.metrics import precision_score
from threadpoolctl import threadpool_limits  # type: ignore[import-untyped]

from modelplane.demo import seasons
from modelplane.demo.flights import (
    FEATURES,
    Flights,
    build_request,
    import_pandas,
    load_flights,
)
from modelplane_runtime.models.skops_file import load_skops

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def year() -> Flights:
    return load_flights()


def test_the_season_is_every_tenth_flight_and_from_october_on_every_one(year: Flights) -> None:
    season = seasons.select_season(year)
    early = year.between(date(2013, 4, 1), date(2013, 9, 30))
    late = year.between(date(2013, 10, 1), date(2013, 12, 31))
    assert len(season) == -(-len(early) // 10) + len(late)
    first = season.select(slice(0, len(season) - len(late)))
    assert sorted(first.user_ids) == sorted(early.user_ids[::10])


def test_months_follow_one_another_and_their_flights_come_in_any_order(year: Flights) -> None:
    season = seasons.select_season(year)
    months = season.days.astype("datetime64[M]")
    assert (months[1:] >= months[:-1]).all()
    october = season.days[months == np.datetime64("2013-10")].astype(np.int64)
    assert abs(np.corrcoef(october, np.arange(len(october)))[0, 1]) < 0.03
    assert (seasons.select_season(year).user_ids == season.user_ids).all()


def test_records_are_what_has_arrived_and_grow(year: Flights, tmp_path: Path) -> None:
    records = seasons.Records(tmp_path, year)
    records.write(date(2013, 1, 31))
    records.write(date(2013, 3, 9))
    read = seasons.read_records(tmp_path)
    expected = year.between(date(2013, 1, 1), date(2013, 3, 9))
    assert [file.name for file in sorted(tmp_path.iterdir())] == [
        "2013-01.parquet",
        "2013-02.parquet",
        "2013-03.parquet",
    ]
    assert read.digest() == expected.digest()
    assert (read.days == expected.days).all()
    assert (read.user_ids == expected.user_ids).all()


def test_the_newest_days_are_held_out(year: Flights) -> None:
    training, holdout = seasons.split_newest(year.between(date(2013, 1, 1), date(2013, 3, 31)), 14)
    assert training.days[-1] == np.datetime64("2013-03-17")
    assert (holdout.days[0], holdout.days[-1]) == (
        np.datetime64("2013-03-18"),
        np.datetime64("2013-03-31"),
    )


def test_requests_are_named_apart(year: Flights) -> None:
    season = seasons.select_season(year)
    names = {build_request(season, row).id for row in range(2_000)}
    assert len(names) == 2_000


def test_the_first_models_precision_really_falls(year: Flights, tmp_path: Path) -> None:
    """What the second act is about; with both kinds of rows, as live traffic has them."""
    records = seasons.Records(tmp_path / "records", year)
    records.write(seasons.FIRST_RECORDS_UNTIL)
    with threadpool_limits(1):
        trained = seasons.train_on_records(
            seasons.read_records(records.folder),
            tmp_path / "model",
            estimator="v1",
            late_weight=seasons.FIRST_LATE_WEIGHT,
            holdout_days=seasons.FIRST_HOLDOUT_DAYS,
        )
        model = load_skops(trained.path)
        precision = {}
        for month in (4, 7, 9, 10):
            part = year.between(date(2013, month, 1), date(2013, month, 30))
            precision[month] = precision_score(
                part.late,
                model.predict(import_pandas().DataFrame(part.features, columns=list(FEATURES))),
            )
    assert min(precision[4], precision[7]) > 0.6
    assert max(precision[9], precision[10]) < 0.5
