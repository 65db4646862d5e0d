"""Parquet files, read with pyarrow where that is installed.

Called by `datasets` and `datasets_delta`. Imports pyarrow when it is first asked to.
"""

from __future__ import annotations

import importlib
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from modelplane.errors import InvalidResource


def has_arrow() -> bool:
    """Whether Parquet can be read here."""
    return _import_arrow() is not None


def _import_arrow() -> Any:
    try:
        importlib.import_module("pyarrow.parquet")
        return importlib.import_module("pyarrow")
    except ImportError:
        return None


def read_footers(files: Sequence[Path]) -> tuple[int, dict[str, str]]:
    """Return the rows of all files together, and the types of their columns by name.

    Raises
    ------
    InvalidResource
        One of them cannot be read; names it.
    """
    arrow = _import_arrow()
    rows, columns = 0, dict[str, str]()
    for file in files:
        try:
            footer = arrow.parquet.read_metadata(file)
            schema = footer.schema.to_arrow_schema()
        except (arrow.ArrowException, ValueError) as error:
            raise _damaged(file, error) from None
        rows += footer.num_rows
        for field in schema:
            columns.setdefault(field.name, str(field.type))
    return rows, columns


def read_rows(file: Path, wanted: Sequence[str]) -> Iterator[Mapping[str, Any]]:
    """Yield the rows of a file with those of the `wanted` columns that it has.

    Raises
    ------
    InvalidResource
        It cannot be read.
    """
    arrow = _import_arrow()
    try:
        with arrow.parquet.ParquetFile(file) as opened:
            there = [name for name in wanted if name in opened.schema_arrow.names]
            for batch in opened.iter_batches(columns=there):
                yield from batch.to_pylist()
    except (arrow.ArrowException, ValueError) as error:
        raise _damaged(file, error) from None


def _damaged(file: Path, error: Exception) -> InvalidResource:
    told = (str(error).splitlines() or ["unreadable"])[0]
    return InvalidResource(
        f"{file} is no readable Parquet file: {told}", hint="write it again, or restore it"
    )
