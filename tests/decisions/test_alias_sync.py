"""Aliases in two registries: after comparing they are the same, and no move is lost."""

from __future__ import annotations

from datetime import UTC, datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from modelplane.decisions.alias_sync import (
    AliasSync,
    AliasWrite,
    SyncCase,
    TagWrite,
    compare_alias,
    newest_promotions,
    plan_tags,
    sync_aliases,
)
from modelplane.decisions.aliases import Mover, move_alias
from modelplane.decisions.external import ExternalVersion
from modelplane.resources.meta import Metadata
from modelplane.resources.model import AliasMove, AliasMoveSpec, Model, Serving

NOW = datetime(2026, 1, 5, tzinfo=UTC)
VERSIONS = {"1.0.0": 1, "2.0.0": 2, "3.0.0": 3}
ALIASES = st.dictionaries(st.sampled_from(["champion", "b", "c"]), st.sampled_from([*VERSIONS]))


def model(ours: dict[str, str], base: dict[str, str]) -> Model:
    return Model(metadata=Metadata(name="fraud")).with_status(aliases=ours, mirrored_aliases=base)


def sync(
    one: Model, theirs: dict[str, str], *, write_back: bool = True, unknown: tuple[str, ...] = ()
) -> AliasSync:
    return sync_aliases(
        one, theirs, unknown=unknown, writable=VERSIONS, write_back=write_back, source="mlflow",
        now=NOW,
    )  # fmt: skip


def replay(start: dict[str, str], moves: tuple[AliasMove, ...]) -> dict[str, str]:
    """What the records say the aliases are now; each must begin where the one before ended."""
    aliases = dict(start)
    for move in moves:
        assert aliases.get(move.spec.alias) == move.spec.before
        aliases.pop(move.spec.alias, None)
        if move.spec.after is not None:
            aliases[move.spec.alias] = move.spec.after
    return aliases


def write(theirs: dict[str, str], writes: tuple[AliasWrite, ...]) -> dict[str, str]:
    written = dict(theirs)
    for one in writes:
        written.pop(one.alias, None)
        if one.version is not None:
            written[one.alias] = one.version
    return written


@pytest.mark.parametrize(
    ("base", "ours", "theirs", "case"),
    [
        ("1", "1", "1", "same"),
        (None, "2", "2", "same"),
        ("1", "1", "2", "moved-there"),
        ("1", "1", None, "moved-there"),
        (None, None, "1", "moved-there"),
        ("1", "2", "1", "moved-here"),
        ("1", None, "1", "moved-here"),
        (None, "1", None, "moved-here"),
        ("1", "2", "3", "both-moved"),
        ("1", None, "3", "both-moved"),
        (None, "2", "3", "both-moved"),
    ],
)
def test_each_case(base: str | None, ours: str | None, theirs: str | None, case: SyncCase) -> None:
    assert compare_alias(base, ours, theirs) == case


@given(ALIASES, ALIASES, ALIASES)
def test_after_comparing_and_writing_all_are_the_same(
    base: dict[str, str], ours: dict[str, str], theirs: dict[str, str]
) -> None:
    result = sync(model(ours, base), theirs)
    after = write(theirs, result.writes)
    again = sync(result.moved.model, after)
    status = again.moved.model.status
    assert status.aliases == status.mirrored_aliases == after
    assert (again.moved.moves, again.writes, again.conflicts) == ((), (), ())
    assert not result.differing


@given(ALIASES, ALIASES, ALIASES)
def test_every_move_found_is_recorded_and_ours_wins(
    base: dict[str, str], ours: dict[str, str], theirs: dict[str, str]
) -> None:
    result = sync(model(ours, base), theirs)
    after = result.moved.model.status.aliases
    assert replay(ours, result.moved.moves) == after
    for alias in {*base, *ours, *theirs}:
        here, there = ours.get(alias), theirs.get(alias)
        outside = [
            m.spec.after
            for m in result.moved.moves
            if m.spec.alias == alias and m.spec.origin == "outside"
        ]
        moved_there = there != base.get(alias) and there != here
        assert outside == ([there] if moved_there else [])
        moved_here = here != base.get(alias)
        assert after.get(alias) == (here if moved_here else there)


