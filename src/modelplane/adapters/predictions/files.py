"""The Parquet files of predictions, through fsspec: written whole, read, deleted.

Used by `sqlite`, in threads. Paths are
``environment=…/deployment=…/version=…/date=…/ID.parquet`` below the address that was given, so that
whoever reads the folder gets these as columns. Credentials are the libraries' own business.
"""

from __future__ import annotations

import contextlib
import io
from collections.abc import Iterator, Sequence
from typing import Any
from urllib.parse import quote, unquote

import fsspec

from modelplane.adapters.predictions import parquet
from modelplane.decisions.predictions import Prediction
from modelplane.errors import TerminalError, TransientError

_EXTRAS = {"s3": "s3", "gs": "gs", "az": "az"}
_TIMEOUTS = {"connect_timeout": 5, "read_timeout": 20}


def format_path(first: Prediction, file_id: int) -> str:
    """Return where a file lies whose first row this is."""
    place = first.place
    parts = {
        "environment": place.environment,
        "deployment": place.deployment,
        "version": place.version,
        "date": first.at.date().isoformat(),
    }
    folders = "/".join(f"{name}={quote(value, safe='')}" for name, value in parts.items())
    return f"{folders}/{file_id:010}.parquet"


def _parse_path(path: str) -> list[str]:
    """Return environment, deployment and version."""
    return [unquote(part.partition("=")[2]) for part in path.split("/")[:3]]


class ParquetFiles:
    """The files below an address.

    Parameters
    ----------
    url
        A folder, or ``s3://BUCKET/PREFIX`` and the like.

    Raises
    ------
    TerminalError
        Nothing that is installed opens it; names what to install.
    """

    def __init__(self, url: str) -> None:
        protocol, _, rest = url.partition("://")
        options: dict[str, Any] = {"skip_instance_cache": True} if rest else {}
        if protocol == "s3":
            options["config_kwargs"] = _TIMEOUTS
        try:
            self._files, root = fsspec.core.url_to_fs(url, **options)
        except ImportError as error:
            raise TerminalError(
                f"predictions cannot be kept in {url}: the library for {protocol}:// is missing",
                hint=f"pip install 'modelplane[{_EXTRAS.get(protocol, protocol)}]'",
            ) from error
        self._root = str(root).rstrip("/")
        self._is_local = not rest

    def write(self, path: str, rows: Sequence[Prediction]) -> None:
        """Write a file whole, in the place of one that is there.

        Raises
        ------
        TransientError
            The storage refuses or does not answer; there is no file, or the one before.
        """
        buffer = io.BytesIO()
        import pyarrow.parquet as format_  # noqa: PLC0415

        format_.write_table(parquet.write_table(rows), buffer, compression="zstd")
        target = f"{self._root}/{path}"
        with self._explained():
            if not self._is_local:
                self._files.pipe_file(target, buffer.getvalue())  # one PUT
                return
            self._files.makedirs(target.rpartition("/")[0], exist_ok=True)
            temporary = f"{target}.new"
            self._files.pipe_file(temporary, buffer.getvalue())
            self._files.mv(temporary, target)

    def read(self, path: str) -> list[Prediction]:
        """Return the rows of a file; none when it has been deleted meanwhile."""
        import pyarrow.parquet as format_  # noqa: PLC0415

        try:
            with self._explained():
                data = self._files.cat_file(f"{self._root}/{path}")
        except FileNotFoundError:
            return []
        table = format_.read_table(io.BytesIO(data))
        environment, deployment, version = _parse_path(path)
        return parquet.read_table(table, environment, deployment, version)

    def delete(self, path: str) -> None:
        """Delete a file; one that is gone is no error. Raises `TransientError` as `write` does."""
        with self._explained(), contextlib.suppress(FileNotFoundError):
            self._files.rm_file(f"{self._root}/{path}")

    @contextlib.contextmanager
    def _explained(self) -> Iterator[None]:
        try:
            yield
        except FileNotFoundError:
            raise
        except Exception as error:  # each file system has errors of its own
            raise TransientError(
                f"the storage of predictions at {self._root} failed: {type(error).__name__}"
            ) from error
