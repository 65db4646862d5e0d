"""Pages hold together: the whole list once, while things come and go; foreign tokens refused."""

from __future__ import annotations

import base64
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from modelplane.decisions.pages import cut
from modelplane.decisions.search import compile_filter, compile_order
from modelplane.errors import InvalidResource
from modelplane.resources.meta import Metadata
from modelplane.resources.model import ModelVersion, ModelVersionSpec

ORDERS = ["", "metrics.a", "metrics.a DESC, name DESC", "version DESC", "author, number DESC"]


def version(number: int, value: float | None = None, author: str = "") -> ModelVersion:
    metrics = {} if value is None else {"a": value}
    spec = ModelVersionSpec(
        model="m", version=f"{number}.0.0", number=number, metrics=metrics, author=author
    )
    return ModelVersion(metadata=Metadata(name=f"m@{number}.0.0"), spec=spec)


VERSIONS = st.lists(
    st.builds(
        version,
        st.integers(1, 40),
        st.none() | st.sampled_from([0.0, -0.5, 1e300]),
        st.sampled_from(["", "x"]),
    ),
    unique_by=lambda v: v.spec.number,
)


def names(resources: Any) -> list[str]:
    return [resource.metadata.name for resource in resources]


@given(VERSIONS, st.sampled_from(ORDERS), st.integers(1, 7), st.booleans())
def test_pages_together_are_the_list(
    versions: list[ModelVersion], text: str, limit: int, plain: bool
) -> None:
    order = compile_order(text, ModelVersion)
    wanted = compile_filter("number > 2", ModelVersion)
    ordered = compile_order("", ModelVersion).sort(versions) if plain else versions
    seen, token = [], ""
    while True:
        page = cut(ordered, order, limit=limit, token=token, wanted=wanted, in_plain_order=plain)
        seen += names(page.items)
        token = page.token
        if not token:
            break
        assert len(page.items) == limit
    assert seen == names(order.sort(wanted.select(versions)))


@given(VERSIONS, VERSIONS, st.sampled_from(ORDERS), st.integers(1, 5))
def test_what_stays_comes_once_whatever_comes_and_goes(
    before: list[ModelVersion], after: list[ModelVersion], text: str, limit: int
) -> None:
    kept = {v.metadata.name: v for v in before}
    later = [kept.get(v.metadata.name, v) for v in after]
    order = compile_order(text, ModelVersion)
    first = cut(before, order, limit=limit)
    seen, token = names(first.items), first.token
    while token:
        page = cut(later, order, limit=limit, token=token)
        seen += names(page.items)
        token = page.token
    assert len(seen) == len(set(seen))
    if first.token:
        assert set(kept) & set(names(later)) <= set(seen)


def test_a_token_of_another_list_is_refused() -> None:
    versions = [version(n) for n in range(1, 6)]
    order = compile_order("number", ModelVersion)
    token = cut(versions, order, limit=2, query="a").token
    assert names(cut(versions, order, limit=2, token=token, query="a").items) == [
        "m@3.0.0", "m@4.0.0"
    ]  # fmt: skip
    with pytest.raises(InvalidResource, match="not a token"):
        cut(versions, order, limit=2, token=token, query="b")
    with pytest.raises(InvalidResource, match="not a token"):
        cut(versions, compile_order("number DESC", ModelVersion), limit=2, token=token, query="a")
    wanted = compile_filter("number > 0", ModelVersion)
    with pytest.raises(InvalidResource, match="not a token"):
        cut(versions, order, limit=2, token=token, query="a", wanted=wanted)


@given(st.text(max_size=50) | st.binary(max_size=50).map(lambda b: base64.b64encode(b).decode()))
def test_what_is_no_token_is_refused(token: str) -> None:
    versions = [version(n) for n in range(1, 6)]
    order = compile_order("metrics.a", ModelVersion)
    if token:
        with pytest.raises(InvalidResource):
            cut(versions, order, limit=2, token=token)


def test_a_forged_place_is_refused() -> None:
    versions = [version(n, 0.5) for n in range(1, 6)]
    order = compile_order("metrics.a", ModelVersion)
    token = cut(versions, order, limit=2).token
    text = base64.urlsafe_b64decode(token + "=" * (-len(token) % 4)).decode()
    for place in ('"x"', "[1]", "{}", '0.5,"m"'):
        forged = base64.urlsafe_b64encode(text.replace("0.5", place).encode()).decode()
        with pytest.raises(InvalidResource):
            cut(versions, order, limit=2, token=forged)
