"""Playbooks from the alert to its end, on the real store with a manual clock."""

from __future__ import annotations

from collections.abc import AsyncIterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from modelplane.decisions.notifications import Delivery
from modelplane.decisions.playbook import legs_of
from modelplane.decisions.playbook_outcomes import effect_name
from modelplane.decisions.playbook_starts import make_run
from modelplane.decisions.rollout_requests import request_of_rollout
from modelplane.resources.alerting import Silence
from modelplane.resources.job import Job
from modelplane.resources.playbook import PersonAnswer, Playbook
from modelplane.resources.promotion import Promotion
from modelplane.resources.replica import Replica
from modelplane.resources.strategy import CanaryStrategy, Strategy
from modelplane.resources.training import TrainingRun, TrainingTrigger
from tests.controllers.plane import ANA, revision
from tests.controllers.repairing import LABELS, RepairingPlane, open_repairing, playbook

RESTART: dict[str, Any] = {"restartReplica": {}}


@pytest.fixture
async def plane(tmp_path: Path) -> AsyncIterator[RepairingPlane]:
    async with open_repairing(tmp_path) as opened:
        yield opened


async def test_a_replica_is_restarted_and_the_alert_closes_with_what_was_done(
    plane: RepairingPlane,
) -> None:
    await plane.begin(playbook(RESTART))
    broken = await plane.break_replica()
    await plane.fire()
    plane.clock.step(2)
    await plane.settle()
    assert plane.restarted == ["repair-1.step-1"]
    run = await plane.run()
    assert run.status.phase == "Verifying"
    plane.clock.step(3)
    await plane.resolve()
    await plane.settle()
    run, alert = await plane.run(), await plane.alert()
    assert (run.status.phase, run.status.reason) == ("Succeeded", "Recovered")
    assert broken.metadata.name in alert.status.closing
    assert alert.status.run == "repair-1"
    assert legs_of(run.status) == {
        "alert": 0.0, "begin": 2.0, "repair": 0.0, "recovery": 3.0, "total": 5.0,
    }  # fmt: skip
    assert await plane.events() == ["playbook.started", "playbook.done"]


async def test_what_has_failed_the_same_way_twice_goes_to_a_person_and_is_not_tried_again(
    plane: RepairingPlane,
) -> None:
    command = {"runCommand": {"command": ["repair.sh", "{{ $labels.deployment }}"]}}
    await plane.begin(playbook(command))
    await plane.fire()
    for _ in range(4):
        await plane.settle()
        await plane.end_jobs("Failed", message="exit code 1")
    await plane.settle()
    first, second = await plane.runs()
    assert (first.status.repeats, second.status.repeats) == ("", first.metadata.name)
    held = (await plane.store.get(Playbook, "repair")).status.held
    assert [one.reason for one in held] == ["FailedTwice"]
    assert (await plane.events()).count("playbook.escalated") == 2
    # The alert ends and comes again: that is tried anew.
    await plane.resolve()
    plane.clock.step(60)
    await plane.fire()
    await plane.settle()
    assert len(await plane.runs()) == 3


async def test_another_failure_is_no_loop(plane: RepairingPlane) -> None:
    await plane.begin(
        playbook({"runCommand": {"command": ["a"]}}, {"runCommand": {"command": ["b"]}})
    )
    await plane.fire()
    await plane.settle()
    await plane.end_jobs("Failed")
    await plane.settle()
    await plane.end_jobs("Succeeded")
    await plane.settle()
    await plane.end_jobs("Failed")
    await plane.settle()
    runs = await plane.runs()
    assert [run.status.repeats for run in runs] == ["", "", ""]


async def test_limits_hold_and_are_told_once(plane: RepairingPlane) -> None:
    await plane.begin(playbook(RESTART, limits={"perHour": 1}))
    await plane.fire()
    await plane.settle()
    await plane.resolve()
    await plane.settle()
    plane.clock.step(60)
    await plane.fire()
    await plane.settle()
    await plane.settle()
    assert len(await plane.runs()) == 1
    (held,) = (await plane.store.get(Playbook, "repair")).status.held
    assert held.reason == "TooOften"
    assert (await plane.events()).count("playbook.escalated") == 1
    plane.clock.step(3600)
    await plane.take_lease()
    await plane.settle()
    assert len(await plane.runs()) == 2
    assert (await plane.store.get(Playbook, "repair")).status.held == ()


