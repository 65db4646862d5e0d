"""Rows as Parquet: which columns a file has, and how its rows are read back.

Used by `files`. Names: ``request_id``, ``row``, ``at``, ``predicted``, … and ``input.NAME``,
``output.NAME``. Every file of a deployment has the same type for what is the same: numbers are
doubles, so that pandas and DuckDB read many files as one; what is neither number, truth nor text
is JSON text. The schema's metadata says which doubles were whole numbers and which text is JSON,
so that rows come back as they were.
"""

from __future__ import annotations

import importlib.util
import json
from collections.abc import Mapping, Sequence
from typing import Any

from modelplane.adapters.predictions.tables import from_us, to_us
from modelplane.decisions.predictions import Place, Prediction
from modelplane.errors import TerminalError

_INPUT, _OUTPUT = "input.", "output."
_META = b"modelplane"
_MAX_WHOLE = 2**53
"""Whole numbers beyond this are no doubles."""


def is_available() -> bool:
    """Return whether pyarrow is installed."""
    return importlib.util.find_spec("pyarrow") is not None


def _arrow() -> Any:
    try:
        import pyarrow as arrow  # noqa: PLC0415
        import pyarrow.parquet  # noqa: PLC0415
    except ImportError as error:
        raise TerminalError(
            "predictions were stored as Parquet, and pyarrow is not installed",
            hint="pip install 'modelplane[predictions]'",
        ) from error
    return arrow


def write_table(rows: Sequence[Prediction]) -> Any:
    """Return rows as a table; all have the same inputs and outputs by name."""
    arrow = _arrow()
    names = [f"{_INPUT}{name}" for name in rows[0].inputs]
    names += [f"{_OUTPUT}{name}" for name in rows[0].outputs]
    columns: dict[str, tuple[Sequence[Any], Any]] = {
        "request_id": ([row.request_id for row in rows], arrow.string()),
        "row": ([row.row for row in rows], arrow.int32()),
        "revision": ([row.place.revision for row in rows], arrow.string()),
        "rule": ([row.place.rule for row in rows], arrow.string()),
        "mirrored": ([row.place.mirrored for row in rows], arrow.bool_()),
        "at": ([row.at for row in rows], arrow.timestamp("us", tz="UTC")),
        "score": ([row.score for row in rows], arrow.float64()),
        "latency_s": ([row.latency_s for row in rows], arrow.float64()),
        "key": ([row.key for row in rows], arrow.string()),
        "key_row": ([row.key_row for row in rows], arrow.int32()),
        "parts": ([list(row.parts) for row in rows], arrow.list_(arrow.string())),
    }
    kinds: dict[str, str] = {}
    values = {"predicted": [row.predicted for row in rows]}
    for name in names:
        side, own = name.split(".", 1)
        values[name] = [(row.inputs if side == "input" else row.outputs)[own] for row in rows]
    for name, column in values.items():
        kinds[name], written = _typed(column)
        type_ = {"bool": arrow.bool_(), "text": arrow.string(), "json": arrow.string()}
        columns[name] = (written, type_.get(kinds[name], arrow.float64()))
    arrays = [arrow.array(column, type=type_) for column, type_ in columns.values()]
    return arrow.table(arrays, names=list(columns)).replace_schema_metadata(
        {_META: json.dumps(kinds).encode()}
    )


def _typed(column: Sequence[Any]) -> tuple[str, Sequence[Any]]:
    """Return what a column is and how it is written."""
    types = {type(value) for value in column} - {type(None)}
    if types == {bool}:
        return "bool", column
    if types == {str}:
        return "text", column
    if types <= {int, float} and all(
        type(value) is not int or abs(value) <= _MAX_WHOLE for value in column
    ):
        return "whole" if types == {int} else "number", column
    written = [None if value is None else json.dumps(value) for value in column]
    return "json", written


def read_table(table: Any, environment: str, deployment: str, version: str) -> list[Prediction]:
    """Return the rows of a table as they were given to `write_table`."""
    kinds: Mapping[str, str] = json.loads((table.schema.metadata or {}).get(_META, b"{}"))
    data = {name: table.column(name).to_pylist() for name in table.column_names}
    for name, kind in kinds.items():
        if kind == "whole":
            data[name] = [None if value is None else int(value) for value in data[name]]
        elif kind == "json":
            data[name] = [None if value is None else json.loads(value) for value in data[name]]
    inputs = [name for name in data if name.startswith(_INPUT)]
    outputs = [name for name in data if name.startswith(_OUTPUT)]
    places: dict[tuple[str, str, bool], Place] = {}
    rows = []
    for index in range(table.num_rows):
        own = (data["revision"][index], data["rule"][index], data["mirrored"][index])
        if own not in places:
            places[own] = Place(environment, deployment, version, *own)
        rows.append(
            Prediction(
                data["request_id"][index],
                data["row"][index],
                places[own],
                from_us(to_us(data["at"][index])),
                data["predicted"][index],
                data["score"][index],
                data["latency_s"][index],
                data["key"][index],
                data["key_row"][index],
                tuple(data["parts"][index]),
                {name[len(_INPUT) :]: data[name][index] for name in inputs},
                {name[len(_OUTPUT) :]: data[name][index] for name in outputs},
            )
        )
    return rows
