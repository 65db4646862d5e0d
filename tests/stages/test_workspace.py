"""A check gets the real server of a version, ready and right, and leaves none behind."""

from __future__ import annotations

import asyncio
import signal
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from modelplane.adapters.runtime.environments import (
    EnvironmentFailed,
    FailureReason,
    is_transient,
)
from modelplane.adapters.runtime.procfs import NONCE_VARIABLE
from modelplane.resources.gate_run import ServedModel
from modelplane.resources.revision import Artifact, RuntimeSpec, make_revision
from modelplane.stages.examples import example_request
from modelplane.stages.failures import CheckImpossible, InfrastructureFailed
from modelplane.stages.workspace import Workspace
from tests.stages.programs import REQUEST, program, script, workspace

pytestmark = pytest.mark.slow


@pytest.fixture
def space() -> Iterator[Workspace]:
    with workspace() as made:
        yield made


def is_running(pid: int) -> bool:
    try:
        return bool(psutil.Process(pid).status() != psutil.STATUS_ZOMBIE)
    except psutil.NoSuchProcess:
        return False


async def test_the_server_answers_and_ends_with_the_check(space: Workspace) -> None:
    async with space.serve(program("1.2.0"), space.candidate_dir) as model:
        answer = await model.infer(REQUEST)
        assert answer["outputs"][0]["data"] == ["1.2.0"]
        assert model.cold_start_s > 0
        assert 10**6 < model.peak_memory_bytes() < 10**9
        assert len(str(model.socket)) < 100
    assert not is_running(model.pid)
    assert not model.socket.exists()


async def test_two_versions_run_beside_each_other(space: Workspace) -> None:
    async with (
        space.serve(program("1.0.0"), space.candidate_dir) as candidate,
        space.serve(program("0.9.0"), space.candidate_dir, name="champion") as champion,
    ):
        answers = [await model.infer(REQUEST) for model in (candidate, champion)]
    assert [answer["outputs"][0]["data"][0] for answer in answers] == ["1.0.0", "0.9.0"]


@pytest.mark.parametrize("error", [ValueError, asyncio.CancelledError, CheckImpossible])
async def test_the_server_ends_however_the_check_ends(
    space: Workspace, error: type[BaseException]
) -> None:
    with pytest.raises(error):
        async with space.serve(program(), space.candidate_dir) as model:
            raise error
    assert not is_running(model.pid)


