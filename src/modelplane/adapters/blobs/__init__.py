"""Artifacts on any file system that fsspec opens."""