@given(ALIASES, ALIASES, ALIASES, st.integers(0, 3), st.booleans())
def test_a_crash_between_any_two_steps_converges_and_doubles_no_record(
    base: dict[str, str], ours: dict[str, str], theirs: dict[str, str], written: int, commit: bool
) -> None:
    """It ends after some writes, before or after the model was committed."""
    start = model(ours, base)
    first = sync(start, theirs)
    there = write(theirs, first.writes[:written]) if commit else theirs
    stored = first.moved.model if commit else start
    second = sync(stored, there)
    end = write(there, second.writes)
    last = sync(second.moved.model, end)
    moves = (first.moved.moves if commit else ()) + second.moved.moves + last.moved.moves
    assert last.moved.model.status.aliases == end
    assert [m.spec for m in moves] == [m.spec for m in first.moved.moves]
    assert replay(ours, moves) == end


@given(ALIASES, ALIASES, ALIASES)
def test_without_leave_nothing_is_written(
    base: dict[str, str], ours: dict[str, str], theirs: dict[str, str]
) -> None:
    result = sync(model(ours, base), theirs, write_back=False)
    assert result.writes == ()
    assert result.moved.model.status.mirrored_aliases == theirs
    again = sync(result.moved.model, theirs, write_back=False)
    assert again.moved.model == result.moved.model


def test_an_alias_of_a_version_that_is_not_here_yet_waits() -> None:
    one = model({"champion": "1.0.0"}, {"champion": "1.0.0"})
    result = sync(one, {}, unknown=("champion",))
    assert result.moved.model == one
    assert result.writes == ()


def test_an_alias_of_a_version_that_is_not_there_is_not_written() -> None:
    result = sync_aliases(
        model({"a": "9.0.0"}, {}), {}, writable=VERSIONS, write_back=True, source="m", now=NOW
    )
    assert (result.writes, result.differing) == ((), ("a",))


def test_a_move_outside_says_so() -> None:
    (move,) = sync(model({}, {}), {"champion": "1.0.0"}).moved.moves
    assert (move.spec.subject, move.spec.origin) == ("mlflow", "outside")
    assert move.spec.reason == "moved outside modelplane, in mlflow"


def external(number: int, **tags: str) -> ExternalVersion:
    named = {key.replace("__", "."): value for key, value in tags.items()}
    return ExternalVersion("fraud", number, NOW, NOW, tags=named)


def serving(environment: str, champion: str, challenger: str | None = None) -> Serving:
    return Serving(
        environment=environment, deployment="d", champion=champion, challenger=challenger
    )


def test_tags_tell_where_a_version_serves_and_not_where_it_did() -> None:
    one = model({}, {}).with_status(
        serving=(serving("production", "1.0.0", "2.0.0"), serving("staging", "2.0.0"))
    )
    there = [
        external(1, modelplane__environment__production="champion", k="v"),
        external(2),
        external(3, modelplane__environment__staging="champion"),
    ]
    promotions = {"1.0.0": {"modelplane.promotion": "production/d-1"}}
    assert plan_tags(one, there, VERSIONS, promotions) == (
        TagWrite(1, "modelplane.promotion", "production/d-1"),
        TagWrite(2, "modelplane.environment.production", "challenger"),
        TagWrite(2, "modelplane.environment.staging", "champion"),
        TagWrite(3, "modelplane.environment.staging", None),
    )


def test_tags_that_are_there_are_not_written_again() -> None:
    one = model({}, {}).with_status(serving=(serving("production", "1.0.0"),))
    there = [external(1, modelplane__environment__production="champion")]
    assert plan_tags(one, there, VERSIONS, {}) == ()


def test_a_version_that_is_both_in_one_environment_is_champion() -> None:
    one = model({}, {}).with_status(
        serving=(serving("production", "1.0.0"), serving("production", "2.0.0", "1.0.0"))
    )
    (write,) = plan_tags(one, [external(1)], VERSIONS, {})
    assert write.value == "champion"


def test_the_newest_promotion_that_made_a_version_champion_counts() -> None:
    def move(number: int, after: str, promotion: str | None, alias: str = "champion") -> AliasMove:
        spec = AliasMoveSpec(
            model="fraud", alias=alias, environment="production", deployment="d", after=after,
            at=NOW, subject="ana", promotion=promotion,
        )  # fmt: skip
        return AliasMove(metadata=Metadata(name=f"fraud@{number:08d}"), spec=spec)

    moves = [
        move(3, "1.0.0", "d-3"),
        move(1, "1.0.0", "d-1"),
        move(2, "2.0.0", "d-2", "challenger"),
        move(4, "2.0.0", None),
    ]
    assert newest_promotions(moves) == {"1.0.0": ("production", "d-3")}


def test_moves_go_on_counting() -> None:
    one = move_alias(model({}, {}), "old", "1.0.0", Mover("ana", NOW)).model
    (move,) = sync(one, {"new": "2.0.0"}).moved.moves
    assert move.metadata.name == "fraud@00000002"
