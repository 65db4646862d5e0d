"""The gates' part of the client: pipelines, contracts, approvals, evidence, who may do what.

A part of `Client`; holds no rules.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from datetime import datetime
from pathlib import Path
from typing import Any

from modelplane.client.answers import Applied, read_applied, read_resource
from modelplane.client.approvals import (
    answer_call,
    channel_test_call,
    delegate_call,
    mine_call,
    read_approvals,
    replay_call,
    revoke_call,
)
from modelplane.client.authorization import (
    Permission,
    can_i_call,
    read_permission,
    whoami_call,
)
from modelplane.client.calls import PREFIX, Call
from modelplane.client.contracts import (
    can_i_deploy_call,
    publish_call,
    read_deployability,
    read_pact_file,
    record_call,
)
from modelplane.client.evidence import evidence_call
from modelplane.client.pipelines import (
    CachedStage,
    cancel_call,
    explain_cache_call,
    read_cache,
    report_call,
    run_call,
)
from modelplane.client.policies import (
    AnyPolicy,
    PolicyTrial,
    analysis_replay_call,
    read_replay,
    read_trial,
    trial_call,
)
from modelplane.client.policies import replay_call as policy_replay_call
from modelplane.client.registering import RegistryClient
from modelplane.decisions.analysis_replay import AnalysisReplay
from modelplane.decisions.deployability import Deployability
from modelplane.decisions.policy_replay import PolicyReplay
from modelplane.errors import TransientError
from modelplane.resources.approval import Approval, Delegation
from modelplane.resources.contract import Contract
from modelplane.resources.gate_run import GateRun
from modelplane.resources.meta import DEFAULT_ENVIRONMENT
from modelplane.resources.notification import Notification
from modelplane.resources.strategy import Analysis

_POLL_S = 0.25


class GateClient(RegistryClient):
    """Runs pipelines, answers approvals, fetches evidence."""

    # -- who may do what ------------------------------------------------------------------

    def whoami(self) -> dict[str, Any]:
        """Return the name, the groups and the roles of the token in use."""
        return self.send(whoami_call())

    def can_i(
        self,
        verb: str,
        kind: str,
        environment: str | None = None,
        *,
        model: str | None = None,
        subject: str | None = None,
    ) -> Permission:
        """Return whether one, or the token `subject`, may do `verb` to `kind`.

        `model` is the one that the request would be about. Raises `InvalidResource` for an unknown
        verb or kind, `Forbidden` about others when one may not read tokens.
        """
        call = can_i_call(verb, kind, environment, model=model, subject=subject)
        return read_permission(self.send(call))

    # -- approvals ------------------------------------------------------------------------

    def approve(
        self, name: str, environment: str = DEFAULT_ENVIRONMENT, *, reason: str = ""
    ) -> Approval:
        """Agree to what an approval asks; raises `Forbidden`, `Conflict`."""
        call = answer_call(name, environment, "approve", reason)
        return read_resource(Approval, self._connection.send(call))

    def reject(self, name: str, environment: str = DEFAULT_ENVIRONMENT, *, reason: str) -> Approval:
        """Refuse what an approval asks, for a reason; that ends the promotion."""
        call = answer_call(name, environment, "reject", reason)
        return read_resource(Approval, self._connection.send(call))

    def my_approvals(self) -> tuple[Approval, ...]:
        """Return the open approvals that one may answer, those that expire first in front."""
        return read_approvals(self._connection.send(mine_call()))

    def delegate(
        self, to: str, until: str, *, policies: Sequence[str] = (), reason: str = ""
    ) -> Delegation:
        """Let `to` answer for oneself until ``2d`` from now or an ISO time."""
        call = delegate_call(to, until, policies, reason)
        return read_resource(Delegation, self._connection.send(call))

    def revoke_delegation(self, name: str) -> Delegation:
        """End a delegation now, and return it as it was."""
        return read_resource(Delegation, self._connection.send(revoke_call(name)))

    # -- notifications --------------------------------------------------------------------

    def replay_notification(self, name: str) -> Notification:
        """Send a dead letter again; raises `Conflict` when it is not dead."""
        return read_resource(Notification, self._connection.send(replay_call(name)))

    def test_channel(self, name: str) -> Notification:
        """Send a test to a channel; what comes of it stands in the notification's status."""
        return read_resource(Notification, self._connection.send(channel_test_call(name)))

    # -- evidence -------------------------------------------------------------------------

    def evidence(self, promotion: str, environment: str = DEFAULT_ENVIRONMENT) -> dict[str, Any]:
        """Return the signed bundle of a promotion that is over; `verify_evidence` checks it."""
        return self.send(evidence_call(promotion, environment))

    def evidence_key(self) -> str:
        """Return the public key, PEM, that evidence and the audit log's head are signed with."""
        return str(self.send(Call("GET", f"{PREFIX}/audit:head"))["publicKey"])

    # -- policies -------------------------------------------------------------------------

    def replay_policies(
        self, policies: Sequence[AnyPolicy], *, since: datetime | None = None
    ) -> PolicyReplay:
        """Say what `policies` would have decided of past promotions, in place of those applied."""
        return read_replay(self._connection.send(policy_replay_call(policies, since)))

    def replay_analysis(
        self,
        analysis: Analysis,
        environment: str,
        deployment: str | None = None,
        *,
        since: datetime | None = None,
    ) -> AnalysisReplay:
        """Say what `analysis` would have said of recorded rollouts; without a deployment, of all.

        `since` is when they ended.
        """
        call = analysis_replay_call(analysis, environment, deployment, since)
        return AnalysisReplay.model_validate(self.send(call, timeout_s=600))

    def test_policies(
        self,
        version: str,
        environment: str = DEFAULT_ENVIRONMENT,
        policies: Sequence[AnyPolicy] = (),
        *,
        deployment: str | None = None,
    ) -> PolicyTrial:
        """Say what would be decided of ``MODEL@VERSION`` now, with `policies` where given."""
        call = trial_call(version, environment, policies, deployment)
        return read_trial(self._connection.send(call))

    # -- contracts ------------------------------------------------------------------------

    def publish_contract(
        self,
        pact: str | Path | Mapping[str, Any],
        consumer_version: str,
        *,
        environments: Sequence[str] = (),
        model: str | None = None,
        reason: str = "",
    ) -> Applied[Contract]:
        """Publish a pact (a file, or its content) with the model that it names as provider.

        `environments` says where this version of the consumer is deployed; `model` which model
        is meant, where the pact calls it otherwise. The same pact again is ``unchanged``.
        """
        content = pact if isinstance(pact, Mapping) else read_pact_file(pact)
        call = publish_call(
            content, consumer_version, environments=environments, model=model, reason=reason
        )
        return read_applied(Contract, self._connection.send(call))

    def record_deployment(
        self,
        consumer: str,
        consumer_version: str,
        environment: str,
        *,
        deployed: bool = True,
        reason: str = "",
    ) -> dict[str, Any]:
        """Say that a version of a consumer is in an environment now, or not `deployed` any more.

        The consumer's other versions leave the environment.
        """
        call = record_call(
            consumer, consumer_version, environment, deployed=deployed, reason=reason
        )
        return self.send(call)

    def can_i_deploy(self, pacticipant: str, version: str, environment: str) -> Deployability:
        """Return whether a version of a model or a consumer may go to `environment`.

        `version` may be ``latest``; raises `NotFound`.
        """
        call = can_i_deploy_call(pacticipant, version, environment)
        return read_deployability(self._connection.send(call))

    # -- pipelines ------------------------------------------------------------------------

    def run_pipeline(
        self, pipeline: str, version: str, *, no_cache: bool = False, reason: str = ""
    ) -> GateRun:
        """Take ``MODEL@VERSION`` through a pipeline; `no_cache` runs every stage anew."""
        call = run_call(pipeline, version, no_cache=no_cache, reason=reason)
        return read_applied(GateRun, self._connection.send(call)).resource

    def wait_for_run(
        self,
        run: str,
        *,
        timeout_s: float = 3600.0,
        on_change: Callable[[GateRun], None] | None = None,
    ) -> GateRun:
        """Wait until a run has ended, and return it; `on_change` is called with each change.

        Raises
        ------
        TransientError
            It took longer than `timeout_s`; it goes on.
        """
        until_s, seen = time.monotonic() + timeout_s, 0
        while True:
            now = self.get(GateRun, run)
            if now.metadata.resource_version != seen and on_change is not None:
                on_change(now)
            seen = now.metadata.resource_version
            if now.finished:
                return now
            if time.monotonic() > until_s:
                raise TransientError(f"{run} has not ended after {timeout_s:g} s")
            time.sleep(_POLL_S)

    def cancel_run(self, run: str, *, reason: str = "") -> GateRun:
        """End what a run has running, and start nothing more of it."""
        body = self._connection.send(cancel_call(run, reason))
        return read_applied(GateRun, body).resource

    def explain_cache(self, pipeline: str, version: str) -> tuple[CachedStage, ...]:
        """Return which stages would be reused for ``MODEL@VERSION``, and why not the others."""
        return read_cache(self.send(explain_cache_call(pipeline, version)))

    def gate_report(self, run: str, format: str = "json") -> str:
        """Return everything that a run found: as ``json``, ``junit`` (XML) or ``html``."""
        return self._connection.send(report_call(run, format)).decode()
