"""Playbooks: what is done about an alert, and each time it was done. Pure data.

A `Playbook` says which alerts, which steps, and how recovery is verified. A `PlaybookRun` holds
a copy of the steps as they were when it began and what became of each. In texts of steps,
``{{ $labels.replica }}`` and ``{{ $value }}`` are filled in as in the annotations of alerts.
"""

from __future__ import annotations

from datetime import datetime
from typing import Any, ClassVar, Literal

from pydantic import Field, model_validator

from modelplane.resources.addresses import Url
from modelplane.resources.alerting import Labels, Matchers
from modelplane.resources.meta import Name, Part, Resource
from modelplane.resources.quantities import ByteSize, Duration, Percent

Template = str
"""Text in which ``{{ $labels.NAME }}`` and ``{{ $value }}`` are filled in."""

_ANY = {"alertname": "xq7_SomeAlert_of-any.name"}

TEMPLATE_ENVIRONMENT = "{{ $labels.environment }}"
TEMPLATE_DEPLOYMENT = "{{ $labels.deployment }}"


class Target(Part):
    """A deployment; as a rule the one that the alert is about."""

    environment: Template = Field(default=TEMPLATE_ENVIRONMENT, description="Where it runs.")
    deployment: Template = Field(default=TEMPLATE_DEPLOYMENT, description="Its name.")


class RestartReplicaStep(Target):
    """End model servers; their agent starts them again."""

    replica: Template | None = Field(
        default=None,
        description="Its name; absent: the label `replica`, or those of the deployment that are "
        "not ready.",
    )


class RollBackStep(Target):
    """Take back what runs: the running rollout, else the version that was promoted last."""


class ShiftTrafficStep(Target):
    """Give the candidate of a running rollout less traffic, or none."""

    version: Template = Field(default="{{ $labels.version }}", description="Which candidate.")
    weight: Percent = Field(default=0.0, description="At most this much until the run is over.")


class ScaleStep(Target):
    """Change the number of replicas."""

    by: int = Field(default=1, ge=-100, le=100, description="How many more.")
    maximum: int = Field(default=10, ge=1, le=100, description="Never more than this.")
    minimum: int = Field(default=1, ge=1, le=100, description="Never fewer than this.")

    @model_validator(mode="after")
    def _changes_something(self) -> ScaleStep:
        if self.by == 0 or self.minimum > self.maximum:
            raise ValueError("by is not 0, and minimum not above maximum")
        return self


class RunCommandStep(Part):
    """Run a command as a Job on an agent."""

    command: tuple[Template, ...] = Field(min_length=1, description="Program and arguments.")
    env: dict[str, Template] = Field(
        default_factory=dict, description="Environment variables besides those of every Job."
    )
    environment: Template = Field(
        default=TEMPLATE_ENVIRONMENT, description="Where the Job is recorded."
    )
    memory: ByteSize | None = Field(default=None, description="Most memory it may take.")


class CallWebhookStep(Part):
    """Post a signed CloudEvent that tells of the alert; any 2xx is success."""

    url: Url = Field(description="Where it is posted.")
    secret: Name | None = Field(default=None, description="Name of the signing secret.")
    body: dict[str, Any] = Field(default_factory=dict, description="Added to the event's data.")


class StartTrainingStep(Part):
    """Start a training, and wait for the version."""

    trigger: Name = Field(description="The TrainingTrigger whose training is run.")
    wait: bool = Field(default=True, description="Whether to wait until it is over.")


class WaitForStep(Part):
    """Wait until an expression holds."""

    expr: Template = Field(description="PromQL; holds when it has a result, as alerts do.")


class AskPersonStep(Part):
    """Ask somebody to say yes; no or silence ends the run."""

    question: Template = Field(
        min_length=1, max_length=1000, description="What yes would mean, in words."
    )
    approvers: tuple[str, ...] = Field(
        default=(), description="Subjects or groups; absent: whoever may run playbooks."
    )


StepKind = Literal[
    "restartReplica", "rollBack", "shiftTraffic", "scale", "runCommand", "callWebhook",
    "startTraining", "waitFor", "askPerson",
]  # fmt: skip
StepConfiguration = (
    RestartReplicaStep | RollBackStep | ShiftTrafficStep | ScaleStep | RunCommandStep
    | CallWebhookStep | StartTrainingStep | WaitForStep | AskPersonStep
)  # fmt: skip


