"""Measurements: each module has a `run` that returns its figures; `python -m bench` runs them."""
