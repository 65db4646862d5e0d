"""The error tree: every failure modelplane reports on purpose.

Raised everywhere, imported by every floor; this module imports nothing of modelplane.
Each class has a stable ``code`` (part of the API) and an HTTP ``status`` that the API uses
when it renders the error as problem+json. Expected outcomes (a rollout that holds, a build
that failed) are values, not exceptions. A message says what happened, where, and what to do;
it never holds a secret.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class FieldError:
    """One fault in something a person wrote.

    Attributes
    ----------
    path
        Where, as the person wrote it: ``spec.strategy.canary.steps[2]``.
    message
        What is wrong and what would be right.
    """

    path: str
    message: str

    def __str__(self) -> str:
        return f"{self.path}: {self.message}" if self.path else self.message


class ModelplaneError(Exception):
    """Root of all errors that modelplane raises on purpose."""

    code = "error"
    status = 500
    exit_code = 1

    def __init__(self, message: str, *, hint: str = "") -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint

    def __str__(self) -> str:
        return f"{self.message} ({self.hint})" if self.hint else self.message


class InvalidResource(ModelplaneError):
    """What was given is not valid; nothing was changed."""

    code = "invalid"
    status = 422
    exit_code = 2

    def __init__(self, message: str, fields: Sequence[FieldError] = (), *, hint: str = "") -> None:
        super().__init__(message, hint=hint)
        self.fields = tuple(fields)

    def __str__(self) -> str:
        lines = [super().__str__(), *(f"  {field}" for field in self.fields)]
        return "\n".join(lines)


class NotFound(ModelplaneError):
    """The thing named does not exist."""

    code = "not-found"
    status = 404
    exit_code = 4


class Conflict(ModelplaneError):
    """Somebody else changed it first, or it is in a state that does not allow this."""

    code = "conflict"
    status = 409
    exit_code = 5


class Unauthenticated(ModelplaneError):
    """No token, or one that is not known, expired or revoked."""

    code = "unauthenticated"
    status = 401
    exit_code = 3


class Forbidden(ModelplaneError):
    """The subject is known and may not do this."""

    code = "forbidden"
    status = 403
    exit_code = 3


class TransientError(ModelplaneError):
    """Something outside did not answer; trying again may help.

    ``retry_after_s`` says when, in seconds.
    """

    code = "unavailable"
    status = 503
    exit_code = 6

    def __init__(self, message: str, *, retry_after_s: float = 1.0, hint: str = "") -> None:
        super().__init__(message, hint=hint)
        self.retry_after_s = retry_after_s


class TerminalError(ModelplaneError):
    """It failed and trying again will not help."""

    code = "failed"
    status = 500


class NoSpace(TransientError):
    """The disk is full: nothing was written."""

    code = "no-space"
    status = 507

    def __init__(self, message: str, *, hint: str = "free some space and try again") -> None:
        super().__init__(message, retry_after_s=5.0, hint=hint)


class AuditChainBroken(ModelplaneError):
    """The audit log was altered: a record is missing, changed, added or out of order."""

    code = "audit-chain-broken"
    exit_code = 7

    def __init__(self, message: str, *, sequence: int) -> None:
        super().__init__(message)
        self.sequence = sequence
