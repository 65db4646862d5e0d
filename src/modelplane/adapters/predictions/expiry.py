"""Deletes what is too old, a piece at a time, so that no transaction holds up those who write.

Used by `sqlite`. Runs in the writer's thread; each function is one small transaction.
"""

from __future__ import annotations

from sqlalchemy import Connection, case, delete, func, select

from modelplane.adapters.predictions import tables as t
from modelplane.adapters.predictions.tables import MINUTE_US

PIECE = 5_000


def delete_predictions(connection: Connection, deployment_id: int, before: int) -> tuple[int, int]:
    """Delete some with their outcomes; return how many, and how many were in no file yet."""
    p = t.predictions.c
    places = select(t.places.c.id).where(t.places.c.deployment_id == deployment_id)
    old = select(p.id).where(p.place_id.in_(places), p.at < before).limit(PIECE)
    found = list(connection.execute(old).scalars())
    pending = 0
    for start in range(0, len(found), 500):
        ids = found[start : start + 500]
        result = connection.execute(delete(t.payloads).where(t.payloads.c.prediction_id.in_(ids)))
        pending += result.rowcount
        connection.execute(delete(t.outcomes).where(t.outcomes.c.prediction_id.in_(ids)))
        connection.execute(delete(t.predictions).where(p.id.in_(ids)))
    return len(found), pending


def delete_rest(connection: Connection, deployment_id: int, before: int) -> None:
    """Delete counts, labels and sketches; the minute that `before` lies in is counted anew."""
    places = list(
        connection.execute(
            select(t.places.c.id).where(t.places.c.deployment_id == deployment_id)
        ).scalars()
    )
    minute = before - before % MINUTE_US
    m, p = t.minutes.c, t.predictions.c
    connection.execute(delete(t.minutes).where(m.place_id.in_(places), m.minute < minute))
    left = (
        select(
            p.place_id,
            func.count().label("predictions"),
            func.sum(case((p.label.is_not(None), 1), else_=0)).label("labelled"),
            func.sum(case((p.reward.is_not(None), 1), else_=0)).label("rewarded"),
        )
        .where(p.place_id.in_(places), p.at >= minute, p.at < minute + MINUTE_US)
        .group_by(p.place_id)
    )
    counts = {row["place_id"]: dict(row) for row in connection.execute(left).mappings()}
    for place_id in places:
        found = counts.get(place_id, {})
        values = {name: found.get(name, 0) for name in ("predictions", "labelled", "rewarded")}
        connection.execute(
            t.minutes.update().where(m.place_id == place_id, m.minute == minute).values(**values)
        )
    c = t.labels.c
    connection.execute(
        delete(t.labels).where(
            c.deployment_id == deployment_id,
            c.is_joined.in_([True, False]),
            c.received_at < before,
        )
    )
    connection.execute(
        delete(t.sketches).where(t.sketches.c.place_id.in_(places), t.sketches.c.minute < before)
    )


def forget_waiting(connection: Connection, deployment_id: int, before: int) -> int:
    """Delete labels that came before and wait still; return how many."""
    c = t.labels.c
    result = connection.execute(
        delete(t.labels).where(
            c.deployment_id == deployment_id, c.is_joined.is_(False), c.received_at < before
        )
    )
    return int(result.rowcount)
