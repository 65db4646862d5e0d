"""What MLflow's clients change: nothing is used twice, nothing is lost, nothing points nowhere."""

from __future__ import annotations

import contextlib
import posixpath
import urllib.parse
from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from modelplane.decisions.aliases import Mover, move_alias
from modelplane.decisions.mlflow_changes import (
    Deployed,
    NewVersion,
    create_model,
    create_version,
    move_to_stage,
    remove_model,
    rename_model,
)
from modelplane.decisions.mlflow_registry import STAGES, MlflowError, check_new_name, show_version
from modelplane.decisions.mlflow_sources import check_source
from modelplane.decisions.registration import free_version
from modelplane.resources.meta import Subject, check_model_name
from modelplane.resources.model import Model, ModelVersion

NOW = datetime(2026, 11, 17, 14, 2, tzinfo=UTC)
ALICE = Subject(name="alice")
MOVER = Mover("alice", NOW + timedelta(hours=1), "renamed")
NOBODY = Deployed((), ())
ALIASES = st.dictionaries(st.sampled_from("abcdef"), st.integers(0, 5), max_size=6)


def register(name: str, count: int, names: set[str]) -> tuple[Model, list[ModelVersion]]:
    """A model with some versions; `names` are those of versions that were, and grow."""
    model, versions = create_model(name, {}, "", NOW, moves=()), []
    for number in range(count):
        new = NewVersion(f"s3://b/{number}", tags={"n": str(number)})
        version, model = create_version(model, names, new, ALICE, NOW)
        names.add(version.metadata.name)
        versions.append(version)
    return model, versions


@given(number=st.integers(1, 9), used=st.sets(st.integers(0, 8)))
def test_a_semantic_version_is_used_once(number: int, used: set[int]) -> None:
    names = {f"fraud@{number}.0.{patch}" for patch in used}
    found = free_version("fraud", number, names)
    assert f"fraud@{found}" not in names
    assert found == f"{number}.0.{min(set(range(10)) - used)}"


@given(lives=st.lists(st.integers(0, 4), max_size=4))
def test_each_life_of_a_name_numbers_from_one(lives: list[int]) -> None:
    names: set[str] = set()
    for count in lives:
        model, versions = register("fraud", count, names)
        assert [v.spec.number for v in versions] == list(range(1, count + 1))
        assert model.status.last_number == count
    assert len(names) == sum(lives)


@given(count=st.integers(1, 5), aliases=ALIASES, taken=st.sets(st.integers(1, 5)))
def test_a_renamed_model_is_the_same_under_another_name(
    count: int, aliases: dict[str, int], taken: set[int]
) -> None:
    model, versions = register("old", count, set())
    for alias, at in aliases.items():
        model = move_alias(model, alias, versions[at % count].spec.version, MOVER).model
    names = {f"new@{number}.0.0" for number in taken}
    before, _ = register("new", 1, set())
    moves_before = move_alias(before.with_status(moves=6), "x", "1.0.0", MOVER).moves
    new = create_model("new", {}, "", NOW, moves=moves_before)
    renamed = rename_model(model, versions, new, names, MOVER)
    assert not names & {v.metadata.name for v in renamed.versions}
    numbers = {v.spec.version: v.spec.number for v in renamed.versions}
    old_numbers = {v.spec.version: v.spec.number for v in versions}
    after = {a: numbers[to] for a, to in renamed.model.status.aliases.items()}
    assert after == {a: old_numbers[to] for a, to in model.status.aliases.items()}
    assert [m.metadata.name for m in renamed.moves] == [
        f"new@{8 + n:08d}" for n in range(len(after))
    ]
    for old, copy in zip(versions, renamed.versions, strict=True):
        shown = {**show_version(old), "name": "new"}
        shown["last_updated_timestamp"] = int(MOVER.at.timestamp() * 1000)
        assert show_version(copy) == shown
    removal = remove_model(model, versions, NOBODY, MOVER)
    assert all(v.status.deleted_at == MOVER.at for v in removal.buried)
    assert {m.spec.alias for m in removal.moves} == set(model.status.aliases)
    assert all(m.spec.after is None for m in removal.moves)


@given(
    stages=st.lists(st.sampled_from(list(STAGES.values())), min_size=1, max_size=6),
    to=st.sampled_from(["Staging", "Production"]),
    archive=st.booleans(),
)
def test_a_transition_leaves_one_in_its_stage_when_it_archives(
    stages: list[str], to: str, archive: bool
) -> None:
    _, versions = register("fraud", len(stages), set())
    versions = [v.with_status(stage=s) for v, s in zip(versions, stages, strict=True)]
    changed = move_to_stage(versions[0], versions[1:], STAGES[to.lower()], NOW, archive=archive)
    now = {v.metadata.name: v for v in (*versions, *changed)}
    inside = [v for v in now.values() if v.status.stage == to]
    assert changed[0].status.stage == to
    assert len(inside) == (1 if archive else 1 + stages[1:].count(to))
    untouched = {v.metadata.name for v in versions} - {v.metadata.name for v in changed}
    assert all(now[n] in versions for n in untouched)


SOURCES = st.one_of(
    st.text(max_size=20),
    st.lists(
        st.sampled_from(
            ["s3:", "//", "/", "b", "..", "%2e%2e", "models:", "runs:", "m-1", ".", "r", "["]
        ),
        max_size=8,
    ).map("".join),
)


@given(source=SOURCES, run_id=st.sampled_from(["", "r"]), model_id=st.sampled_from(["", "m-1"]))
def test_no_source_leads_out_of_where_it_seems_to_be(
    source: str, run_id: str, model_id: str
) -> None:
    with contextlib.suppress(MlflowError):
        check_source(source, run_id, model_id)
        parsed = urllib.parse.urlparse(source)
        if parsed.scheme not in {"", "file"}:
            plain = urllib.parse.unquote(urllib.parse.unquote(parsed.path))
            assert ".." not in posixpath.normpath(plain).split("/")
            assert ".." not in plain.split("/")


@given(name=st.text(max_size=30))
def test_every_name_that_is_taken_is_one_here(name: str) -> None:
    with contextlib.suppress(MlflowError):
        assert check_model_name(check_new_name(name)) == name


@pytest.mark.parametrize("source", ["/models/1", "file:///models/1", "models/1"])
def test_a_path_of_the_machine_needs_a_run_that_it_is_said_to_be_in(source: str) -> None:
    with pytest.raises(MlflowError, match="local path"):
        check_source(source, "", "")
    check_source(source, "r", "")
