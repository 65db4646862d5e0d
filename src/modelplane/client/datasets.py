"""Data in words: what it is (digest), how much of it (rows, bytes, files), and its columns.

Called in the process that pushes, for ``client.push(datasets=…)`` and ``client.push_dataset``.
Reads the data and changes nothing. Data that is named and cannot be read is an error; what
cannot be known of it is left out. Nothing heavy is imported before it is needed: `pyarrow` only
for Parquet, `pandas` never (a frame comes from a pandas that is loaded).
"""

from __future__ import annotations

import csv
import hashlib
import re
import sys
import warnings
from collections.abc import Iterable, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import unquote, urlsplit

from modelplane.client.artifacts import digest_tree
from modelplane.client.datasets_delta import describe_delta, is_delta
from modelplane.client.datasets_dvc import describe_dvc
from modelplane.client.datasets_parquet import has_arrow, read_footers
from modelplane.decisions.datasets import UNKNOWN, clean_dataset_name, clean_uri
from modelplane.errors import InvalidResource
from modelplane.resources.dataset import DataColumn, DatasetFormat, DatasetReference

Dataset = str | Path | DatasetReference
Datasets = Mapping[str, Any] | Iterable[Dataset]

MAX_COLUMNS = 1000
"""Of one dataset, so that the record of a version stays small; more are not recorded."""

_SEPARATORS = ",;\t|"
_URI = re.compile(r"[A-Za-z][A-Za-z0-9+.-]+://\S*")
_PARQUET = frozenset({".parquet", ".parq"})


class DataWarning(UserWarning):
    """Something about data could not be known; what could be is recorded."""


def describe_datasets(datasets: Datasets) -> tuple[DatasetReference, ...]:
    """Return references to data, with the digests that can be had.

    Parameters
    ----------
    datasets
        What `describe_data` takes; or a map from names to that.

    Raises
    ------
    InvalidResource
        As `describe_data` does.
    """
    if isinstance(datasets, Mapping):
        return tuple(describe_data(data, str(name)) for name, data in datasets.items())
    if isinstance(datasets, str | Path):
        datasets = [datasets]
    return tuple(describe_data(data) for data in datasets)


def describe_data(data: Any, name: str | None = None) -> DatasetReference:
    """Return what can be said of one piece of data.

    Parameters
    ----------
    data
        A reference, a pandas data frame, the URI of something that is not read, or the path of

        - a Delta table, at its latest version or, as ``PATH@3``, at version 3;
        - a Parquet file, or a folder of them;
        - a CSV file, any other file, or a folder;
        - a DVC file (``data.csv.dvc``), or one output of a pipeline: ``dvc.lock@OUTPUT``.
    name
        Of the dataset; taken from the data when left out.

    Raises
    ------
    InvalidResource
        It is none of these, does not exist or cannot be read; says which file.
    """
    if isinstance(data, DatasetReference):
        return data.with_(name=name) if name else data
    if isinstance(data, str) and _URI.fullmatch(data):
        data = _path_of(data) or data
    if isinstance(data, str) and _URI.fullmatch(data):
        return _describe_elsewhere(data, name)
    if isinstance(data, str | Path):
        found = _bounded(_describe_path(Path(data)))
        return found.with_(name=name) if name else found
    pandas = sys.modules.get("pandas")
    if pandas is not None and isinstance(data, pandas.DataFrame):
        return _bounded(_describe_frame(pandas, data, name or "data"))
    raise InvalidResource(
        f"a dataset is a path, a DatasetReference or a data frame, not {type(data).__name__}"
    )


def _bounded(reference: DatasetReference) -> DatasetReference:
    columns = reference.columns
    if len(columns) <= MAX_COLUMNS:
        return reference
    _warn(f"{reference.name} has {len(columns):,} columns: the first {MAX_COLUMNS:,} are recorded")
    return reference.with_(columns=columns[:MAX_COLUMNS])


def _path_of(uri: str) -> str | None:
    """Return the path in a ``file://`` URI, None for any other."""
    parts = urlsplit(uri)
    return unquote(parts.path) if parts.scheme == "file" and not parts.netloc else None


def _describe_elsewhere(uri: str, name: str | None) -> DatasetReference:
    shown = clean_uri(uri)
    warnings.warn(
        f"{shown} is not read: it is recorded without digest; give a DatasetReference with the "
        "digest that its own tool knows",
        DataWarning,
        stacklevel=4,
    )
    return DatasetReference(name=name or clean_dataset_name(Path(shown).name), uri=shown)


