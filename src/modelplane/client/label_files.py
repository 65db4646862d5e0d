"""Labels in files: CSV and Parquet, read a batch at a time.

Called by ``feedback import``. What a cell says is not judged here: the server does that, and names
what it refuses.
"""

from __future__ import annotations

import csv
import json
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime
from pathlib import Path
from typing import Any

from modelplane.errors import InvalidResource, TerminalError

BATCH_ROWS = 2_000
_NAMES = {
    "requestId": ("request_id", "requestId", "id"),
    "key": ("key",),
    "row": ("row",),
    "label": ("label",),
    "reward": ("reward",),
    "at": ("at",),
}


@dataclass(frozen=True, slots=True)
class LabelColumns:
    """Which column holds what; None: the one of the usual name, if there is one."""

    request_id: str | None = None
    key: str | None = None
    label: str | None = None
    reward: str | None = None
    row: str | None = None
    at: str | None = None

    def choose(self, columns: Sequence[str], file: Path) -> dict[str, str]:
        """Return the column of each field.

        Raises
        ------
        InvalidResource
            A column that was named is not there, or nothing names the predictions or says
            anything about them.
        """
        wanted = {
            "requestId": self.request_id,
            "key": self.key,
            "label": self.label,
            "reward": self.reward,
            "row": self.row,
            "at": self.at,
        }
        has = ", ".join(columns[:20]) or "nothing"
        chosen = {}
        for field, name in wanted.items():
            if name is not None and name not in columns:
                raise InvalidResource(f"{file} has no column {name!r}; it has {has}")
            found = name or next((usual for usual in _NAMES[field] if usual in columns), None)
            if found is not None:
                chosen[field] = found
        if self.key is not None and self.request_id is None:
            chosen.pop("requestId", None)
        elif "requestId" in chosen:
            chosen.pop("key", None)
        if not {"requestId", "key"} & chosen.keys():
            raise InvalidResource(
                f"nothing in {file} names predictions; it has {has}",
                hint="name the column with --request-id or --key",
            )
        if not {"label", "reward"} & chosen.keys():
            raise InvalidResource(
                f"{file} has neither labels nor rewards; it has {has}",
                hint="name the column with --label or --reward",
            )
        return chosen


def read_labels(file: Path, columns: LabelColumns) -> Iterator[list[dict[str, Any]]]:
    """Yield the labels of a file in batches, each in the form that the API takes.

    Raises
    ------
    InvalidResource
        It is neither CSV nor Parquet, is damaged, or lacks a column.
    TerminalError
        It is Parquet, and pyarrow is not installed.
    """
    rows = _read_parquet(file, columns) if file.suffix == ".parquet" else _read_csv(file, columns)
    batch: list[dict[str, Any]] = []
    for row in rows:
        batch.append(row)
        if len(batch) >= BATCH_ROWS:
            yield batch
            batch = []
    if batch:
        yield batch


def _read_csv(file: Path, columns: LabelColumns) -> Iterator[dict[str, Any]]:
    with file.open(newline="", encoding="utf-8-sig") as stream:
        reader = csv.DictReader(stream)
        try:
            chosen = columns.choose(list(reader.fieldnames or ()), file)
            for row in reader:
                yield _label(row, chosen, is_text=True)
        except (csv.Error, UnicodeDecodeError) as error:
            raise InvalidResource(f"{file}, line {reader.line_num}: no CSV: {error}") from None


def _read_parquet(file: Path, columns: LabelColumns) -> Iterator[dict[str, Any]]:
    try:
        import pyarrow as arrow  # noqa: PLC0415
        from pyarrow import parquet  # noqa: PLC0415
    except ImportError as error:
        raise TerminalError(
            f"{file} is Parquet, and pyarrow is not installed",
            hint="pip install 'modelplane[predictions]'",
        ) from error
    try:
        with parquet.ParquetFile(file) as opened:
            chosen = columns.choose(opened.schema_arrow.names, file)
            wanted = sorted(set(chosen.values()))
            for batch in opened.iter_batches(BATCH_ROWS, columns=wanted):
                for row in batch.to_pylist():
                    yield _label(row, chosen, is_text=False)
    except (arrow.ArrowException, OSError) as error:
        detail = str(error).partition("\n")[0]
        raise InvalidResource(f"{file} cannot be read as Parquet: {detail}") from None


def _label(row: Mapping[str, Any], chosen: Mapping[str, str], *, is_text: bool) -> dict[str, Any]:
    label: dict[str, Any] = {}
    for field, column in chosen.items():
        value = row.get(column)
        if field in {"requestId", "key"}:
            value = _name(value)
        elif field == "at":
            value = _moment(value)
        else:
            value = _scalar(value) if is_text else _plain(value)
        if field == "row" and isinstance(value, float) and value.is_integer():
            value = int(value)  # a column of whole numbers with gaps
        if value is not None:
            label[field] = value
    return label


def _name(value: object) -> object:
    """Return what names a prediction as text: a number in Parquet as one writes it."""
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    return str(value) if isinstance(value, int | float) else value or None


def _scalar(text: str | None) -> object:
    """Return what a cell of text says: a number, true or false, or the text."""
    if text is None or not text.strip():
        return None
    try:
        value = json.loads(text.strip().lower() if text.strip().isalpha() else text)
    except ValueError:
        return text
    return value if isinstance(value, bool | int | float) and _is_finite(value) else text


def _plain(value: object) -> object:
    """Return a value of Parquet as JSON can say it; what is missing is None."""
    if hasattr(value, "item"):
        value = value.item()
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value if isinstance(value, str | bool | int | float | type(None)) else str(value)


def _is_finite(value: float) -> bool:
    return isinstance(value, int) or math.isfinite(value)


def _moment(value: object) -> object:
    """Return a moment as RFC 3339; one without a zone is in UTC."""
    if isinstance(value, str):
        try:
            value = datetime.fromisoformat(value) if value else None
        except ValueError:
            return value
    if isinstance(value, datetime):
        return (value if value.tzinfo else value.replace(tzinfo=UTC)).isoformat()
    if isinstance(value, date):
        return datetime(value.year, value.month, value.day, tzinfo=UTC).isoformat()
    return value if value is None else str(value)
