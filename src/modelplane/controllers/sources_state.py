"""What is remembered of one watched source between two polls, and how its status tells it.

Used by the controller of sources alone. Nothing here is needed after a restart: it only saves
work, and keeps the back-off of versions that cannot be taken over.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from fnmatch import fnmatchcase

from modelplane.decisions.external import ExternalModel, ExternalVersion
from modelplane.errors import ModelplaneError
from modelplane.ports.registries import ModelRegistry, SourceRefused
from modelplane.resources.meta import Condition, set_condition
from modelplane.resources.model_source import ImportFailure, ModelSource, ModelSourceStatus

SHOWN_FAILURES = 100
WORKERS = 4
"""How many versions of one source are fetched at once."""

WHOLE_MODEL = "*"
"""Stands for the version where a model as a whole cannot be taken over."""

_BACK_OFF_FIRST_S = 1.0
_BACK_OFF_LAST_S = 600.0
_MAX_MESSAGE = 500


@dataclass(slots=True)
class SourceState:
    """One source, its registry, and how taking it over goes.

    Attributes
    ----------
    connected
        Its registry, once it was connected to.
    slots
        Bounds how many versions are fetched at once; what was announced does not wait for it.
    settled
        By model: what the source said, and the version of our record, when both agreed.
    counts
        Living versions here by model.
    failures
        By (model, version).
    importing
        (model, number) of what is being fetched.
    alias_faults
        By model: why aliases could not be written there.
    conflict
        The latest aliases that had moved on both sides, in words.
    """

    source: ModelSource
    connected: ModelRegistry | None = None
    slots: asyncio.Semaphore = field(default_factory=lambda: asyncio.Semaphore(WORKERS))
    settled: dict[str, tuple[int, int]] = field(default_factory=dict)
    counts: dict[str, int] = field(default_factory=dict)
    failures: dict[tuple[str, str], ImportFailure] = field(default_factory=dict)
    importing: set[tuple[str, int]] = field(default_factory=set)
    alias_faults: dict[str, str] = field(default_factory=dict)
    conflict: str = ""
    webhook_id: str | None = None
    webhook_fault: ModelplaneError | None = None
    locks: dict[str, asyncio.Lock] = field(default_factory=dict)

    @property
    def registry(self) -> ModelRegistry:
        """The registry; raises `SourceRefused` when it was not connected to."""
        if self.connected is None:
            raise SourceRefused("NotConnected", f"{self.name} was not connected to")
        return self.connected

    @property
    def name(self) -> str:
        """Name of the source."""
        return self.source.metadata.name

    def lock(self, model: str) -> asyncio.Lock:
        """Return the lock that is held while the record of `model` is compared and written."""
        return self.locks.setdefault(model, asyncio.Lock())

    def wants(self, model: str) -> bool:
        """Whether the source's patterns take in a model."""
        return any(fnmatchcase(model, pattern) for pattern in self.source.spec.models)

    def may_try(self, model: str, version: str, now: datetime) -> bool:
        """Whether a version that failed is due again; one that did not fail always is."""
        failure = self.failures.get((model, version))
        return failure is None or failure.retry_at <= now

    def fail(self, model: str, version: str, error: Exception, now: datetime) -> ImportFailure:
        """Take note that a version could not be taken over; return the record."""
        before = self.failures.get((model, version))
        attempts = before.attempts + 1 if before else 1
        failure = ImportFailure(
            model=model,
            version=version,
            reason=reason_of(error),
            message=str(error)[:_MAX_MESSAGE],
            attempts=attempts,
            retry_at=now + timedelta(seconds=back_off_s(attempts)),
        )
        self.failures[model, version] = failure
        return failure

    def next_retry_s(self, now: datetime) -> float | None:
        """Return in how many seconds the next failed version is due, or None."""
        due = [failure.retry_at for failure in self.failures.values()]
        return max(0.1, (min(due) - now).total_seconds()) if due else None


