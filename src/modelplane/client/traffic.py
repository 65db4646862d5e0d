"""Traffic policies and what the traffic is, as calls. A part of `Client`; holds no rules."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pydantic import ValidationError

from modelplane.client.answers import Applied, read_applied
from modelplane.client.calls import PREFIX, Call, resource_path
from modelplane.client.gates import GateClient
from modelplane.decisions.traffic_report import TrafficReport
from modelplane.errors import TerminalError
from modelplane.resources.meta import DEFAULT_ENVIRONMENT
from modelplane.resources.model_deployment import ModelDeployment
from modelplane.resources.traffic_policy import TrafficPolicy


class TrafficClient(GateClient):
    """Gives versions their share of the traffic, and shows it."""

    def post_traffic_policy(
        self,
        policy: Mapping[str, Any],
        *,
        environment: str | None = None,
        dry_run: bool = False,
        reason: str = "",
    ) -> Applied[TrafficPolicy]:
        """Give a version its share of the traffic; what ended is tried again.

        Parameters
        ----------
        policy
            ``{"model_name": …, "version": …, "traffic_rule": {…}, "monitoring_hooks": […]}``, or
            a manifest of kind TrafficPolicy.
        environment
            Where, if the policy does not say.
        dry_run
            Only say what would happen.
        reason
            For the audit log.
        """
        call = post_policy_call(policy, environment, dry_run=dry_run, reason=reason)
        return read_applied(TrafficPolicy, self._connection.send(call))

    def traffic_report(
        self, deployment: str, environment: str = DEFAULT_ENVIRONMENT, *, seconds: int = 300
    ) -> TrafficReport:
        """Return who gets which version, and how each did in the last `seconds` (at most 1,800)."""
        body = self._connection.send(report_call(deployment, environment, seconds))
        try:
            return TrafficReport.model_validate_json(body)
        except ValidationError as error:
            detail = str(error).partition("\n")[0]
            raise TerminalError(
                f"the answer is none that this version of modelplane knows: {detail}",
                hint="use the same version on both sides",
            ) from None


def post_policy_call(
    policy: Mapping[str, Any], environment: str | None, *, dry_run: bool, reason: str
) -> Call:
    """Return the call that posts a policy; sent twice it does no more than once."""
    query: dict[str, str | int] = {}
    if environment is not None:
        query["environment"] = environment
    if dry_run:
        query["dryRun"] = "true"
    if reason:
        query["reason"] = reason
    return Call("POST", f"{PREFIX}/{TrafficPolicy.plural}", query, dict(policy))


def report_call(deployment: str, environment: str, seconds: int) -> Call:
    """Return the call that asks for a deployment's traffic."""
    path = resource_path(ModelDeployment, deployment, "/traffic")
    return Call("GET", path, {"environment": environment, "seconds": seconds})