class PlaybookStep(Part):
    """One step: exactly one thing to do."""

    name: Name = Field(description="Unique in the playbook.")
    restart_replica: RestartReplicaStep | None = None
    roll_back: RollBackStep | None = None
    shift_traffic: ShiftTrafficStep | None = None
    scale: ScaleStep | None = None
    run_command: RunCommandStep | None = None
    call_webhook: CallWebhookStep | None = None
    start_training: StartTrainingStep | None = None
    wait_for: WaitForStep | None = None
    ask_person: AskPersonStep | None = None
    timeout_s: Duration = Field(
        default=300.0, gt=0, alias="timeout", description="Then the step has failed."
    )
    on_failure: Literal["stop", "continue"] = Field(
        default="stop", description="`stop`: the run fails and goes to a person."
    )

    @model_validator(mode="after")
    def _does_exactly_one_thing(self) -> PlaybookStep:
        if len(self._given()) != 1:
            known = "restartReplica, rollBack, shiftTraffic, scale, runCommand, callWebhook"
            raise ValueError(
                f"a step is exactly one of: {known}, startTraining, waitFor, askPerson"
            )
        return self

    def _given(self) -> dict[StepKind, StepConfiguration]:
        ways: dict[StepKind, StepConfiguration | None] = {
            "restartReplica": self.restart_replica,
            "rollBack": self.roll_back,
            "shiftTraffic": self.shift_traffic,
            "scale": self.scale,
            "runCommand": self.run_command,
            "callWebhook": self.call_webhook,
            "startTraining": self.start_training,
            "waitFor": self.wait_for,
            "askPerson": self.ask_person,
        }
        return {kind: way for kind, way in ways.items() if way is not None}

    @property
    def kind(self) -> StepKind:
        """What it does."""
        return next(iter(self._given()))

    @property
    def configuration(self) -> StepConfiguration:
        """How it does it."""
        return next(iter(self._given().values()))


class Verification(Part):
    """How it is known that the repair helped."""

    expr: str | None = Field(
        default=None,
        description="PromQL that must hold; absent: the alert's own condition must be gone.",
    )
    for_s: Duration = Field(default=0.0, alias="for", description="How long without a break.")
    timeout_s: Duration = Field(
        default=300.0, gt=0, alias="timeout", description="Then the repair has not helped."
    )


class Limits(Part):
    """How often at the most. A run that is not begun because of them is told of."""

    per_hour: int = Field(default=3, ge=1, le=1000, description="Runs that begin in an hour.")
    cooldown_s: Duration = Field(
        default=0.0, alias="cooldown", description="After a run, before the next one begins."
    )
    loop_window_s: Duration = Field(
        default=3600.0,
        gt=0,
        alias="loopWindow",
        description="A failure like one within this time before is not tried a third time: it "
        "goes to a person.",
    )


class PlaybookSpec(Part):
    """Which alerts, what to do, and how to know that it helped."""

    matchers: Matchers = Field(description='All must hold: `alertname="ReplicaDown"`.')
    steps: tuple[PlaybookStep, ...] = Field(min_length=1, max_length=50)
    verify: Verification = Field(default_factory=Verification)
    limits: Limits = Field(default_factory=Limits)
    dry_run: bool = Field(default=False, description="Whether runs only say what they would do.")
    suspended: bool = Field(default=False, description="Whether it begins no runs by itself.")

    @model_validator(mode="after")
    def _narrows_alerts_down(self) -> PlaybookSpec:
        # Every alert has a name: asking for any is asking for nothing.
        if all(matcher.matches(_ANY) for matcher in self.matchers):
            raise ValueError(
                'matchers hold for every alert; name at least a label: alertname="ReplicaDown"'
            )
        names = [step.name for step in self.steps]
        if len(set(names)) != len(names):
            raise ValueError("a step's name is used twice")
        return self


HeldReason = Literal["Busy", "CoolingDown", "TooOften", "BudgetSpent", "FailedTwice"]
"""Why no run begins about an alert that fires; part of the API."""


