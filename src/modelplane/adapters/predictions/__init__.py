"""The store of predictions: an index in SQLite, rows with inputs and outputs as Parquet."""
