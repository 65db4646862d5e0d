"""What a notification says to people: a title, one sentence, facts. Pure.

Called by the notifiers that write to people (Slack, e-mail). Everything here is plain text from
elsewhere; whoever puts it into a format escapes it there.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from modelplane.resources.notification import Event, EventType

_TITLES: dict[EventType, str] = {
    "approval.requested": "Approval wanted",
    "approval.approved": "Approved",
    "approval.rejected": "Rejected",
    "approval.expired": "Approval expired",
    "approval.void": "Approval void",
    "promotion.requested": "Promotion requested",
    "promotion.refused": "Promotion refused",
    "promotion.done": "Promotion done",
    "promotion.rolled_back": "Rolled back",
    "promotion.failed": "Promotion failed",
    "gate.passed": "Gates passed",
    "gate.failed": "Gates failed",
    "alias.put_back": "Alias put back",
    "playbook.started": "Repair begun",
    "playbook.done": "Repair done",
    "playbook.escalated": "Repair needs a person",
    "playbook.question": "Repair asks",
    "training.started": "Training started",
    "training.done": "Training done",
    "training.failed": "Training failed",
    "alert.firing": "Alert",
    "alert.resolved": "Alert over",
    "channel.test": "Test",
}
_FACTS = (
    ("Model", "model"), ("Version", "version"), ("Promotion", "promotion"), ("Run", "run"),
    ("Pipeline", "pipeline"), ("Policy", "policy"), ("Traffic policy", "trafficPolicy"),
    ("Playbook", "playbook"), ("Step", "step"), ("Alert", "alert"),
    ("Author", "author"), ("Requested by", "requester"), ("Expires", "expiresAt"),
    ("Reason", "reason"),
)  # fmt: skip
_LONGEST = 500


@dataclass(frozen=True, slots=True)
class Wording:
    """A message in words: one line, one sentence (may be empty), and facts in order."""

    title: str
    sentence: str
    facts: tuple[tuple[str, str], ...]


def describe_event(event: Event) -> Wording:
    """Return `event` in words; control characters are gone, long values are cut.

    Examples
    --------
    >>> from datetime import UTC, datetime
    >>> data = {"model": "fraud", "version": "2.0.0", "message": "accuracy is below 92 %"}
    >>> event = Event(
    ...     type="promotion.refused", subject="Promotion production/fraud-2",
    ...     environment="production", at=datetime(2026, 1, 2, tzinfo=UTC), data=data)
    >>> describe_event(event).title
    'Promotion refused: fraud 2.0.0 in production'
    """
    data = event.data
    what = " ".join(filter(None, (_text(data, "model"), _text(data, "version"))))
    where = f" in {event.environment}" if event.environment else ""
    facts = [("About", clean(event.subject))]
    facts += [(label, text) for label, name in _FACTS if (text := _text(data, name))]
    if event.team:
        facts.append(("Team", clean(event.team)))
    facts.append(("At", f"{event.at:%Y-%m-%d %H:%M:%S}Z"))
    title = f"{_TITLES[event.type]}: {what or clean(event.subject)}{where if what else ''}"
    return Wording(title, _text(data, "message"), tuple(facts))


def clean(text: str) -> str:
    """Return `text` on one line: whitespace as single blanks, nothing that is not printable."""
    line = " ".join(text.split())
    shown = "".join(character for character in line if character.isprintable())
    return shown if len(shown) <= _LONGEST else shown[: _LONGEST - 1] + "…"


def _text(data: Mapping[str, Any], name: str) -> str:
    value = data.get(name)
    return clean(str(value)) if value is not None else ""
