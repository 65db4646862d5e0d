"""The profile of training data: how its columns are distributed, for drift to be measured against.

Called by `pushing` in the process that pushes. Reads a frame, CSV, Parquet, or a Delta table where
`deltalake` is installed; of more than half a million rows, every second, fourth … one. What leaves
the machine are bins and counts, and the commonest values of columns that are no numbers.
"""

from __future__ import annotations

import csv
import sys
import warnings
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from modelplane.client.datasets import DataWarning
from modelplane.client.datasets_delta import is_delta
from modelplane.client.datasets_parquet import has_arrow, read_rows
from modelplane.decisions.drift_profile import make_profile
from modelplane.errors import InvalidResource
from modelplane.resources.data_profile import DataProfile

MAX_ROWS = 500_000

Columns = dict[str, Any]
_MISSING = frozenset({"", "na", "n/a", "nan", "null", "none"})


def profile_data(
    data: Any, name: str, signature: Mapping[str, Any] | None = None
) -> DataProfile | None:
    """Return the profile of training data; None, with a `DataWarning`, when it cannot be read here.

    Parameters
    ----------
    data
        A pandas data frame, or the path of a CSV or Parquet file, of a folder of Parquet files, or
        of a Delta table.
    name
        What the data is called.
    signature
        The model's: then only columns that are inputs are looked at, where there are any.

    Raises
    ------
    InvalidResource
        It is there and damaged.
    """
    columns = _read_frame(data) if _is_frame(data) else _read_path(data)
    if columns is None:
        return None
    inputs = {str(tensor.get("name")) for tensor in (signature or {}).get("inputs", ())}
    if inputs & columns.keys():
        columns = {column: values for column, values in columns.items() if column in inputs}
    rows = max((len(values) for values in columns.values()), default=0)
    if not rows:
        _warn(f"{name} has no rows: drift is measured against the first traffic")
        return None
    profile, left_out = make_profile(
        {column[:200]: values for column, values in columns.items() if column}, rows, name=name
    )
    if left_out:
        _warn(f"{name} has many columns: the profile leaves out {len(left_out)} of them")
    return profile


def _is_frame(data: Any) -> bool:
    pandas = sys.modules.get("pandas")
    return pandas is not None and isinstance(data, pandas.DataFrame)


def _read_frame(frame: Any) -> Columns:
    step = -(-len(frame) // MAX_ROWS) or 1
    thinned = frame.iloc[::step]
    found: Columns = {}
    for place, column in enumerate(thinned.columns):
        series = thinned.iloc[:, place]
        if getattr(series.dtype, "kind", "O") in "iuf":
            found[str(column)] = series.to_numpy(dtype="float64", na_value=float("nan"))
            continue
        pairs = zip(series, series.isna(), strict=True)
        found[str(column)] = [None if is_missing else value for value, is_missing in pairs]
    return found


def _read_path(data: Any) -> Columns | None:
    path = Path(data) if isinstance(data, str | Path) and "://" not in str(data) else None
    if path is None or not path.exists():
        _warn(f"{data} is not read: drift is measured against the first traffic")
        return None
    if is_delta(path):
        return _read_delta(path)
    if path.suffix.lower() in {".csv", ".tsv"}:
        return _read_csv(path)
    files = [path] if path.is_file() else sorted(path.rglob("*.parquet"))
    if files and all(file.suffix.lower() in {".parquet", ".parq"} for file in files):
        if not has_arrow():
            _warn(f"{path} is read with pyarrow, which is not installed: no profile is made of it")
            return None
        return _gather(row for file in files for row in read_rows(file, _names(file)))
    _warn(f"{path} is no table that is known: no profile is made of it")
    return None


def _names(file: Path) -> list[str]:
    import pyarrow.parquet  # noqa: PLC0415 - heavy, and known to be there

    return list(pyarrow.parquet.read_schema(file).names)


def _read_delta(path: Path) -> Columns | None:
    try:
        import deltalake  # noqa: PLC0415 - optional
    except ImportError:
        _warn(f"{path} is read with deltalake, which is not installed: no profile is made of it")
        return None
    table = deltalake.DeltaTable(str(path)).to_pyarrow_table()
    return _gather(row for batch in table.to_batches() for row in batch.to_pylist())


def _read_csv(path: Path) -> Columns:
    try:
        with path.open(encoding="utf-8-sig", errors="replace", newline="") as stream:
            first = stream.readline()
            stream.seek(0)
            separator = max(",;\t|", key=first.count)
            columns = _gather(csv.DictReader(stream, delimiter=separator, restval=None))
    except (OSError, csv.Error) as error:
        raise InvalidResource(f"the dataset at {path} cannot be read: {error}") from None
    return {name: _typed(values) for name, values in columns.items()}


def _typed(values: Sequence[Any]) -> list[Any]:
    """Return the cells of a CSV column as numbers where all of them are."""
    cells = [None if not isinstance(v, str) or v.strip().lower() in _MISSING else v for v in values]
    try:
        return [None if cell is None else float(cell) for cell in cells]
    except ValueError:
        return cells


def _gather(rows: Iterable[Mapping[Any, Any]]) -> Columns:
    """Return the columns of rows; each n-th row alone, where they are too many."""
    kept: list[Mapping[Any, Any]] = []
    step = 1
    for index, row in enumerate(rows):
        if index % step == 0:
            kept.append(row)
        if len(kept) > MAX_ROWS:
            del kept[1::2]
            step *= 2
    names = dict.fromkeys(name for row in kept for name in row if isinstance(name, str))
    return {name: [row.get(name) for row in kept] for name in names}


def _warn(message: str) -> None:
    warnings.warn(message, DataWarning, stacklevel=4)
