"""Live quality, as a call. A part of `Client`; holds no rules."""

from __future__ import annotations

from modelplane.client.calls import Call, resource_path
from modelplane.client.certificates import read_part
from modelplane.client.resources import ResourceClient
from modelplane.decisions.quality import QualityReport
from modelplane.resources.meta import DEFAULT_ENVIRONMENT
from modelplane.resources.model_deployment import ModelDeployment


class QualityClient(ResourceClient):
    """Asks how right versions are."""

    def quality(
        self,
        deployment: str,
        environment: str = DEFAULT_ENVIRONMENT,
        *,
        part: str | None = None,
    ) -> QualityReport:
        """Return figures by version and slice, as far as labels tell.

        Parameters
        ----------
        part
            One slice, such as ``user.region=west``; empty: only all together; None: every one.
        """
        return read_part(
            QualityReport, self._connection.send(quality_call(deployment, environment, part))
        )


def quality_call(deployment: str, environment: str, part: str | None) -> Call:
    """Return the call that asks for a deployment's quality."""
    query = {"environment": environment}
    if part is not None:
        query["slice"] = part
    return Call("GET", resource_path(ModelDeployment, deployment, ":quality"), query)
