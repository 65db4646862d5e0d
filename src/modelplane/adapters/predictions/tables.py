"""The tables of the index, and how values and moments are written in them.

Used by the modules of this package only. Moments are microseconds since 1970; values that may be
text, number or truth are JSON text.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from typing import Any

from pydantic_core import from_json, to_json
from sqlalchemy import (
    BigInteger,
    Boolean,
    Column,
    Float,
    Index,
    Integer,
    MetaData,
    String,
    Table,
    Text,
    UniqueConstraint,
)

from modelplane.decisions.predictions import Value

FORMAT_VERSION = 1
"""The format this release reads and writes; stands in the table ``meta``."""

MINUTE_US = 60_000_000
TABLES = MetaData()
_Sequence = BigInteger().with_variant(Integer, "sqlite")

meta = Table("meta", TABLES, Column("name", String, primary_key=True), Column("value", Text))

deployments = Table(
    "deployments",
    TABLES,
    Column("id", _Sequence, primary_key=True),
    Column("environment", String, nullable=False),
    Column("deployment", String, nullable=False),
    Column("expired_before", BigInteger),
    UniqueConstraint("environment", "deployment"),
)

places = Table(
    "places",
    TABLES,
    Column("id", _Sequence, primary_key=True),
    Column("deployment_id", BigInteger, nullable=False),
    Column("version", String, nullable=False),
    Column("revision", String, nullable=False),
    Column("rule", String, nullable=False),
    Column("mirrored", Boolean, nullable=False),
    # Everything there ever was, what was deleted included.
    Column("predictions", BigInteger, nullable=False, default=0),
    Column("labelled", BigInteger, nullable=False, default=0),
    Column("rewarded", BigInteger, nullable=False, default=0),
    Column("dropped", BigInteger, nullable=False, default=0),
    UniqueConstraint("deployment_id", "version", "revision", "rule", "mirrored"),
)

predictions = Table(
    "predictions",
    TABLES,
    Column("id", _Sequence, primary_key=True),
    Column("place_id", BigInteger, nullable=False),
    Column("deployment_id", BigInteger, nullable=False),
    Column("request_id", String, nullable=False),
    Column("row", Integer, nullable=False),
    Column("key", String, nullable=False),
    Column("key_row", Integer, nullable=False),
    Column("at", BigInteger, nullable=False),
    Column("predicted", Text),
    Column("score", Float),
    Column("latency_s", Float),
    Column("parts", Text, nullable=False),
    Column("label", Text),
    Column("reward", Float),
    UniqueConstraint("request_id", "row", "place_id"),
)
Index("predictions_by_time", predictions.c.place_id, predictions.c.at)
Index(
    "predictions_by_key",
    predictions.c.key,
    predictions.c.key_row,
    sqlite_where=predictions.c.key != "",
    postgresql_where=predictions.c.key != "",
)

payloads = Table(
    "payloads",
    TABLES,
    # Inputs and outputs that are not in a file yet; file_id: in which they are about to be.
    Column("prediction_id", _Sequence, primary_key=True, autoincrement=False),
    Column("deployment_id", BigInteger, nullable=False),
    Column("at", BigInteger, nullable=False),
    Column("content", Text, nullable=False),
    Column("file_id", BigInteger),
)
Index("payloads_by_file", payloads.c.file_id)

files = Table(
    "files",
    TABLES,
    Column("id", _Sequence, primary_key=True),
    Column("deployment_id", BigInteger, nullable=False),
    Column("path", Text, nullable=False),
    Column("rows", BigInteger, nullable=False),
    Column("first_at", BigInteger, nullable=False),
    Column("last_at", BigInteger, nullable=False),
    Column("is_written", Boolean, nullable=False),
)
Index("files_by_deployment", files.c.deployment_id, files.c.first_at)

labels = Table(
    "labels",
    TABLES,
    Column("id", _Sequence, primary_key=True),
    Column("deployment_id", BigInteger, nullable=False),
    Column("name", String, nullable=False),
    Column("row", Integer, nullable=False),
    Column("label", Text),
    Column("reward", Float),
    Column("received_at", BigInteger, nullable=False),
    Column("is_joined", Boolean, nullable=False),
    UniqueConstraint("name", "row", "deployment_id"),
)
Index("labels_waiting", labels.c.deployment_id, labels.c.is_joined, labels.c.received_at)

outcomes = Table(
    "outcomes",
    TABLES,
    Column("sequence", _Sequence, primary_key=True, autoincrement=False),
    Column("deployment_id", BigInteger, nullable=False),
    Column("prediction_id", BigInteger, nullable=False),
    Column("label", Text),
    Column("reward", Float),
)
Index("outcomes_by_deployment", outcomes.c.deployment_id, outcomes.c.sequence)
Index("outcomes_by_prediction", outcomes.c.prediction_id)

minutes = Table(
    "minutes",
    TABLES,
    Column("place_id", BigInteger, primary_key=True, autoincrement=False),
    Column("minute", BigInteger, primary_key=True, autoincrement=False),
    Column("predictions", BigInteger, nullable=False),
    Column("labelled", BigInteger, nullable=False),
    Column("rewarded", BigInteger, nullable=False),
    Column("dropped", BigInteger, nullable=False),
)

sketches = Table(
    "sketches",
    TABLES,
    Column("place_id", BigInteger, primary_key=True, autoincrement=False),
    Column("minute", BigInteger, primary_key=True, autoincrement=False),
    Column("name", String, primary_key=True),
    Column("sketch", Text, nullable=False),
)

_START = datetime(1970, 1, 1, tzinfo=UTC)
_MICROSECOND = timedelta(microseconds=1)


def to_us(at: datetime) -> int:
    """Return microseconds since 1970, exactly."""
    return (at - _START) // _MICROSECOND


def from_us(us: int) -> datetime:
    """Return the moment in UTC."""
    return _START + timedelta(microseconds=us)


def write_value(value: Value) -> str | None:
    """Return a value as it is stored."""
    return None if value is None else to_json(value).decode()


def read_value(text: str | None) -> Value:
    """Return what `write_value` wrote."""
    value: Value = None if text is None else from_json(text)
    return value


def write_mapping(data: Mapping[str, Any]) -> str:
    """Return a mapping as JSON text."""
    return to_json(data).decode()
