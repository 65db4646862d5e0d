"""Any program can be a check: its exit code, its result and its reports decide, its garbage does
not."""

from __future__ import annotations

import asyncio
import json
import os
import socket
import xml.sax.saxutils as sax
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from modelplane.client.datasets import describe_data
from modelplane.resources.checks import CommandCheck, check_inner_path
from modelplane.resources.gate_run import DataInput, StageOutcome, TestCase
from modelplane.stages import programs
from modelplane.stages.checks import command
from modelplane.stages.checks.command import (
    CommandResult,
    Ended,
    fill_command,
    judge,
    read_command_result,
)
from modelplane.stages.failures import CheckImpossible
from modelplane.stages.junit import read_junit
from modelplane.stages.programs import write_files
from modelplane.stages.workspace import Workspace
from tests.stages.programs import program, task, workspace


@pytest.fixture
def space() -> Iterator[Workspace]:
    with workspace() as made:
        yield made


async def run(space: Workspace, text: str = "", **more: Any) -> StageOutcome:
    """Run a Python script as the check."""
    given = task(of={"command": {"run": ["{python}", "-c", text], **more.pop("check", {})}}, **more)
    return await command.run(given, space)


# What decides -----------------------------------------------------------------------------------


async def test_an_exit_code_is_enough(space: Workspace) -> None:
    assert (await run(space, "print('fine')")).passed
    assert (space.output_dir / "command.log").read_text() == "fine\n"


async def test_a_program_that_fails_has_failed(space: Workspace) -> None:
    outcome = await run(space, "raise SystemExit(3)")
    assert (outcome.passed, outcome.message) == (False, "it ended with exit code 3")
    assert outcome.details == {"exitCode": 3}


async def test_a_program_that_crashes_has_failed(space: Workspace) -> None:
    outcome = await run(space, "import os; os.kill(os.getpid(), 11)")
    assert (outcome.passed, outcome.message) == (False, "it ended with signal 11")


async def test_its_metrics_are_measurements(space: Workspace) -> None:
    said = {"passed": True, "message": "good", "metrics": {"psi": 0.25, "rows": 10}}
    outcome = await run(
        space,
        f"import json; json.dump({said!r}, open('result.json', 'w'))",
        check={"metrics": ["psi"]},
    )
    assert (outcome.passed, outcome.message) == (True, "good")
    assert {m.name: m.value for m in outcome.measurements} == {"psi": 0.25, "rows": 10.0}
    assert json.loads((space.output_dir / "command" / "result.json").read_text()) == said


CASE = TestCase(name="a", passed=True)
FAILED = TestCase(name="b", passed=False, message="0.4 < 0.5\nmore")


@pytest.mark.parametrize(
    ("ended", "passed"),
    [
        (Ended(0, None, (), ()), True),
        (Ended(0, CommandResult(passed=True), (CASE,), ()), True),
        (Ended(0, CommandResult(passed=False), (), ()), False),
        (Ended(0, CommandResult(passed=True), (CASE, FAILED), ()), False),
        (Ended(1, CommandResult(passed=True), (CASE,), ()), False),
        (Ended(-9, None, (), ("garbage",)), False),
        (Ended(0, None, (TestCase(name="s", passed=True, skipped=True),), ()), True),
    ],
)
def test_every_no_counts(ended: Ended, passed: bool) -> None:
    outcome = judge(CommandCheck(run=("x",)), ended)
    assert outcome.passed is passed
    assert outcome.message
    if FAILED in ended.cases:
        assert outcome.cases[0] == FAILED
        assert "1 of 2 cases failed; first b: 0.4 < 0.5" in outcome.message


@given(
    code=st.sampled_from([0, 0, 1, -11]),
    said=st.sampled_from([None, True, False]),
    cases=st.lists(st.booleans(), max_size=3),
    faults=st.sampled_from([(), ("garbage",)]),
    lacks=st.booleans(),
)
def test_it_passes_only_when_nothing_speaks_against_it(
    code: int, said: bool | None, cases: list[bool], faults: tuple[str, ...], lacks: bool
) -> None:
    ended = Ended(
        code,
        CommandResult(passed=said, metrics={} if lacks else {"psi": 1.0}),
        [TestCase(name="c", passed=passed) for passed in cases],
        faults,
    )
    try:
        passed = judge(CommandCheck(run=("x",), metrics=("psi",)), ended).passed
    except CheckImpossible:
        assert code == 0
        assert faults or lacks
        return
    assert passed == (code == 0 and said is not False and all(cases))
    assert not (passed and (faults or lacks))


