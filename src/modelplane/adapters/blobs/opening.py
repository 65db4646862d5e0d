"""Opens the file system that an address names: a folder, or a bucket through fsspec.

Used by `trees`. Credentials and endpoints are the libraries' own business: they read their
variables (``AWS_…``, ``FSSPEC_S3_…``, ``GOOGLE_APPLICATION_CREDENTIALS``,
``AZURE_STORAGE_…``); nothing of them is taken, kept or logged here.
"""

from __future__ import annotations

from typing import Any

import fsspec
from fsspec.config import conf

from modelplane.adapters.blobs.failures import explained, missing_bucket
from modelplane.errors import TerminalError

_EXTRAS = {"s3": "s3", "s3a": "s3", "gs": "gs", "gcs": "gs", "az": "az", "abfs": "az"}
_S3_RETRIES = 2
"""Attempts of s3fs for each request, on top of those of the library below it."""


def open_files(url: str) -> tuple[Any, str]:
    """Return the file system of `url` and the path in it; connects to nothing yet.

    Raises
    ------
    TerminalError
        Nothing that is installed opens such an address; names what to install.
    """
    protocol, _, rest = url.partition("://")
    options = _options(protocol) if rest else {}
    try:
        files, root = fsspec.core.url_to_fs(url, **options)
    except ImportError as error:
        extra = _EXTRAS.get(protocol, protocol)
        raise TerminalError(
            f"artifacts cannot be kept in {url}: the library for {protocol}:// is not installed",
            hint=f"pip install 'modelplane[{extra}]'",
        ) from error
    except ValueError as error:
        raise TerminalError(f"artifacts cannot be kept in {url}: {error}") from error
    if protocol in {"s3", "s3a"}:
        files.retries = _S3_RETRIES
    return files, str(root).rstrip("/")


def _options(protocol: str) -> dict[str, Any]:
    """Return what a remote file system is made with; what people set for fsspec goes first."""
    options: dict[str, Any] = {"skip_instance_cache": True}
    if protocol in {"s3", "s3a"}:
        theirs = conf.get(protocol, {})
        options["config_kwargs"] = {
            "connect_timeout": 5,
            "read_timeout": 20,
            "retries": {"mode": "standard", "total_max_attempts": 3},
            **theirs.get("config_kwargs", {}),
        }
        # Each part in flight is held in memory.
        options["max_concurrency"] = theirs.get("max_concurrency", 2)
    return options


def check_reachable(files: Any, root: str) -> None:
    """Look whether a bucket is there and lets us in.

    Raises
    ------
    TerminalError
        It does not exist, or refuses our credentials.
    TransientError
        Nobody answers.
    """
    with explained(root, is_remote=True):
        try:
            files.find(f"{root}/.none")
        except FileNotFoundError as error:
            raise missing_bucket(root) from error
