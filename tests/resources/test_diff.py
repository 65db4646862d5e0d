"""diff tells exactly the fields that differ."""

from __future__ import annotations

import copy
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from modelplane.resources.diff import FieldChange, diff

leaves = st.none() | st.booleans() | st.integers() | st.text(max_size=5) | st.lists(st.integers())
names = st.text("abc", min_size=1, max_size=3)
trees = st.recursive(
    leaves, lambda inner: st.dictionaries(names, inner, min_size=1, max_size=3), max_leaves=8
)
documents = st.dictionaries(names, trees, max_size=4)


@given(documents)
def test_nothing_differs_from_itself(document: dict[str, Any]) -> None:
    assert diff(document, copy.deepcopy(document)) == []


@given(documents, documents)
def test_what_is_added_one_way_is_removed_the_other(
    before: dict[str, Any], after: dict[str, Any]
) -> None:
    there, back = diff(before, after), diff(after, before)
    assert bool(there) == (before != after)
    assert {c.path for c in there if c.change == "changed"} == {
        c.path for c in back if c.change == "changed"
    }


@given(documents, names, st.integers())
def test_one_change_is_one_change(document: dict[str, Any], name: str, value: int) -> None:
    before = {**document, name: value}
    after = {**document, name: value + 1}
    assert diff(before, after) == [FieldChange(name, "changed", value, value + 1)]


def test_additions_are_told_by_their_leaves_and_lists_as_wholes() -> None:
    before = {"spec": {"steps": [1, 2], "old": {"a": 1}}}
    after = {"spec": {"steps": [1, 3], "new": {"a": 1, "b": {"c": 2}}}}
    assert diff(before, after) == [
        FieldChange("spec.new.a", "added", after=1),
        FieldChange("spec.new.b.c", "added", after=2),
        FieldChange("spec.old", "removed", before={"a": 1}),
        FieldChange("spec.steps", "changed", [1, 2], [1, 3]),
    ]
    assert diff(None, {"a": 1}) == [FieldChange("a", "added", after=1)]
