"""A version of a dataset as a table.

Called by `data` and the checks on data. Reads CSV, Parquet (a file or a folder) and, where
`deltalake` is installed, Delta tables; whole, since checks sample by row.
"""

from __future__ import annotations

import gzip
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from modelplane.resources.gate_run import DataInput, Finding, StageTask
from modelplane.stages.data_files import first_line, is_verified, local_files, name_of, split_delta
from modelplane.stages.failures import CheckImpossible

Array = NDArray[Any]
Frame = Any
"""A `pandas.DataFrame`; pandas has no types of its own."""

IndexArray = NDArray[np.int64]

TARGETS = ("target", "label")
MAX_GROUPS = 50
_SEPARATORS = ",;\t|"
_CSV = (".csv", ".tsv", ".csv.gz", ".tsv.gz")
_PARQUET = (".parquet", ".parq")
_SHOWN = 20


def data_of(task: StageTask) -> DataInput:
    """Return the data that a check of one dataset runs on.

    Raises
    ------
    CheckImpossible
        The task has none.
    """
    if not task.datasets:
        raise CheckImpossible(
            "there is no data to check on: name one as `dataset`, or push the version with the "
            "data that it was evaluated on"
        )
    return task.datasets[0]


def tell_data(data: DataInput) -> tuple[Finding, ...]:
    """Return what must be said of data whose digest nobody can compare here."""
    if is_verified(data):
        return ()
    message = f"{name_of(data)} was read as it is now: its digest ({data.digest}) is another tool's"
    return (Finding(severity="warning", code="DataNotVerified", message=message),)


def load_table(data: DataInput, *, max_rows: int | None = None, seed: int = 0) -> Frame:
    """Read a version of a dataset.

    Parameters
    ----------
    data
        The version; the digest is compared where it can be.
    max_rows
        Take a sample of so many rows, without repetition and in their order.
    seed
        Of the sample.

    Returns
    -------
    pandas.DataFrame
        With at least one row; the index is the number of the row in the data, from 0.

    Raises
    ------
    CheckImpossible
        The data is gone, unreadable, empty, or no longer this version.
    InfrastructureFailed
        The place that it lies at does not answer.
    """
    with local_files(data) as path:
        try:
            frame = _read(data, path)
        except (ValueError, OSError) as error:
            raise CheckImpossible(
                f"{name_of(data)} at {data.uri} is no readable table: {first_line(error)}"
            ) from error
    if not isinstance(frame.index, pd.RangeIndex):
        named = any(name is not None for name in frame.index.names)
        frame = frame.reset_index(drop=not named)
    frame.columns = [str(column) for column in frame.columns]
    if frame.empty:
        raise CheckImpossible(f"{name_of(data)} at {data.uri} has no rows")
    if max_rows is not None and len(frame) > max_rows:
        frame = frame.sample(n=max_rows, random_state=seed).sort_index()
    return frame


def _read(data: DataInput, path: Path) -> Frame:
    if data.format == "delta":
        return _read_delta(data, path)
    if path.is_dir():
        if data.format == "parquet" or any(path.rglob("*.parquet")):
            return pd.read_parquet(path)
        raise CheckImpossible(f"{name_of(data)} is a folder without Parquet files")
    name = path.name.lower()
    if name.endswith(_PARQUET):
        return pd.read_parquet(path)
    if not name.endswith(_CSV):
        raise CheckImpossible(f"{name_of(data)} ({path.name}) is neither CSV nor Parquet")
    opener: Any = gzip.open if name.endswith(".gz") else open
    with opener(path, "rt", encoding="utf-8-sig", errors="replace") as stream:
        first = stream.readline()
    # The same rule as when it was registered, so that the columns are those that were recorded.
    separator = max(_SEPARATORS, key=first.count)
    return pd.read_csv(path, sep=separator, encoding="utf-8-sig", low_memory=False)