def back_off_s(attempts: int) -> float:
    """Return how long to wait after so many failures, seconds: 1, 2, 4 … up to ten minutes.

    Examples
    --------
    >>> [back_off_s(attempts) for attempts in (1, 2, 3, 50)]
    [1.0, 2.0, 4.0, 600.0]
    """
    return min(_BACK_OFF_LAST_S, _BACK_OFF_FIRST_S * 2.0 ** min(attempts - 1, 20))


def reason_of(error: Exception) -> str:
    """Return a stable reason for a condition: the error's own, or its code as one word."""
    reason = getattr(error, "reason", None)
    if isinstance(reason, str):
        return reason
    if isinstance(error, ModelplaneError):
        return "".join(part.capitalize() for part in error.code.split("-"))
    return "NameNotAllowed" if isinstance(error, ValueError) else "InternalError"


def fingerprint(external: ExternalModel | None, versions: Sequence[ExternalVersion]) -> int:
    """Return a number that changes when anything that a source says of a model does."""
    ordered = sorted(versions, key=lambda v: v.number)
    return hash((repr(external), repr(ordered)))


def report_status(
    state: SourceState, before: ModelSourceStatus, trouble: Exception | None, now: datetime
) -> ModelSourceStatus:
    """Return the status of a source after a poll.

    Parameters
    ----------
    state
        How it went.
    before
        The status as it is stored.
    trouble
        Why the source could not be read, or None.
    now
        For transition times.
    """
    generation = state.source.metadata.generation
    conditions = before.conditions
    for condition in _conditions(state, before, trouble):
        observed = condition.with_(observed_generation=generation)
        conditions = set_condition(conditions, observed, now)
    failures = sorted(state.failures.values(), key=lambda f: (f.model, f.version))
    return before.with_(
        conditions=conditions,
        models=len(state.counts) if trouble is None else before.models,
        versions=sum(state.counts.values()) if trouble is None else before.versions,
        failures=tuple(failures[:SHOWN_FAILURES]),
        webhook_id=state.webhook_id or before.webhook_id,
    )


def _conditions(
    state: SourceState, before: ModelSourceStatus, trouble: Exception | None
) -> list[Condition]:
    if trouble is not None:
        message = str(trouble)[:_MAX_MESSAGE]
        return [Condition(type="Ready", status="False", reason=reason_of(trouble), message=message)]
    found = [Condition(type="Ready", status="True", reason="Polled", message="")]
    if state.failures:
        first = min(state.failures.values(), key=lambda f: (f.model, f.version))
        count = len(state.failures)
        message = f"{count} could not be taken over; {first.model} {first.version}: {first.message}"
        imported = Condition(type="Imported", status="False", reason=first.reason, message=message)
    else:
        imported = Condition(type="Imported", status="True", reason="Complete")
    found += [imported, _alias_condition(state, before)]
    if state.webhook_fault is not None:
        fault = state.webhook_fault
        reason, message = reason_of(fault), str(fault)[:_MAX_MESSAGE]
        found.append(
            Condition(type="WebhookRegistered", status="False", reason=reason, message=message)
        )
    elif state.webhook_id is not None:
        found.append(Condition(type="WebhookRegistered", status="True", reason="Registered"))
    return found


def _alias_condition(state: SourceState, before: ModelSourceStatus) -> Condition:
    kind = "AliasesInSync"
    if state.alias_faults:
        model = min(state.alias_faults)
        message = f"{model}: {state.alias_faults[model]}"[:_MAX_MESSAGE]
        return Condition(type=kind, status="False", reason="NotWritten", message=message)
    if state.conflict:
        message = state.conflict[:_MAX_MESSAGE]
        return Condition(type=kind, status="True", reason="BothMoved", message=message)
    known = next((c for c in before.conditions if c.type == kind), None)
    if known is not None and known.reason == "BothMoved":
        return known
    return Condition(type=kind, status="True", reason="Same")
