"""Carries runs of playbooks out: loads what a step is about, writes what was decided.

Decides nothing itself (`decisions.playbook`). What a step writes is committed with the status
that says so. A post to a webhook alone happens outside: it is made again when the process dies
before its outcome is written, with the same id.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from modelplane.controllers.loop import Fence
from modelplane.decisions.notifications import Delivery
from modelplane.decisions.playbook import Decision, Observed, decide, present_step
from modelplane.decisions.playbook_outcomes import AnyResource, World, effect_name, target_of
from modelplane.decisions.playbook_runs import find_first
from modelplane.decisions.playbook_starts import PLAYBOOK_LABEL
from modelplane.decisions.playbook_steps import RUN_LABEL
from modelplane.decisions.playbook_text import Unfilled, fill, fill_all, fill_query
from modelplane.decisions.promotion_events import TEAM_LABEL
from modelplane.errors import TransientError
from modelplane.ports.alerting import Querier, QueryRefused
from modelplane.ports.clock import Clock
from modelplane.ports.notifier import Message, Notifier
from modelplane.ports.outbox import add_notifications
from modelplane.ports.situations import load_active
from modelplane.ports.store import Store, Transaction
from modelplane.resources.alerting import Alert
from modelplane.resources.environment import Environment
from modelplane.resources.job import FINISHED_JOB, Job
from modelplane.resources.kinds import KINDS
from modelplane.resources.meta import Metadata, Resource, ResourceKey, Subject
from modelplane.resources.model import Model
from modelplane.resources.model_deployment import ModelDeployment
from modelplane.resources.notification import (
    Event,
    NotificationChannel,
    NotificationChannelSpec,
    WebhookReceiver,
)
from modelplane.resources.playbook import (
    CallWebhookStep,
    PlaybookRun,
    PlaybookStep,
    RunCommandStep,
    StartTrainingStep,
    Target,
    WaitForStep,
)
from modelplane.resources.replica import Replica
from modelplane.resources.rollout import Rollout
from modelplane.resources.training import TrainingRun, TrainingTrigger

SUBJECT = Subject(name="system:playbooks")
WORKERS = 4
"""How many runs may be carried on at once: a receiver that hangs holds up no other."""

POST_TIMEOUT_S = 10.0


class PlaybookController:
    """Reconciles one PlaybookRun at a time.

    Parameters
    ----------
    store, fence, clock
        The ports.
    querier
        Answers the expressions of `waitFor` and `verify`.
    poster
        Posts to webhooks, signed.
    source
        Which modelplane posts: its public address.
    """

    name = "playbooks"
    kinds: Sequence[type[Resource[Any, Any]]] = (PlaybookRun, Job, TrainingRun)

    def __init__(
        self,
        store: Store,
        fence: Fence,
        clock: Clock,
        *,
        querier: Querier,
        poster: Notifier,
        source: str = "",
    ) -> None:
        self._store = store
        self._fence = fence
        self._clock = clock
        self._querier = querier
        self._poster = poster
        self._source = source

    def keys(self, resource: Resource[Any, Any]) -> Iterable[ResourceKey]:
        """A run itself; the run whose step made a Job or a training."""
        if isinstance(resource, PlaybookRun):
            yield resource.key
        elif isinstance(resource, Job) and RUN_LABEL in resource.metadata.labels:
            yield ResourceKey("PlaybookRun", None, resource.metadata.labels[RUN_LABEL])
        elif isinstance(resource, TrainingRun) and resource.spec.data.get("playbookRun"):
            yield ResourceKey("PlaybookRun", None, str(resource.spec.data["playbookRun"]))

    async def reconcile(self, key: ResourceKey) -> float | None:
        """Bring one run a transition further."""
        run = await self._store.find(PlaybookRun, key.name)
        if run is None:
            await self._forget(key.name)
            return None
        if run.finished:
            return None
        observed = await self._observe(run)
        decision = decide(run, observed, self._clock.now())
        await self._write(run, decision)
        return decision.requeue_after_s

    async def _write(self, run: PlaybookRun, decision: Decision) -> None:
        if decision.status == run.status:
            return
        reason = decision.status.message
        transaction = Transaction(SUBJECT, reason, fence=self._fence.lease)
        transaction.update(run.with_(status=decision.status), decision.action)
        for resource in decision.writes:
            transaction.put(resource, decision.action)
        for event in decision.events:
            await add_notifications(self._store, transaction, event)
        await self._store.commit(transaction)

    async def _forget(self, name: str) -> None:
        """Remove the Jobs of a run that is not kept any more."""
        jobs, _ = await self._store.list(Job, labels={RUN_LABEL: name})
        ended = [
            job
            for job in jobs
            if job.status.phase in FINISHED_JOB
            # One that somebody else made has another name, whatever its labels say.
            and job.metadata.name == effect_name(name, job.metadata.labels.get("step", ""))
        ]
        if ended:
            transaction = Transaction(SUBJECT, "its run is not kept", fence=self._fence.lease)
            for job in ended:
                transaction.delete(job, "playbook.forget")
            await self._store.commit(transaction)

    # -- what there is ------------------------------------------------------------------------

    async def _observe(self, run: PlaybookRun) -> Observed:
        step = present_step(run)
        about = run.spec.steps if run.spec.dry_run else (step,) if step is not None else ()
        worlds = {one.name: await self._look(run, one) for one in about}
        labels = {PLAYBOOK_LABEL: run.spec.playbook}
        before, _ = await self._store.list(PlaybookRun, labels=labels)
        alert = await self._store.find(Alert, run.spec.alert) if run.spec.alert else None
        verify = run.spec.verify
        is_verifying = step is None and not run.spec.dry_run and verify.expr is not None
        return Observed(
            worlds=worlds,
            alert=alert,
            verified=await self._ask(run, verify.expr or "") if is_verifying else None,
            failed_before=[
                other
                for other in before
                if other.status.phase == "Failed" and other.spec.alert == run.spec.alert
            ],
            limited=await self._limited(run),
            first=await self._find_first(run),
            team=await self._team(run),
        )

    async def _find_first(self, run: PlaybookRun) -> PlaybookRun | None:
        if run.status.phase != "Pending":
            return None
        return find_first(run, (await self._store.list(PlaybookRun))[0])

    async def _look(self, run: PlaybookRun, step: PlaybookStep) -> World:
        """Return what a step is about; nothing of what its texts do not name."""
        configuration, labels, value = step.configuration, run.spec.labels, run.spec.value
        state = next((s for s in run.status.steps if s.name == step.name), None)
        has_begun = state is not None and state.phase == "Running"
        made = await self._find_effect(state.effect) if state is not None else None
        try:
            if isinstance(configuration, Target):
                return await self._look_at_deployment(*target_of(configuration, run), made)
            if isinstance(configuration, RunCommandStep):
                place = fill(configuration.environment, labels, value)
                found = await self._store.find(Environment, place)
                return World(has_environment=found is not None, made=made)
            if isinstance(configuration, StartTrainingStep):
                trigger = await self._store.find(TrainingTrigger, configuration.trigger)
                trainings, _ = await self._store.list(TrainingRun)
                return World(trigger=trigger, trainings=trainings, made=made)
            if isinstance(configuration, WaitForStep) and has_begun:
                return World(answer=await self._ask(run, configuration.expr))
            if isinstance(configuration, CallWebhookStep) and has_begun and not run.spec.cancelled:
                return World(delivery=await self._post(run, step, configuration))
        except Unfilled:
            pass  # the decision meets the same text, and says what is wrong with it
        return World()

    async def _look_at_deployment(self, place: str, name: str, made: AnyResource | None) -> World:
        deployment = await self._store.find(ModelDeployment, name, place)
        replicas, _ = await self._store.list(Replica, place, labels={"deployment": name})
        found, _ = await self._store.list(Rollout, place, prefix=f"{name}-")
        return World(
            deployment=deployment,
            replicas=replicas,
            rollouts=[rollout for rollout in found if rollout.spec.deployment == name],
            active=await load_active(self._store, deployment) if deployment is not None else None,
            made=made,
        )

    async def _find_effect(self, effect: str) -> AnyResource | None:
        """Return what an effect names, as `ResourceKey` writes it."""
        kind, _, where = effect.partition(" ")
        place, slash, name = where.partition("/")
        if kind not in KINDS or kind == Replica.__name__:
            return None
        found: AnyResource | None = await self._store.find(
            KINDS[kind], name if slash else place, place if slash else None
        )
        return found

    async def _limited(self, run: PlaybookRun) -> list[Rollout]:
        """Return the rollouts whose weight the run limits."""
        shifting = {step.name for step in run.spec.steps if step.kind == "shiftTraffic"}
        effects = {s.effect for s in run.status.steps if s.name in shifting and s.effect}
        found = [await self._find_effect(effect) for effect in sorted(effects)]
        return [
            rollout
            for rollout in found
            if isinstance(rollout, Rollout)
            and rollout.spec.limit is not None
            and rollout.spec.limit.run == run.metadata.name
        ]

    async def _team(self, run: PlaybookRun) -> str:
        labels = run.spec.labels
        name, place = labels.get("deployment", ""), labels.get("environment")
        deployment = await self._store.find(ModelDeployment, name, place) if name else None
        model = await self._store.find(Model, deployment.spec.model) if deployment else None
        return model.metadata.labels.get(TEAM_LABEL, "") if model is not None else ""

    # -- outside ------------------------------------------------------------------------------

    async def _ask(self, run: PlaybookRun, expression: str) -> bool | str | None:
        """Return whether an expression holds; why it never can; None when nobody answers now."""
        try:
            query = fill_query(expression, run.spec.labels, run.spec.value)
        except Unfilled as error:
            return str(error)
        try:
            answer = await self._querier.query(query)
        except TransientError:
            return None
        return answer.message if isinstance(answer, QueryRefused) else bool(answer)

    async def _post(
        self, run: PlaybookRun, step: PlaybookStep, configuration: CallWebhookStep
    ) -> Delivery:
        """Post once; the id is the same each time, so that the receiver can tell repetitions."""
        # Nobody may post without the lease: another control plane would post it too.
        _ = self._fence.lease
        spec, status = run.spec, run.status
        try:
            added = fill_all(configuration.body, spec.labels, spec.value)
        except Unfilled as error:
            return Delivery("refused", str(error))
        begun_at = next(s.started_at for s in status.steps if s.name == step.name)
        event = Event(
            type="alert.firing",
            subject=f"Alert {spec.alert}",
            environment=spec.labels.get("environment"),
            at=begun_at or self._clock.now(),
            data={
                "alert": spec.alert,
                "labels": dict(spec.labels),
                "value": spec.value,
                "playbook": spec.playbook,
                "run": run.metadata.name,
                "step": step.name,
                **added,
            },
        )
        channel = NotificationChannel(
            metadata=Metadata(name=run.metadata.name),
            spec=NotificationChannelSpec(
                webhook=WebhookReceiver(url=configuration.url, secret=configuration.secret),
                timeout_s=min(POST_TIMEOUT_S, step.timeout_s),
            ),
        )
        message_id = f"{run.metadata.uid}.{step.name}"
        return await self._poster.send(channel, Message(message_id, event, self._source))
