"""What is read from the index. Runs in threads, each query in one snapshot.

Used by `sqlite`.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from pydantic_core import from_json
from sqlalchemy import Connection, Row, RowMapping, case, func, or_, select

from modelplane.adapters.predictions import tables as t
from modelplane.adapters.predictions.tables import MINUTE_US, from_us, read_value
from modelplane.decisions.feedback import Said
from modelplane.decisions.predictions import (
    Outcome,
    Place,
    Prediction,
    StoredSketch,
    Tally,
)

Deployment = tuple[str, str]
_CHUNK = 500
_COUNTS = ("predictions", "labelled", "rewarded", "dropped")


def find_deployment(connection: Connection, deployment: Deployment) -> int | None:
    """Return the id of a deployment that has something here."""
    statement = select(t.deployments.c.id).where(
        t.deployments.c.environment == deployment[0], t.deployments.c.deployment == deployment[1]
    )
    found = connection.execute(statement).scalar_one_or_none()
    return None if found is None else int(found)


def load_places(
    connection: Connection, deployment: Deployment, deployment_id: int
) -> dict[int, Place]:
    """Return the places of a deployment by id."""
    c = t.places.c
    statement = select(c.id, c.version, c.revision, c.rule, c.mirrored).where(
        c.deployment_id == deployment_id
    )
    return {row[0]: Place(*deployment, *row[1:]) for row in connection.execute(statement)}


def load_outcomes(
    connection: Connection,
    deployment: Deployment,
    after: int,
    limit: int,
    since: int | None = None,
) -> list[Outcome]:
    """Return outcomes above a sequence, of what was predicted since then."""
    deployment_id = find_deployment(connection, deployment)
    if deployment_id is None:
        return []
    places = load_places(connection, deployment, deployment_id)
    p, o = t.predictions.c, t.outcomes.c
    statement = (
        select(
            o.sequence,
            o.label,
            o.reward,
            p.place_id,
            p.at,
            p.predicted,
            p.score,
            p.parts,
            p.request_id,
            p.row,
        )
        .join_from(t.outcomes, t.predictions, o.prediction_id == p.id)
        .where(o.deployment_id == deployment_id, o.sequence > after)
        .where(*([p.at >= since] if since is not None else []))
        .order_by(o.sequence)
        .limit(limit)
    )
    rows = connection.execute(statement).all()
    mirrors = {own for own, place in places.items() if place.mirrored}
    pairs = _find_pairs(connection, rows, mirrors)
    return [
        Outcome(
            row.sequence,
            places[row.place_id],
            from_us(row.at),
            read_value(row.predicted),
            row.score,
            read_value(row.label),
            row.reward,
            _parts(row.parts),
            f"{row.request_id}/{row.row}" if (row.request_id, row.row) in pairs else "",
        )
        for row in rows
    ]


def _find_pairs(
    connection: Connection, rows: Sequence[Any], mirrors: set[int]
) -> set[tuple[str, int]]:
    """Return request and row of those that a mirrored prediction has."""
    pairs: set[tuple[str, int]] = set()
    if not mirrors:
        return pairs
    p = t.predictions.c
    for chunk in _chunks([row.request_id for row in rows]):
        statement = select(p.request_id, p.row).where(
            p.request_id.in_(chunk), p.place_id.in_(mirrors)
        )
        pairs.update((row[0], row[1]) for row in connection.execute(statement))
    return pairs


def load_tallies(
    connection: Connection, deployment: Deployment, since: int, due_before: int
) -> list[Tally]:
    """Count from a moment on; whole minutes by their counts, the parts of minutes by looking.

    Parameters
    ----------
    since, due_before
        Microseconds since 1970; due is what was predicted before the latter.
    """
    deployment_id = find_deployment(connection, deployment)
    if deployment_id is None:
        return []
    places = load_places(connection, deployment, deployment_id)
    due_before = max(due_before, since)
    first_whole = since + -since % MINUTE_US
    last_due = due_before - due_before % MINUTE_US
    counts: dict[int, dict[str, int]] = {}

    def note(rows: Iterable[Mapping[Any, Any]]) -> None:
        for row in rows:
            own = counts.setdefault(row["place_id"], {})
            for name, count in row.items():
                if name != "place_id":
                    own[name] = own.get(name, 0) + int(count or 0)

    m = t.minutes.c
    is_due = m.minute < last_due
    whole = (
        select(
            m.place_id,
            *(func.sum(m[name]).label(name) for name in _COUNTS),
            func.sum(case((is_due, m.predictions), else_=0)).label("due"),
            func.sum(case((is_due, m.labelled), else_=0)).label("due_labelled"),
        )
        .where(m.place_id.in_(places), m.minute >= first_whole)
        .group_by(m.place_id)
    )
    note(list(connection.execute(whole).mappings()))
    # Each part by its own range of time, which the index has.
    note(_count_part(connection, places, (since, first_whole), due_before))
    start_due = max(first_whole, last_due)
    late = _count_part(connection, places, (start_due, due_before), due_before)
    note({name: row[name] for name in ("place_id", "due", "due_labelled")} for row in late)
    # What was dropped has no moment of its own: the minute that `since` lies in counts whole.
    if first_whole > since:
        edge = select(m.place_id, m.dropped).where(
            m.place_id.in_(places), m.minute == first_whole - MINUTE_US
        )
        note(list(connection.execute(edge).mappings()))
    return [
        Tally(places[own], **found) for own, found in sorted(counts.items()) if any(found.values())
    ]


def _count_part(
    connection: Connection, places: Iterable[int], window: tuple[int, int], due_before: int
) -> list[RowMapping]:
    """Count the predictions of a part of a minute, one by one."""
    if window[0] >= window[1]:
        return []
    p = t.predictions.c
    labelled = case((p.label.is_not(None), 1), else_=0)
    due = case((p.at < due_before, 1), else_=0)
    statement = (
        select(
            p.place_id,
            func.count().label("predictions"),
            func.sum(labelled).label("labelled"),
            func.sum(case((p.reward.is_not(None), 1), else_=0)).label("rewarded"),
            func.sum(due).label("due"),
            func.sum(due * labelled).label("due_labelled"),
        )
        .where(p.place_id.in_(places), p.at >= window[0], p.at < window[1])
        .group_by(p.place_id)
    )
    return list(connection.execute(statement).mappings())


def load_totals(connection: Connection, deployment: Deployment) -> list[Tally]:
    """Count everything there ever was."""
    deployment_id = find_deployment(connection, deployment)
    if deployment_id is None:
        return []
    places = load_places(connection, deployment, deployment_id)
    c = t.places.c
    statement = select(c.id, *(c[name] for name in _COUNTS)).where(c.id.in_(places))
    return [
        Tally(places[row.id], **{name: getattr(row, name) for name in _COUNTS})
        for row in connection.execute(statement)
    ]


def load_said(
    connection: Connection, deployment: Deployment, predictions: Sequence[Prediction]
) -> list[Said]:
    """Return label and reward of each prediction."""
    deployment_id = find_deployment(connection, deployment)
    places = load_places(connection, deployment, deployment_id or 0)
    p = t.predictions.c
    found: dict[tuple[str, int, Place], Said] = {}
    for chunk in _chunks(sorted({made.request_id for made in predictions})):
        statement = select(p.request_id, p.row, p.place_id, p.label, p.reward).where(
            p.request_id.in_(chunk), p.deployment_id == (deployment_id or 0)
        )
        for request_id, row, place_id, label, reward in connection.execute(statement):
            found[request_id, row, places[place_id]] = (read_value(label), reward)
    return [found.get((m.request_id, m.row, m.place), (None, None)) for m in predictions]


def find_files(
    connection: Connection, deployment_id: int, since: int, until: int
) -> list[tuple[str, int]]:
    """Return (path, moment of its first row) of the files that have rows of these moments."""
    c = t.files.c
    statement = (
        select(c.path, c.first_at)
        .where(c.deployment_id == deployment_id, c.is_written)
        .where(c.first_at < until, c.last_at >= since)
        .order_by(c.first_at)
    )
    return [(row[0], row[1]) for row in connection.execute(statement)]


def load_pending(
    connection: Connection, places: Mapping[int, Place], *conditions: Any, limit: int
) -> list[tuple[int, Prediction]]:
    """Return (id, row) of what is in no file yet, oldest first."""
    p, c = t.predictions.c, t.payloads.c
    statement = (
        select(t.predictions, c.content)
        .join_from(t.payloads, t.predictions, c.prediction_id == p.id)
        .where(*conditions)
        .order_by(p.at, p.request_id, p.row)
        .limit(limit)
    )
    return [(row.id, _prediction(row, places)) for row in connection.execute(statement)]


def _prediction(row: Row[Any], places: Mapping[int, Place]) -> Prediction:
    content = from_json(row.content)
    return Prediction(
        row.request_id,
        row.row,
        places[row.place_id],
        from_us(row.at),
        read_value(row.predicted),
        row.score,
        row.latency_s,
        row.key,
        row.key_row,
        _parts(row.parts),
        content["i"],
        content["o"],
    )


def load_sketches(
    connection: Connection, deployment: Deployment, since: int, until: int
) -> list[StoredSketch]:
    """Return the sketches of these minutes, oldest first."""
    deployment_id = find_deployment(connection, deployment)
    if deployment_id is None:
        return []
    places = load_places(connection, deployment, deployment_id)
    c = t.sketches.c
    statement = (
        select(c.place_id, c.minute, c.name, c.sketch)
        .where(c.place_id.in_(places), c.minute >= since, c.minute < until)
        .order_by(c.minute, c.name, c.place_id)
    )
    return [
        StoredSketch(places[row[0]], from_us(row[1]), row[2], from_json(row[3]))
        for row in connection.execute(statement)
    ]


def list_deployments(connection: Connection) -> list[Deployment]:
    """Return the deployments that have something here."""
    d = t.deployments.c
    own_places = select(t.places.c.id).where(t.places.c.deployment_id == d.id)
    has_any = or_(
        select(t.predictions.c.id).where(t.predictions.c.place_id.in_(own_places)).exists(),
        select(t.labels.c.id).where(t.labels.c.deployment_id == d.id).exists(),
        select(t.sketches.c.minute).where(t.sketches.c.place_id.in_(own_places)).exists(),
        # Its rows are gone, but the storage did not answer: they are to be deleted yet.
        select(t.files.c.id).where(t.files.c.deployment_id == d.id).exists(),
    )
    rows = connection.execute(select(d.environment, d.deployment).where(has_any))
    return [(row[0], row[1]) for row in rows]


def _parts(text: str) -> tuple[str, ...]:
    return tuple(text.split("\n")) if text else ()


def _chunks(names: Sequence[str]) -> Iterable[Sequence[str]]:
    return (names[start : start + _CHUNK] for start in range(0, len(names), _CHUNK))
