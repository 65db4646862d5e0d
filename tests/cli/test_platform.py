"""up, down and demo: what is started with what, and what a demo may replace."""

from __future__ import annotations

import asyncio
import socket
import sys
from pathlib import Path

import pytest

from modelplane.cli.demonstration import make_room
from modelplane.cli.members import child_variables, find_gateways, make_members, make_supervisor
from modelplane.cli.platform import stop
from modelplane.errors import Conflict, TerminalError
from modelplane.settings import load_settings
from modelplane.supervisor.lock import hold_lock
from modelplane.wiring.state import prepare_state
from tests.cli.conftest import Run


def test_the_processes_get_the_options_as_settings(tmp_path: Path) -> None:
    settings = load_settings(state=tmp_path / "s", api_port=8080)
    variables = child_variables({"api_port": 8080, "api_host": None}, settings.paths)
    assert variables["MODELPLANE_API_PORT"] == "8080"
    assert variables["MODELPLANE_STATE"] == str(tmp_path / "s")
    assert "MODELPLANE_API_HOST" not in variables
    control_plane, agent = make_members(settings.paths, variables)
    assert (control_plane.name, agent.name) == ("control-plane", "agent")
    assert agent.spec.command == (sys.executable, "-m", "modelplane.wiring.agent")
    assert agent.spec.log_path == tmp_path / "s" / "logs" / "agent.log"


def test_a_port_in_use_is_told_with_its_option_before_anything_starts(tmp_path: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        settings = load_settings(state=tmp_path, api_port=taken.getsockname()[1])
        prepare_state(settings.paths)
        said: list[object] = []
        supervisor = make_supervisor(settings, {}, said.append)
        with pytest.raises(TerminalError) as caught:
            asyncio.run(supervisor.run(asyncio.Event()))
    assert "--api-port" in caught.value.hint
    assert said == []


def test_nothing_answers_before_anything_runs(tmp_path: Path) -> None:
    settings = load_settings(state=tmp_path, api_port=1)
    prepare_state(settings.paths)
    assert asyncio.run(find_gateways(settings)) is None


def test_down_without_anything_running_says_so(run: Run, tmp_path: Path) -> None:
    state = str(tmp_path / "none")
    result = run("down", "--state", state)
    assert (result.exit_code, result.stdout) == (0, f"nothing was running; state {state}\n")
    assert not Path(state).exists()
    settings = load_settings(state=tmp_path)
    prepare_state(settings.paths)
    assert asyncio.run(stop(settings)) is False


@pytest.mark.parametrize(
    ("name", "content"), [("version", "999\n"), ("config.toml", "api_prt = 3\n")]
)
def test_up_refuses_a_newer_state_and_bad_settings_and_changes_nothing(
    run: Run, tmp_path: Path, name: str, content: str
) -> None:
    (tmp_path / name).write_text(content)
    result = run("up", "--state", str(tmp_path))
    assert result.exit_code in {1, 2}
    assert "error: " in result.stderr
    assert [path.name for path in tmp_path.iterdir()] == [name]


def test_a_demo_replaces_only_a_demo_that_does_not_run(tmp_path: Path) -> None:
    settings = load_settings(state=tmp_path / "demo")
    asyncio.run(make_room(settings))
    prepare_state(settings.paths)
    with pytest.raises(Conflict, match="not from a demo"):
        asyncio.run(make_room(settings))
    (settings.state_dir / "demo").touch()
    with hold_lock(settings.paths.lock), pytest.raises(Conflict) as caught:
        asyncio.run(make_room(settings))
    assert "modelplane down --state" in caught.value.hint
    asyncio.run(make_room(settings))
    assert not settings.state_dir.exists()


def test_a_demo_checks_its_report_before_it_starts(run: Run, tmp_path: Path) -> None:
    result = run("demo", "--report", str(tmp_path / "none" / "r.json"))
    assert result.exit_code == 2
    assert "there is no folder" in result.stderr
