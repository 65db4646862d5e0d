"""A control plane that dies before or after any write of a playbook does the same, once.

One scenario has a step of every kind that changes something; it is played once without a crash,
and then with one before and one after each commit. ``CRASH_AT=N`` plays one of them.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from modelplane.ports.store import AnyResource, Transaction
from modelplane.resources.job import Job
from modelplane.resources.notification import Notification
from modelplane.resources.playbook import PersonAnswer
from modelplane.resources.promotion import Promotion
from modelplane.resources.replica import Replica
from modelplane.resources.training import TrainingRun, TrainingTrigger
from tests.controllers.repairing import RepairingPlane, open_repairing, playbook

pytestmark = [pytest.mark.slow, pytest.mark.timeout(300)]

STEPS: list[dict[str, Any]] = [
    {"name": "restart", "restartReplica": {}},
    {"name": "scale", "scale": {"by": 1}},
    {"name": "collect", "runCommand": {"command": ["collect", "{{ $labels.deployment }}"]}},
    {"name": "tell", "callWebhook": {"url": "http://ops.test/hook"}},
    {"name": "ask", "askPerson": {"question": "Train anew?"}},
    {"name": "train", "startTraining": {"trigger": "weekly"}},
]
TRIGGER = TrainingTrigger.model_validate(
    {
        "metadata": {"name": "weekly"},
        "spec": {"model": "delay", "run": {"command": {"command": ["train"]}}},
    }
)


class Crash(Exception):
    """The control plane dies."""


class CrashingStore:
    """A store that ends the process at one of the commits that playbooks make."""

    def __init__(self, store: Any, crash_at: int, *, after: bool) -> None:
        self._store = store
        self._crash_at = crash_at
        self._after = after
        self.commits = 0

    def __getattr__(self, name: str) -> Any:
        return getattr(self._store, name)

    async def commit(self, transaction: Transaction) -> Sequence[AnyResource]:
        is_ours = transaction.subject.name == "system:playbooks"
        self.commits += is_ours
        crashes = is_ours and self.commits == self._crash_at
        if crashes and not self._after:
            raise Crash
        written: Sequence[AnyResource] = await self._store.commit(transaction)
        if crashes:
            raise Crash
        return written


async def play(directory: Path, crash_at: int, *, after: bool) -> tuple[dict[str, Any], int]:
    """Return everything that happened, and how many commits playbooks made."""
    directory.mkdir()
    async with open_repairing(directory) as first:
        await first.begin(playbook(*STEPS), TRIGGER)
        await first.break_replica()
        await first.fire()
        store = CrashingStore(first.store, crash_at, after=after)
        plane, crashes = _restart(first, store), 0
        for _ in range(40):
            try:
                await plane.settle()
            except Crash:
                crashes += 1
                restarted = plane.restarted
                plane = _restart(plane, store)
                plane.restarted = restarted
                continue
            if not await act(plane):
                break
        assert crashes == (crash_at > 0)
        return await effects(plane), store.commits


def _restart(plane: RepairingPlane, store: Any) -> RepairingPlane:
    anew = RepairingPlane(store, plane.clock, querier=plane.querier, poster=plane.poster)
    anew.fence.set(plane.fence.lease)
    # The others have nothing to do with it; all of them would take five times as long.
    names = {"placement", "playbook-starts", "playbooks"}
    anew.reconcilers = [one for one in anew.reconcilers if one.name in names]
    return anew


async def act(plane: RepairingPlane) -> bool:
    """Do what others do; return whether there was anything to do."""
    run = await plane.run()
    if await plane.end_jobs():
        return True
    for training in (await plane.store.list(TrainingRun))[0]:
        if not training.finished:
            await plane.write(training.with_status(phase="Succeeded", versions=("delay@2",)))
            return True
    asking = [s for s in run.status.steps if s.name == "ask" and s.phase == "Running"]
    if asking and not run.status.answers:
        answer = PersonAnswer(step="ask", subject="ana", agrees=True, at=plane.clock.now())
        await plane.write(run.with_status(answers=(answer,)))
        return True
    if run.status.phase == "Verifying":
        await plane.resolve()
        return True
    return not run.finished


async def effects(plane: RepairingPlane) -> dict[str, Any]:
    store = plane.store
    run = await plane.run()
    notifications = (await store.list(Notification))[0]
    return {
        "run": (run.metadata.name, run.status.phase, run.status.reason),
        "steps": [(s.name, s.phase, s.effect) for s in run.status.steps],
        "restarted": plane.restarted,
        "restarts": sorted(r.status.restarts for r in (await store.list(Replica))[0]),
        "replicas": (await plane.deployment()).spec.replicas,
        "jobs": [job.metadata.name for job in (await store.list(Job))[0]],
        "trainings": [t.metadata.name for t in (await store.list(TrainingRun))[0]],
        "promotions": [p.metadata.name for p in (await store.list(Promotion))[0]],
        "posted": sorted({message.id for _, message in plane.poster.sent}),
        "told": sorted(n.spec.event.type for n in notifications),
        "closing": (await plane.alert()).status.closing,
    }


@pytest.mark.parametrize("after", [False, True], ids=["before", "after"])
async def test_the_same_effects_once_wherever_it_dies(tmp_path: Path, after: bool) -> None:
    wanted, commits = await play(tmp_path / "whole", 0, after=False)
    assert wanted["run"] == ("repair-1", "Succeeded", "Recovered")
    assert wanted["restarted"] == ["repair-1.restart"]
    assert (wanted["replicas"], wanted["jobs"]) == (2, ["repair-1.collect"])
    assert (wanted["trainings"], len(wanted["posted"])) == (["weekly-1"], 1)
    only = os.environ.get("CRASH_AT")
    for crash_at in [int(only)] if only else range(1, commits + 1):
        found, _ = await play(tmp_path / str(crash_at), crash_at, after=after)
        assert found == wanted, f"CRASH_AT={crash_at}"
