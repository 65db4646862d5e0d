"""Which version a request meets, asked of the control plane. A part of `Client`; holds no rules."""

from __future__ import annotations

from collections.abc import Mapping

from pydantic import ValidationError

from modelplane.client.calls import Call, resource_path
from modelplane.client.gates import GateClient
from modelplane.decisions.assignment import Explanation
from modelplane.errors import TerminalError
from modelplane.resources.meta import DEFAULT_ENVIRONMENT
from modelplane.resources.model_deployment import ModelDeployment


class ExplainingClient(GateClient):
    """Asks which version a user is on."""

    def explain(
        self,
        deployment: str,
        user: str | None = None,
        *,
        environment: str = DEFAULT_ENVIRONMENT,
        headers: Mapping[str, str] | None = None,
        inputs: Mapping[str, float | str | bool] | None = None,
    ) -> Explanation:
        """Return which version a request meets, and why.

        Parameters
        ----------
        deployment, environment
            Where the request would be sent.
        user
            What tells the user apart: the value of the deployment's user header or cookie.
        headers, inputs
            What else the request would carry: its headers, and scalar fields of its body by name.

        Raises
        ------
        NotFound, Conflict
            There is no such deployment, or it serves nothing yet.
        """
        body = {"user": user, "headers": dict(headers or {}), "inputs": dict(inputs or {})}
        return read_explanation(self.send(explain_call(deployment, environment, body)))


def explain_call(deployment: str, environment: str, body: Mapping[str, object]) -> Call:
    """Return the call that asks which version a request meets; it changes nothing."""
    given = {name: value for name, value in body.items() if value is not None}
    path = resource_path(ModelDeployment, deployment, ":explain")
    return Call("POST", path, {"environment": environment}, given)


def read_explanation(body: object) -> Explanation:
    """Return the explanation in an answer."""
    try:
        return Explanation.model_validate(body)
    except ValidationError as error:
        detail = str(error).partition("\n")[0]
        raise TerminalError(
            f"the answer is none that this version of modelplane knows: {detail}",
            hint="use the same version on both sides",
        ) from None
