"""The demo's second act: the year goes on, the model ages, and the loop closes by itself.

Called by ``modelplane demo --act 2``. Like the first act it drives a modelplane of its own as any
user would and reports what happened, whatever that is: that a retrained model is better is hoped
for, not arranged. Nothing here starts the training or asks for the promotion.
"""

from __future__ import annotations

import asyncio
import sys
import textwrap
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from datetime import date, timedelta
from pathlib import Path

from modelplane.client import Client
from modelplane.demo import loop_manifests as manifests
from modelplane.demo import seasons
from modelplane.demo.flights import Flights, load_flights
from modelplane.demo.labels import LabelFeed
from modelplane.demo.replay import Replay
from modelplane.demo.reporting import LoopOutcome, Report
from modelplane.demo.retrain import MODEL, push_model
from modelplane.demo.run import account, call, describe_rollout, follow
from modelplane.errors import TerminalError
from modelplane.resources.alerting import Alert
from modelplane.resources.gate_run import GateRun
from modelplane.resources.model_deployment import ModelDeployment
from modelplane.resources.playbook import FINISHED_PLAYBOOK_RUN, PlaybookRun
from modelplane.resources.rollout import Rollout
from modelplane.resources.training import TrainingRun

FIRST = "1.0.0"
TIMEOUT_S = 900.0
_LOOK_EVERY_S = 1.0
_LOOKS_AT_CLOSING = 40
"""An alert outlasts its cause by the rule's ``keep_firing_for``."""

Say = Callable[[str], None]


async def run_loop(client: Client, rate_per_s: float, work_dir: Path, say: Say) -> Report:
    """Replay April to the end of the year until the playbook has done what it can.

    Parameters
    ----------
    client
        Speaks to the modelplane, with an admin's token.
    rate_per_s
        Requests per second of the replay.
    work_dir
        Where records and models are written; datasets are registered there, so it has to stay
        as long as the modelplane does.
    say
        Is told each step in one line.

    Raises
    ------
    TerminalError
        When the year ends before the loop has closed.
    """
    started = time.monotonic()
    report = Report(loop=LoopOutcome())
    flights = await asyncio.to_thread(load_flights)
    records = seasons.Records(work_dir / "records", flights)
    await _first_version(client, records, work_dir, report, say)
    season = seasons.select_season(flights)
    deployment = await call(client.get, ModelDeployment, MODEL, "production")
    labels = LabelFeed(client, MODEL, "production")
    replay = Replay(deployment.status.url, season, rate_per_s=rate_per_s, on_answer=labels.note)
    watch = _Watch(client, replay, season, records, report, say)
    say(
        f"replaying April to December, {rate_per_s:g} flights a second: one in "
        f"{seasons.ONE_IN} until September, then every one"
    )
    await replay.start()
    try:
        async with labels.running():
            await watch.until_it_ends()
    finally:
        await replay.stop()
    snapshot = replay.snapshot()
    report.client_failures = snapshot.failures
    assert report.loop is not None
    report.loop.labels = labels.sent
    await account(client, report, snapshot.failures)
    report.audit_verified = bool((await call(client.verify_audit)).get("verified"))
    report.seconds = round(time.monotonic() - started, 1)
    return report


async def _first_version(
    client: Client, records: seasons.Records, work_dir: Path, report: Report, say: Say
) -> None:
    """Train on what is there at the end of March, declare everything, wait until it serves."""
    await asyncio.to_thread(records.write, seasons.FIRST_RECORDS_UNTIL)
    model = await asyncio.to_thread(
        seasons.train_on_records,
        seasons.read_records(records.folder),
        work_dir / FIRST,
        estimator="v1",
        late_weight=seasons.FIRST_LATE_WEIGHT,
        holdout_days=seasons.FIRST_HOLDOUT_DAYS,
    )
    say(f"trained {FIRST} on {model.row_count:,} flights until {model.last_day}")
    holdout = work_dir / f"newest-{FIRST}.parquet"
    await call(push_model, client, FIRST, model, holdout, "trained on the winter")
    for resource in (*manifests.read_policies(), *manifests.read_deployments()):
        await call(client.apply, resource, reason="demo")
    await follow(client, "v1", "staging", report, say)
    await follow(client, "v1", "production", report, say)
    command = [sys.executable, "-m", "modelplane.demo.retrain", str(records.folder.absolute())]
    for resource in manifests.read_watch(command):
        await call(client.apply, resource, reason="demo")


