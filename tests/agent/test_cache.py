"""The cache holds what was seen last, whatever was torn."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from modelplane.agent.cache import Cache
from modelplane.resources.environment import Environment, EnvironmentSpec, Gateway
from modelplane.resources.meta import Metadata
from modelplane.resources.traffic_split import TrafficSplit, TrafficSplitSpec


def environment(name: str, port: int) -> Environment:
    spec = EnvironmentSpec(stage="staging", gateway=Gateway(port=port))
    return Environment(metadata=Metadata(name=name), spec=spec)


def split(name: str = "fraud", step: int = 0) -> TrafficSplit:
    spec = TrafficSplitSpec(deployment=name, variants=(), steps={"ro": step})
    return TrafficSplit(metadata=Metadata(name=name, environment="production"), spec=spec)


@given(
    changes=st.lists(
        st.tuples(st.sampled_from("abc"), st.one_of(st.none(), st.integers(1, 9))), max_size=30
    ),
    torn=st.binary(max_size=20),
)
def test_the_last_of_each_is_found_again(
    tmp_path_factory: pytest.TempPathFactory,
    changes: list[tuple[str, int | None]],
    torn: bytes,
) -> None:
    path = tmp_path_factory.mktemp("cache") / "cache.jsonl"
    cache = Cache(path)
    expected: dict[str, Environment] = {}
    for name, port in changes:
        if port is None:
            cache.remove(environment(name, 1))
            expected.pop(name, None)
        else:
            cache.put(environment(name, port))
            expected[name] = environment(name, port)
    with path.open("ab") as file:
        file.write(torn)
    found = {resource.metadata.name: resource for resource in Cache(path).seen()}
    assert found == expected


def test_what_was_accepted_is_kept_apart(tmp_path: Path) -> None:
    path = tmp_path / "cache.jsonl"
    cache = Cache(path)
    cache.put_accepted(split(step=1))
    cache.put(split(step=2))
    again = Cache(path)
    assert again.seen() == [split(step=2)]
    assert again.accepted() == [split(step=1)]
    again.remove(split())
    assert (Cache(path).seen(), Cache(path).accepted()) == ([], [])


def test_it_does_not_grow_without_bound(tmp_path: Path) -> None:
    path = tmp_path / "cache.jsonl"
    cache = Cache(path)
    for number in range(5000):
        cache.put(split(step=number))
    assert len(path.read_bytes().splitlines()) <= 1001
    assert Cache(path).seen() == [split(step=4999)]


def test_after_a_failed_write_the_next_one_is_whole(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "cache.jsonl"
    cache = Cache(path)
    cache.put(split(step=1))
    real_open = Path.open

    def full(self: Path, mode: str = "r") -> object:
        with real_open(self, "ab") as file:
            file.write(b'["seen Traff')
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "open", full)
    cache.put(split(step=2))
    monkeypatch.setattr(Path, "open", real_open)
    cache.put(split("other", step=3))
    assert Cache(path).seen() == [split(step=1), split("other", step=3)]