def _read_delta(data: DataInput, path: Path) -> Frame:
    try:
        import deltalake  # noqa: PLC0415
    except ImportError:
        raise CheckImpossible(
            f"{name_of(data)} is a Delta table, which takes deltalake: pip install deltalake, or "
            "register a Parquet file"
        ) from None
    table, version = split_delta(path)
    return deltalake.DeltaTable(str(table), version=version).to_pandas()


def take_target(frame: Frame, target: str | None) -> tuple[str, Array]:
    """Return the name and the values of the column with the truth.

    Parameters
    ----------
    target
        Its name; absent: the first of `TARGETS` that is there.

    Raises
    ------
    CheckImpossible
        There is no such column, or values are missing in it.
    """
    wanted = (target,) if target else TARGETS
    name = next((name for name in wanted if name in frame.columns), None)
    if name is None:
        missing = " or ".join(f"`{one}`" for one in wanted)
        raise CheckImpossible(
            f"the data has no column {missing} with the truth; it has {listed(frame.columns)}; "
            "name it as `target`"
        )
    missing_rows = frame.index[frame[name].isna()]
    if len(missing_rows):
        raise CheckImpossible(
            f"the truth is missing in {len(missing_rows):,} of {len(frame):,} rows (column "
            f"`{name}`, first in row {missing_rows[0]}): leave these rows out of the data"
        )
    return name, plain_values(frame[name])


def need_columns(frame: Frame, columns: Sequence[str]) -> None:
    """Refuse columns that the data does not have; raises `CheckImpossible`."""
    if missing := [name for name in columns if name not in frame.columns]:
        raise CheckImpossible(
            f"the data has no column {listed(missing)}; it has {listed(frame.columns)}"
        )


def plain_values(series: Any) -> Array:
    """Return a column as numpy has it: bool, int64, float64 (NaN is missing), or text."""
    if isinstance(series.dtype, pd.CategoricalDtype):
        series = series.astype(series.dtype.categories.dtype)
    kinds = pd.api.types
    if kinds.is_bool_dtype(series) and not series.hasnans:
        return np.asarray(series.to_numpy(dtype=np.bool_))
    if kinds.is_integer_dtype(series) and not series.hasnans:
        return np.asarray(series.to_numpy(dtype=np.int64))
    if kinds.is_numeric_dtype(series):
        return np.asarray(series.to_numpy(dtype=np.float64, na_value=np.nan))
    if kinds.is_datetime64_any_dtype(series):
        series = series.map(lambda moment: moment.isoformat(), na_action="ignore")
    present = series.notna()
    texts = [str(value) if known else None for value, known in zip(series, present, strict=True)]
    return np.array(texts, dtype=object)


def groups_of(frame: Frame, column: str) -> list[tuple[str, IndexArray]]:
    """Return each value of a column, as text, with the positions of its rows.

    In the order of the values; rows without a value are the group ``missing``.

    Raises
    ------
    CheckImpossible
        There is no such column, or it has more than `MAX_GROUPS` values.
    """
    need_columns(frame, [column])
    values = plain_values(frame[column])
    if values.dtype.kind == "f":
        values = np.array(
            [None if np.isnan(value) else f"{value:.15g}" for value in values.tolist()]
        )
    texts = np.array(["missing" if value is None else str(value) for value in values.tolist()])
    names, number = np.unique(texts, return_inverse=True)
    if len(names) > MAX_GROUPS:
        raise CheckImpossible(
            f"column `{column}` has {len(names):,} values, more than {MAX_GROUPS}: put them into "
            "a column of few (bands of a number, regions of a place)"
        )
    return [(str(name), np.flatnonzero(number == place)) for place, name in enumerate(names)]


def listed(names: Iterable[object]) -> str:
    """Return names as messages show them: the first twenty."""
    every = [str(name) for name in names]
    shown = ", ".join(f"`{name}`" for name in every[:_SHOWN])
    return shown + (f" and {len(every) - _SHOWN} more" if len(every) > _SHOWN else "")
