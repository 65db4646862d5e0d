"""Pickles, which run what code they like when loaded: scanned first, or loaded with leave.

Called by ``loading`` and ``mlflow_directory``.
"""

from __future__ import annotations

from pathlib import Path
from typing import IO, Any, Literal, get_args

from modelplane_runtime.errors import LoadError
from modelplane_runtime.pickle_scan import scan_pickle

PickleRule = Literal["never", "scanned", "always"]
"""Which pickles are loaded: none, those whose every import is on the allowlist, or all."""

PICKLE_RULES: tuple[PickleRule, ...] = get_args(PickleRule)

_SHOWN_FAULTS = 5


def load_pickle(path: Path, allow_pickle: PickleRule) -> Any:
    """Load a file written by joblib, pickle or cloudpickle, as far as the rule allows it.

    The file is opened once: what is scanned is what is loaded, whatever its name stands for
    meanwhile.

    Raises
    ------
    LoadError
        The rule does not allow it, the file is damaged, or what it needs is not installed.
    """
    if allow_pickle == "never":
        raise LoadError(
            "a joblib file is a pickle: loading it can run any code. It loads only where pickles "
            "are allowed; or save the model with skops"
        )
    try:
        import joblib  # noqa: PLC0415
    except ImportError as error:
        raise LoadError("a joblib file takes joblib, which is not installed") from error
    try:
        with path.open("rb") as file:
            if allow_pickle == "scanned":
                _scan(path.name, file)
                file.seek(0)
            return joblib.load(file)
    except LoadError:
        raise
    except Exception as error:  # a pickle may raise anything while it is read
        raise LoadError(
            f"joblib cannot load {path.name}: {type(error).__name__}: {error}"
        ) from error


def _scan(name: str, file: IO[bytes]) -> None:
    """Raise `LoadError` when something in the file is outside the allowlist."""
    faults = scan_pickle(file).faults
    if not faults:
        return
    told = [f"{fault.message} (byte {fault.position})" for fault in faults[:_SHOWN_FAULTS]]
    more = len(faults) - len(told)
    told += [f"and {more} more"] if more > 0 else []
    raise LoadError(f"{name} is not within the pickle allowlist: it {'; '.join(told)}")
