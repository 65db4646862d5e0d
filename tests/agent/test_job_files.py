"""What a job leaves is not trusted: results and outputs are bounded, and no link is followed."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from modelplane.agent import job_files
from modelplane.agent.job_files import (
    MAX_RESULT_BYTES,
    JobFiles,
    NotedEnd,
    artifact_variable,
    parse_result,
)
from modelplane.client.artifacts import digest_tree


@pytest.fixture
def files(tmp_path: Path) -> Iterator[JobFiles]:
    made = JobFiles(tmp_path / "job", tmp_path / "sockets")
    made.prepare({"stage": "latency"})
    yield made
    made.remove()


def result_of(files: JobFiles) -> Path:
    return Path(files.variables({})["MODELPLANE_JOB_RESULT"])


# Results ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "fault"),
    [
        (b"", "not JSON"),
        (b"hello", "not JSON"),
        (b"[1]", "no JSON object"),
        (b'"text"', "no JSON object"),
        (b'{"a": NaN}', "not JSON"),
        (b'{"a": 1e999}', "too large"),
        (b'{"a": "\\ud800"}', "not JSON"),
        (b'{"a": "\xff"}', "not JSON"),
        (b'{"a": ' + b"[" * 60 + b"]" * 60 + b"}", "nested"),
        (b'{"a": ' + b"[" * 100_000 + b"]" * 100_000 + b"}", "not JSON"),
        (b'{"a": "' + b"x" * MAX_RESULT_BYTES + b'"}', "256 KiB"),
    ],
    ids=str,
)
def test_what_is_no_result_is_told(text: bytes, fault: str) -> None:
    found = parse_result(text)
    assert isinstance(found, str)
    assert fault in found


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(st.characters(exclude_categories=["Cs"])),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner),
    max_leaves=20,
)  # fmt: skip


@given(st.dictionaries(st.text(max_size=5), JSON, max_size=5))
def test_what_json_can_say_comes_back_as_it_was(data: dict[str, Any]) -> None:
    text = json.dumps(data).encode(errors="surrogatepass")
    found = parse_result(text)
    assert found == data or isinstance(found, str)
    if isinstance(found, dict):
        json.dumps(found, allow_nan=False, ensure_ascii=False).encode()


@given(st.binary(max_size=200))
def test_any_bytes_are_a_result_or_a_fault(content: bytes) -> None:
    assert isinstance(parse_result(content), dict | str)


def test_no_result_is_not_the_same_as_a_bad_one(files: JobFiles) -> None:
    assert files.read_result() is None
    result_of(files).write_text('{"passed": true}')
    assert files.read_result() == {"passed": True}


def test_a_result_is_a_plain_file(files: JobFiles, tmp_path: Path) -> None:
    secret = tmp_path / "secret.json"
    secret.write_text('{"token": "x"}')
    result_of(files).symlink_to(secret)
    assert isinstance(files.read_result(), str)
    result_of(files).unlink()
    os.mkfifo(result_of(files))
    assert isinstance(files.read_result(), str), "and reading it does not wait for a writer"
    result_of(files).unlink()
    result_of(files).mkdir()
    assert isinstance(files.read_result(), str)


# Outputs ----------------------------------------------------------------------------------------


def test_an_empty_output_is_none(files: JobFiles) -> None:
    (files.output_dir / "folder").mkdir()
    assert files.gather_output() == job_files.Output()


def test_of_an_output_only_plain_files_are_kept(files: JobFiles, tmp_path: Path) -> None:
    secret = tmp_path / "secret"
    secret.mkdir()
    (secret / "token").write_text("x")
    (files.output_dir / "sub").mkdir()
    (files.output_dir / "sub" / "report.txt").write_text("fine")
    (files.output_dir / "link").symlink_to(secret)
    os.mkfifo(files.output_dir / "pipe")
    (files.output_dir / os.fsdecode(b"\xff")).write_text("no name")
    found = files.gather_output()
    assert found.digest == digest_tree(files.output_dir).digest
    assert [p.name for p in files.output_dir.rglob("*") if p.is_file()] == ["report.txt"]
    assert "3 entries" in found.message
    assert (secret / "token").exists(), "what a link points to is left alone"


@pytest.mark.parametrize(("limit", "value"), [("MAX_OUTPUT_FILES", 2), ("MAX_OUTPUT_BYTES", 25)])
def test_an_output_that_is_too_large_is_not_kept(
    files: JobFiles, monkeypatch: pytest.MonkeyPatch, limit: str, value: int
) -> None:
    for number in range(3):
        (files.output_dir / f"{number}").write_text("0123456789")
    assert files.gather_output().digest is not None
    monkeypatch.setattr(job_files, limit, value)
    found = files.gather_output()
    assert found.digest is None
    assert "not kept" in found.message


# The rest ---------------------------------------------------------------------------------------


def test_each_attempt_begins_with_an_empty_folder(files: JobFiles) -> None:
    (files.work_dir / "left").write_text("x")
    files.note_end(NotedEnd("TimedOut", "tail"))
    files.prepare(None)
    assert [path.name for path in files.work_dir.iterdir()] == ["tmp"]
    assert files.noted_end() is None
    assert "MODELPLANE_JOB_INPUT" not in files.variables({})


def test_why_a_job_is_ended_is_known_to_the_next_agent(files: JobFiles) -> None:
    files.note_end(NotedEnd("OutOfDisk", "tail\nüber"))
    assert files.noted_end() == NotedEnd("OutOfDisk", "tail\nüber")
    (files.root / "end.json").write_text('["Nonsense", ""]')
    assert files.noted_end() is None


def test_everything_of_a_job_counts_and_small_files_too(files: JobFiles) -> None:
    before = files.size_bytes()
    (files.work_dir / "large").write_bytes(b"x" * 2**20)
    assert files.size_bytes() >= before + 2**20
    for number in range(100):
        (files.output_dir / f"{number}").touch()
    assert files.size_bytes() >= before + 2**20 + 100 * 4096
    assert files.size_bytes(limit_bytes=5000) < 2**20, "it counts no further than it must"


def test_what_lies_behind_a_link_does_not_count(files: JobFiles, tmp_path: Path) -> None:
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    (elsewhere / "large").write_bytes(b"x" * 2**20)
    (files.work_dir / "link").symlink_to(elsewhere)
    (files.work_dir / "again").symlink_to(files.work_dir)
    assert files.size_bytes() < 2**20
    files.remove()
    assert (elsewhere / "large").exists()


def test_folders_that_a_job_closed_are_removed_too(files: JobFiles) -> None:
    closed = files.work_dir / "closed" / "more"
    closed.mkdir(parents=True)
    (closed / "file").touch()
    closed.chmod(0)
    closed.parent.chmod(0)
    files.remove()
    assert not files.root.exists()


def test_variables_of_artifacts_are_names_that_shells_take() -> None:
    assert artifact_variable("candidate") == "MODELPLANE_ARTIFACT_CANDIDATE"
    assert artifact_variable("my-model.v2") == "MODELPLANE_ARTIFACT_MY_MODEL_V2"
