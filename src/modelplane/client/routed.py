"""Whether the gateway already does what a promotion that succeeded says.

A promotion is done when the control plane has decided; the gateway acknowledges the route a
moment later. Whoever waited for the one wants to send requests at once, so waits for both.
"""

from __future__ import annotations

from typing import Any, Protocol, TypeVar

from modelplane.resources.meta import Resource
from modelplane.resources.model_deployment import ModelDeployment
from modelplane.resources.promotion import Promotion
from modelplane.resources.traffic_split import TrafficSplit

R = TypeVar("R", bound=Resource[Any, Any])


class _Finder(Protocol):
    def find(self, kind: type[R], name: str, environment: str | None = None) -> R | None: ...


def is_routed(client: _Finder, promotion: Promotion) -> bool:
    """Return whether requests meet the revision of a finished promotion, if it succeeded.

    A promotion that was followed by another one meanwhile has had its time.
    """
    spec, environment = promotion.spec, promotion.metadata.environment
    deployment = client.find(ModelDeployment, spec.deployment, environment)
    latest = deployment.status.promotion if deployment else None
    if promotion.status.phase != "Done" or latest != promotion.metadata.name:
        return True
    split = client.find(TrafficSplit, spec.deployment, environment)
    if split is None:
        return False
    revisions = {v.revision for v in split.spec.variants if v.weight_pct > 0 and v.endpoints}
    acknowledged = split.status.accepted_generation == split.metadata.generation
    return acknowledged and spec.revision.digest in revisions
