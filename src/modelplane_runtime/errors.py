"""What can go wrong in the model server: the client's fault, the model's fault, or a refusal.

Raised by every module of this package; turned into HTTP answers by ``inference`` and ``app`` and
into exit codes by ``server``. Must not import anything.
"""

from __future__ import annotations

EXIT_USAGE = 2
EXIT_LOAD_FAILED = 3


class RequestError(Exception):
    """The request cannot be answered as sent.

    Parameters
    ----------
    message
        What was expected and what came, naming the input.
    status
        The HTTP status, 400 unless said otherwise.
    """

    def __init__(self, message: str, status: int = 400) -> None:
        super().__init__(message)
        self.message = message
        self.status = status


class ModelOutputError(Exception):
    """The model answered with something that the protocol cannot carry."""


class LoadError(Exception):
    """The artifact cannot be served; the process ends with `EXIT_LOAD_FAILED`."""


class SocketError(Exception):
    """The socket path cannot be used; the process ends with `EXIT_USAGE`."""
