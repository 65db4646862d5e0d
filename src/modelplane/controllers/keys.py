"""Which deployment a resource belongs to: the key that most reconcilers work by."""

from __future__ import annotations

from typing import Any

from modelplane.resources.meta import Resource, ResourceKey
from modelplane.resources.model_deployment import ModelDeployment


def deployment_key(resource: Resource[Any, Any]) -> ResourceKey:
    """Return the key of the deployment that `resource` is or belongs to."""
    if isinstance(resource, ModelDeployment):
        return resource.key
    return ResourceKey("ModelDeployment", resource.metadata.environment, resource.spec.deployment)
