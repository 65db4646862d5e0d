"""When a model is trained anew: each cause once, never two at a time, never more than a day has."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from modelplane.decisions.training import LONGEST_DEBOUNCE, READY, decide, start_run
from modelplane.decisions.training_causes import Seen, SightedData, due_at
from modelplane.decisions.training_names import run_number, token_name
from modelplane.errors import Conflict
from modelplane.resources.alerting import Alert, AlertSpec, AlertStatus
from modelplane.resources.dataset import DatasetVersion, DatasetVersionSpec
from modelplane.resources.meta import Metadata, Subject
from modelplane.resources.training import (
    TrainingRun,
    TrainingTrigger,
    TrainingTriggerSpec,
    WatchedData,
)

T0 = datetime(2026, 1, 5, 12, 0, tzinfo=UTC)
ANN = Subject(name="ann")


def after(seconds: float) -> datetime:
    return T0 + timedelta(seconds=seconds)


def make_trigger(name: str = "fraud", **spec: Any) -> TrainingTrigger:
    given = {"model": "fraud", "run": {"command": {"command": ["train"]}}, **spec}
    return TrainingTrigger(
        metadata=Metadata(name=name), spec=TrainingTriggerSpec.model_validate(given)
    )


def make_data(number: int, dataset: str = "payments", author: str = "ann") -> DatasetVersion:
    spec = DatasetVersionSpec(
        dataset=dataset,
        version=str(number),
        number=number,
        digest=f"sha256:{number}",
        author=author,
    )
    return DatasetVersion(metadata=Metadata(name=f"{dataset}@{number}"), spec=spec)


def make_alert(name: str = "drift", episode: int = 1, **status: Any) -> Alert:
    return Alert(
        metadata=Metadata(name=name),
        spec=AlertSpec(
            alert="Drift", source="modelplane", labels={"model": "fraud"}, fingerprint="ab"
        ),
        status=AlertStatus(**{"phase": "Firing", "episode": episode, **status}),
    )


class Plane:
    """A trigger over time: what is decided is stored, runs begin and end."""

    def __init__(self, trigger: TrainingTrigger) -> None:
        self.trigger = trigger
        self.runs: list[TrainingRun] = []
        self.look_at: datetime | None = None

    def look(self, at_s: float, **seen: Any) -> str | None:
        decision = decide(self.trigger, Seen(**seen), self.runs, after(at_s))
        self.trigger, self.look_at = decision.trigger, decision.look_at
        if decision.run is None:
            return None
        metadata = decision.run.metadata.with_(created_at=after(at_s))
        self.runs.append(decision.run.with_(metadata=metadata))
        return decision.run.spec.cause

    def end_last(self, at_s: float) -> None:
        self.runs[-1] = self.runs[-1].with_status(phase="Succeeded", finished_at=after(at_s))

    @property
    def waits_for(self) -> str:
        (condition,) = self.trigger.status.conditions
        assert condition.type == READY
        return condition.reason


def on_dataset(**spec: Any) -> Plane:
    plane = Plane(make_trigger(on={"dataset": ["payments"]}, **spec))
    assert plane.look(0, datasets={"payments": [make_data(1)]}) is None, "it was there before"
    return plane


def versions(*numbers: int) -> dict[str, Any]:
    return {"datasets": {"payments": [make_data(number) for number in numbers]}}


def test_a_new_version_of_a_dataset_begins_one_run_that_names_it() -> None:
    plane = on_dataset()
    assert plane.look(10, **versions(1, 2)) == "dataset"
    assert plane.runs[0].metadata.name == "fraud-1"
    assert plane.runs[0].spec.data["version"] == "2"
    plane.end_last(20)
    assert plane.look(30, **versions(1, 2)) is None


def test_what_a_run_of_the_trigger_registered_is_no_cause_and_what_another_did_is() -> None:
    plane = on_dataset()
    own = make_data(2, author=token_name("fraud-7"))
    assert plane.look(10, datasets={"payments": [make_data(1), own]}) is None
    other = make_data(3, author=token_name("fraud-eu-7"))
    assert plane.look(20, datasets={"payments": [make_data(1), own, other]}) == "dataset"


def test_causes_that_come_close_are_one_and_the_newest_is_told() -> None:
    plane = on_dataset(debounce="60s")
    assert plane.look(10, **versions(1, 2)) is None
    assert plane.waits_for == "Debouncing"
    assert plane.look_at == after(70)
    assert plane.look(50, **versions(1, 2, 3)) is None
    assert plane.look(70, **versions(1, 2, 3)) is None
    assert plane.look(110, **versions(1, 2, 3)) == "dataset"
    (run,) = plane.runs
    assert run.spec.data["version"] == "3"
    assert run.spec.data["also"] == ["payments@2 was registered"]


def test_causes_that_never_stop_coming_begin_a_run_all_the_same() -> None:
    plane = on_dataset(debounce="60s")
    begun = [plane.look(at_s, **versions(*range(1, at_s // 30 + 2))) for at_s in range(30, 600, 30)]
    assert begun.index("dataset") == LONGEST_DEBOUNCE * 2


def test_one_run_at_a_time_then_it_cools_down_and_the_waiting_cause_is_not_lost() -> None:
    plane = on_dataset(cooldown="10m")
    assert plane.look(10, **versions(1, 2)) == "dataset"
    assert plane.look(20, **versions(1, 2, 3)) is None
    assert plane.waits_for == "Busy"
    plane.end_last(100)
    assert plane.look(101, **versions(1, 2, 3)) is None
    assert (plane.waits_for, plane.look_at) == ("CoolingDown", after(700))
    assert plane.look(700, **versions(1, 2, 3)) == "dataset"


def test_a_run_of_another_trigger_of_the_same_model_is_waited_for() -> None:
    plane = on_dataset()
    _, other = start_run(make_trigger("nightly"), [], "hand", subject=ANN, now=T0)
    plane.runs.append(other)
    assert plane.look(10, **versions(1, 2)) is None
    assert plane.waits_for == "Busy"


def test_the_budget_of_a_day_waits_and_holds_playbooks_back_but_no_person() -> None:
    plane = on_dataset(perDay=2)
    for number, at_s in ((2, 10), (3, 20)):
        assert plane.look(at_s, **versions(1, number)) == "dataset"
        plane.end_last(at_s + 5)
    assert plane.look(30, **versions(4)) is None
    assert (plane.waits_for, plane.look_at) == ("BudgetSpent", after(10 + 86400))
    with pytest.raises(Conflict, match="2 began within a day"):
        start_run(plane.trigger, plane.runs, "playbook", subject=ANN, now=after(40))
    _, run = start_run(plane.trigger, plane.runs, "hand", subject=ANN, now=after(40))
    assert (run.metadata.name, run.spec.subject) == ("fraud-3", "ann")
    assert plane.look(10 + 86400, **versions(4)) == "dataset"


def test_a_person_who_starts_one_takes_care_of_what_was_pending() -> None:
    plane = on_dataset(debounce="60s")
    plane.look(10, **versions(1, 2))
    plane.trigger, run = start_run(plane.trigger, [], "hand", subject=ANN, now=after(11))
    plane.runs = [run.with_status(phase="Succeeded", finished_at=after(12))]
    assert plane.look(200, **versions(1, 2)) is None


def test_nobody_starts_a_second_one_beside_the_first() -> None:
    trigger, run = start_run(make_trigger(), [], "hand", subject=ANN, now=T0)
    with pytest.raises(Conflict, match="fraud-1 is under way"):
        start_run(trigger, [run], "hand", subject=ANN, now=T0)


def test_a_suspended_trigger_begins_once_for_all_when_it_goes_on() -> None:
    plane = on_dataset(suspended=True)
    for number in (2, 3, 4):
        assert plane.look(number * 100, **versions(1, number)) is None
    assert plane.waits_for == "Suspended"
    plane.trigger = plane.trigger.with_spec(suspended=False)
    assert plane.look(1000, **versions(1, 4)) == "dataset"
    plane.end_last(1001)
    assert plane.look(2000, **versions(1, 4)) is None


def on_alert(**spec: Any) -> Plane:
    return Plane(make_trigger(on={"alerts": ['alertname="Drift"', 'model="fraud"']}, **spec))


def test_an_alert_begins_one_run_for_each_episode() -> None:
    plane = on_alert()
    assert plane.look(0, alerts=[make_alert()]) == "alert"
    assert plane.runs[0].spec.data["labels"]["alertname"] == "Drift"
    plane.end_last(10)
    assert plane.look(20, alerts=[make_alert()]) is None, "it fires on"
    assert plane.look(30, alerts=[make_alert(phase="Resolved")]) is None
    assert plane.look(40, alerts=[make_alert(episode=2)]) == "alert"


@pytest.mark.parametrize(
    "status", [{"phase": "Pending"}, {"flapping": True}, {"silenced_by": "quiet"}]
)
def test_an_alert_that_nobody_is_told_of_begins_none(status: dict[str, Any]) -> None:
    plane = on_alert()
    assert plane.look(0, alerts=[make_alert(**status)]) is None
    assert plane.look(9, alerts=[make_alert()]) == "alert", "from when on it is heard"


def test_an_alert_of_another_model_is_not_meant() -> None:
    alert = make_alert()
    other = alert.with_(spec=alert.spec.with_(labels={"model": "churn"}))
    assert on_alert().look(0, alerts=[other]) is None


def on_data() -> Plane:
    return Plane(make_trigger(on={"data": [{"uri": "/data/payments", "every": "10s"}]}))


def sight(number: int | None = None, fault: str = "") -> dict[str, Any]:
    version = make_data(number) if number is not None else None
    return {"data": {"/data/payments": SightedData(version, fault)}}


def test_watched_data_is_a_cause_when_it_changes_and_when_it_appears() -> None:
    plane = on_data()
    assert plane.look(0) is None
    assert plane.look(10, **sight()) is None, "there is nothing yet"
    assert plane.look(20, **sight(1)) == "data"
    assert plane.runs[0].spec.data["uri"] == "/data/payments"
    plane.end_last(21)
    assert plane.look(30, **sight(1)) is None
    assert plane.look(40, **sight(2)) == "data"


def test_what_lay_there_before_is_no_cause() -> None:
    plane = on_data()
    assert plane.look(0, **sight(1)) is None
    assert plane.look(10, **sight(1)) is None


def test_data_that_cannot_be_read_is_told_and_forgotten_by_nobody() -> None:
    plane = on_data()
    plane.look(0, **sight(1))
    assert plane.look(10, **sight(fault="the bucket does not exist")) is None
    assert plane.waits_for == "DataUnreadable"
    assert plane.look(20, **sight(1)) is None, "the same data as before"
    assert plane.waits_for == "Idle"
    assert plane.look(30, **sight(2)) == "data"


def test_data_that_is_watched_and_named_as_a_dataset_is_one_cause() -> None:
    causes = {"dataset": ["payments"], "data": [{"uri": "/data/payments"}]}
    plane = Plane(make_trigger(on=causes))
    plane.look(0, **sight(1), **versions(1))
    assert plane.look(10, **sight(2), **versions(1)) == "data"
    plane.end_last(11)
    assert plane.look(12, **sight(2), **versions(1, 2)) is None


def test_the_schedule_makes_up_once_for_what_was_missed() -> None:
    plane = Plane(make_trigger(on={"schedule": "0 3 * * *"}))
    assert plane.look(0) is None
    assert plane.look_at == datetime(2026, 1, 6, 3, tzinfo=UTC)
    assert plane.look(3 * 86400) == "schedule"
    plane.end_last(3 * 86400 + 5)
    assert plane.look(3 * 86400 + 10) is None
    assert plane.look(4 * 86400) == "schedule"


def test_another_schedule_counts_from_when_it_is_declared() -> None:
    plane = Plane(make_trigger(on={"schedule": "0 3 * * *"}))
    plane.look(0)
    changed = make_trigger(on={"schedule": "0 11 * * *"}).spec
    plane.trigger = plane.trigger.with_(spec=changed)
    assert plane.look(86400) is None, "11 o'clock passed before anybody asked for it"


@given(
    since=st.integers(0, 10**6),
    passed=st.integers(0, 10**6),
    schedule=st.sampled_from(["0 3 * * *", "*/5 * * * *", "0 0 1 * *"]),
)
def test_a_moment_is_due_once(since: int, passed: int, schedule: str) -> None:
    now = after(since + passed)
    due = due_at(schedule, after(since), now)
    if due is not None:
        assert after(since) < due <= now
        assert due_at(schedule, due, now) is None


@given(
    events=st.lists(
        st.tuples(st.integers(1, 4000), st.sampled_from(["data", "alert", "end", "look"])),
        max_size=40,
    ),
    debounce_s=st.integers(0, 600),
    cooldown_s=st.integers(0, 3000),
    per_day=st.integers(1, 4),
)
def test_never_two_at_once_nor_more_than_the_budget_nor_hotter_than_the_cooldown(
    events: list[tuple[int, str]], debounce_s: int, cooldown_s: int, per_day: int
) -> None:
    causes = {"dataset": ["payments"], "alerts": ['alertname="Drift"']}
    plane = Plane(make_trigger(on=causes, debounce=debounce_s, cooldown=cooldown_s, perDay=per_day))
    at_s, number, episode = 0, 1, 1
    for passed_s, what in events:
        at_s += passed_s
        number += what == "data"
        episode += what == "alert"
        if what == "end" and plane.runs and not plane.runs[-1].finished:
            plane.end_last(at_s)
        before = list(plane.runs)
        alerts = [make_alert(episode=episode)] if episode > 1 else []
        plane.look(at_s, alerts=alerts, **versions(number))
        if len(plane.runs) == len(before):
            continue
        assert all(run.finished for run in before)
        ended = [run.status.finished_at for run in before if run.status.finished_at]
        assert all(after(at_s) >= end + timedelta(seconds=cooldown_s) for end in ended)
        today = [
            run
            for run in plane.runs
            if run.metadata.created_at and run.metadata.created_at > after(at_s - 86400)
        ]
        assert len(today) <= per_day
    numbers = [run_number("fraud", run.metadata.name) for run in plane.runs]
    assert numbers == list(range(1, len(numbers) + 1))
    if plane.runs and not plane.runs[-1].finished:
        plane.end_last(at_s)
    # Whatever is pending begins in the end; nothing is lost and nothing comes back.
    was_pending = plane.trigger.status.pending is not None
    late_s = at_s + 10 * 86400
    begun = plane.look(late_s, **versions(number))
    assert (begun is not None) == was_pending
    if plane.runs and not plane.runs[-1].finished:
        plane.end_last(late_s)
    assert plane.look(late_s + 10 * 86400, **versions(number)) is None


def test_a_trigger_that_was_declared_anew_does_not_take_a_name_again() -> None:
    _, first = start_run(make_trigger(), [], "hand", subject=ANN, now=T0)
    old = first.with_status(phase="Failed")
    _, second = start_run(make_trigger(), [old], "hand", subject=ANN, now=T0)
    assert second.metadata.name == "fraud-2"


@pytest.mark.parametrize("uri", ["data/payments.csv", "payments", "../x", "s3:/b/k", ""])
def test_data_is_named_so_that_it_means_the_same_everywhere(uri: str) -> None:
    with pytest.raises(ValidationError):
        WatchedData(uri=uri)