def test_of_a_huge_suite_the_failed_cases_are_kept() -> None:
    cases = [TestCase(name=str(n), passed=n != 9000) for n in range(9001)]
    outcome = judge(CommandCheck(run=("x",)), Ended(0, None, cases, ()))
    assert (outcome.passed, len(outcome.cases), outcome.cases[0].name) == (False, 5000, "9000")
    assert [finding.code for finding in outcome.findings] == ["cases_left_out"]


# Garbage ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("written", "fault"),
    [
        ("", "not JSON"),
        ("fine", "not JSON"),
        ("[]", "is not {passed"),
        ('{"passed": "yes"}', "passed"),
        ('{"metrics": {"psi": "0.1"}}', "metrics.psi"),
        ('{"metrics": {"psi": true}}', "metrics.psi"),
        ('{"metrics": {"psi": NaN}}', "NaN"),
        ('{"metrics": {"psi": 1e999}}', "metrics.psi"),
        ('{"metrics": [1]}', "metrics"),
        ('{"verdict": true}', "verdict"),
        ("[" * 100_000, "not JSON"),
        ('{"message": "' + "x" * 300_000 + '"}', "256 KiB"),
    ],
    ids=lambda value: str(value)[:30],
)
def test_a_result_is_read_strictly(tmp_path: Path, written: str, fault: str) -> None:
    (tmp_path / "result.json").write_text(written)
    with pytest.raises(CheckImpossible, match=fault.replace("{", r"\{")):
        read_command_result(tmp_path / "result.json")


async def test_garbage_after_a_good_end_is_no_pass(space: Workspace) -> None:
    with pytest.raises(CheckImpossible, match="not JSON"):
        await run(space, "open('result.json', 'wb').write(b'\\xff\\x00')")


async def test_garbage_after_a_bad_end_is_shown_with_it(space: Workspace) -> None:
    outcome = await run(space, "open('result.json', 'w').write('{'); raise SystemExit(1)")
    assert (outcome.passed, [finding.code for finding in outcome.findings]) == (False, ["garbage"])


async def test_a_metric_that_was_promised_is_owed(space: Workspace) -> None:
    with pytest.raises(CheckImpossible, match="did not report the metric psi"):
        await run(space, check={"metrics": ["psi"]})


async def test_a_result_that_is_a_link_is_not_followed(space: Workspace) -> None:
    with pytest.raises(CheckImpossible, match="no plain file"):
        await run(space, "import os; os.symlink('/etc/hostname', 'result.json')")


async def test_a_program_that_is_not_there_cannot_be_run(space: Workspace) -> None:
    with pytest.raises(CheckImpossible, match="no-such-program cannot be run"):
        await run(space, check={"run": ["no-such-program"]})


# Places -----------------------------------------------------------------------------------------


async def test_the_places_are_filled_in(space: Workspace, tmp_path: Path) -> None:
    table = tmp_path / "rows.csv"
    table.write_text("a,b\n1,2\n")
    found = describe_data(table)
    data = DataInput(
        name="rows", version="3", digest=found.digest, uri=str(table), format=found.format
    )
    text = (
        "import os, pathlib, sys\n"
        "assert pathlib.Path(sys.argv[1], 'model.bin').read_text() == 'weights'\n"
        "assert sys.argv[2] == sys.argv[3] == os.environ['ROWS']\n"
        "assert pathlib.Path(sys.argv[2]).read_text() == 'a,b\\n1,2\\n'\n"
        "assert sys.argv[4:] == ['one', 'two']\n"
    )
    check = {
        "run": ["{python}", "-c", text, "{model}", "{data:rows}", "{data:rows@3}", "{cases}"],
        "env": {"ROWS": "{data:rows}"},
        "cases": ["one", "two", "three"],
    }
    outcome = await run(space, check=check, datasets=(data,), cases=("one", "two"))
    assert outcome.passed, (space.output_dir / "command.log").read_text()


async def test_data_that_is_no_longer_that_version_is_not_given(
    space: Workspace, tmp_path: Path
) -> None:
    table = tmp_path / "rows.csv"
    table.write_text("a,b\n1,2\n")
    found = describe_data(table)
    data = DataInput(name="rows", version="3", digest=found.digest, uri=str(table))
    table.write_text("a,b\n1,3\n")
    with pytest.raises(CheckImpossible):
        await run(space, datasets=(data,))


@pytest.mark.parametrize(
    ("place", "words"), [("{url}", "serve: true"), ("{data:other}", "datasets")]
)
async def test_a_place_that_nothing_fills_is_named(
    space: Workspace, place: str, words: str
) -> None:
    with pytest.raises(CheckImpossible, match=words):
        await run(space, check={"run": ["echo", place]})


def test_braces_of_others_are_left_alone() -> None:
    assert fill_command(["jq", "{a: .b}", "x={cases}"], {}, ["1", "2"]) == [
        "jq",
        "{a: .b}",
        "x=1,2",
    ]


