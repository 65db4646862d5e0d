"""Silences here and in an Alertmanager: what makes the two sides one. Pure.

Called by `controllers.silence_delivery`. Both sides are looked at as they are, so that nothing has
to be remembered over a crash: a silence that we made there carries, in ``createdBy``, which
modelplane made it of which Silence. One that somebody made there becomes a Silence here, with the
end it had there in an annotation: where that differs, the side that moved is right.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta

from modelplane.resources.alerting import Matcher, Silence, SilenceSpec, SilenceStatus
from modelplane.resources.meta import Metadata

END_ANNOTATION = "modelplane.dev/alertmanager-ends-at"
"""On a Silence that was made in an Alertmanager: its end there, when it was last looked at."""

MAX_TAKEN = 1000
"""Silences of an Alertmanager that are taken over at most."""

_MARK = re.compile(r"(?:.* )?via modelplane ([0-9a-f]{12})/([0-9A-Za-z_-]+)", re.DOTALL)
_SAME = timedelta(seconds=1)
_MAX_COMMENT = 1000


@dataclass(frozen=True, slots=True)
class ServedSilence:
    """A silence that an Alertmanager has, and that is not over."""

    id: str
    matchers: tuple[Matcher, ...]
    starts_at: datetime
    ends_at: datetime
    created_by: str
    comment: str


@dataclass(frozen=True, slots=True)
class Tell:
    """Make the silence there, or change the one of that id."""

    silence: Silence
    id: str = ""


@dataclass(frozen=True, slots=True)
class End:
    """End the silence of that id there."""

    id: str


@dataclass(frozen=True, slots=True)
class Take:
    """Write the silence here; it comes from there, or was changed or ended there."""

    silence: Silence


Action = Tell | End | Take


def mark(silence: Silence, instance: str) -> str:
    """Return what stands in ``createdBy`` there.

    Parameters
    ----------
    silence
        The one that is told of.
    instance
        Which modelplane this is: 12 hexadecimal digits.
    """
    who = f"{silence.spec.created_by} " if silence.spec.created_by else ""
    return f"{who}via modelplane {instance}/{silence.metadata.uid}"


def decide_silences(
    here: Sequence[Silence],
    there: Sequence[ServedSilence],
    *,
    instance: str,
    deleted: Collection[str],
    now: datetime,
) -> list[Action]:
    """Return what makes both sides agree.

    Parameters
    ----------
    here, there
        All silences here, over or not; those there that are not over.
    instance
        Which modelplane this is.
    deleted
        Ids there of Silences that came from there and were deleted here.
    now
        The time.
    """
    ours: dict[str, list[ServedSilence]] = {}
    for served in there:
        match = _MARK.fullmatch(served.created_by)
        if match and match[1] == instance:
            ours.setdefault(match[2], []).append(served)
    theirs = {s.id: s for s in there if not any(s in twins for twins in ours.values())}
    actions: list[Action] = []
    for silence in here:
        known_id = silence.status.alertmanager_id
        if END_ANNOTATION in silence.metadata.annotations:
            actions += _follow(silence, theirs.pop(known_id, None), now)
        else:
            found = ours.pop(silence.metadata.uid, [])
            # The one that is known comes first; others are left over from a crash.
            found.sort(key=lambda served: served.id != silence.status.alertmanager_id)
            actions += _lead(silence, found, now)
    actions += [End(served.id) for left in ours.values() for served in left]
    actions += [End(left) for left in theirs if left in deleted]
    fresh = [served for served in theirs.values() if served.id not in deleted][:MAX_TAKEN]
    actions += [Take(taken) for served in fresh if (taken := _taken(served)) is not None]
    return actions


def _lead(silence: Silence, found: Sequence[ServedSilence], now: datetime) -> Iterator[Action]:
    """A Silence that was made here: there it is as it is here."""
    if silence.spec.ends_at <= now:
        yield from (End(served.id) for served in found)
        return
    if not found:
        yield Tell(silence)
        return
    first, *twins = found
    if _differs(silence, first):
        yield Tell(silence, first.id)
    yield from (End(served.id) for served in twins)


def _follow(silence: Silence, served: ServedSilence | None, now: datetime) -> Iterator[Action]:
    """A Silence that was made there: whoever changed it last is right."""
    is_over = silence.spec.ends_at <= now
    if served is None:
        if not is_over:  # it was ended there
            yield Take(_with_end(silence, now))
        return
    known = _known_end(silence)
    if known is None or abs(served.ends_at - known) > _SAME:
        yield Take(_with_end(silence, served.ends_at).with_spec(matchers=served.matchers))
    elif is_over:
        yield End(served.id)
    elif _differs(silence, served):
        yield Tell(silence, served.id)


def _known_end(silence: Silence) -> datetime | None:
    try:
        known = datetime.fromisoformat(silence.metadata.annotations[END_ANNOTATION])
    except ValueError:  # somebody here wrote something else into it
        return None
    return known if known.tzinfo is not None else None


def _differs(silence: Silence, served: ServedSilence) -> bool:
    spec = silence.spec
    return (
        _in_order(spec.matchers) != _in_order(served.matchers)
        or abs(spec.ends_at - served.ends_at) > _SAME
        or spec.comment != served.comment
    )


def _in_order(matchers: Sequence[Matcher]) -> list[tuple[str, str, str]]:
    return sorted((m.name, m.operator, m.value) for m in matchers)


def _with_end(silence: Silence, ends_at: datetime) -> Silence:
    annotations = {**silence.metadata.annotations, END_ANNOTATION: ends_at.isoformat()}
    moved = silence.with_spec(ends_at=ends_at)
    return moved.with_(metadata=silence.metadata.with_(annotations=annotations))


def _taken(served: ServedSilence) -> Silence | None:
    """Return a silence there as one here; None when it is none here: it may hold for every alert,
    or have too many matchers. There it goes on.
    """
    try:
        spec = SilenceSpec(
            matchers=served.matchers,
            starts_at=served.starts_at,
            ends_at=served.ends_at,
            created_by=served.created_by[:200],
            comment=served.comment[:_MAX_COMMENT] or "made in Alertmanager",
        )
    except ValueError:
        return None
    return Silence(
        metadata=Metadata(
            name=f"alertmanager-{served.id}",
            annotations={END_ANNOTATION: served.ends_at.isoformat()},
        ),
        spec=spec,
        status=SilenceStatus(alertmanager_id=served.id),
    )
