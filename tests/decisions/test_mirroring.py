"""Copies of requests for other environments: refused where no gateway lets them in."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from modelplane.decisions.mirroring import check_mirrors, decide_remotes
from modelplane.errors import InvalidResource
from modelplane.resources.environment import Environment, EnvironmentSpec, Gateway, GatewayMesh
from modelplane.resources.meta import Metadata
from modelplane.resources.model_deployment import MirrorTo, ModelDeployment, ModelDeploymentSpec


def environment(
    name: str, mesh: GatewayMesh | None = None, order: int = 10, **spec: Any
) -> Environment:
    gateway = Gateway(port=7081, mesh=mesh)
    return Environment(
        metadata=Metadata(name=name),
        spec=EnvironmentSpec(stage="staging", order=order, gateway=gateway, **spec),
    )


def deployment(*to: str) -> ModelDeployment:
    mirrors = tuple(MirrorTo(environment=name, percentage=10) for name in to)
    return ModelDeployment(
        metadata=Metadata(name="fraud", environment="production"),
        spec=ModelDeploymentSpec(model="fraud", mirror_to=mirrors),
    )


PRODUCTION = environment("production", order=20, mtls="STRICT")
OPEN = environment("staging", GatewayMesh(port=7091, allow=("production",)))


def named(*environments: Environment) -> dict[str, Environment]:
    return {one.metadata.name: one for one in environments}


def test_copies_go_to_the_mesh_of_a_gateway_that_lets_them_in() -> None:
    environments = named(PRODUCTION, OPEN)
    check_mirrors(deployment("staging"), PRODUCTION, environments)
    (remote,) = decide_remotes(deployment("staging"), environments)
    assert (remote.environment, remote.address, remote.percentage) == (
        "staging",
        "127.0.0.1:7091",
        10,
    )
    by_id = GatewayMesh(port=7091, allow=("spiffe://d/environments/production/gateway",))
    check_mirrors(deployment("staging"), PRODUCTION, named(environment("staging", by_id)))


@pytest.mark.parametrize(
    ("to", "own", "other", "why"),
    [
        (("production",), PRODUCTION, OPEN, "the deployment's own"),
        (("stagin",), PRODUCTION, OPEN, "unknown environment"),
        (
            ("staging",),
            PRODUCTION,
            environment("staging", GatewayMesh(port=7091, allow=("production",)), 20),
            "before production",
        ),
        (("staging", "staging"), PRODUCTION, OPEN, "named twice"),
        (("staging",), environment("production", order=20), OPEN, "has no certificate"),
        (("staging",), PRODUCTION, environment("staging"), "lets no other in"),
        (
            ("staging",),
            PRODUCTION,
            environment("staging", GatewayMesh(port=7091, allow=("other",))),
            "does not let production in",
        ),
    ],
)
def test_what_no_gateway_would_let_in_is_refused(
    to: tuple[str, ...], own: Environment, other: Environment, why: str
) -> None:
    with pytest.raises(InvalidResource, match="cannot be copied") as refused:
        check_mirrors(deployment(*to), own, named(own, other))
    assert why in str(refused.value)


def test_an_environment_that_closed_its_mesh_gets_no_copies() -> None:
    assert decide_remotes(deployment("staging"), named(PRODUCTION, environment("staging"))) == ()


@given(st.lists(st.integers(0, 3), min_size=3, max_size=3), st.lists(st.booleans(), min_size=9))
def test_no_copy_ever_comes_back(orders: list[int], wanted: list[bool]) -> None:
    """Whatever environments and deployments became after they were checked."""
    names = ("a", "b", "c")
    mesh = GatewayMesh(port=7091, allow=names)
    environments = named(
        *(environment(name, mesh, order) for name, order in zip(names, orders, strict=True))
    )
    edges = set()
    for i, source in enumerate(names):
        to = tuple(name for j, name in enumerate(names) if wanted[3 * i + j])
        mirrors = tuple(MirrorTo(environment=name) for name in to)
        declared = ModelDeployment(
            metadata=Metadata(name="fraud", environment=source),
            spec=ModelDeploymentSpec(model="fraud", mirror_to=mirrors),
        )
        edges |= {(source, one.environment) for one in decide_remotes(declared, environments)}
    reached = edges
    for _ in names:
        reached = reached | {(a, d) for a, b in reached for c, d in edges if b == c}
    assert all(a != b for a, b in reached)