async def test_the_budget_counts_the_runs_of_all_playbooks(tmp_path: Path) -> None:
    async with open_repairing(tmp_path, budget_per_hour=1) as plane:
        other = playbook(RESTART, name="other", matchers=['alertname="Slow"'])
        await plane.begin(playbook(RESTART), other)
        await plane.fire()
        await plane.fire({"alertname": "Slow"})
        await plane.settle()
        assert len(await plane.runs()) == 1
        (held,) = (await plane.store.get(Playbook, "other")).status.held
        assert held.reason == "BudgetSpent"


async def test_two_alerts_about_one_deployment_are_dealt_with_one_after_the_other(
    plane: RepairingPlane,
) -> None:
    slow = {**LABELS, "alertname": "Slow"}
    other = playbook(RESTART, name="other", matchers=['alertname="Slow"'])
    await plane.begin(playbook(RESTART), other)
    await plane.fire()
    await plane.fire(slow)
    await plane.settle()
    (first,) = await plane.runs()
    await plane.resolve(LABELS if first.spec.playbook == "repair" else slow)
    await plane.settle()
    assert len(await plane.runs()) == 2


async def test_silenced_and_flapping_alerts_begin_nothing(plane: RepairingPlane) -> None:
    now = plane.clock.now()
    silence = Silence.model_validate(
        {
            "metadata": {"name": "quiet"},
            "spec": {
                "matchers": ['alertname="ReplicaDown"'],
                "endsAt": now + timedelta(minutes=5),
                "comment": "maintenance",
            },
        }
    )
    await plane.begin(playbook(RESTART), silence.with_status(phase="Active"))
    await plane.fire()
    await plane.settle()
    assert await plane.runs() == []
    plane.clock.step(301)
    await plane.fire(flapping=True)
    await plane.settle()
    assert await plane.runs() == []


async def test_a_suspended_playbook_and_one_that_does_not_match_begin_nothing(
    plane: RepairingPlane,
) -> None:
    other = playbook(RESTART, name="other", matchers=['alertname="ReplicaDown"', 'version="9"'])
    await plane.begin(playbook(RESTART, suspended=True), other)
    await plane.fire()
    await plane.settle()
    assert await plane.runs() == []


async def test_the_most_exact_playbook_deals_with_an_alert(plane: RepairingPlane) -> None:
    exact = playbook(
        RESTART, name="zz", matchers=['alertname="ReplicaDown"', 'environment="production"']
    )
    await plane.begin(playbook(RESTART), exact)
    await plane.fire()
    await plane.settle()
    assert (await plane.run()).spec.playbook == "zz"


async def test_a_dry_run_says_what_each_step_would_do_and_does_nothing(
    plane: RepairingPlane,
) -> None:
    steps = [
        RESTART,
        {"scale": {"by": 2, "maximum": 3}},
        {"rollBack": {}},
        {"runCommand": {"command": ["echo", "{{ $value }}", "{{ $labels.nothing }}"]}},
        {"askPerson": {"question": "Restart {{ $labels.deployment }}?"}},
    ]
    await plane.begin(playbook(*steps, dryRun=True))
    replica = await plane.break_replica()
    await plane.fire()
    await plane.settle()
    run = await plane.run()
    assert [state.message for state in run.status.steps] == [
        f"would restart {replica.metadata.name} in production",
        "would change the replicas of delay in production from 1 to 3",
        "would fail: delay has had no other version in production",
        "would fail: the alert has no label 'nothing'",
        "would ask: Restart delay?",
    ]
    assert (run.status.phase, run.status.reason) == ("Succeeded", "DryRun")
    assert plane.restarted == []
    assert (await plane.deployment()).spec.replicas == 1
    assert (await plane.alert()).status.closing == ""


