"""The job of a stage: what it is given, what it writes, and how its exit code says how it went."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from modelplane.agent.job_files import MAX_RESULT_BYTES as TAKEN_BYTES
from modelplane.agent.job_files import parse_result
from modelplane.resources.gate_run import (
    Finding,
    Measurement,
    StageOutcome,
    StageTask,
    TestCase,
)
from modelplane.resources.validation_pipeline import CHECKS
from modelplane.stages import running
from modelplane.stages.failures import CheckImpossible, InfrastructureFailed
from modelplane.stages.running import (
    MAX_RESULT_BYTES,
    find_check,
    main,
    shorten_outcome,
)
from modelplane.stages.workspace import Workspace
from tests.stages.programs import task, workspace

COMMAND = {"command": {"run": ["true"]}}


@pytest.fixture
def space(monkeypatch: pytest.MonkeyPatch) -> Iterator[Workspace]:
    """A workspace that the variables describe, as an agent sets them."""
    with workspace() as made:
        for name, value in variables(made).items():
            monkeypatch.setenv(name, value)
        monkeypatch.chdir(made.work_dir)
        monkeypatch.setattr(sys, "path", list(sys.path))
        yield made


def variables(space: Workspace) -> dict[str, str]:
    return {
        "MODELPLANE_JOB_INPUT": str(space.work_dir.parent / "input.json"),
        "MODELPLANE_JOB_RESULT": str(space.work_dir.parent / "result.json"),
        "MODELPLANE_JOB_OUTPUT": str(space.output_dir),
        "MODELPLANE_JOB_SOCKETS": str(space.socket_dir),
        "MODELPLANE_ARTIFACT_CANDIDATE": str(space.candidate_dir),
        "MODELPLANE_ENVIRONMENTS": str(space.environments_dir),
    }


def give(space: Workspace, given: StageTask | dict[str, Any]) -> None:
    data = given.to_dict() if isinstance(given, StageTask) else given
    (space.work_dir.parent / "input.json").write_text(json.dumps(data))


def result(space: Workspace) -> dict[str, Any]:
    found = parse_result((space.work_dir.parent / "result.json").read_bytes())
    assert isinstance(found, dict)
    return found


def check_is(monkeypatch: pytest.MonkeyPatch, does: Any) -> None:
    async def check(task: StageTask, space: Workspace) -> StageOutcome:
        if isinstance(does, BaseException):
            raise does
        return does(task, space) if callable(does) else does  # type: ignore[no-any-return]

    monkeypatch.setattr(running, "find_check", lambda _: check)


@pytest.mark.parametrize("passed", [True, False])
def test_an_outcome_is_written_whatever_it_says(
    space: Workspace, monkeypatch: pytest.MonkeyPatch, passed: bool
) -> None:
    outcome = StageOutcome(
        passed=passed,
        message="said",
        measurements=(Measurement(name="f1_score", value=0.5, at_least=0.4, passed=passed),),
    )
    check_is(monkeypatch, outcome)
    give(space, task(of=COMMAND))
    assert main() == 0, "a check that says no was made"
    assert StageOutcome.model_validate(result(space)) == outcome
    evidence = json.loads((space.output_dir / "outcome.json").read_text())
    assert StageOutcome.model_validate(evidence) == outcome


@pytest.mark.parametrize(
    ("error", "code", "kind"),
    [
        (CheckImpossible("no label column"), 65, "impossible"),
        (InfrastructureFailed("the index is away"), 75, "infrastructure"),
        (ModuleNotFoundError("No module named 'pact'", name="pact"), 65, "impossible"),
    ],
)
def test_why_there_is_no_outcome_is_told(
    space: Workspace, monkeypatch: pytest.MonkeyPatch, error: Exception, code: int, kind: str
) -> None:
    check_is(monkeypatch, error)
    give(space, task(of=COMMAND))
    assert main() == code
    found = result(space)
    assert list(found) == [kind]
    if error.__class__ is ModuleNotFoundError:
        assert "pip install 'modelplane[gates]'" in found[kind]
    else:
        assert found[kind] == str(error)


def test_a_fault_of_the_check_itself_is_no_outcome(
    space: Workspace, monkeypatch: pytest.MonkeyPatch
) -> None:
    check_is(monkeypatch, ZeroDivisionError("division by zero"))
    give(space, task(of=COMMAND))
    with pytest.raises(ZeroDivisionError):
        main()
    assert not (space.work_dir.parent / "result.json").exists()


@pytest.mark.parametrize("given", [{}, {"run": "r", "stage": {"name": "x"}}, {"nonsense": 1}])
def test_what_is_no_task_is_impossible(space: Workspace, given: dict[str, Any]) -> None:
    give(space, given)
    assert main() == 65
    assert "not given a stage" in result(space)["impossible"]


@pytest.mark.parametrize("missing", ["JOB_INPUT", "ARTIFACT_CANDIDATE", "ENVIRONMENTS"])
def test_only_agents_run_it(
    space: Workspace,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    missing: str,
) -> None:
    monkeypatch.delenv(f"MODELPLANE_{missing}")
    assert main() == 64
    assert f"MODELPLANE_{missing} is not set" in capsys.readouterr().err


def test_the_workspace_is_what_the_variables_say(
    space: Workspace, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[Workspace] = []

    def look(_: StageTask, given: Workspace) -> StageOutcome:
        seen.append(given)
        return StageOutcome(passed=True)

    check_is(monkeypatch, look)
    monkeypatch.setenv("MODELPLANE_REUSE_INTERPRETER", "false")
    give(space, task(of=COMMAND))
    assert main() == 0
    (found,) = seen
    assert (found.candidate_dir, found.champion_dir) == (space.candidate_dir, None)
    assert (found.work_dir, found.output_dir) == (space.work_dir, space.output_dir)
    assert (found.environments_dir, found.reuse_interpreter) == (space.environments_dir, False)


def test_what_a_check_puts_into_its_directory_is_not_imported(
    space: Workspace, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "path", [str(space.work_dir), "", *sys.path])
    check_is(monkeypatch, StageOutcome(passed=True))
    give(space, task(of=COMMAND))
    assert main() == 0
    assert not {"", str(space.work_dir)} & set(sys.path)


@pytest.mark.parametrize("name", CHECKS)
def test_every_check_is_there(name: Any) -> None:
    assert callable(find_check(name))


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_a_number_that_means_nothing_decides_nothing(
    space: Workspace, monkeypatch: pytest.MonkeyPatch, value: float
) -> None:
    give(space, task(of=COMMAND))

    def measure(_: StageTask, __: Workspace) -> StageOutcome:
        return StageOutcome(passed=True, measurements=(Measurement(name="roc_auc", value=value),))

    check_is(monkeypatch, measure)
    assert main() == 65
    assert (
        f"Measurement.value: Input should be a finite number, not {value}"
        in (result(space)["impossible"])
    )


# As a process -----------------------------------------------------------------------------------


def start(space: Workspace, given: StageTask) -> subprocess.Popen[str]:
    give(space, given)
    return subprocess.Popen(
        [sys.executable, "-m", "modelplane.stages"],
        cwd=space.work_dir,
        env={**os.environ, **variables(space)},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


@pytest.mark.slow
def test_the_process_runs_a_stage(space: Workspace) -> None:
    given = {"run": ["{python}", "-c", "print('hello')"]}
    process = start(space, task(of={"command": given}))
    said, _ = process.communicate(timeout=60)
    assert (process.returncode, "hello" in said) == (0, True)
    assert result(space)["passed"] is True


@pytest.mark.slow
def test_the_process_ends_its_check_when_it_is_told_to_end(space: Workspace) -> None:
    script = "import os, time; print(os.getpid(), flush=True); time.sleep(60)"
    process = start(space, task(of={"command": {"run": ["{python}", "-c", script]}}))
    assert process.stdout is not None
    child = int(process.stdout.readline())
    process.terminate()
    process.communicate(timeout=30)
    assert process.returncode != 0
    assert not (space.work_dir.parent / "result.json").exists()
    for _ in range(100):
        if not Path(f"/proc/{child}").exists():
            break
        time.sleep(0.02)
    assert not Path(f"/proc/{child}").exists()


# What fits --------------------------------------------------------------------------------------


def test_a_result_always_fits_what_an_agent_takes() -> None:
    assert MAX_RESULT_BYTES < TAKEN_BYTES


texts = st.text(max_size=20)
outcomes = st.builds(
    StageOutcome,
    passed=st.booleans(),
    message=texts,
    measurements=st.lists(
        st.builds(
            Measurement,
            name=texts,
            value=st.floats(allow_nan=False, allow_infinity=False),
            slice=st.sampled_from(["", "a=1"]),
            passed=st.none() | st.booleans(),
        ),
        max_size=20,
    ).map(tuple),
    findings=st.lists(
        st.builds(Finding, severity=st.sampled_from(["info", "error"]), code=texts, message=texts),
        max_size=20,
    ).map(tuple),
    cases=st.lists(
        st.builds(TestCase, name=texts, passed=st.booleans(), message=texts), max_size=20
    ).map(tuple),
    details=st.dictionaries(texts, texts, max_size=5),
)


@given(outcomes, st.integers(400, 5000))
def test_a_long_outcome_is_shortened_and_its_verdict_is_not(
    outcome: StageOutcome, max_bytes: int
) -> None:
    found = shorten_outcome(outcome, max_bytes)
    read = StageOutcome.model_validate(found)
    assert read.passed == outcome.passed
    if len(json.dumps(found)) > max_bytes:  # nothing was left to leave out
        assert (read.cases, read.findings, read.measurements, read.details) == ((), (), (), {})
    if len(json.dumps(outcome.to_dict())) <= max_bytes:
        assert read == outcome
    elif read != outcome and read.cases and len(read.cases) < len(outcome.cases):
        failed = sum(not case.passed for case in outcome.cases)
        kept = sum(not case.passed for case in read.cases)
        assert kept == min(failed, len(read.cases)), "cases that failed go last"


def test_the_metrics_that_policies_read_outlive_those_of_slices() -> None:
    slices = tuple(
        Measurement(name="accuracy", value=0.5, slice=f"city={number}") for number in range(1000)
    )
    whole = Measurement(name="accuracy", value=0.9, at_least=0.8, passed=True)
    found = shorten_outcome(StageOutcome(passed=True, measurements=(*slices, whole)), 10_000)
    assert len(json.dumps(found)) <= 10_000
    read = StageOutcome.model_validate(found)
    assert whole in read.measurements
    assert "outcome.json" in read.message
