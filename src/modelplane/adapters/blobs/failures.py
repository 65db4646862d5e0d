"""What goes wrong in a storage, as modelplane's errors.

Used by `trees`, `labels` and `opening`. The libraries behind fsspec raise what they like: errors
of the system, their own, and those of their HTTP clients. Nothing here imports them, since only
the one that is needed may be installed.
"""

from __future__ import annotations

import errno
import re
from collections.abc import Iterator
from contextlib import contextmanager

from modelplane.errors import ModelplaneError, NoSpace, TerminalError, TransientError

_LIBRARIES = frozenset(
    {"botocore", "aiobotocore", "s3fs", "gcsfs", "google", "adlfs", "azure", "aiohttp"}
)
_CREDENTIALS = re.compile(r"credential|auth|accesskey|signature|token", re.I)
_REFUSED = frozenset({401, 403})
_RETRY_AFTER_S = 5.0


@contextmanager
def explained(where: str, *, is_remote: bool = False) -> Iterator[None]:
    """Turn failures of the storage at `where` into modelplane's errors; others pass."""
    try:
        yield
    except ModelplaneError:
        raise
    except Exception as error:
        told = _explain(error, where, is_remote)
        if told is None:
            raise
        raise told from error


def _explain(error: Exception, where: str, is_remote: bool) -> ModelplaneError | None:
    is_of_library = type(error).__module__.split(".")[0] in _LIBRARIES
    if not isinstance(error, OSError) and not is_of_library:
        return None
    if isinstance(error, OSError) and error.errno in {errno.ENOSPC, errno.EDQUOT}:
        return NoSpace(f"the disk for artifacts ({where}) is full; nothing was stored")
    if is_remote and _is_missing_bucket(error):
        return missing_bucket(where)
    if is_remote and _is_refusal(error):
        return TerminalError(
            f"the storage of artifacts {where} refuses access: {_say(error)}",
            hint="set credentials that may list, read, write and delete there, in the variables "
            "that its library reads (AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY for s3://)",
        )
    return TransientError(
        f"the artifacts in {where} cannot be reached: {_say(error)}",
        retry_after_s=_RETRY_AFTER_S if is_remote else 1.0,
    )


def missing_bucket(where: str) -> TerminalError:
    """Return the error for a bucket or container that is not there."""
    return TerminalError(
        f"the bucket of {where} does not exist",
        hint="create it, or set artifacts_url to one that exists",
    )


def _is_missing_bucket(error: BaseException) -> bool:
    """Whether the storage said so, in this error or in what caused it."""
    found: BaseException | None = error
    while found is not None:
        if type(found).__name__ in {"NoSuchBucket", "ContainerNotFound"}:
            return True
        found = found.__cause__
    return "bucket does not exist" in str(error)


def _is_refusal(error: Exception) -> bool:
    if isinstance(error, PermissionError):
        return True
    status = getattr(error, "status_code", None) or getattr(error, "code", None)
    return status in _REFUSED or (
        not isinstance(error, OSError) and bool(_CREDENTIALS.search(type(error).__name__))
    )


def _say(error: Exception) -> str:
    """Return the first line of what it says, without queries and credentials of addresses."""
    told = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
    line = (told.strip().splitlines() or [type(error).__name__])[0][:300]
    return re.sub(r"//[^/@\s]+@", "//", re.sub(r"\?[^\s\"']*", "", line))
