"""The client for scripts and people: the CLI, and ``from modelplane import Client``.

Holds no rules: requests come from `calls`, answers go through `answers`.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping
from typing import Any, TypeVar

import httpx

from modelplane.client import calls
from modelplane.client.answers import (
    Applied,
    Prediction,
    read_applied,
    read_object,
    read_prediction,
)
from modelplane.client.calls import Call
from modelplane.client.certificates import authorities_call, read_part, rotate_call
from modelplane.client.drift import DriftClient
from modelplane.client.explaining import ExplainingClient
from modelplane.client.feedback import FeedbackClient
from modelplane.client.playbooks import PlaybookClient
from modelplane.client.preflight import PreflightClient
from modelplane.client.quality import QualityClient
from modelplane.client.routed import is_routed
from modelplane.client.traffic import TrafficClient
from modelplane.client.training import TrainingClient
from modelplane.client.transport import (
    STREAM_TIMEOUT,
    gateway_url,
    predict_request,
)
from modelplane.errors import TerminalError, TransientError
from modelplane.ports.store import AuditRecord
from modelplane.resources.certificates import AuthoritiesStatus
from modelplane.resources.environment import Environment
from modelplane.resources.meta import DEFAULT_ENVIRONMENT, Resource
from modelplane.resources.model_deployment import ModelDeployment
from modelplane.resources.promotion import FINISHED_PROMOTION, Promotion
from modelplane.resources.rollout import Rollout
from modelplane.resources.token import Token

R = TypeVar("R", bound=Resource[Any, Any])

_POLL_S = 0.25


class Client(
    ExplainingClient,
    PreflightClient,
    PlaybookClient,
    TrafficClient,
    TrainingClient,
    QualityClient,
    DriftClient,
    FeedbackClient,
):
    """Speaks to the API; use it as a context manager, or `close` it.

    Parameters
    ----------
    url, token, state
        Where the API is and what opens it; see `endpoint.find_endpoint`.
    timeout_s
        How long one request may take to connect, and to go on after each pause.
    transport
        Replaces the network, in tests.

    Examples
    --------
    >>> with Client() as client:  # doctest: +SKIP
    ...     client.push("fraud", version="1.2.0", artifact="model.skops", metrics={"auc": 0.93})
    ...     client.promote("fraud", "1.2.0", to="staging")
    """

    # -- certificates ---------------------------------------------------------------------

    def authorities(self) -> AuthoritiesStatus:
        """Return how the certificate authorities behind mutual TLS stand."""
        return read_part(AuthoritiesStatus, self._connection.send(authorities_call()))

    def rotate_authority(self, *, reason: str = "") -> AuthoritiesStatus:
        """Begin to hand over to a new authority; raises `Conflict` while another one joins."""
        return read_part(AuthoritiesStatus, self._connection.send(rotate_call(reason)))

    # -- deployments ----------------------------------------------------------------------

    def promote(
        self,
        deployment: str,
        version: str | None = None,
        *,
        to: str = DEFAULT_ENVIRONMENT,
        reason: str = "",
    ) -> Applied[ModelDeployment]:
        """Ask that environment `to` run `version` (left out: what serves before it)."""
        call = calls.act(
            ModelDeployment, deployment, "promote", None,
            {"version": version, "to": to, "reason": reason},
        )  # fmt: skip
        return read_applied(ModelDeployment, self._connection.send(call))

    def undo(
        self, deployment: str, environment: str = DEFAULT_ENVIRONMENT, *, reason: str = ""
    ) -> Applied[ModelDeployment]:
        """Go back to the revision that was stable before the last finished rollout."""
        call = calls.act(ModelDeployment, deployment, "undo", environment, {"reason": reason})
        return read_applied(ModelDeployment, self._connection.send(call))

    def pause(
        self,
        deployment: str,
        environment: str = DEFAULT_ENVIRONMENT,
        *,
        reason: str = "",
        rollout: str | None = None,
        version: str | None = None,
    ) -> Applied[Rollout]:
        """Keep the running rollout's weight as it is.

        Where several run, `rollout` or `version` says which is meant.
        """
        which = {"rollout": rollout, "version": version}
        return self._ask_of_rollout(deployment, "pause", environment, reason, **which)

    def resume(
        self,
        deployment: str,
        environment: str = DEFAULT_ENVIRONMENT,
        *,
        reason: str = "",
        rollout: str | None = None,
        version: str | None = None,
    ) -> Applied[Rollout]:
        """Let a paused rollout go on; `rollout` or `version` as for `pause`."""
        which = {"rollout": rollout, "version": version}
        return self._ask_of_rollout(deployment, "resume", environment, reason, **which)

    def promote_rollout(
        self,
        deployment: str,
        environment: str = DEFAULT_ENVIRONMENT,
        *,
        reason: str = "",
        rollout: str | None = None,
        version: str | None = None,
    ) -> Applied[Rollout]:
        """Finish a rollout now, without more evidence; `rollout` or `version` as for `pause`."""
        which = {"rollout": rollout, "version": version}
        return self._ask_of_rollout(deployment, "promote-rollout", environment, reason, **which)

    def rollback(
        self,
        deployment: str,
        environment: str = DEFAULT_ENVIRONMENT,
        *,
        reason: str = "",
        rollout: str | None = None,
        version: str | None = None,
    ) -> Applied[Rollout]:
        """Take a running rollout back; `rollout` or `version` as for `pause`."""
        which = {"rollout": rollout, "version": version}
        return self._ask_of_rollout(deployment, "rollback", environment, reason, **which)

    def _ask_of_rollout(
        self, deployment: str, verb: str, environment: str, reason: str, **which: str | None
    ) -> Applied[Rollout]:
        named = {key: value for key, value in which.items() if value is not None}
        body = {"reason": reason, **named}
        call = calls.act(ModelDeployment, deployment, verb, environment, body)
        return read_applied(Rollout, self._connection.send(call))

    def wait_for_rollout(
        self,
        deployment: str,
        environment: str = DEFAULT_ENVIRONMENT,
        *,
        timeout_s: float = 600.0,
        on_change: Callable[[Rollout], None] | None = None,
    ) -> Rollout | None:
        """Wait until the deployment's latest promotion is over and in force; return its rollout.

        Parameters
        ----------
        deployment, environment
            What to wait for.
        timeout_s
            How long at the most.
        on_change
            Called with the rollout each time it has changed.

        Returns
        -------
        Rollout or None
            Finished, in whatever phase; None when the promotion needed no rollout.

        Raises
        ------
        TerminalError
            The promotion ended without a rollout and without success.
        TransientError
            It took longer than `timeout_s`; it goes on.
        """
        until_s = time.monotonic() + timeout_s
        seen = 0
        while True:
            current = self.get(ModelDeployment, deployment, environment)
            if current.status.promotion is None:
                return None
            promotion = self.get(Promotion, current.status.promotion, environment)
            name = promotion.status.rollout
            rollout = self.find(Rollout, name, environment) if name else None
            if rollout is not None and rollout.metadata.resource_version != seen:
                seen = rollout.metadata.resource_version
                if on_change is not None:
                    on_change(rollout)
            if promotion.status.phase in FINISHED_PROMOTION and is_routed(self, promotion):
                if rollout is None and promotion.status.phase != "Done":
                    status = promotion.status
                    raise TerminalError(f"{name or deployment}: {status.phase}: {status.message}")
                return rollout
            if time.monotonic() > until_s:
                raise TransientError(f"{deployment} is still rolling out after {timeout_s:g} s")
            time.sleep(_POLL_S)

    def traffic(
        self, deployment: str, environment: str = DEFAULT_ENVIRONMENT, *, seconds: int = 60
    ) -> dict[str, Any]:
        """Return what each live version answered in the last `seconds`.

        `metrics` of a version holds what its model servers said of themselves, by replica.
        """
        path = calls.resource_path(ModelDeployment, deployment, ":traffic")
        query: dict[str, str | int] = {"environment": environment, "seconds": seconds}
        return read_object(self._connection.send(Call("GET", path, query)))

    def predict(
        self,
        deployment: str,
        request: Mapping[str, Any],
        *,
        environment: str = DEFAULT_ENVIRONMENT,
        user_id: str | None = None,
        gateway: str | None = None,
        timeout_s: float = 60.0,
    ) -> Prediction:
        """Send one Open Inference Protocol request through the environment's gateway."""
        if gateway is None:
            gateway = gateway_url(self.get(Environment, environment), self.endpoint)
        url = f"{gateway}/v2/models/{deployment}/infer"
        sent = predict_request(url, request, self.endpoint, user_id, timeout_s)
        answer = self._connection.send_request(sent, gateway)
        return read_prediction(answer.status_code, answer.headers, answer.content, url)

    # -- tokens and audit -----------------------------------------------------------------

    def create_token(
        self, name: str, groups: tuple[str, ...] = (), *, expires_in: str | None = None
    ) -> tuple[Token, str, tuple[str, ...]]:
        """Make a token; returns it, its secret, which is shown this once, and warnings."""
        answer = self.act(Token, name, "create", groups=list(groups), expiresIn=expires_in)
        token = Token.model_validate(answer["resource"])
        return token, str(answer["secret"]), tuple(answer.get("warnings", ()))

    def revoke_token(self, name: str) -> None:
        """Make a token worthless; raises `NotFound`."""
        self.act(Token, name, "revoke")

    def audit(
        self,
        after: int = 0,
        limit: int = 100,
        *,
        last: int | None = None,
        kind: str | None = None,
        name: str | None = None,
        environment: str | None = None,
    ) -> tuple[AuditRecord, ...]:
        """Return audit records in order: the first `limit` with a sequence above `after`.

        With `last`, the newest that many instead (1 to 1,000).
        """
        call = calls.audit(after, limit, last=last, kind=kind, name=name, environment=environment)
        data = read_object(self._connection.send(call))
        return tuple(AuditRecord.model_validate(item) for item in data["items"])

    def verify_audit(self) -> dict[str, Any]:
        """Check the audit chain: ``{verified, records, faults: [{sequence, kind, message}]}``."""
        call = Call("GET", f"{calls.PREFIX}/audit:verify")
        return read_object(self._connection.send(call, httpx.Timeout(10.0, read=600.0)))

    def export_audit(self) -> Iterator[bytes]:
        """Yield the whole audit log as JSON lines in pieces; the last line is the signed head."""
        call = Call("GET", f"{calls.PREFIX}/audit:export")
        with self._connection.stream(call, STREAM_TIMEOUT) as response:
            yield from response.iter_bytes()