async def test_the_candidate_runs_beside_it(space: Workspace) -> None:
    text = (
        "import json, sys, urllib.request\n"
        "body = json.dumps({'inputs': []}).encode()\n"
        "for _ in range(3):\n"
        "    url = sys.argv[1] + '/v2/models/candidate/infer'\n"
        "    answer = json.load(urllib.request.urlopen(url, body, timeout=10))\n"
        "    assert answer['outputs'][0]['data'] == ['1.2.0'], answer\n"
        "print(sys.argv[1], sys.argv[2])\n"
    )
    check = {"run": ["{python}", "-c", text, "{url}", "{socket}"], "serve": True}
    outcome = await run(space, check=check, candidate=program("1.2.0"))
    said = (space.output_dir / "command.log").read_text()
    assert outcome.passed, said
    url, unix = said.split()
    assert not Path(unix).exists()
    with pytest.raises(OSError):  # noqa: PT011 - whichever way, nobody is there any more
        socket.create_connection(("127.0.0.1", int(url.rpartition(":")[2])), timeout=1).close()


async def test_it_has_a_directory_of_its_own_with_its_files(space: Workspace) -> None:
    check = {
        "run": ["{python}", "check.py"],
        "files": {"check.py": "import suite.words; print(suite.words.WORD)",
                  "suite/words.py": "WORD = 'über'"},
        "env": {"PYTHONIOENCODING": "utf-8"},
    }  # fmt: skip
    assert (await run(space, check=check)).passed
    assert (space.output_dir / "command.log").read_text() == "über\n"


async def test_it_gets_no_variables_that_are_not_for_it(
    space: Workspace, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "x")
    monkeypatch.setenv("MODELPLANE_JOB_OUTPUT", str(space.output_dir))
    text = (
        "import os, pathlib\n"
        "assert 'AWS_SECRET_ACCESS_KEY' not in os.environ\n"
        "pathlib.Path(os.environ['MODELPLANE_JOB_OUTPUT'], 'plot.svg').write_text('<svg/>')\n"
    )
    assert (await run(space, text)).passed
    assert (space.output_dir / "plot.svg").exists(), "what it leaves there is evidence"


@pytest.mark.parametrize("name", ["../x", "/etc/x", "//x", "a/../../x", "", ".", "a\0b"])
@pytest.mark.parametrize("place", ["files", "result", "junit"])
def test_no_name_leads_out_of_its_directory(place: str, name: str) -> None:
    given = {name: ""} if place == "files" else name
    with pytest.raises(ValidationError, match="not inside"):
        CommandCheck.model_validate({"run": ["x"], place: given})


@given(st.text(max_size=30))
def test_a_name_that_is_taken_stays_inside(name: str) -> None:
    try:
        check_inner_path(name)
    except ValueError:
        return
    assert Path(os.path.normpath(Path("/top") / name)).is_relative_to("/top")


def test_a_file_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    with pytest.raises(CheckImpossible, match="cannot be written"):
        write_files(tmp_path, {"a": "", "a/b": ""})


# Its output and its end -------------------------------------------------------------------------


