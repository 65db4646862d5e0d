"""Which version is meant."""

from __future__ import annotations

from contextlib import suppress
from datetime import UTC, datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from modelplane.decisions.versions import resolve_version
from modelplane.errors import InvalidResource, NotFound
from modelplane.resources.meta import Metadata
from modelplane.resources.model import ModelVersion, ModelVersionSpec, ModelVersionStatus
from modelplane.resources.revision import Artifact
from modelplane.resources.versions import version_order

NOW = datetime(2026, 3, 1, tzinfo=UTC)


def make(version: str, number: int, *, deleted: bool = False) -> ModelVersion:
    return ModelVersion(
        metadata=Metadata(name=f"fraud@{version}"),
        spec=ModelVersionSpec(
            model="fraud",
            version=version,
            number=number,
            artifact=Artifact(format="skops", digest=f"sha256:{version}"),
        ),
        status=ModelVersionStatus(deleted_at=NOW if deleted else None),
    )


STORED = [
    make("1.0.0", 1),
    make("1.10.0", 2),
    make("1.9.0", 3),
    make("2.0.0-rc.1", 4),
    make("3.0.0", 5, deleted=True),
    make("0.7.0", 7),
    make("8.0.0-alpha", 9),
]


@pytest.mark.parametrize(
    ("wanted", "found"),
    [
        ("latest", "1.10.0"),
        ("1.10.0", "1.10.0"),
        ("v1.9", "1.9.0"),
        ("2.0.0-rc.1", "2.0.0-rc.1"),
        ("2", "1.10.0"),
        ("4", "2.0.0-rc.1"),
    ],
)
def test_a_version_is_found(wanted: str, found: str) -> None:
    assert resolve_version("fraud", STORED, wanted).spec.version == found


def test_an_ambiguous_number_is_refused_rather_than_guessed() -> None:
    with pytest.raises(InvalidResource, match="ambiguous") as raised:
        resolve_version("fraud", [make("1.0.0", 2), make("2.0.0", 3)], "2")
    assert "number of 1.0.0" in raised.value.fields[0].message
    both = [make("2.0.0", 2)]
    assert resolve_version("fraud", both, "2") is both[0]


@pytest.mark.parametrize(
    ("wanted", "says"),
    [("1.11.0", "no version 1.11.0"), ("3.0.0", "was deleted"), ("12", "no version 12.0.0")],
)
def test_an_unknown_version_names_near_ones(wanted: str, says: str) -> None:
    with pytest.raises(NotFound, match=says) as raised:
        resolve_version("fraud", STORED, wanted)
    assert "1.10.0" in raised.value.hint


def test_a_model_without_versions_says_how_to_push_one() -> None:
    for stored in ([], [make("1.0.0", 1, deleted=True)]):
        with pytest.raises(NotFound) as raised:
            resolve_version("fraud", stored, "latest")
        assert "modelplane push fraud" in raised.value.hint


@given(
    versions=st.lists(
        st.tuples(st.integers(0, 20), st.integers(0, 20), st.sampled_from(["", "-rc.1", "-rc.2"])),
        min_size=1,
        unique=True,
    ),
    data=st.data(),
)
def test_latest_is_the_highest_final_version_and_every_name_finds_itself(
    versions: list[tuple[int, int, str]], data: st.DataObject
) -> None:
    stored = [make(f"{a}.{b}.0{pre}", i + 1) for i, (a, b, pre) in enumerate(versions)]
    latest = resolve_version("fraud", stored, "latest").spec.version
    final = [v.spec.version for v in stored if "-" not in v.spec.version]
    candidates = final or [v.spec.version for v in stored]
    assert latest == max(candidates, key=version_order)
    one = data.draw(st.sampled_from(stored))
    assert resolve_version("fraud", stored, one.spec.version) is one


@given(st.text(max_size=30))
def test_any_text_finds_a_version_or_is_refused(wanted: str) -> None:
    with suppress(NotFound, InvalidResource):
        assert resolve_version("fraud", STORED, wanted) in STORED