@dataclass(slots=True)
class _Watch:
    """Looks on, tells what changes, and notes it in the report."""

    client: Client
    replay: Replay
    season: Flights
    records: seasons.Records
    report: Report
    say: Say
    told: dict[str, str] = field(default_factory=dict)

    @property
    def outcome(self) -> LoopOutcome:
        assert self.report.loop is not None
        return self.report.loop

    @property
    def month(self) -> date:
        """The first day of the month that is replayed now."""
        position = min(self.replay.snapshot().sent, len(self.season) - 1)
        day: date = self.season.days[position].astype(object)
        return day.replace(day=1)

    async def until_it_ends(self) -> None:
        """Look until the playbook's run is over, and note how things stand then."""
        started, month = time.monotonic(), None
        while time.monotonic() - started < TIMEOUT_S:
            await asyncio.sleep(_LOOK_EVERY_S)
            if self.replay.snapshot().sent >= len(self.season):
                break
            if self.month != month:
                month = self.month
                await self._tell_month(month)
                await asyncio.to_thread(self.records.write, month - timedelta(days=1))
            await self._look_at_alerts()
            await self._look_at_training()
            run = await self._look_at_playbook()
            if run is not None:
                await self._close(_LOOKS_AT_CLOSING if run.status.phase == "Succeeded" else 1)
                return
        raise TerminalError(
            "the loop did not close before the year was over",
            hint="look around with --keep; a lower --rate leaves it more time",
        )

    async def _tell_month(self, month: date) -> None:
        figures = await self._precision()
        known = ", ".join(f"{v} {value:.2f}" for v, (value, *_) in sorted(figures.items()))
        self.say(f"{month:%B}: precision by labels {known or 'not known yet'}")

    async def _precision(self) -> dict[str, tuple[float, float, float]]:
        """Return value, lower and upper end by version."""
        report = await call(self.client.quality, MODEL, "production", part="")
        return {
            one.version: (figure.value, figure.lower or 0.0, figure.upper or 1.0)
            for one in report.versions
            if (figure := one.metrics.get("precision")) is not None
        }

    async def _look_at_alerts(self) -> None:
        for alert in (await call(self.client.list, Alert)).items:
            name, phase = alert.spec.alert, alert.status.phase
            self._tell(alert.metadata.name, f"alert {name} {phase.lower()}")
            if phase != "Firing":
                continue
            sent = self.replay.snapshot().sent
            if name == manifests.DRIFT_ALERT and not self.outcome.drift_detected_in:
                self.outcome.drift_detected_after_requests = sent
                self.outcome.drift_detected_in = f"{self.month:%Y-%m}"
            if name == manifests.PRECISION_ALERT and not self.outcome.precision_alert_in:
                self.outcome.precision_alert_after_requests = sent
                self.outcome.precision_alert_in = f"{self.month:%Y-%m}"
                self._note_quality("before", (await self._precision()).get(FIRST))

    def _note_quality(self, when: str, figure: tuple[float, float, float] | None) -> None:
        if figure is None:
            return
        value, lower, upper = (round(part, 4) for part in figure)
        setattr(self.outcome, f"quality_{when}", value)
        self.outcome.intervals[when] = (lower, upper)

    async def _look_at_training(self) -> None:
        for run in (await call(self.client.list, TrainingRun)).items:
            status = run.status
            progress = "" if status.progress is None else f" {status.progress:.0%}"
            line = f"training {status.phase.lower()}{progress} {status.progress_message}".rstrip()
            self._tell(f"training/{run.metadata.name}", line)
            if status.phase == "Succeeded" and status.versions:
                self.outcome.retrained_version = status.versions[-1].partition("@")[2]
                if status.started_at and status.finished_at:
                    took = status.finished_at - status.started_at
                    self.outcome.training_s = round(took.total_seconds(), 1)
        if self.outcome.retrained_version:
            await self._look_at_road(self.outcome.retrained_version)

    async def _look_at_road(self, version: str) -> None:
        for run in (await call(self.client.list, GateRun)).items:
            if run.spec.candidate.revision.version == version:
                self.outcome.gates = run.status.phase
                self._tell(run.metadata.name, f"{version} gates: {run.status.phase.lower()}")
        for environment in ("staging", "production"):
            for rollout in (await call(self.client.list, Rollout, environment)).items:
                if rollout.spec.candidate.version == version:
                    await self._look_at_rollout(rollout, environment)

    async def _look_at_rollout(self, rollout: Rollout, environment: str) -> None:
        status = rollout.status
        version = rollout.spec.candidate.version
        line = f"{status.phase} {status.weight_pct:g} %: {status.message}"
        told = textwrap.shorten("; ".join(line.splitlines()), 240)
        self._tell(f"{environment}/{rollout.metadata.name}", f"{version} {environment}: {told}")
        known = {(one.version, one.environment) for one in self.report.rollouts}
        if environment == "production" and not rollout.finished:
            figures = await self._precision()
            self._note_quality("beside", figures.get(FIRST))
            self._note_quality("candidate", figures.get(version))
        if rollout.finished and (version, environment) not in known:
            created, ended = rollout.metadata.created_at, rollout.metadata.updated_at
            seconds = (ended - created).total_seconds() if created and ended else 0.0
            outcome = describe_rollout(rollout, environment, seconds)
            self.report.rollouts.append(outcome)
            if environment == "production":
                self.outcome.verdict = outcome.verdict

    async def _look_at_playbook(self) -> PlaybookRun | None:
        """Tell how the playbook's run goes; return it once it is over."""
        runs: Sequence[PlaybookRun] = (await call(self.client.list, PlaybookRun)).items
        for run in runs:
            status = run.status
            step = next((one for one in status.steps if one.phase == "Running"), None)
            doing = f": {step.name}" if step else ""
            self._tell(f"playbook/{run.metadata.name}", f"playbook {status.phase.lower()}{doing}")
            if status.phase in FINISHED_PLAYBOOK_RUN:
                self.outcome.alert_message = status.message or status.reason
                return run
        return None

    async def _close(self, looks: int) -> None:
        """Note how things stand, once the alert is told what the playbook came to."""
        for _ in range(looks):
            if await self._note_alert():
                break
            await asyncio.sleep(_LOOK_EVERY_S)
        version = self.outcome.retrained_version
        if version:
            self._note_quality("after", (await self._precision()).get(version))
        drift = await call(self.client.drift, MODEL, "production")
        self.outcome.drifted = sorted({name for one in drift.versions for name in one.drifted})

    async def _note_alert(self) -> bool:
        """Note whether the alert of precision is closed, and return it."""
        for alert in (await call(self.client.list, Alert)).items:
            if alert.spec.alert == manifests.PRECISION_ALERT:
                self._tell(alert.metadata.name, f"{alert.spec.alert} {alert.status.phase.lower()}")
                self.outcome.alert_closed = alert.status.phase == "Resolved"
                closing = alert.status.closing
                self.outcome.alert_message = closing or self.outcome.alert_message
        return self.outcome.alert_closed

    def _tell(self, key: str, line: str) -> None:
        if self.told.get(key) != line:
            self.told[key] = line
            self.say(f"{self.month:%b}: {line}")


def loop_succeeded(report: Report) -> bool:
    """Whether the second act showed what it promises: that the loop closes, not that it helps."""
    loop = report.loop
    return (
        loop is not None
        and loop.drift_detected_after_requests is not None
        and loop.precision_alert_after_requests is not None
        and loop.retrained_version is not None
        and loop.gates == "Passed"
        and loop.verdict in {"promoted", "rolled_back"}
        and (loop.alert_closed or bool(loop.alert_message))
        and report.client_failures == 0
        and report.audit_verified
    )
