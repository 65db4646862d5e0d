"""Who may do what: one table, until policies come.

Called by the API for every request. Pure. Whatever no rule allows is refused.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from modelplane.resources.meta import Subject

Verb = Literal[
    "get", "list", "watch", "apply", "delete", "act", "status", "upload", "download", "report"
]
"""``act`` is any action (``POST …:verb``), ``status`` a report on a resource, ``report``
telemetry; ``upload`` and ``download`` are of artifacts."""

READ: frozenset[Verb] = frozenset({"get", "list", "watch", "download"})
ADMIN_GROUP = "admin"
AGENT_GROUP = "system:agents"
AGENT_KINDS = frozenset({"Replica", "TrafficSplit", "Job"})
"""Kinds whose status agents report."""


@dataclass(frozen=True, slots=True)
class Allowed:
    """The request may go on."""

    rule: str


@dataclass(frozen=True, slots=True)
class Refused:
    """The request may not go on; `rule` names what refused it, `message` says what would."""

    rule: str
    message: str


def authorize(
    subject: Subject, verb: Verb, kind: str, environment: str | None = None
) -> Allowed | Refused:
    """Decide whether `subject` may do `verb` to `kind` in `environment`.

    Parameters
    ----------
    subject
        Who asks.
    verb
        What is to be done.
    kind
        A resource kind, or ``Artifact``, ``Audit``, ``Telemetry``.
    environment
        None for global kinds and for requests over all environments.
    """
    groups = set(subject.groups)
    if ADMIN_GROUP in groups:
        return Allowed("admin-all")
    if verb in READ:
        return Allowed("all-read")
    if AGENT_GROUP in groups and (
        (verb == "status" and kind in AGENT_KINDS) or (verb == "report" and kind == "Telemetry")
    ):
        return Allowed("agents-report")
    place = f" in {environment}" if environment else ""
    return Refused(
        "default-deny",
        f"{subject.name!r} may not {verb} {kind}{place}; that takes group {ADMIN_GROUP!r}",
    )
