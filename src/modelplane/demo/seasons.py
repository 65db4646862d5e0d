"""The second act's data: the year after the training, its records on disk, training on them.

Called by ``demo.loop`` (traffic, records) and ``demo.retrain`` (training). It must not know the
control plane, and it does no networking.

The replay takes one flight in ten from April to September and every one from October on: by the
calendar alone, so that a season passes in a minute and its end can be looked at closely. Within a
month the flights come in any order. At 200 a second a day lasts five seconds: in order, one day's
weather would be scatter from second to second, which no real traffic has, and a verdict has to be
careful with. The records on disk hold every flight of the months that are over.

The first model of this act weighs a late flight twice (three times in the first act): it calls
few flights late, and is right about most of them. That its precision falls is the data's doing:
over whole months it is 0.68 in April, 0.58, 0.68, 0.73, 0.65, then 0.45 in September and 0.43 in
October.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from datetime import date, timedelta
from pathlib import Path
from typing import Any

import numpy as np

from modelplane.demo.flights import (
    FEATURES,
    SIGNATURE,
    Flights,
    build_estimator,
    build_infer_document,
    evaluate,
    import_pandas,
    one_thread,
    write_skops,
)

SEASON_FIRST, SEASON_LAST = date(2013, 4, 1), date(2013, 12, 31)
CLOSELY_FROM = date(2013, 10, 1)
ONE_IN = 10
SHUFFLE_SEED = 2013

FIRST_RECORDS_UNTIL = date(2013, 3, 31)
FIRST_HOLDOUT_DAYS = 14
HOLDOUT_DAYS = 21
"""The newest flights are not trained on: the gate judges candidate and champion by them."""

FIRST_LATE_WEIGHT, RETRAINED_LATE_WEIGHT = 2.0, 1.0
"""The first model needs the weight to call any flight late; one that knows three seasons does
not, and with it called more flights late, with less precision."""

LABEL_COLUMN = "late"


def select_season(flights: Flights) -> Flights:
    """Return the flights to replay: see the module's docstring for which, in what order."""
    season = flights.between(SEASON_FIRST, SEASON_LAST)
    closely = season.days >= np.datetime64(CLOSELY_FROM)
    season = season.select(closely | (np.arange(len(season)) % ONE_IN == 0))
    months = season.days.astype("datetime64[M]").astype(np.int64)
    shuffled = np.random.default_rng(SHUFFLE_SEED).random(len(season))
    return season.select(np.lexsort((shuffled, months)))


class Records:
    """The flights of some first days of the year, as Parquet files of one month each.

    Parameters
    ----------
    folder
        Where ``2013-04.parquet`` and the like are written; made if it is not there.
    flights
        The year.
    """

    def __init__(self, folder: Path, flights: Flights) -> None:
        self.folder = folder
        self._flights = flights
        self._until: date | None = None
        folder.mkdir(parents=True, exist_ok=True)

    def write(self, until: date) -> None:
        """Write what is new up to and with a day; a file is replaced whole."""
        if until == self._until:
            return
        first = date(until.year, 1, 1) if self._until is None else self._until
        month = first.replace(day=1)
        while month <= until:
            following = (month + timedelta(days=32)).replace(day=1)
            last = min(until, following - timedelta(days=1))
            file = self.folder / f"{month:%Y-%m}.parquet"
            partial = file.with_suffix(".partial")
            build_frame(self._flights.between(month, last)).to_parquet(partial, index=False)
            partial.replace(file)
            month = following
        self._until = until


def build_frame(flights: Flights) -> Any:
    """Return a data frame: the features, ``day``, ``user_id`` and the label `LABEL_COLUMN`."""
    frame = import_pandas().DataFrame(flights.features, columns=list(FEATURES))
    return frame.assign(
        day=flights.days.astype("datetime64[s]"),
        user_id=flights.user_ids,
        **{LABEL_COLUMN: flights.late.astype(np.int64)},
    )


def read_records(folder: Path) -> Flights:
    """Return the flights of a folder that `Records` wrote, in order."""
    pandas = import_pandas()
    files = sorted(folder.glob("*.parquet"))
    frame = pandas.concat([pandas.read_parquet(file) for file in files], ignore_index=True)
    return Flights(
        features=np.ascontiguousarray(frame[list(FEATURES)].to_numpy(dtype=np.float64)),
        late=frame[LABEL_COLUMN].to_numpy() > 0,
        days=frame["day"].to_numpy().astype("datetime64[D]"),
        user_ids=frame["user_id"].to_numpy().astype(np.str_),
    )


def split_newest(flights: Flights, holdout_days: int) -> tuple[Flights, Flights]:
    """Return all but the newest days, and the newest days."""
    newest: date = flights.days[-1].astype(object)
    first_held_out = newest - timedelta(days=holdout_days - 1)
    return (
        flights.between(date(newest.year, 1, 1), first_held_out - timedelta(days=1)),
        flights.between(first_held_out, newest),
    )


@dataclass(frozen=True, slots=True)
class SeasonModel:
    """A model that was trained on the records.

    Attributes
    ----------
    path
        The skops file.
    training_path, holdout_path
        Parquet files of what it was trained on and of what it was not.
    metrics
        ``accuracy``, ``precision``, ``recall`` and ``auc`` in [0, 1], on the holdout.
    train_s
        Seconds of training alone.
    """

    path: Path
    training_path: Path
    holdout_path: Path
    metrics: dict[str, float]
    first_day: date
    last_day: date
    row_count: int
    train_s: float
    sample_input: dict[str, Any]
    signature: dict[str, Any]


def train_on_records(
    flights: Flights, out_dir: Path, *, estimator: str, late_weight: float, holdout_days: int
) -> SeasonModel:
    """Train on all but the newest days, judge on those, write model and both tables.

    Parameters
    ----------
    flights
        From `read_records`.
    out_dir
        Made if it is not there.
    estimator
        A version of `flights.build_estimator` that can take incomplete rows.
    late_weight
        What a late flight that is missed costs, in false alarms.
    holdout_days
        So many newest days are not trained on.
    """
    training, holdout = split_newest(flights, holdout_days)
    model = build_estimator(estimator)
    out_dir.mkdir(parents=True, exist_ok=True)
    with one_thread():
        started = time.perf_counter()
        model.fit(
            import_pandas().DataFrame(training.features, columns=list(FEATURES)),
            training.late.astype(np.int64),
            sample_weight=np.where(training.late, late_weight, 1.0),
        )
        train_s = time.perf_counter() - started
        metrics = evaluate(model, holdout)
    path = out_dir / "flights.skops"
    write_skops(model, path)
    for name, part in (("training", training), ("holdout", holdout)):
        build_frame(part).to_parquet(out_dir / f"{name}.parquet", index=False)
    return SeasonModel(
        path=path,
        training_path=out_dir / "training.parquet",
        holdout_path=out_dir / "holdout.parquet",
        metrics=metrics,
        first_day=training.days[0].astype(object),
        last_day=training.days[-1].astype(object),
        row_count=len(training),
        train_s=train_s,
        sample_input=build_infer_document(holdout.features[0]),
        signature=SIGNATURE,
    )
