"""logs: finding by name, reading the end, following over rotations."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from modelplane.cli.log_files import LogFollower, find_logs, read_tail
from tests.cli.conftest import Run


@pytest.fixture
def state(tmp_path: Path) -> Path:
    for name in (
        "control-plane", "gateways/production", "replicas/production/fraud-2-0",
        "replicas/staging/fraud-1-0", "replicas/production/other-1-0",
    ):  # fmt: skip
        file = tmp_path / "logs" / f"{name}.log"
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(f"first of {name}\nlast of {name}\n")
    return tmp_path


@pytest.mark.parametrize(
    ("target", "environment", "found"),
    [
        ("control-plane", None, ["control-plane"]),
        ("production", None, ["gateways/production"]),
        ("fraud-2-0", None, ["replicas/production/fraud-2-0"]),
        ("fraud", None, ["replicas/production/fraud-2-0", "replicas/staging/fraud-1-0"]),
        ("fraud", "staging", ["replicas/staging/fraud-1-0"]),
        ("frau", None, []),
    ],
)
def test_a_log_is_found_by_its_end_or_its_deployment(
    state: Path, target: str, environment: str | None, found: list[str]
) -> None:
    assert [log.name for log in find_logs(state / "logs", target, environment)] == found


def test_logs_prints_the_end_and_names_several(run: Run, state: Path) -> None:
    one = run("logs", "control-plane", "-n", "1", "--state", str(state))
    assert one.stdout == "last of control-plane\n"
    several = run("logs", "fraud", "-n", "1", "--state", str(state)).stdout
    assert "==> replicas/staging/fraud-1-0 <==\nlast of replicas/staging/fraud-1-0\n" in several


def test_an_unknown_log_is_not_found_with_a_suggestion(run: Run, state: Path) -> None:
    result = run("logs", "controlplane", "--state", str(state))
    assert result.exit_code == 4
    assert "did you mean 'control-plane'?" in result.stderr
    assert "control-plane" in run("logs", "--state", str(state)).stdout


@given(st.lists(st.text("ab", max_size=5), max_size=30), st.integers(0, 40))
def test_the_tail_is_the_last_lines(
    tmp_path_factory: pytest.TempPathFactory, lines: list[str], count: int
) -> None:
    file = tmp_path_factory.getbasetemp() / "tail.log"
    file.write_text("".join(f"x{line}\n" for line in lines))
    wanted = "".join(f"x{line}\n" for line in lines[-count:] if count)
    assert read_tail(file, count) == wanted


def test_following_goes_on_over_rotation_truncation_and_absence(tmp_path: Path) -> None:
    file = tmp_path / "a.log"
    file.write_text("old\n")
    follower = LogFollower(file)
    assert follower.read_new() == ""
    with file.open("a") as stream:
        stream.write("one\ntwo")
    assert follower.read_new() == "one\n"
    with file.open("a") as stream:
        stream.write(" more\n")
    assert follower.read_new() == "two more\n"
    file.write_text("cut\n")
    assert follower.read_new() == "cut\n"
    file.rename(tmp_path / "a.log.1")
    assert follower.read_new() == ""
    file.write_text("a longer new file\n")
    assert follower.read_new() == "a longer new file\n"
