"""Secrets that sources name: from a file that nobody else may read, or from a variable."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from modelplane.adapters.blobs.trees import TreeBlobs
from modelplane.adapters.clock import SystemClock
from modelplane.adapters.store.sqlite import SqliteStore
from modelplane.controllers.loop import Fence
from modelplane.settings import Settings
from modelplane.wiring.registries import make_source_controllers

Read = Callable[[str], str | None]


@pytest.fixture
def state() -> Iterator[Path]:
    with tempfile.TemporaryDirectory(prefix="mp-secrets-") as folder:
        (Path(folder) / "secrets").mkdir(mode=0o700)
        yield Path(folder)


@pytest.fixture
def read(state: Path) -> Read:
    store = SqliteStore(
        state / "store.db", clock=SystemClock(), new_uid=str, audit_dir=state / "audit"
    )
    blobs = TreeBlobs(str(state / "artifacts"))
    made = make_source_controllers(Settings(state=state), store, blobs, Fence(), SystemClock())
    return made.secret


def test_a_file_of_its_owner_is_read_anew_each_time(state: Path, read: Read) -> None:
    file = state / "secrets" / "tracker"
    assert read("tracker") is None
    file.touch(mode=0o600)
    file.write_text("one\n")
    assert read("tracker") == "one"
    file.write_text("two\n")
    assert read("tracker") == "two"


@pytest.mark.parametrize("mode", [0o644, 0o640, 0o604, 0o602])
def test_a_file_that_others_may_touch_is_not_read(state: Path, read: Read, mode: int) -> None:
    file = state / "secrets" / "tracker"
    file.write_text("secret")
    file.chmod(mode)
    assert read("tracker") is None


def test_a_variable_stands_in(read: Read, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MODELPLANE_SECRET_MY_TRACKER_2", "secret")
    assert read("my-tracker.2") == "secret"


@pytest.mark.parametrize("name", ["../admin-token", "", "a/b", ".."])
def test_a_name_leads_nowhere_else(state: Path, read: Read, name: str) -> None:
    (state / "admin-token").touch(mode=0o600)
    (state / "admin-token").write_text("secret")
    assert read(name) is None


def test_what_an_earlier_process_left_on_its_way_is_gone(state: Path) -> None:
    left = state / "imports" / "half"
    left.mkdir(parents=True)
    store = SqliteStore(
        state / "store.db", clock=SystemClock(), new_uid=str, audit_dir=state / "audit"
    )
    blobs = TreeBlobs(str(state / "artifacts"))
    make_source_controllers(Settings(state=state), store, blobs, Fence(), SystemClock())
    assert not left.exists()
