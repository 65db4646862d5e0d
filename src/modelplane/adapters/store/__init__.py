"""The store on SQLite: everything in the house that speaks SQL.

`wiring` makes a `sqlite.SqliteStore`; the rest of the house knows `ports.store.Store`. The SQL is
portable SQLAlchemy Core; what is particular to SQLite stands in `connections`.
"""
