"""Environments are addressed by what they hold, built once, and never left half built."""

from __future__ import annotations

import asyncio
import fcntl
import os
import sys
from pathlib import Path

import pytest
import uv
from hypothesis import given
from hypothesis import strategies as st

from modelplane.adapters.runtime import environments
from modelplane.adapters.runtime.environments import (
    EnvironmentFailed,
    EnvironmentReady,
    EnvironmentSpec,
    FailureReason,
    build,
    child_environment,
    compute_key,
    installer_environment,
)

# Needs no package: only `uv venv` runs.
BARE = EnvironmentSpec("command", "")


def test_the_key_covers_everything_that_changes_an_environment(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    pinned = EnvironmentSpec("skops", "scikit-learn==1.6.1\n")
    keys = {
        compute_key(pinned),
        compute_key(EnvironmentSpec("skops", "scikit-learn==1.6.2\n")),
        compute_key(EnvironmentSpec("skops")),
        compute_key(EnvironmentSpec("onnx")),
        compute_key(EnvironmentSpec("skops", "scikit-learn==1.6.1\n", Path("/usr/bin/env"))),
    }
    monkeypatch.setattr(environments, "_runtime_digest", lambda: "another model server")
    keys.add(compute_key(pinned))

    assert len(keys) == 6
    assert {len(key) for key in keys} == {64}


@given(st.sampled_from(["a==1\n\n  \nb==2", "a==1  \nb==2\n", "a==1\r\nb==2"]))
def test_blank_lines_and_line_ends_are_the_same_environment(text: str) -> None:
    same = EnvironmentSpec("command", "a==1\nb==2")
    assert compute_key(EnvironmentSpec("command", text)) == compute_key(same)


def test_a_model_server_inherits_little(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MODELPLANE_TOKEN", "secret")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "secret")
    monkeypatch.setenv("PYTHONDONTWRITEBYTECODE", "1")

    child = child_environment(
        {"OMP_NUM_THREADS": "4", "FEATURE": "on", "PYTHONPATH": "/x", "MODELPLANE_X": "1"}
    )

    assert "secret" not in child.values()
    assert child["OMP_NUM_THREADS"] == "4"
    assert child["OPENBLAS_NUM_THREADS"] == child["MKL_NUM_THREADS"] == "1"
    assert child["FEATURE"] == "on"
    assert child["PATH"] == os.environ["PATH"]
    assert not {"PYTHONPATH", "PYTHONDONTWRITEBYTECODE", "MODELPLANE_X"} & set(child)


def test_pips_indexes_reach_uv_where_uv_has_none() -> None:
    pip = {
        "PIP_INDEX_URL": "file:///main",
        "PIP_EXTRA_INDEX_URL": "file:///one  file:///two",
        "PIP_FIND_LINKS": "/wheels /more",
        "PIP_CERT": "/ca.pem",
        "HOME": "/home/me",
        "MODELPLANE_TOKEN": "secret",
        "VIRTUAL_ENV": "/venv",
    }

    translated = installer_environment(pip)
    own = installer_environment({**pip, "UV_INDEX_URL": "file:///uv", "UV_INDEX": "file:///x"})

    assert translated["UV_DEFAULT_INDEX"] == "file:///main"
    assert translated["UV_INDEX"] == "file:///one file:///two"
    assert translated["UV_INDEX_STRATEGY"] == "unsafe-best-match"
    assert translated["UV_FIND_LINKS"] == "/wheels,/more"
    assert translated["SSL_CERT_FILE"] == "/ca.pem"
    assert translated["HOME"] == "/home/me"
    assert not {"MODELPLANE_TOKEN", "VIRTUAL_ENV"} & set(translated)
    assert "UV_DEFAULT_INDEX" not in own
    assert own["UV_INDEX"] == "file:///x"
    assert "UV_INDEX_STRATEGY" not in own


async def test_the_running_interpreter_is_taken_only_when_asked(tmp_path: Path) -> None:
    result = await build(EnvironmentSpec("onnx"), tmp_path, use_current=True)

    assert isinstance(result, EnvironmentReady)
    assert result.python == Path(sys.executable)
    assert result.key.startswith("current-")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.e2e
async def test_an_environment_is_built_once_for_all_who_ask(tmp_path: Path) -> None:
    results = await asyncio.gather(*(build(BARE, tmp_path) for _ in range(3)))
    again = await build(BARE, tmp_path)

    assert all(isinstance(result, EnvironmentReady) for result in (*results, again))
    assert len({result.key for result in results}) == 1
    assert isinstance(again, EnvironmentReady)
    assert again.build_s == 0
    venvs = [path for path in (tmp_path / "environments").iterdir() if path.is_dir()]
    assert venvs == [tmp_path / "environments" / compute_key(BARE)]


@pytest.mark.e2e
async def test_what_a_crash_left_without_a_marker_is_built_again(tmp_path: Path) -> None:
    left = tmp_path / "environments" / compute_key(BARE)
    (left / "bin").mkdir(parents=True)
    (left / "bin" / "python").write_text("half an interpreter")

    result = await build(BARE, tmp_path)

    assert isinstance(result, EnvironmentReady)
    process = await asyncio.create_subprocess_exec(str(result.python), "-c", "pass")
    assert await process.wait() == 0


@pytest.mark.e2e
async def test_a_requirement_that_does_not_exist_fails_with_the_log(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("UV_NO_INDEX", "1")
    monkeypatch.delenv("UV_FIND_LINKS", raising=False)
    spec = EnvironmentSpec("command", "no-such-package-anywhere==1.0\n")

    result = await build(spec, tmp_path)

    assert isinstance(result, EnvironmentFailed)
    assert result.reason is FailureReason.INSTALL_FAILED
    assert "no-such-package-anywhere" in result.log_tail
    assert not (tmp_path / "environments" / result.key).exists()


async def test_a_root_that_cannot_be_written_is_a_value(tmp_path: Path) -> None:
    (tmp_path / "environments").write_text("a file in the way")

    result = await build(BARE, tmp_path)

    assert isinstance(result, EnvironmentFailed)
    assert result.reason is FailureReason.NOT_WRITABLE
    assert "environments" in result.message


@pytest.fixture
def hanging_uv(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An installer that prints credentials, notes its process id and never ends."""
    script = tmp_path / "uv"
    note = tmp_path / "pid"
    script.write_text(
        "#!/bin/sh\necho at https://user:hunter2@index.example/\n"
        f"echo $$ > {note}.new && mv {note}.new {note}\nexec sleep 600\n"
    )
    script.chmod(0o755)
    monkeypatch.setattr(uv, "find_uv_bin", lambda: str(script))
    return note


def is_running(note: Path) -> bool:
    try:
        os.kill(int(note.read_text()), 0)
    except ProcessLookupError:
        return False
    return True


async def until_exists(path: Path) -> None:
    async with asyncio.timeout(10):
        while not path.exists():  # noqa: ASYNC110 - another process makes it
            await asyncio.sleep(0.01)


async def test_a_build_that_takes_too_long_is_ended(tmp_path: Path, hanging_uv: Path) -> None:
    result = await build(BARE, tmp_path, timeout_s=4.0)

    assert isinstance(result, EnvironmentFailed)
    assert result.reason is FailureReason.TIMED_OUT
    assert "hunter2" not in result.log_tail
    assert "https://***@index.example/" in result.log_tail
    assert not is_running(hanging_uv)


async def test_cancelling_a_build_ends_its_installer_and_frees_the_lock(
    tmp_path: Path, hanging_uv: Path
) -> None:
    task = asyncio.create_task(build(BARE, tmp_path))
    await until_exists(hanging_uv)

    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task

    assert not is_running(hanging_uv)
    with (tmp_path / "environments" / f"{compute_key(BARE)}.lock").open() as lock:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)


async def test_a_build_waits_for_an_installer_that_outlived_its_agent(tmp_path: Path) -> None:
    (tmp_path / "environments").mkdir()
    lock = (tmp_path / "environments" / f"{compute_key(BARE)}.lock").open("w")
    fcntl.flock(lock, fcntl.LOCK_EX)

    result = await build(BARE, tmp_path, timeout_s=0.3)

    assert isinstance(result, EnvironmentFailed)
    assert result.reason is FailureReason.TIMED_OUT
    lock.close()


@pytest.mark.e2e
@pytest.mark.slow
@pytest.mark.timeout(600)
async def test_a_built_environment_serves_a_model(
    tmp_path: Path, short_directory: Path, artifacts: Path
) -> None:
    result = await build(EnvironmentSpec("onnx"), tmp_path, timeout_s=500)
    assert isinstance(result, EnvironmentReady), result

    command = [str(result.python), "-m", "modelplane_runtime", "--uds", str(short_directory / "s")]
    command += ["--model-name", "m", "--model-version", "1", "--format", "onnx"]
    command += ["--artifact", str(artifacts / "model.onnx")]
    process = await asyncio.create_subprocess_exec(
        *command, env=child_environment(), cwd=short_directory, stderr=asyncio.subprocess.PIPE
    )
    assert process.stderr is not None
    try:
        async with asyncio.timeout(60):
            line = b""
            while b"ready after" not in line:
                line = await process.stderr.readline()
                assert line, "the server ended"
        process.terminate()
        async with asyncio.timeout(20):
            assert await process.wait() == 0
    finally:
        if process.returncode is None:
            process.kill()
        await process.wait()