async def test_scaling_stays_within_its_bounds(plane: RepairingPlane) -> None:
    await plane.begin(playbook({"scale": {"by": 5, "maximum": 3}}), replicas=2)
    await plane.fire()
    await plane.settle()
    assert (await plane.deployment()).spec.replicas == 3
    assert (await plane.run()).status.phase == "Verifying"


async def test_what_was_promoted_last_is_taken_back(plane: RepairingPlane) -> None:
    await plane.begin(playbook({"rollBack": {}}))
    await plane.promote(revision("2.0.0"))
    await plane.settle()
    now = plane.clock.now()
    await plane.write(request_of_rollout(await plane.rollout(), "promote", ANA, "", now))
    await plane.settle()
    assert (await plane.deployment()).status.stable == revision("2.0.0")
    await plane.fire({**LABELS, "version": "2.0.0"})
    await plane.settle()
    run = await plane.run()
    (state,) = run.status.steps
    promotion = await plane.store.get(Promotion, state.effect.rpartition("/")[2], "production")
    assert promotion.spec.revision.version == "1.0.0"
    assert promotion.spec.subject.name == "playbook:repair"


async def test_a_running_rollout_is_rolled_back_rather_than_what_serves(
    plane: RepairingPlane,
) -> None:
    await plane.begin(playbook({"rollBack": {}}))
    await plane.promote(revision("2.0.0"))
    await plane.settle()
    await plane.fire({**LABELS, "version": "2.0.0"})
    await plane.settle()
    assert (await plane.rollout()).status.phase == "RolledBack"
    assert (await plane.deployment()).status.stable == revision("1.0.0")


async def test_a_version_that_serves_nobody_is_not_rolled_back(plane: RepairingPlane) -> None:
    await plane.begin(playbook({"rollBack": {}}))
    await plane.fire({**LABELS, "version": "0.9.0"})
    await plane.settle()
    run = await plane.run()
    assert run.status.steps[0].message == "0.9.0 serves nobody in production any more"
    assert (await plane.deployment()).status.stable == revision("1.0.0")


async def _ramp(plane: RepairingPlane) -> None:
    """Bring 2.0.0 to half of the traffic."""
    await plane.promote(revision("2.0.0"))
    deployment = await plane.deployment()
    steps = Strategy(canary=CanaryStrategy(steps=(50.0,)))
    await plane.write(deployment.with_spec(strategy=steps))
    await plane.settle()
    await plane.judge(stepId=-1, requestsNeeded=100)
    for _ in range(3):
        plane.clock.step(120)
        await plane.settle()
        await plane.judge()
    assert (await plane.rollout()).status.weight_pct == 50


@pytest.mark.parametrize("recovers", [True, False])
async def test_traffic_is_shifted_while_the_run_lasts(
    plane: RepairingPlane, recovers: bool
) -> None:
    await plane.begin(playbook({"shiftTraffic": {"weight": 0}}, verify={"timeout": "60s"}))
    await _ramp(plane)
    await plane.fire({**LABELS, "version": "2.0.0"})
    await plane.settle()
    rollout = await plane.rollout()
    assert (rollout.status.weight_pct, rollout.status.reason) == (0, "WeightLimited")
    assert (await plane.run()).status.phase == "Verifying"
    await plane.judge(passes=True, allowedWeightPct=100)
    plane.clock.step(30)
    await plane.settle()
    assert (await plane.rollout()).status.weight_pct == 0
    if recovers:
        await plane.resolve({**LABELS, "version": "2.0.0"})
    else:
        await plane.write((await plane.store.get(Playbook, "repair")).with_spec(suspended=True))
        plane.clock.step(61)
    await plane.settle()
    rollout = await plane.rollout()
    assert rollout.spec.limit is None
    assert rollout.spec.paused is not recovers
    assert rollout.status.weight_pct == (50 if recovers else 0)


