"""Predictions written into one file: Parquet or CSV.

Called by ``predictions export``. Rows go through a temporary file first, since only the last one
tells which columns there are; the file appears whole.
"""

from __future__ import annotations

import csv
import json
import tempfile
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import IO, Any

from modelplane.errors import Conflict, InvalidResource, TerminalError

_HEAD = (
    "requestId", "row", "version", "revision", "rule", "mirrored", "at", "predicted", "score",
    "latencyS", "key", "parts", "label", "reward",
)  # fmt: skip
_NUMBERS = {"row": "number", "score": "number", "latencyS": "number", "reward": "number"}
_BATCH_ROWS = 5_000


def check_target(file: Path, *, force: bool) -> None:
    """Look whether a file can be written, before anything is asked for.

    Raises
    ------
    InvalidResource
        Its name ends in neither .parquet nor .csv.
    Conflict
        It is there.
    TerminalError
        It is Parquet, and pyarrow is not installed.
    """
    if file.suffix not in {".parquet", ".csv"}:
        raise InvalidResource(f"{file} ends in neither .parquet nor .csv")
    if file.exists() and not force:
        raise Conflict(f"{file} is there already", hint="give another name, or --force")
    if file.suffix == ".parquet":
        _arrow()


def _arrow() -> Any:
    try:
        import pyarrow as arrow  # noqa: PLC0415
        import pyarrow.parquet  # noqa: PLC0415
    except ImportError as error:
        raise TerminalError(
            "Parquet needs pyarrow, which is not installed",
            hint="pip install 'modelplane[predictions]', or export .csv",
        ) from error
    return arrow


def write_predictions(
    file: Path, rows: Iterable[Mapping[str, Any]], advance: Callable[[int], None]
) -> int:
    """Write rows as the API gives them; return how many. `advance` is told how many were read."""
    kinds: dict[str, str] = dict.fromkeys(_HEAD, "")
    count = 0
    with tempfile.TemporaryFile("w+", encoding="utf-8") as kept:
        for row in rows:
            flat = _flatten(row)
            for name, value in flat.items():
                kinds[name] = _widen(kinds.get(name, ""), value)
            kept.write(json.dumps(flat) + "\n")
            count += 1
            advance(1)
        kept.seek(0)
        kinds |= _NUMBERS
        partial = file.with_name(f".{file.name}.new")
        try:
            write = _write_csv if file.suffix == ".csv" else _write_parquet
            write(partial, kinds, _batches(kept))
            partial.replace(file)
        finally:
            partial.unlink(missing_ok=True)
    return count


def _flatten(row: Mapping[str, Any]) -> dict[str, Any]:
    flat = {name: row.get(name) for name in _HEAD}
    flat["parts"] = ",".join(row.get("parts") or ())
    for side in ("inputs", "outputs"):
        flat |= {f"{side[:-1]}.{name}": value for name, value in (row.get(side) or {}).items()}
    return flat


def _widen(kind: str, value: object) -> str:
    """Return the kind of a column that holds this too."""
    if value is None:
        return kind
    own = "text"
    if isinstance(value, bool):
        own = "truth"
    elif isinstance(value, int | float):
        own = "number"
    elif not isinstance(value, str):
        own = "json"
    return own if kind in {"", own} else "json"


def _batches(kept: IO[str]) -> Iterator[list[dict[str, Any]]]:
    batch: list[dict[str, Any]] = []
    for line in kept:
        batch.append(json.loads(line))
        if len(batch) >= _BATCH_ROWS:
            yield batch
            batch = []
    if batch:
        yield batch


def _cell(kind: str, value: Any) -> Any:
    return json.dumps(value) if kind == "json" and value is not None else value


def _write_csv(
    file: Path, kinds: Mapping[str, str], batches: Iterable[Sequence[Mapping[str, Any]]]
) -> None:
    with file.open("w", newline="", encoding="utf-8") as stream:
        writer = csv.writer(stream)
        writer.writerow(kinds)
        for batch in batches:
            for row in batch:
                cells = [_cell(kind, row.get(name)) for name, kind in kinds.items()]
                writer.writerow(
                    [json.dumps(cell) if isinstance(cell, bool) else cell for cell in cells]
                )


def _write_parquet(
    file: Path, kinds: Mapping[str, str], batches: Iterable[Sequence[Mapping[str, Any]]]
) -> None:
    arrow = _arrow()
    types = {"number": arrow.float64(), "truth": arrow.bool_()}
    schema = arrow.schema([(name, types.get(kind, arrow.string())) for name, kind in kinds.items()])
    with arrow.parquet.ParquetWriter(file, schema, compression="zstd") as writer:
        for batch in batches:
            columns = [
                arrow.array(
                    [_cell(kind, row.get(name)) for row in batch], type=schema.field(name).type
                )
                for name, kind in kinds.items()
            ]
            writer.write_table(arrow.table(columns, schema=schema))
