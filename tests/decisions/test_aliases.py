"""Moves of aliases, champions and challengers: each recorded once, none lost."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from modelplane.decisions.aliases import (
    Mover,
    aliases_of,
    check_alias,
    continue_history,
    drop_version,
    move_alias,
    report_serving,
)
from modelplane.errors import InvalidResource
from modelplane.resources.meta import Metadata
from modelplane.resources.model import AliasMove, Model, Serving

NOW = datetime(2026, 3, 1, 12, 0, tzinfo=UTC)
ANA = Mover("ana", NOW, "better recall")


def model(**status: object) -> Model:
    return Model(metadata=Metadata(name="fraud")).with_status(**status)


def test_a_move_records_where_from_where_to_who_when_and_why() -> None:
    moved = move_alias(model(aliases={"best": "1.0.0"}, moves=6), "best", "2.0.0", ANA)
    (move,) = moved.moves
    assert move.metadata.name == "fraud@00000007"
    assert (move.spec.before, move.spec.after) == ("1.0.0", "2.0.0")
    assert (move.spec.subject, move.spec.at, move.spec.reason) == ("ana", NOW, "better recall")
    assert moved.model.status.aliases == {"best": "2.0.0"}
    assert moved.written == (moved.model, move)


@pytest.mark.parametrize(("alias", "to"), [("best", "1.0.0"), ("none", None)])
def test_what_moves_nothing_writes_nothing(alias: str, to: str | None) -> None:
    moved = move_alias(model(aliases={"best": "1.0.0"}), alias, to, ANA)
    assert moved.written == ()


def test_a_deleted_version_loses_every_alias_with_a_record_each() -> None:
    before = model(aliases={"a": "1.0.0", "b": "2.0.0", "c": "1.0.0"})
    moved = drop_version(before, "1.0.0", ANA)
    assert moved.model.status.aliases == {"b": "2.0.0"}
    assert [(m.spec.alias, m.spec.before, m.spec.after) for m in moved.moves] == [
        ("a", "1.0.0", None),
        ("c", "1.0.0", None),
    ]
    assert aliases_of(before, "1.0.0") == ("a", "c")


@pytest.mark.parametrize(
    "alias", ["latest", "LATEST", "3", "v3", "", "-a", "a b", "a/b", "a" * 256]
)
def test_what_could_be_taken_for_a_version_is_no_alias(alias: str) -> None:
    with pytest.raises(InvalidResource):
        check_alias(alias)


@pytest.mark.parametrize("alias", ["champion", "v3-rc", "2026.q1", "A" * 255])
def test_other_words_are(alias: str) -> None:
    assert check_alias(alias) == alias


def test_a_model_made_again_counts_on_from_the_moves_that_stayed() -> None:
    old = move_alias(model(moves=11), "best", "1.0.0", ANA).moves
    again = continue_history(model(), old)
    assert move_alias(again, "best", "2.0.0", ANA).moves[0].metadata.name == "fraud@00000013"
    assert continue_history(model(), []).status.moves == 0


VERSIONS = st.sampled_from([None, "1.0.0", "2.0.0", "3.0.0"])
PLACES = st.tuples(st.sampled_from(["staging", "production"]), st.sampled_from(["a", "b"]))
ACTS = st.one_of(
    st.tuples(st.just("alias"), st.sampled_from(["champion", "best"]), VERSIONS),
    st.tuples(st.just("serving"), PLACES, VERSIONS, VERSIONS),
    st.tuples(st.just("drop"), st.sampled_from(["1.0.0", "2.0.0"])),
)


def play(acts: list[tuple[object, ...]]) -> tuple[Model, list[AliasMove]]:
    """Do `acts` one after the other, a minute apart."""
    state, moves = model(), list[AliasMove]()
    for minute, act in enumerate(acts):
        mover = Mover("ana", NOW + timedelta(minutes=minute))
        match act:
            case ("alias", str(alias), (str() | None) as version):
                moved = move_alias(state, alias, version, mover)
            case ("serving", (str(place), str(name)), champion, challenger):
                serving = Serving.model_validate(
                    {
                        "environment": place,
                        "deployment": name,
                        "champion": champion,
                        "challenger": challenger,
                    }
                )
                moved = report_serving(state, serving, mover)
            case ("drop", str(version)):
                moved = drop_version(state, version, mover)
            case _:
                raise AssertionError(act)
        state = moved.model if moved.moves else state
        moves += moved.moves
    return state, moves


@given(st.lists(ACTS, max_size=25))
def test_every_move_has_the_next_number_and_begins_where_the_last_one_ended(
    acts: list[tuple[object, ...]],
) -> None:
    state, moves = play(acts)
    assert state.status.moves == len(moves)
    assert [m.metadata.name for m in moves] == [f"fraud@{i:08d}" for i in range(1, len(moves) + 1)]
    named: dict[tuple[str | None, str | None, str], str | None] = {}
    for move in moves:
        place = (move.spec.environment, move.spec.deployment, move.spec.alias)
        assert move.spec.before == named.get(place)
        assert move.spec.after != move.spec.before
        named[place] = move.spec.after


@given(st.lists(ACTS, max_size=25))
def test_a_place_without_champion_and_challenger_is_forgotten(
    acts: list[tuple[object, ...]],
) -> None:
    state, _ = play(acts)
    assert all(entry.champion or entry.challenger for entry in state.status.serving)
    places = [(entry.environment, entry.deployment) for entry in state.status.serving]
    assert places == sorted(set(places))
