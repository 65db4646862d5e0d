"""Whatever is sent to the routes of MLflow's registry, the answer is one its clients understand."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from modelplane.api.mlflow.routes import ENDPOINTS, PREFIX
from tests.api.world import ADMIN, World

pytestmark = pytest.mark.asyncio(loop_scope="module")

VALUES = st.one_of(
    st.text(max_size=12),
    st.sampled_from(["fraud", "1", "champion", "Production", "models:/fraud/1", "name = 'fraud'"]),
    st.integers(),
    st.none(),
    st.booleans(),
    st.lists(st.text(max_size=5) | st.dictionaries(st.text(max_size=5), st.text()), max_size=3),
)


@pytest.mark.slow
@settings(max_examples=30)
@given(
    calls=st.lists(
        st.tuples(st.sampled_from(ENDPOINTS), st.lists(VALUES, min_size=7, max_size=7)),
        min_size=10,
        max_size=10,
    )
)
async def test_no_request_makes_an_error_of_ours(
    shared_world: World, calls: list[tuple[Any, list[Any]]]
) -> None:
    for endpoint, drawn in calls:
        values = {p.name: v for p, v in zip(endpoint.parameters, drawn, strict=False)}
        query = {name: str(value) for name, value in values.items() if value is not None}
        reads = endpoint.method == "GET"
        response = await shared_world.http.request(
            endpoint.method,
            f"{PREFIX}/{endpoint.path}",
            headers={"authorization": f"Bearer {ADMIN}"},
            params=query if reads else None,
            content=None if reads else json.dumps(values).encode(),
        )
        assert response.status_code < 500, (endpoint.path, values, response.text)
        assert response.headers["content-type"] == "application/json"
        if response.status_code >= 400:
            assert set(response.json()) == {"error_code", "message"}