def _describe_path(path: Path) -> DatasetReference:
    whole, at, part = str(path).rpartition("@")
    if not path.exists() and at:
        if is_delta(Path(whole)) and part.isdecimal():
            return describe_delta(Path(whole), int(part))
        if Path(whole).name == "dvc.lock":
            return describe_dvc(Path(whole), part)
    if not path.exists():
        raise InvalidResource(f"there is no dataset at {path}")
    if is_delta(path):
        return describe_delta(path, None)
    if path.suffix == ".dvc" and path.is_file():
        return describe_dvc(path, None)
    if path.name == "dvc.lock" and path.is_file():
        raise InvalidResource(
            f"{path} names many files", hint=f"say which output: {path}@data/prepared.csv"
        )
    return _describe_files(path)


def _describe_files(path: Path) -> DatasetReference:
    try:
        tree = digest_tree(path)
    except InvalidResource as error:
        reason = error.fields[0].message if error.fields else error.message
        raise InvalidResource(f"the dataset at {path} cannot be read: {reason}") from None
    table = _Table("folder" if path.is_dir() else "file")
    with _naming(path):
        parquet = _parquet_files(path)
        if parquet:
            table = _read_parquet(parquet)
        elif path.suffix.lower() in {".csv", ".tsv"}:
            table = _read_csv(path)
    return DatasetReference(
        name=clean_dataset_name(path.resolve().name),
        digest=tree.digest,
        rows=table.rows,
        size_bytes=tree.size_bytes,
        files=tree.files,
        uri=str(path),
        format=table.format,
        columns=table.columns,
    )


class _Table(NamedTuple):
    """What is known of tabular data."""

    format: DatasetFormat
    rows: int | None = None
    columns: tuple[DataColumn, ...] = ()


@contextmanager
def _naming(path: Path) -> Any:
    """Turn failures to read into errors that name the file."""
    try:
        yield
    except OSError as error:
        place, reason = error.filename or path, error.strerror or error
        raise InvalidResource(f"the dataset at {place} cannot be read: {reason}") from None


def _read_csv(file: Path) -> _Table:
    """Return the header as columns and count the records below it, without keeping them."""
    with file.open(encoding="utf-8-sig", errors="replace", newline="") as stream:
        first = stream.readline()
        stream.seek(0)
        separator = max(_SEPARATORS, key=first.count)
        try:
            records = csv.reader(stream, delimiter=separator)
            header = next(filter(None, records), [])
            rows = sum(map(bool, records))  # blank lines are no records
        except csv.Error as error:
            _warn(f"{file} is not read as CSV ({error}): its rows and columns are left out")
            return _Table("file")
    return _Table("file", rows, tuple(DataColumn(name=name, type="text") for name in header))


def _parquet_files(path: Path) -> list[Path]:
    """Return the Parquet file, or those of a folder that holds nothing else; else none."""
    if path.is_file():
        return [path] if path.suffix.lower() in _PARQUET else []
    files = [
        file
        for file in sorted(path.rglob("*"))
        if file.is_file() and not _is_hidden(file.relative_to(path))
    ]
    return files if all(file.suffix.lower() in _PARQUET for file in files) else []


def _is_hidden(path: Path) -> bool:
    """Whether writers of Parquet keep their own notes in it: `_SUCCESS`, `.part-0.crc`."""
    return any(part.startswith((".", "_")) and "=" not in part for part in path.parts)


def _read_parquet(files: list[Path]) -> _Table:
    """Return the schema and the rows that the footers tell."""
    if not has_arrow():
        _warn(
            f"{files[0]} is recorded by its digest alone: rows and columns of Parquet are read "
            "with pyarrow, which is not installed"
        )
        return _Table("parquet")
    rows, columns = read_footers(files)
    for part in files[0].parent.parts:  # a partitioned table has these columns in its folders
        column, equals, _ = part.partition("=")
        if equals:
            columns.setdefault(unquote(column), "text")
    found = tuple(DataColumn(name=name, type=type_) for name, type_ in columns.items())
    return _Table("parquet", rows, found)


def _describe_frame(pandas: Any, frame: Any, name: str) -> DatasetReference:
    dtypes = [(str(column), str(dtype)) for column, dtype in frame.dtypes.items()]
    return DatasetReference(
        name=name,
        digest=_digest_frame(pandas, frame, dtypes),
        rows=len(frame),
        format="frame",
        columns=tuple(DataColumn(name=column, type=dtype) for column, dtype in dtypes),
    )


def _digest_frame(pandas: Any, frame: Any, dtypes: list[tuple[str, str]]) -> str:
    """Return the SHA-256 over a frame's columns, types and rows; the index does not count."""
    try:
        rows = pandas.util.hash_pandas_object(frame, index=False).to_numpy()
    except TypeError:
        return UNKNOWN  # cells that cannot be hashed
    digest = hashlib.sha256(repr(dtypes).encode())
    digest.update(rows.astype("<u8").tobytes())
    return f"sha256:{digest.hexdigest()}"


def _warn(message: str) -> None:
    warnings.warn(message, DataWarning, stacklevel=2)
