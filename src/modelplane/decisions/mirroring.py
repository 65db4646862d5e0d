"""Copies of requests for other environments: whether they may be, and where they go. Pure.

Called when a deployment is applied, and by `controllers.traffic`.
"""

from __future__ import annotations

from collections.abc import Mapping

from modelplane.decisions.identity import SCHEME
from modelplane.errors import FieldError, InvalidResource
from modelplane.resources.environment import Environment
from modelplane.resources.fields import suggest
from modelplane.resources.model_deployment import ModelDeployment
from modelplane.resources.traffic_split import SplitRemote


def check_mirrors(
    deployment: ModelDeployment, own: Environment, environments: Mapping[str, Environment]
) -> None:
    """Refuse mirrors that no gateway would let in; raises `InvalidResource`.

    Parameters
    ----------
    deployment
        As declared.
    own
        Its environment.
    environments
        All of them, by name.
    """
    faults = []
    seen: set[str] = set()
    for index, mirror in enumerate(deployment.spec.mirror_to):
        path = f"spec.mirrorTo[{index}].environment"
        fault = _fault(mirror.environment, own, environments)
        if mirror.environment in seen:
            fault = "it is named twice"
        seen.add(mirror.environment)
        if fault:
            faults.append(FieldError(path, fault))
    if faults:
        raise InvalidResource("requests cannot be copied there", faults)


def _fault(name: str, own: Environment, environments: Mapping[str, Environment]) -> str:
    source = own.metadata.name
    if name == source:
        return "it is the deployment's own; a shadow rollout copies requests within one"
    if name not in environments:
        return f"unknown environment; {suggest(name, environments)}"
    if not _is_before(environments[name], own):
        return (
            f"copies go to environments before {source} on the way to production (spec.order), "
            "so that none comes back"
        )
    if own.spec.mtls != "STRICT" and own.spec.gateway.mesh is None:
        return (
            f"the gateway of {source} has no certificate: set mtls: STRICT or gateway.mesh in "
            f"Environment {source}"
        )
    mesh = environments[name].spec.gateway.mesh
    if mesh is None:
        return f"the gateway of {name} lets no other in: set gateway.mesh in Environment {name}"
    # SPIFFE ids are of trust domains that only the authority knows: the gateway decides.
    if source not in mesh.allow and not any(peer.startswith(SCHEME) for peer in mesh.allow):
        return f"the gateway of {name} does not let {source} in: add it to gateway.mesh.allow"
    return ""


def _is_before(one: Environment, other: Environment) -> bool:
    return one.spec.order < other.spec.order


def decide_remotes(
    deployment: ModelDeployment, environments: Mapping[str, Environment]
) -> tuple[SplitRemote, ...]:
    """Return where copies of a deployment's requests go now.

    Checked again, since environments change: two that copied to each other would never end.
    """
    remotes = []
    own = environments.get(deployment.metadata.environment or "")
    for mirror in deployment.spec.mirror_to:
        environment = environments.get(mirror.environment)
        mesh = environment.spec.gateway.mesh if environment is not None else None
        if mesh is not None and own and environment and _is_before(environment, own):
            host = "127.0.0.1" if mesh.host in {"0.0.0.0", "::"} else mesh.host  # noqa: S104
            remotes.append(
                SplitRemote(
                    environment=mirror.environment,
                    address=f"{host}:{mesh.port}",
                    percentage=mirror.percentage,
                )
            )
    return tuple(remotes)