async def test_of_a_flood_the_beginning_and_the_end_are_kept(
    space: Workspace, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(programs, "MAX_LOG_BYTES", 100_000)
    text = "print('begin'); [print('x' * 999) for _ in range(2000)]; print('end')"
    assert (await run(space, text)).passed
    said = (space.output_dir / "command.log").read_bytes()
    assert 100_000 < len(said) < 300_000
    assert said.startswith(b"begin\n")
    assert said.endswith(b"end\n")
    assert b"bytes are left out" in said


@pytest.mark.parametrize("session", [False, True])
async def test_what_it_leaves_running_does_not_hold_up_its_end(
    space: Workspace, monkeypatch: pytest.MonkeyPatch, session: bool
) -> None:
    monkeypatch.setattr(programs, "_END_TIMEOUT_S", 0.5)
    text = (
        "import subprocess\n"
        f"child = subprocess.Popen(['sleep', '60'], start_new_session={session})\n"
        "print(child.pid)"
    )
    assert (await run(space, text)).passed
    pid = int((space.output_dir / "command.log").read_text())
    if session:  # the job's mark ends those that left its group
        psutil.Process(pid).kill()
    else:
        for _ in range(100):  # it was killed; the kernel takes its moment
            if not is_running(pid):
                break
            await asyncio.sleep(0.05)
        assert not is_running(pid)


def is_running(pid: int) -> bool:
    try:
        return bool(psutil.Process(pid).status() != psutil.STATUS_ZOMBIE)
    except psutil.NoSuchProcess:
        return False


# JUnit ------------------------------------------------------------------------------------------

REPORT = """<?xml version="1.0" encoding="utf-8"?>
<testsuites><testsuite name="pytest" tests="4">
<testcase classname="tests.test_a" name="test_one" time="0.25"/>
<testcase classname="tests.test_a" name="test_two[1]" time="1,000.5">
  <failure message="assert 0.4 &gt; 0.5">long text</failure></testcase>
<testcase classname="tests.test_a" name="test_three"><error message="fixture"/></testcase>
<testcase name="four"><skipped message="no GPU"/><system-out>text</system-out></testcase>
</testsuite></testsuites>"""


def report(tmp_path: Path, text: str) -> Path:
    path = tmp_path / "junit.xml"
    path.write_text(text)
    return path


def test_a_report_is_read(tmp_path: Path) -> None:
    one, two, three, four = read_junit(
        report(tmp_path, REPORT), ["tests/test_a.py::test_one", "elsewhere"]
    )
    assert one == TestCase(name="tests/test_a.py::test_one", passed=True, duration_s=0.25)
    assert (two.name, two.passed, two.duration_s) == ("tests.test_a.test_two[1]", False, 1000.5)
    assert two.message == "assert 0.4 > 0.5\nlong text"
    assert (three.passed, three.message) == (False, "fixture")
    assert (four.name, four.passed, four.skipped, four.message) == ("four", True, True, "no GPU")


@pytest.mark.parametrize(
    "text",
    [
        "",
        "fine",
        "<html/>",
        "<testsuite>",
        "<testsuite><testcase></testsuite>",
        '<!DOCTYPE x [<!ENTITY a "aaaa"><!ENTITY b "&a;&a;">]><testsuite>&b;</testsuite>',
        '<!DOCTYPE x [<!ENTITY a SYSTEM "file:///etc/hostname">]><testsuite>&a;</testsuite>',
        "<testsuite>" + "<testsuite>" * 1000,
    ],
    ids=lambda text: text[:30],
)
def test_what_is_no_report_is_refused(tmp_path: Path, text: str) -> None:
    with pytest.raises(CheckImpossible, match="no JUnit report"):
        read_junit(report(tmp_path, text))


@given(text=st.text(max_size=200), time=st.text(max_size=10))
def test_a_case_may_say_anything(
    tmp_path_factory: pytest.TempPathFactory, text: str, time: str
) -> None:
    path = tmp_path_factory.getbasetemp() / "any.xml"
    attribute = f"name={sax.quoteattr(text)} time={sax.quoteattr(time)}"
    path.write_bytes(
        f"<testsuite><testcase {attribute}><failure>{sax.escape(text)}</failure></testcase>"
        "</testsuite>".encode(errors="replace")
    )
    try:
        (case,) = read_junit(path)
    except CheckImpossible:
        return  # characters that XML cannot hold
    assert not case.passed
    assert case.duration_s >= 0


JUNIT = {"junit": "reports/*.xml"}
MAKE_REPORT = f"import os; os.mkdir('reports'); open('reports/a.xml', 'w').write('''{REPORT}''')"


async def test_cases_that_fail_fail_the_check_whatever_the_exit_code(space: Workspace) -> None:
    outcome = await run(space, MAKE_REPORT, check=JUNIT)
    assert (outcome.passed, len(outcome.cases)) == (False, 4)
    assert "2 of 4 cases failed, 1 were skipped" in outcome.message
    assert (space.output_dir / "command" / "reports" / "a.xml").exists()


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "is not there"),
        ("import os; os.mkdir('reports'); open('reports/a.xml', 'w').write('<testsuite/>')",
         "holds no case"),
        ("import os; os.mkdir('reports'); open('reports/a.xml', 'w').write('garbage')",
         "no JUnit report"),
    ],
)  # fmt: skip
async def test_a_report_that_was_promised_is_owed(space: Workspace, text: str, words: str) -> None:
    with pytest.raises(CheckImpossible, match=words):
        await run(space, text, check=JUNIT)


@pytest.mark.slow
async def test_a_real_suite(space: Workspace) -> None:
    check = {
        "run": ["{python}", "-m", "pytest", "-q", "-p", "no:cacheprovider", "--junitxml=out.xml",
                "{cases}"],
        "files": {"test_a.py": "def test_one(): pass\ndef test_two(): assert 1 == 2, 'not so'\n"},
        "junit": "out.xml",
        "cases": ["test_a.py::test_one", "test_a.py::test_two"],
    }  # fmt: skip
    outcome = await run(space, check=check)
    assert {case.name: case.passed for case in outcome.cases} == {
        "test_a.py::test_one": True,
        "test_a.py::test_two": False,
    }
    with workspace() as other:
        passed = await run(other, check=check, cases=("test_a.py::test_one",))
    assert (passed.passed, len(passed.cases)) == (True, 1)
