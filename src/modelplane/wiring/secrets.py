"""Named secrets and the files that hold them.

Called by the wiring of both processes. A secret is the file ``STATE/secrets/NAME`` that nobody else
may read, or the variable ``MODELPLANE_SECRET_NAME`` (dashes and dots as underscores); it is read
each time it is needed, so that it can be changed, and never logged.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable
from pathlib import Path

import structlog

from modelplane.resources.meta import check_name
from modelplane.settings import Settings

_log = structlog.get_logger(__name__)

_MAX_SECRET_BYTES = 64 * 2**10


def make_secrets(settings: Settings) -> Callable[[str], str | None]:
    """Return what reads a secret by its name; None when there is none."""
    refused: set[str] = set()

    def secret(name: str) -> str | None:
        try:
            check_name(name)
        except ValueError:
            return None
        file = settings.paths.secrets / name
        open_to_others = _is_open_to_others(file)
        if open_to_others and name not in refused:  # it may be asked for every few seconds
            _log.warning("secret.refused", name=name, reason="others may read it: chmod 600")
            refused.add(name)
        found = None if open_to_others else _read_file(file)
        return found or os.environ.get(secret_variable(name)) or None

    return secret


def secret_variable(name: str) -> str:
    """Return the variable that may hold a secret.

    Examples
    --------
    >>> secret_variable("mlflow.token")
    'MODELPLANE_SECRET_MLFLOW_TOKEN'
    """
    return f"MODELPLANE_SECRET_{re.sub(r'[^A-Za-z0-9]', '_', name).upper()}"


def _is_open_to_others(path: Path) -> bool:
    try:
        return bool(path.stat().st_mode & 0o077)
    except OSError:
        return False


def _read_file(path: Path) -> str | None:
    try:
        with path.open("rb") as file:
            return file.read(_MAX_SECRET_BYTES).decode().strip() or None
    except (OSError, UnicodeDecodeError):
        return None
