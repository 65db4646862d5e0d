"""The history at any moment is what a naive replay of the moves gives."""

from __future__ import annotations

import contextlib
from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from modelplane.decisions.history import Named, parse_moment, read_history, select_moves
from modelplane.errors import InvalidResource
from modelplane.resources.meta import Metadata
from modelplane.resources.model import AliasMove, AliasMoveSpec
from tests.decisions.test_aliases import ACTS, NOW, play

Place = tuple[str | None, str | None, str]


def replay(moves: list[AliasMove], at: datetime) -> dict[Place, str]:
    """Do what the moves say, one after the other."""
    state: dict[Place, str] = {}
    for move in moves:
        spec = move.spec
        if spec.at > at:
            continue
        place = (spec.environment, spec.deployment, spec.alias)
        state.pop(place, None)
        if spec.after is not None:
            state[place] = spec.after
    return state


def as_state(named: list[Named]) -> dict[Place, str]:
    return {(item.environment, item.deployment, item.alias): item.version for item in named}


@given(st.lists(ACTS, max_size=25), st.integers(-1, 30), st.randoms(use_true_random=False))
def test_at_any_moment_it_is_what_a_replay_gives(
    acts: list[tuple[object, ...]], minute: int, random: object
) -> None:
    _, moves = play(acts)
    at = NOW + timedelta(minutes=minute)
    shuffled = sorted(moves, key=lambda _: random.random())  # type: ignore[attr-defined]
    assert as_state(list(read_history(shuffled, at))) == replay(moves, at)


@given(st.lists(ACTS, max_size=25))
def test_up_to_now_it_is_what_the_model_says(acts: list[tuple[object, ...]]) -> None:
    model, moves = play(acts)
    status = model.status
    said: dict[Place, str] = {(None, None, a): v for a, v in status.aliases.items()}
    for entry in status.serving:
        for role in ("champion", "challenger"):
            if getattr(entry, role):
                said[entry.environment, entry.deployment, role] = getattr(entry, role)
    named = list(read_history(moves, NOW + timedelta(days=1)))
    assert as_state(named) == said


@given(st.lists(ACTS, max_size=25))
def test_each_answer_says_which_move_made_it_so(acts: list[tuple[object, ...]]) -> None:
    _, moves = play(acts)
    for item in read_history(moves, NOW + timedelta(days=1)):
        assert any(
            (m.spec.at, m.spec.after, m.spec.before, m.spec.subject)
            == (item.since, item.version, item.before, item.subject)
            for m in moves
        )


def test_the_order_is_that_of_the_numbers_when_a_clock_stepped_back() -> None:
    later, earlier = NOW, NOW - timedelta(minutes=5)
    moves = [_move(1, None, "1.0.0", later), _move(2, "1.0.0", "2.0.0", earlier)]
    (item,) = read_history(moves, NOW)
    assert item.version == "2.0.0"


def test_a_move_counts_from_its_very_moment() -> None:
    moves = [_move(1, None, "1.0.0", NOW)]
    assert read_history(moves, NOW - timedelta(microseconds=1)) == []
    assert [item.version for item in read_history(moves, NOW)] == ["1.0.0"]


def test_moves_are_chosen_by_environment_and_name() -> None:
    moves = [
        _move(1, None, "1.0.0", NOW),
        _move(2, None, "1.0.0", NOW, environment="production", deployment="fraud"),
        _move(3, None, "1.0.0", NOW, environment="staging", deployment="fraud"),
    ]
    numbers = [m.metadata.name[-1] for m in select_moves(moves, environment="production")]
    assert numbers == ["2"]
    assert len(select_moves(moves, alias="champion")) == 3
    assert select_moves(moves, alias="other") == []


def _move(number: int, before: str | None, after: str, at: datetime, **more: str) -> AliasMove:
    spec = {"model": "fraud", "alias": "champion", "subject": "ana", **more}
    return AliasMove(
        metadata=Metadata(name=f"fraud@{number:08d}"),
        spec=AliasMoveSpec.model_validate({**spec, "before": before, "after": after, "at": at}),
    )


@pytest.mark.parametrize(
    ("text", "hour"),
    [
        ("2026-11-17T14:02:00Z", 14),
        ("2026-11-17T14:02:00+01:00", 13),
        ("2026-11-17T14:02:00 01:00", 13),
        ("2026-11-17T14:02:00", 14),
        ("2026-11-17 14:02", 14),
        ("2026-11-17", 0),
    ],
)
def test_times_are_read(text: str, hour: int) -> None:
    minute = 0 if len(text) == 10 else 2
    assert parse_moment(text) == datetime(2026, 11, 17, hour, minute, tzinfo=UTC)


@pytest.mark.parametrize("text", ["", "tuesday", "2026-13-01", "0001-01-01T00:00:00+14:00"])
def test_what_is_no_time_says_how_to_write_one(text: str) -> None:
    with pytest.raises(InvalidResource) as caught:
        parse_moment(text)
    assert "2026-11-17T14:02:00Z" in caught.value.fields[0].message


@given(st.text(max_size=40))
def test_no_text_breaks_the_reading(text: str) -> None:
    with contextlib.suppress(InvalidResource):
        assert parse_moment(text).tzinfo is UTC
