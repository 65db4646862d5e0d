"""What a job is started with, and how its end is told."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from modelplane.decisions.agent_jobs import JobCommand, JobEnd, conclude_job, fill_places
from modelplane.resources.job import FINISHED_JOB, Job, JobSpec, JobStatus
from modelplane.resources.meta import Metadata

NOW = datetime(2026, 1, 5, tzinfo=UTC)
GIVEN = {"stage": "latency"}


def conclude(end: dict[str, Any], **spec: Any) -> JobStatus:
    job = Job(
        metadata=Metadata(name="train"),
        spec=JobSpec(**{"command": ("train",), "timeout_s": 60.0, **spec}),
        status=JobStatus(phase="Running", attempt=1, started_at=NOW),
    )
    return conclude_job(job, JobEnd(**{"code": 0, "at": NOW, **end}))


@pytest.mark.parametrize(
    ("end", "spec", "phase", "reason"),
    [
        ({}, {}, "Succeeded", ""),
        ({}, {"cancelled": True}, "Succeeded", ""),
        ({"code": 2}, {}, "Failed", "ExitCode"),
        ({"code": 2}, {"cancelled": True}, "Cancelled", ""),
        ({"code": -11}, {}, "Failed", "Signal"),
        ({"code": None}, {}, "Failed", "Lost"),
        ({"code": None}, {"cancelled": True}, "Cancelled", ""),
        ({"code": None, "not_started": "no artifact"}, {}, "Failed", "NotStarted"),
        # Ended by the agent: its exit code says nothing.
        ({"interruption": "Cancelled"}, {}, "Cancelled", ""),
        ({"interruption": "TimedOut"}, {}, "Failed", "TimedOut"),
        ({"interruption": "TimedOut", "code": -15}, {}, "Failed", "TimedOut"),
        ({"interruption": "TimedOut", "code": -15}, {"cancelled": True}, "Cancelled", ""),
        ({"interruption": "OutOfDisk", "code": -9}, {"disk": 10}, "Failed", "OutOfDisk"),
        # Ended by itself, for want of room that it was not to have.
        ({"code": 1, "disk_full": True}, {"disk": 10}, "Failed", "OutOfDisk"),
        ({"code": -25}, {"disk": 10}, "Failed", "OutOfDisk"),
        ({"code": -25}, {}, "Failed", "Signal"),
        ({"disk_full": True}, {"disk": 10}, "Succeeded", ""),
        # Who was given an input owes a result.
        ({"result": {"passed": True}}, {"input": GIVEN}, "Succeeded", ""),
        ({}, {"input": GIVEN}, "Failed", "InvalidResult"),
        ({"result_fault": "it is not JSON"}, {"input": GIVEN}, "Failed", "InvalidResult"),
        ({}, {"input": GIVEN, "result_optional": True}, "Succeeded", ""),
        ({"result_fault": "it is not JSON"}, {}, "Succeeded", ""),
        ({"code": 65, "result": {"impossible": "no label"}}, {"input": GIVEN}, "Failed",
         "ExitCode"),
        ({"code": 65}, {"input": GIVEN}, "Failed", "ExitCode"),
    ],
)  # fmt: skip
def test_how_a_job_ended(
    end: dict[str, Any], spec: dict[str, Any], phase: str, reason: str
) -> None:
    status = conclude({"log_tail": "tail", **end}, **spec)
    assert (status.phase, status.reason, status.exit_code) == (phase, reason, end.get("code", 0))
    assert (status.log_tail, status.finished_at) == ("tail", NOW)
    assert status.result == end.get("result"), "also of a job that failed"
    if phase != "Succeeded" or "result_fault" in end:
        assert status.message


def test_what_happened_to_the_output_is_said_and_changes_nothing_else() -> None:
    status = conclude({"code": 3, "output_message": "its output is not kept: too large"})
    assert (status.phase, status.reason) == ("Failed", "ExitCode")
    assert status.message == "ended with exit code 3; its output is not kept: too large"
    assert conclude({"output": "sha256:1f"}).output == "sha256:1f"


@given(
    code=st.none() | st.integers(-64, 255),
    interruption=st.sampled_from([None, "TimedOut", "OutOfDisk", "Cancelled"]),
    cancelled=st.booleans(),
    full=st.booleans(),
    spec=st.fixed_dictionaries({}, optional={"input": st.just(GIVEN), "disk": st.just(10)}),
    result=st.none() | st.just({"passed": True}),
)
def test_every_end_is_one_and_only_a_whole_one_is_a_success(
    code: int | None,
    interruption: Any,
    cancelled: bool,
    full: bool,
    spec: dict[str, Any],
    result: dict[str, Any] | None,
) -> None:
    end = {"code": code, "interruption": interruption, "disk_full": full, "result": result}
    status = conclude(end, cancelled=cancelled, **spec)
    assert status.phase in FINISHED_JOB
    assert (status.phase == "Failed") == (status.reason != "")
    if status.phase == "Succeeded":
        assert code == 0
        assert interruption is None
        assert "input" not in spec or result is not None


def test_places_are_filled_in_command_and_variables() -> None:
    spec = JobSpec(
        command=("{python}", "-m", "x", "{artifact:candidate}/model", "{other}", "{artifact}"),
        env={"MODEL": "{artifact:candidate}", "PYTHON": "{python}"},
    )
    filled = fill_places(spec, "/p", {"candidate": "/a/{python}"})
    assert filled == JobCommand(
        # What was filled in is not looked at again.
        ("/p", "-m", "x", "/a/{python}/model", "{other}", "{artifact}"),
        {"MODEL": "/a/{python}", "PYTHON": "/p"},
    )


def test_a_place_that_nothing_fills_is_named() -> None:
    spec = JobSpec(command=("x",), env={"MODEL": "{artifact:champion}"})
    assert "champion" in str(fill_places(spec, "/p", {"candidate": "/a"}))
