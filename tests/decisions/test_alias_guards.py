"""Guarded aliases: they name only what was promoted, and go back where they were."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from modelplane.decisions.alias_guards import guard_aliases, put_back_event
from modelplane.decisions.alias_sync import sync_aliases
from modelplane.decisions.aliases import Moved, Mover, move_alias
from modelplane.resources.model import AliasMove, Model
from tests.decisions.gates import model, policy
from tests.decisions.worlds import NOW

VERSIONS = ("1.0.0", "2.0.0", "3.0.0")
GUARD = policy(aliases=["live"])


def history(*versions: str | None, alias: str = "live") -> tuple[Model, Sequence[AliasMove]]:
    moved = Moved(model(team="risk"))
    for version in versions:
        step = move_alias(moved.model, alias, version, Mover("ana", NOW))
        moved = Moved(step.model, moved.moves + step.moves)
    return moved.model, moved.moves


def guarded(of: Model, moves: Sequence[AliasMove], promoted: set[str], *policies: object) -> Model:
    found = guard_aliases(
        of, policies or [GUARD], {"production": promoted},  # type: ignore[arg-type]
        moves=moves, living=VERSIONS, now=NOW,
    )  # fmt: skip
    return found.moved.model


def test_it_goes_back_to_the_last_version_that_may_have_it() -> None:
    of, moves = history("1.0.0", "2.0.0", None, "3.0.0")
    assert guarded(of, moves, {"1.0.0"}).status.aliases == {"live": "1.0.0"}
    assert guarded(of, moves, {"1.0.0", "2.0.0"}).status.aliases == {"live": "2.0.0"}
    assert guarded(of, moves, set()).status.aliases == {}
    assert guarded(of, moves, {"3.0.0"}) == of


def test_the_move_says_who_and_why_and_people_are_told() -> None:
    of, moves = history("1.0.0", "3.0.0")
    found = guard_aliases(
        of, [GUARD], {"production": {"1.0.0"}}, moves=moves, living=VERSIONS, now=NOW
    )
    (move,) = found.moved.moves
    assert move.spec.subject == "system:policy"
    assert (move.spec.before, move.spec.after) == ("3.0.0", "1.0.0")
    assert move.spec.reason == "policy guard: 3.0.0 was not promoted to production"
    event = put_back_event(of, found.put_back[0], NOW)
    assert (event.type, event.team, event.data["to"]) == ("alias.put_back", "risk", "1.0.0")


def test_a_version_that_was_deleted_does_not_come_back() -> None:
    of, moves = history("1.0.0", "2.0.0", "3.0.0")
    found = guard_aliases(
        of, [GUARD], {"production": {"1.0.0", "2.0.0"}}, moves=moves, living=["1.0.0"], now=NOW
    )
    assert found.moved.model.status.aliases == {"live": "1.0.0"}


def test_every_policy_that_guards_it_must_agree() -> None:
    of, moves = history("1.0.0", "2.0.0")
    both = [GUARD, policy("other", aliases=["live"], environments=["staging"])]
    promoted = {"production": {"1.0.0", "2.0.0"}, "staging": {"1.0.0"}}
    found = guard_aliases(of, both, promoted, moves=moves, living=VERSIONS, now=NOW)
    assert found.moved.model.status.aliases == {"live": "1.0.0"}
    assert found.put_back[0].policy == "other"


def test_other_aliases_and_other_models_are_left_alone() -> None:
    of, moves = history("3.0.0", alias="free")
    assert guarded(of, moves, set()) == of
    of, moves = history("3.0.0")
    elsewhere = policy(aliases=["live"], models={"names": ["fraud"]})
    assert guarded(of, moves, set(), elsewhere) == of


@given(
    st.lists(st.sampled_from([*VERSIONS, None]), max_size=6),
    st.sets(st.sampled_from(VERSIONS)),
)
def test_afterwards_it_names_what_it_may_or_nothing_and_stays(
    versions: list[str | None], promoted: set[str]
) -> None:
    of, moves = history(*versions)
    after = guarded(of, moves, promoted)
    assert after.status.aliases.get("live") in {*promoted, None}
    assert guarded(after, moves, promoted) == after


@pytest.mark.parametrize("promoted", [{"1.0.0"}, set()])
def test_what_was_moved_in_a_watched_registry_is_written_back_there(promoted: set[str]) -> None:
    of, moves = history("1.0.0")
    of = of.with_status(mirrored_aliases={"live": "1.0.0"})
    found = sync_aliases(
        of, {"live": "3.0.0"}, writable=VERSIONS, write_back=True, source="theirs", now=NOW
    )
    taken = found.moved.model
    assert taken.status.aliases == {"live": "3.0.0"}
    after = guarded(taken, [*moves, *found.moved.moves], promoted)
    again = sync_aliases(
        after, {"live": "3.0.0"}, writable=VERSIONS, write_back=True, source="theirs", now=NOW
    )
    assert [(w.alias, w.version) for w in again.writes] == [("live", next(iter(promoted), None))]
