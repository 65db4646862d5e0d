"""Drift, as a call. A part of `Client`; holds no rules."""

from __future__ import annotations

from modelplane.client.calls import Call, resource_path
from modelplane.client.certificates import read_part
from modelplane.client.resources import ResourceClient
from modelplane.decisions.drift_report import DriftReport
from modelplane.resources.meta import DEFAULT_ENVIRONMENT
from modelplane.resources.model_deployment import ModelDeployment


class DriftClient(ResourceClient):
    """Asks whether inputs and outputs are still as they were."""

    def drift(self, deployment: str, environment: str = DEFAULT_ENVIRONMENT) -> DriftReport:
        """Return what the last look at each version of a deployment found."""
        call = Call(
            "GET",
            resource_path(ModelDeployment, deployment, ":drift"),
            {"environment": environment},
        )
        return read_part(DriftReport, self._connection.send(call))
