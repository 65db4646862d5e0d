"""The storage of artifacts that the settings name.

Called by the control plane, and by the commands that work on a state directory without one.
"""

from __future__ import annotations

import structlog

from modelplane.adapters.blobs.trees import TreeBlobs
from modelplane.errors import TransientError
from modelplane.settings import Settings

_log = structlog.get_logger(__name__)


def open_artifacts(settings: Settings) -> TreeBlobs:
    """Return the storage; raises `TerminalError` when nothing installed opens its address."""
    return TreeBlobs(settings.artifacts_location, scratch=settings.paths.artifacts)


def prepare_artifacts(settings: Settings) -> TreeBlobs:
    """Return the storage for the process that stores in it.

    A storage that does not answer just now is no reason not to start: rollouts need none of it,
    and what does is refused until it answers.

    Raises
    ------
    TerminalError
        It does not exist, refuses the credentials, or its library is not installed.
    """
    blobs = open_artifacts(settings)
    try:
        blobs.prepare()
    except TransientError as error:
        _log.warning("artifacts_unreachable", error=error.message)
    return blobs
