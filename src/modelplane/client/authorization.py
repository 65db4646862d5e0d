"""Questions about who may do what, as calls. Used by `gates.GateClient`; sends nothing itself."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from modelplane.client.calls import PREFIX, Call


@dataclass(frozen=True, slots=True)
class Permission:
    """Whether something is allowed; `rule` decided it, `message` says what it would take."""

    allowed: bool
    rule: str
    message: str = ""

    def __bool__(self) -> bool:
        return self.allowed


def whoami_call() -> Call:
    """Return the call that asks who one is."""
    return Call("GET", f"{PREFIX}/authorization")


def can_i_call(
    verb: str, kind: str, environment: str | None, *, model: str | None, subject: str | None
) -> Call:
    """Return the call that asks whether a subject (None: oneself) may do `verb` to `kind`."""
    asked = {
        "verb": verb, "kind": kind, "environment": environment, "model": model, "subject": subject
    }  # fmt: skip
    body = {name: value for name, value in asked.items() if value is not None}
    return Call("POST", f"{PREFIX}/authorization:check", body=body)


def read_permission(answer: dict[str, Any]) -> Permission:
    """Return the answer to `can_i_call`."""
    return Permission(bool(answer["allowed"]), str(answer["rule"]), str(answer["message"]))