class HeldAlert(Part):
    """An alert that fires, and about which no run begins."""

    alert: str = Field(description="Name of the Alert.")
    episode: int = Field(description="Of the alert.")
    reason: HeldReason
    message: str = Field(default="", description="The same, in words.")
    since: datetime = Field(description="Since when that is the reason.")


class PlaybookStatus(Part):
    """What it did lately."""

    last_run: str = Field(default="", description="The PlaybookRun that began last.")
    runs: int = Field(default=0, description="How many have begun.")
    held: tuple[HeldAlert, ...] = Field(
        default=(), description="Alerts that fire, and about which no run begins."
    )


class Playbook(Resource[PlaybookSpec, PlaybookStatus]):
    """What is done about some alerts."""

    scoped: ClassVar[bool] = False
    plural: ClassVar[str] = "playbooks"
    declared: ClassVar[bool] = True
    short_names: ClassVar[tuple[str, ...]] = ("playbook", "pb")

    kind: Literal["Playbook"] = "Playbook"
    spec: PlaybookSpec
    status: PlaybookStatus = Field(default_factory=PlaybookStatus)


RunPhase = Literal["Pending", "Running", "Verifying", "Succeeded", "Failed", "Cancelled"]
FINISHED_PLAYBOOK_RUN: frozenset[str] = frozenset({"Succeeded", "Failed", "Cancelled"})
StepPhase = Literal["Waiting", "Running", "Succeeded", "Failed", "Skipped"]


class PlaybookRunSpec(Part):
    """What is run, about what."""

    playbook: Name
    steps: tuple[PlaybookStep, ...] = Field(description="As they were when it began.")
    verify: Verification
    alert: str = Field(description="Name of the Alert.")
    episode: int = Field(default=0, description="Of the alert.")
    labels: Labels = Field(default_factory=dict, description="Of the alert.")
    value: float | None = Field(default=None, description="Of the alert.")
    loop_window_s: Duration = Field(
        default=3600.0, alias="loopWindow", description="As the playbook's limits had it."
    )
    dry_run: bool = False
    subject: str = Field(default="", description="Who asked; empty: the alert.")
    cancelled: bool = Field(default=False, description="Asked to end.")


class PersonAnswer(Part):
    """What somebody said to a step that asks."""

    step: Name
    subject: str
    agrees: bool
    reason: str = ""
    at: datetime


class StepStatus(Part):
    """What became of one step."""

    name: Name
    phase: StepPhase = "Waiting"
    message: str = ""
    effect: str = Field(default="", description="What it made or changed, `Kind ENV/NAME`.")
    started_at: datetime | None = None
    finished_at: datetime | None = None


class PlaybookRunStatus(Part):
    """How far it came."""

    phase: RunPhase = "Pending"
    reason: str = ""
    message: str = ""
    steps: tuple[StepStatus, ...] = ()
    answers: tuple[PersonAnswer, ...] = ()
    held_since: datetime | None = Field(
        default=None, description="Since when the verification holds."
    )
    breach_at: datetime | None = Field(default=None, description="When the condition first held.")
    fired_at: datetime | None = None
    first_step_at: datetime | None = None
    verifying_at: datetime | None = None
    recovered_at: datetime | None = None
    finished_at: datetime | None = None
    escalated: bool = Field(default=False, description="Whether people were asked to take over.")
    repeats: str = Field(
        default="",
        description="The run that failed the same way before: then no other begins by itself.",
    )


class PlaybookRun(Resource[PlaybookRunSpec, PlaybookRunStatus]):
    """One time that a playbook dealt with an alert."""

    scoped: ClassVar[bool] = False
    plural: ClassVar[str] = "playbook-runs"
    short_names: ClassVar[tuple[str, ...]] = ("pbr",)

    kind: Literal["PlaybookRun"] = "PlaybookRun"
    spec: PlaybookRunSpec
    status: PlaybookRunStatus = Field(default_factory=PlaybookRunStatus)

    @property
    def finished(self) -> bool:
        """Whether nothing will be done any more."""
        return self.status.phase in FINISHED_PLAYBOOK_RUN
