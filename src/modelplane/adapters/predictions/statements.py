"""What is written: predictions, labels, and the joins of both. Runs in the writer's thread.

Used by `sqlite`. Each method is called inside one transaction of the only writer, so that ids can
be given here and what is remembered of places stays true.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

from sqlalchemy import Connection, Table, func, select
from sqlalchemy.dialects.sqlite import insert
from sqlalchemy.sql import bindparam

from modelplane.adapters.predictions import tables as t
from modelplane.adapters.predictions.tables import MINUTE_US, read_value, to_us, write_value
from modelplane.decisions.feedback import Said, meet
from modelplane.decisions.predictions import (
    Label,
    LabelFate,
    Place,
    Prediction,
    StoredSketch,
    Value,
)
from modelplane.errors import TransientError

CHUNK = 500
"""Names in one look-up."""

_Name = tuple[str, int]
_COUNTS = ("predictions", "labelled", "rewarded", "dropped")


@dataclass
class _Known:
    """A prediction that labels may meet."""

    id: int
    place_id: int
    at: int
    label: Value
    reward: float | None


@dataclass
class _Truth:
    """A label that is or will be kept."""

    label: Value
    reward: float | None
    received_at: int
    is_joined: bool
    is_changed: bool = False


@dataclass
class _Joins:
    """What one transaction joins, gathered to be written at once."""

    labels: list[dict[str, Any]] = field(default_factory=list)
    outcomes: list[dict[str, Any]] = field(default_factory=list)


class IndexWrites:
    """Remembers places and the next ids; `forget` after a transaction that did not happen."""

    def __init__(self, *, max_waiting: int, max_pending_rows: int | None) -> None:
        self._max_waiting = max_waiting
        self._max_pending_rows = max_pending_rows
        self.forget()

    def forget(self) -> None:
        """Read everything anew."""
        self._deployments: dict[tuple[str, str], int] = {}
        self._places: dict[Place, int] = {}
        self._next: dict[str, int] = {}
        self._expired_before: dict[int, int] = {}
        self._pending_rows: int | None = None
        self._counts: Counter[tuple[int, int, str]] = Counter()

    def add(self, connection: Connection, predictions: Sequence[Prediction]) -> list[Prediction]:
        """Insert what is new, with its inputs and outputs; join what waits for it; return it."""
        predictions = [made for made in predictions if not self._is_past(connection, made)]
        self._check_room(connection, len(predictions))
        first = self._next_id(connection, t.predictions, "id")
        rows = [
            self._row(connection, prediction, first + index)
            for index, prediction in enumerate(predictions)
        ]
        if not rows:
            return []
        connection.execute(insert(t.predictions).on_conflict_do_nothing(), rows)
        # Within one batch the first of two that are the same stays.
        statement = select(t.predictions.c.id).where(t.predictions.c.id >= first)
        new = set(connection.execute(statement).scalars())
        self._next["predictions"] = first + len(rows)
        if not new:
            return []
        contents = [
            {
                "prediction_id": row["id"],
                "deployment_id": row["deployment_id"],
                "at": row["at"],
                "content": t.write_mapping({"i": dict(made.inputs), "o": dict(made.outputs)}),
            }
            for row, made in zip(rows, predictions, strict=True)
            if row["id"] in new
        ]
        connection.execute(t.payloads.insert(), contents)
        self._pending_rows = self.pending_rows(connection) + len(contents)
        for row in rows:
            if row["id"] in new:
                self._count(row["place_id"], row["at"], "predictions")
        self._join_waiting(connection, first)
        self._write_counts(connection)
        return [made for row, made in zip(rows, predictions, strict=True) if row["id"] in new]

    def add_dropped(self, connection: Connection, place: Place, count: int, now: int) -> None:
        """Count what was lost."""
        self._count(self.place_id(connection, place), now, "dropped", count)
        self._write_counts(connection)

    def label(
        self,
        connection: Connection,
        deployment: tuple[str, str],
        labels: Sequence[Label],
        now: int,
    ) -> list[LabelFate]:
        """Join, or keep for later; one fate each."""
        deployment_id = self.deployment_id(connection, *deployment)
        names = sorted({label.name for label in labels})
        known = _find_known(connection, deployment_id, names)
        truths = _find_truths(connection, deployment_id, names)
        waiting = _count_waiting(connection, deployment_id)
        statement = select(t.deployments.c.expired_before).where(
            t.deployments.c.id == deployment_id
        )
        expired_before = connection.execute(statement).scalar_one() or 0
        joins, fates = _Joins(), list[LabelFate]()
        for label in labels:
            name = (label.name, label.row)
            found, truth = known.get(name, []), truths.get(name)
            said: list[Said] = [(entry.label, entry.reward) for entry in found]
            news = meet([*said, *([(truth.label, truth.reward)] if truth else [])], label)
            if news != "new":
                fates.append(news)
                continue
            if truth is None:
                if not found and label.at is not None and to_us(label.at) < expired_before:
                    fates.append("too_late")
                    continue
                if not found and waiting >= self._max_waiting:
                    fates.append("no_room")
                    continue
                waiting += not found
                truth = truths[name] = _Truth(None, None, now, is_joined=False)
            truth.label = label.label if truth.label is None else truth.label
            truth.reward = label.reward if truth.reward is None else truth.reward
            truth.is_joined = truth.is_joined or bool(found)
            truth.is_changed = True
            for entry in found:
                self._join(joins, deployment_id, entry, (label.label, label.reward))
            fates.append("joined" if found else "waiting")
        _write_truths(connection, deployment_id, truths)
        self._write_joins(connection, joins)
        self._write_counts(connection)
        return fates

    def put_sketches(self, connection: Connection, sketches: Sequence[StoredSketch]) -> None:
        """Insert or replace."""
        rows = [
            {
                "place_id": self.place_id(connection, sketch.place),
                "minute": to_us(sketch.minute),
                "name": sketch.column,
                "sketch": t.write_mapping(sketch.sketch),
            }
            for sketch in sketches
        ]
        if rows:
            statement = insert(t.sketches)
            statement = statement.on_conflict_do_update(
                index_elements=["place_id", "minute", "name"],
                set_={"sketch": statement.excluded.sketch},
            )
            connection.execute(statement, rows)

    def pending_rows(self, connection: Connection) -> int:
        """Return how many rows are in no file yet."""
        if self._pending_rows is None:
            statement = select(func.count()).select_from(t.payloads)
            self._pending_rows = int(connection.execute(statement).scalar_one())
        return self._pending_rows

    def note_filed(self, count: int) -> None:
        """Note that rows have come into a file, or were deleted."""
        if self._pending_rows is not None:
            self._pending_rows -= count

    def deployment_id(self, connection: Connection, environment: str, deployment: str) -> int:
        """Return the id of a deployment, which may be new."""
        name = (environment, deployment)
        if name not in self._deployments:
            row = {"environment": environment, "deployment": deployment}
            connection.execute(insert(t.deployments).on_conflict_do_nothing(), row)
            c = t.deployments.c
            statement = select(c.id, c.expired_before).filter_by(**row)
            found, expired_before = connection.execute(statement).one()
            self._deployments[name] = found
            self._expired_before[found] = expired_before or 0
        return self._deployments[name]

    def place_id(self, connection: Connection, place: Place) -> int:
        """Return the id of a place, which may be new."""
        if place not in self._places:
            row = {
                "deployment_id": self.deployment_id(
                    connection, place.environment, place.deployment
                ),
                "version": place.version,
                "revision": place.revision,
                "rule": place.rule,
                "mirrored": place.mirrored,
            }
            connection.execute(insert(t.places).on_conflict_do_nothing(), row)
            statement = select(t.places.c.id).filter_by(**row)
            self._places[place] = int(connection.execute(statement).scalar_one())
        return self._places[place]

    def begin_expiry(self, connection: Connection, deployment_id: int, before: int) -> None:
        """Note from when on there is something: what is older comes too late."""
        c = t.deployments.c
        connection.execute(
            t.deployments.update()
            .where(c.id == deployment_id, func.coalesce(c.expired_before, 0) < before)
            .values(expired_before=before)
        )
        known = self._expired_before.get(deployment_id, 0)
        self._expired_before[deployment_id] = max(known, before)

    def _is_past(self, connection: Connection, made: Prediction) -> bool:
        deployment_id = self.deployment_id(
            connection, made.place.environment, made.place.deployment
        )
        return to_us(made.at) < self._expired_before[deployment_id]

    def _check_room(self, connection: Connection, count: int) -> None:
        pending = self.pending_rows(connection)  # before any of them are in
        if self._max_pending_rows is not None and pending + count > self._max_pending_rows:
            raise TransientError(
                f"{self._pending_rows} predictions wait to be written as Parquet, as many as may: "
                "is the storage of predictions reachable?",
                retry_after_s=5.0,
            )

    def _row(self, connection: Connection, made: Prediction, id: int) -> dict[str, Any]:
        place_id = self.place_id(connection, made.place)
        return {
            "id": id,
            "place_id": place_id,
            "deployment_id": self._deployments[made.place.environment, made.place.deployment],
            "request_id": made.request_id,
            "row": made.row,
            "key": made.key,
            "key_row": made.key_row,
            "at": to_us(made.at),
            "predicted": write_value(made.predicted),
            "score": made.score,
            "latency_s": made.latency_s,
            "parts": "\n".join(made.parts),
        }

    def _next_id(self, connection: Connection, table: Table, column: str) -> int:
        if table.name not in self._next:
            last = int(connection.execute(select(func.max(table.c[column]))).scalar() or 0)
            if table is t.outcomes:
                # Who reads on from a sequence must find the next one above it, though all that
                # there were may have expired: no more were ever given than labels were counted.
                p = t.places.c
                ever = select(func.sum(p.labelled + p.rewarded))
                last = max(last, int(connection.execute(ever).scalar() or 0))
            self._next[table.name] = last + 1
        return self._next[table.name]

    def _join_waiting(self, connection: Connection, first: int) -> None:
        """Give the predictions from `first` on the labels that came before them."""
        p, joins, joined = t.predictions.c, _Joins(), set[int]()
        columns = (t.labels.c.id, t.labels.c.label, t.labels.c.reward)
        own = (p.id, p.place_id, p.at, p.deployment_id)
        news: dict[int, _Known] = {}
        for name, row in ((p.request_id, p.row), (p.key, p.key_row)):
            statement = (
                select(*columns, *own)
                .where(p.id >= first, name != "", t.labels.c.deployment_id == p.deployment_id)
                .where(t.labels.c.name == name, t.labels.c.row == row)
            )
            for label_id, label, reward, own_id, place_id, at, deployment_id in connection.execute(
                statement
            ):
                entry = news.setdefault(own_id, _Known(own_id, place_id, at, None, None))
                self._join(joins, deployment_id, entry, (read_value(label), reward))
                joined.add(label_id)
        self._write_joins(connection, joins)
        if joined:
            statement_joined = (
                t.labels.update().where(t.labels.c.id == bindparam("of")).values(is_joined=True)
            )
            connection.execute(statement_joined, [{"of": label_id} for label_id in sorted(joined)])

    def _join(self, joins: _Joins, deployment_id: int, entry: _Known, said: Said) -> None:
        """Give a prediction what it does not have yet."""
        label = said[0] if entry.label is None else None
        reward = said[1] if entry.reward is None else None
        if label is None and reward is None:
            return
        if label is not None:
            entry.label = label
            self._count(entry.place_id, entry.at, "labelled")
        if reward is not None:
            entry.reward = reward
            self._count(entry.place_id, entry.at, "rewarded")
        written = write_value(label)
        joins.labels.append(
            {
                "of": entry.id,
                "new_label": write_value(entry.label),
                "new_reward": entry.reward,
            }
        )
        joins.outcomes.append(
            {
                "deployment_id": deployment_id,
                "prediction_id": entry.id,
                "label": written,
                "reward": reward,
            }
        )

    def _write_joins(self, connection: Connection, joins: _Joins) -> None:
        if not joins.outcomes:
            return
        first = self._next_id(connection, t.outcomes, "sequence")
        self._next["outcomes"] = first + len(joins.outcomes)
        for index, row in enumerate(joins.outcomes):
            row["sequence"] = first + index
        connection.execute(t.outcomes.insert(), joins.outcomes)
        statement = (
            t.predictions.update()
            .where(t.predictions.c.id == bindparam("of"))
            .values(label=bindparam("new_label"), reward=bindparam("new_reward"))
        )
        connection.execute(statement, joins.labels)

    def _count(self, place_id: int, at: int, name: str, count: int = 1) -> None:
        self._counts[place_id, at - at % MINUTE_US, name] += count

    def _write_counts(self, connection: Connection) -> None:
        """Add what was counted to the minutes and to the places."""
        by_minute: dict[tuple[int, int], dict[str, int]] = defaultdict(
            lambda: dict.fromkeys(_COUNTS, 0)
        )
        by_place: dict[int, dict[str, int]] = defaultdict(lambda: dict.fromkeys(_COUNTS, 0))
        for (place_id, minute, name), count in self._counts.items():
            by_minute[place_id, minute][name] += count
            by_place[place_id][name] += count
        self._counts.clear()
        if not by_minute:
            return
        statement = insert(t.minutes)
        added = {name: t.minutes.c[name] + statement.excluded[name] for name in _COUNTS}
        statement = statement.on_conflict_do_update(
            index_elements=["place_id", "minute"], set_=added
        )
        rows = [
            {"place_id": place_id, "minute": minute, **counts}
            for (place_id, minute), counts in by_minute.items()
        ]
        connection.execute(statement, rows)
        more = {name: t.places.c[name] + bindparam(f"more_{name}") for name in _COUNTS}
        connection.execute(
            t.places.update().where(t.places.c.id == bindparam("of")).values(more),
            [
                {"of": place_id, **{f"more_{name}": n for name, n in counts.items()}}
                for place_id, counts in by_place.items()
            ],
        )


def _find_known(
    connection: Connection, deployment_id: int, names: Sequence[str]
) -> dict[_Name, list[_Known]]:
    """Return the predictions of these names, by request id or by key."""
    p = t.predictions.c
    found: dict[_Name, dict[int, _Known]] = defaultdict(dict)  # a key may have very many
    by_id: dict[int, _Known] = {}
    for column, row in ((p.request_id, p.row), (p.key, p.key_row)):
        base = select(column, row, p.id, p.place_id, p.at, p.label, p.reward)
        for chunk in _chunks([name for name in names if name]):
            statement = base.where(column.in_(chunk), p.deployment_id == deployment_id)
            if column is p.key:
                statement = statement.where(p.key != "")
            for name, number, own_id, place_id, at, label, reward in connection.execute(statement):
                entry = by_id.setdefault(
                    own_id, _Known(own_id, place_id, at, read_value(label), reward)
                )
                found[name, number][own_id] = entry
    return {name: list(entries.values()) for name, entries in found.items()}


def _find_truths(
    connection: Connection, deployment_id: int, names: Sequence[str]
) -> dict[_Name, _Truth]:
    c = t.labels.c
    found = {}
    for chunk in _chunks(names):
        statement = select(c.name, c.row, c.label, c.reward, c.received_at, c.is_joined).where(
            c.name.in_(chunk), c.deployment_id == deployment_id
        )
        for name, row, label, reward, received_at, is_joined in connection.execute(statement):
            found[name, row] = _Truth(read_value(label), reward, received_at, is_joined)
    return found


def _count_waiting(connection: Connection, deployment_id: int) -> int:
    c = t.labels.c
    statement = select(func.count()).where(c.deployment_id == deployment_id, ~c.is_joined)
    return int(connection.execute(statement).scalar_one())


def _write_truths(connection: Connection, deployment_id: int, truths: dict[_Name, _Truth]) -> None:
    rows = [
        {
            "deployment_id": deployment_id,
            "name": name,
            "row": row,
            "label": write_value(truth.label),
            "reward": truth.reward,
            "received_at": truth.received_at,
            "is_joined": truth.is_joined,
        }
        for (name, row), truth in truths.items()
        if truth.is_changed
    ]
    if not rows:
        return
    statement = insert(t.labels)
    changed = {name: statement.excluded[name] for name in ("label", "reward", "is_joined")}
    connection.execute(
        statement.on_conflict_do_update(
            index_elements=["name", "row", "deployment_id"], set_=changed
        ),
        rows,
    )


def _chunks(names: Sequence[str]) -> Iterable[Sequence[str]]:
    return (names[start : start + CHUNK] for start in range(0, len(names), CHUNK))
