"""The tables. A new kind of resource needs none: spec and status are JSON text.

Used by the modules of this package only. Times are ISO 8601 in UTC; a global resource has the
environment ``''``.
"""

from __future__ import annotations

from sqlalchemy import BigInteger, Column, Index, Integer, MetaData, String, Table, Text

FORMAT_VERSION = 1
"""The format this release reads and writes; stands in the table ``meta``."""

TABLES = MetaData()

# SQLite stores rows in the order of a key of type INTEGER, so appending stays cheap.
_Sequence = BigInteger().with_variant(Integer, "sqlite")

meta = Table(
    "meta",
    TABLES,
    Column("name", String, primary_key=True),
    Column("value", Text, nullable=False),
)

resources = Table(
    "resources",
    TABLES,
    Column("kind", String, primary_key=True),
    Column("environment", String, primary_key=True),
    Column("name", String, primary_key=True),
    Column("uid", String, nullable=False),
    Column("generation", BigInteger, nullable=False),
    Column("resource_version", BigInteger, nullable=False),
    Column("metadata", Text, nullable=False),
    Column("spec", Text, nullable=False),
    Column("status", Text, nullable=False),
)

changes = Table(
    "changes",
    TABLES,
    Column("resource_version", _Sequence, primary_key=True, autoincrement=False),
    Column("type", String, nullable=False),
    Column("kind", String, nullable=False),
    Column("environment", String, nullable=False),
    Column("name", String, nullable=False),
    Column("metadata", Text, nullable=False),
    Column("spec", Text, nullable=False),
    Column("status", Text, nullable=False),
)

leases = Table(
    "leases",
    TABLES,
    Column("name", String, primary_key=True),
    Column("holder", String, nullable=False),
    Column("epoch", BigInteger, nullable=False),
    Column("expires_at", String, nullable=False),
)

audit = Table(
    "audit",
    TABLES,
    Column("sequence", _Sequence, primary_key=True, autoincrement=False),
    Column("at", String, nullable=False),
    Column("subject", String, nullable=False),
    Column("action", String, nullable=False),
    Column("kind", String, nullable=False),
    Column("environment", String, nullable=True),
    Column("name", String, nullable=False),
    Column("uid", String, nullable=False),
    Column("resource_version", BigInteger, nullable=False),
    Column("reason", Text, nullable=False),
    Column("details", Text, nullable=False),
    Column("previous_hash", String, nullable=False),
    Column("hash", String, nullable=False),
    Index("audit_by_key", "kind", "name", "environment"),
)

evidence = Table(
    "evidence",
    TABLES,
    Column("rollout_uid", String, primary_key=True),
    Column("body", Text, nullable=False),
)