async def test_the_servers_own_processes_end_with_it(
    space: Workspace, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(NONCE_VARIABLE, "mark-of-the-job")
    told = tmp_path / "child"
    model = program().revision.artifact.command[1]
    text = (
        "import os, pathlib, runpy, subprocess, sys\n"
        "child = subprocess.Popen(['sleep', '60'], start_new_session=True)\n"
        f"mark = os.environ[{NONCE_VARIABLE!r}]\n"
        f"pathlib.Path({str(told)!r}).write_text(str(child.pid) + ' ' + mark)\n"
        "sys.argv = ['model', sys.argv[1], '1.0.0']\n"
        f"runpy.run_path({model!r}, run_name='__main__')\n"
    )
    async with space.serve(script(text), space.candidate_dir):
        pid, mark = told.read_text().split()
        assert mark == "mark-of-the-job", "should this process be killed, its agent ends them all"
        assert is_running(int(pid))
    assert not is_running(int(pid))


@pytest.mark.parametrize(
    ("served", "error", "words"),
    [
        (script("import sys; sys.exit('no weights')"), CheckImpossible, "no weights"),
        (program(command=("no-such-program",)), CheckImpossible, "no-such-program"),
        (program("1.0.0", "1.0"), CheckImpossible, "made to fail"),
        (
            script("import time; time.sleep(60)", runtime=RuntimeSpec(start_timeout_s=0.3)),
            CheckImpossible,
            "not ready within",
        ),
        # The machine had no memory left.
        (script("import os; os.kill(os.getpid(), 9)"), InfrastructureFailed, "signal 9"),
    ],
    ids=["crashes", "is-no-program", "refuses-its-example", "never-ready", "killed"],
)
async def test_a_version_that_cannot_be_served_says_why(
    space: Workspace, served: ServedModel, error: type[Exception], words: str
) -> None:
    with pytest.raises(error, match=words):
        async with space.serve(served, space.candidate_dir):
            pass


async def test_a_model_that_refuses_is_quoted(space: Workspace) -> None:
    candidate = program("1.0.0", "1.0", input_example=None)
    async with space.serve(candidate, space.candidate_dir) as model:
        with pytest.raises(CheckImpossible, match=r"answers 500: .*made to fail"):
            await model.infer(REQUEST)


async def test_a_model_that_dies_gives_no_answer(space: Workspace) -> None:
    async with space.serve(program(), space.candidate_dir) as model:
        psutil.Process(model.pid).send_signal(signal.SIGKILL)
        with pytest.raises(CheckImpossible, match="no answer"):
            await model.infer(REQUEST)


async def test_what_the_server_writes_is_evidence(space: Workspace) -> None:
    text = "import sys; print('loading'); sys.exit(3)"
    with pytest.raises(CheckImpossible, match="exit code 3"):
        async with space.serve(script(text), space.candidate_dir):
            pass
    assert (space.output_dir / "candidate.log").read_text() == "loading\n"


async def test_an_index_that_does_not_answer_is_the_machines_fault(
    space: Workspace, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("UV_DEFAULT_INDEX", "http://127.0.0.1:9/")
    monkeypatch.setenv("UV_INDEX", "")
    monkeypatch.setenv("UV_HTTP_RETRIES", "0")
    monkeypatch.setenv("UV_NO_CACHE", "1")
    monkeypatch.delenv("UV_FIND_LINKS", raising=False)
    served = program(runtime=RuntimeSpec(requirements="no-such-package-of-anybody==1.0\n"))
    with pytest.raises(InfrastructureFailed, match="cannot be built"):
        async with space.serve(served, space.candidate_dir):
            pass


async def test_requirements_that_are_none_are_the_versions_fault(space: Workspace) -> None:
    served = program(runtime=RuntimeSpec(requirements="this is no requirement\n"))
    with pytest.raises(CheckImpossible, match="cannot be built"):
        async with space.serve(served, space.candidate_dir):
            pass


@pytest.mark.parametrize(
    ("reason", "log_tail", "transient"),
    [
        (FailureReason.TIMED_OUT, "", True),
        (FailureReason.NOT_WRITABLE, "", True),
        (FailureReason.INSTALL_FAILED, "Caused by: error sending request for url", True),
        (FailureReason.INSTALL_FAILED, "HTTP status server error (503)", True),
        (FailureReason.INSTALL_FAILED, "HTTP status client error (401)", False),
        (FailureReason.INSTALL_FAILED, "Because there is no version of x==9", False),
    ],
)
def test_which_failed_builds_may_work_another_time(
    reason: FailureReason, log_tail: str, transient: bool
) -> None:
    assert is_transient(EnvironmentFailed("key", reason, "message", log_tail)) is transient


# Examples ---------------------------------------------------------------------------------------


def of_signature(inputs: object) -> ServedModel:
    revision = make_revision("m", "1", Artifact(format="onnx", digest="d"), RuntimeSpec())
    return ServedModel(revision=revision, signature={"inputs": inputs})


def test_an_example_is_made_from_the_signature() -> None:
    inputs = [
        {"name": "amount", "datatype": "FP64", "shape": [-1]},
        {"name": "country", "datatype": "BYTES"},
        {"name": "pixels", "datatype": "INT64", "shape": [-1, 2, 2]},
    ]
    made = example_request(of_signature(inputs))["inputs"]
    assert [tensor["shape"] for tensor in made] == [[1], [1], [1, 2, 2]]
    assert [tensor["data"] for tensor in made] == [[0.5], ["a"], [1, 1, 1, 1]]


@pytest.mark.parametrize(
    "inputs", [None, [], "x", [{"name": "x"}], [7], [{"name": "x", "datatype": "FP32",
    "shape": "wide"}], [{"name": "x", "datatype": "FP32", "shape": [10**9]}]],
)  # fmt: skip
def test_without_an_example_and_a_signature_nobody_knows_what_to_ask(inputs: object) -> None:
    with pytest.raises(CheckImpossible):
        example_request(of_signature(inputs))