async def test_a_training_is_started_and_waited_for(plane: RepairingPlane) -> None:
    trigger = TrainingTrigger.model_validate(
        {
            "metadata": {"name": "weekly"},
            "spec": {"model": "delay", "run": {"command": {"command": ["train"]}}},
        }
    )
    await plane.begin(playbook({"startTraining": {"trigger": "weekly"}}), trigger)
    await plane.fire()
    await plane.settle()
    ((training,), _) = await plane.store.list(TrainingRun)
    assert training.spec.cause == "playbook"
    assert (await plane.run()).status.phase == "Running"
    await plane.write(training.with_status(phase="Succeeded", versions=("delay@2.0.0",)))
    await plane.settle()
    assert (await plane.run()).status.steps[0].message.endswith("registered delay@2.0.0")


async def test_a_webhook_is_posted_with_the_same_id_until_it_is_taken(
    plane: RepairingPlane,
) -> None:
    hook = {"callWebhook": {"url": "https://ops.test/h/secret", "body": {"who": "{{ $value }}"}}}
    await plane.begin(playbook(hook))
    plane.poster.trouble = Delivery("unavailable", "no answer")
    await plane.fire()
    await plane.settle()
    run = await plane.run()
    assert (run.status.phase, plane.poster.attempts > 0) == ("Running", True)
    assert "secret" not in run.model_dump_json(exclude={"spec"})
    plane.poster.trouble = None
    await plane.settle()
    ((_, message),) = plane.poster.sent
    assert message.id == f"{run.metadata.uid}.step-1"
    assert message.event.data["who"] == "1"
    assert (await plane.run()).status.phase == "Verifying"


async def test_nothing_is_posted_for_a_run_that_was_cancelled(plane: RepairingPlane) -> None:
    await plane.begin(playbook({"callWebhook": {"url": "https://ops.test/h"}}))
    plane.poster.trouble = Delivery("unavailable", "no answer")
    await plane.fire()
    await plane.settle()
    attempts = plane.poster.attempts
    await plane.write((await plane.run()).with_spec(cancelled=True))
    await plane.settle()
    assert (await plane.run()).status.phase == "Cancelled"
    assert plane.poster.attempts == attempts


async def test_runs_about_one_deployment_that_began_at_once_wait_for_each_other(
    plane: RepairingPlane,
) -> None:
    await plane.begin()
    ask = {"askPerson": {"question": "go on?"}}
    begun = [make_run(playbook(ask, name=name), [], None, labels=LABELS)[1] for name in "ab"]
    await plane.write(*begun)
    await plane.settle()
    first, second = await plane.runs()
    assert [first.status.phase, second.status.phase] == ["Running", "Pending"]
    assert second.status.message == "waiting for a-1: one at a time"
    await plane.write(first.with_spec(cancelled=True))
    await plane.settle()
    first, second = await plane.runs()
    assert [first.status.phase, second.status.phase] == ["Cancelled", "Running"]


async def test_a_person_says_no(plane: RepairingPlane) -> None:
    ask = {"askPerson": {"question": "Restart {{ $labels.deployment }}?"}}
    await plane.begin(playbook(ask, RESTART))
    await plane.fire()
    await plane.settle()
    assert "playbook.question" in await plane.events()
    run = await plane.run()
    answer = PersonAnswer(step="step-1", subject="ana", agrees=False, at=plane.clock.now())
    await plane.write(run.with_status(answers=(answer,)))
    await plane.write((await plane.store.get(Playbook, "repair")).with_spec(suspended=True))
    await plane.settle()
    run = await plane.run()
    assert (run.status.phase, run.status.reason) == ("Failed", "SaidNo")
    assert [s.phase for s in run.status.steps] == ["Failed", "Skipped"]
    assert plane.restarted == []


async def test_a_step_that_takes_too_long_fails_and_its_job_is_cancelled(
    plane: RepairingPlane,
) -> None:
    slow = {"runCommand": {"command": ["sleep", "1h"]}, "timeout": "30s", "onFailure": "continue"}
    await plane.begin(playbook(slow, RESTART))
    await plane.fire()
    await plane.settle()
    plane.clock.step(31)
    await plane.settle()
    ((job,), _) = await plane.store.list(Job)
    assert job.spec.cancelled
    assert job.spec.input is not None
    assert job.spec.result_optional, "a repair leaves no result"
    assert job.metadata.name == effect_name(job.metadata.labels["playbook-run"], "step-1")
    run = await plane.run()
    assert [s.phase for s in run.status.steps] == ["Failed", "Succeeded"]


