"""Pickles, which run what code they like when loaded: only ever called with leave to do so."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from modelplane_runtime.errors import LoadError


def load_pickle(path: Path) -> Any:
    """Load a file written by joblib, pickle or cloudpickle; the caller has leave for it.

    Raises
    ------
    LoadError
        The file is damaged, or what it needs is not installed.
    """
    try:
        import joblib  # noqa: PLC0415
    except ImportError as error:
        raise LoadError("a joblib file takes joblib, which is not installed") from error
    try:
        return joblib.load(path)
    except Exception as error:  # a pickle may raise anything while it is read
        raise LoadError(
            f"joblib cannot load {path.name}: {type(error).__name__}: {error}"
        ) from error
