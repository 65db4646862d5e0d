"""Plans of rollouts, asked for before they begin. A part of `Client`; holds no rules."""

from __future__ import annotations

from pydantic import ValidationError

from modelplane.client.calls import PREFIX, Call
from modelplane.client.gates import GateClient
from modelplane.decisions.preflight import RolloutPlan
from modelplane.errors import TerminalError
from modelplane.resources.manifest import canonical
from modelplane.resources.model_deployment import ModelDeployment
from modelplane.resources.traffic_policy import TrafficPolicy


class PreflightClient(GateClient):
    """Asks what a rollout would take."""

    def plan(self, declared: ModelDeployment | TrafficPolicy) -> RolloutPlan:
        """Return what rolling out a manifest would take at the present traffic.

        Changes nothing, and checks no more than that the manifest can be read; what `apply` would
        say is told by a dry run of it.
        """
        return read_plan(self.send(plan_call(declared)))


def plan_call(declared: ModelDeployment | TrafficPolicy) -> Call:
    """Return the call that asks for a plan."""
    return Call("POST", f"{PREFIX}/{ModelDeployment.plural}:plan", body=canonical(declared))


def read_plan(body: object) -> RolloutPlan:
    """Return the plan in an answer."""
    try:
        return RolloutPlan.model_validate(body)
    except ValidationError as error:
        detail = str(error).partition("\n")[0]
        raise TerminalError(
            f"the answer is none that this version of modelplane knows: {detail}",
            hint="use the same version on both sides",
        ) from None