async def test_recovery_is_verified_by_an_expression_that_holds_without_a_break(
    plane: RepairingPlane,
) -> None:
    expr = 'modelplane_replica_up{deployment="{{ $labels.deployment }}"} == 1'
    asked = 'modelplane_replica_up{deployment="delay"} == 1'
    await plane.begin(playbook(RESTART, verify={"expr": expr, "for": "10s", "timeout": "60s"}))
    await plane.fire()
    plane.querier.holding.add(asked)
    await plane.settle()
    plane.clock.step(5)
    plane.querier.holding.clear()
    await plane.settle()
    plane.querier.holding.add(asked)
    await plane.settle()
    plane.clock.step(6)
    await plane.settle()
    assert (await plane.run()).status.phase == "Verifying"
    plane.clock.step(5)
    await plane.settle()
    assert (await plane.run()).status.phase == "Succeeded"
    assert (await plane.alert()).status.closing
    assert len(await plane.runs()) == 1


async def test_what_never_recovers_fails(plane: RepairingPlane) -> None:
    await plane.begin(playbook(RESTART, verify={"timeout": "60s"}, limits={"cooldown": "1h"}))
    await plane.fire()
    await plane.settle()
    plane.clock.step(61)
    await plane.settle()
    run = await plane.run()
    assert (run.status.phase, run.status.reason) == ("Failed", "NotRecovered")
    assert run.status.escalated


async def test_nobody_who_answers_expressions_is_waited_for(plane: RepairingPlane) -> None:
    await plane.begin(playbook({"waitFor": {"expr": "up == 1"}}))
    plane.querier.away = True
    await plane.fire()
    await plane.settle()
    assert (await plane.run()).status.phase == "Running"
    plane.querier.away = False
    plane.querier.holding.add("up == 1")
    await plane.settle()
    assert (await plane.run()).status.phase == "Verifying"


async def test_an_expression_that_cannot_be_answered_fails_the_step(plane: RepairingPlane) -> None:
    await plane.begin(playbook({"waitFor": {"expr": "predict_linear(x[1h], 1)"}}))
    plane.querier.refused["predict_linear(x[1h], 1)"] = "it needs a Prometheus"
    await plane.fire()
    await plane.settle()
    assert "it needs a Prometheus" in (await plane.runs())[0].status.message


async def test_an_alert_that_ended_before_the_first_step_needs_none(plane: RepairingPlane) -> None:
    await plane.begin(playbook(RESTART))
    await plane.fire()
    starts = plane.reconcilers[-2]
    (key,) = set(starts.keys(await plane.alert()))
    await starts.reconcile(key)
    await plane.resolve()
    await plane.settle()
    run = await plane.run()
    assert (run.status.phase, run.status.reason) == ("Succeeded", "Unneeded")
    assert plane.restarted == []


async def test_a_cancelled_run_takes_its_job_with_it(plane: RepairingPlane) -> None:
    await plane.begin(playbook({"runCommand": {"command": ["sleep", "1h"]}}))
    await plane.fire()
    await plane.settle()
    await plane.write((await plane.run()).with_spec(cancelled=True))
    await plane.settle()
    ((job,), _) = await plane.store.list(Job)
    assert job.spec.cancelled
    assert (await plane.run()).status.phase == "Cancelled"
    await plane.settle()
    assert len(await plane.runs()) == 1, "who cancels has decided for this episode"


async def test_a_replica_that_fails_when_it_is_restarted_fails_the_step(
    plane: RepairingPlane,
) -> None:
    await plane.begin(playbook(RESTART, limits={"cooldown": "1h"}))
    broken = await plane.break_replica()
    plane.stuck = True
    await plane.fire()
    await plane.settle()
    asked = await plane.store.get(Replica, broken.metadata.name, "production")
    assert asked.spec.restart == "repair-1.step-1"
    await plane.write(asked.with_status(phase="Failed", restarted=asked.spec.restart, reason="Oom"))
    await plane.settle()
    assert "Oom" in (await plane.run()).status.message
