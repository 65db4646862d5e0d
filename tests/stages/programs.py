"""Workspaces on disk, and versions that are small programs speaking the real protocol."""

from __future__ import annotations

import shutil
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from modelplane.resources.gate_run import ServedModel, StageTask
from modelplane.resources.revision import Artifact, RuntimeSpec, make_revision
from modelplane.resources.validation_pipeline import Stage
from modelplane.stages.workspace import Workspace

MODEL = Path(__file__).parent.parent / "e2e" / "oip_model.py"
REQUEST = {"inputs": [{"name": "x", "datatype": "FP64", "shape": [1], "data": [1.0]}]}


def program(
    version: str = "1.0.0",
    *arguments: str,
    command: tuple[str, ...] | None = None,
    runtime: RuntimeSpec | None = None,
    **fields: Any,
) -> ServedModel:
    """Return a version whose server is `oip_model.py`, or any other command."""
    command = command or (sys.executable, str(MODEL), "{socket}", version, *arguments)
    artifact = Artifact(format="command", digest=f"sha256:{version}", command=command)
    revision = make_revision("fraud", version, artifact, runtime or RuntimeSpec())
    return ServedModel(revision=revision, **{"input_example": REQUEST, **fields})


def script(text: str, **fields: Any) -> ServedModel:
    """Return a version whose server is a Python script."""
    return program(command=(sys.executable, "-c", text, "{socket}"), **fields)


def task(candidate: ServedModel | None = None, *, of: dict[str, Any], **fields: Any) -> StageTask:
    """Return the task of a stage; `of` is the check by its name."""
    stage = Stage.model_validate({"name": "stage", **of})
    return StageTask(run="run-1", stage=stage, candidate=candidate or program(), **fields)


@contextmanager
def workspace() -> Iterator[Workspace]:
    """Give a real workspace in a folder with a short path."""
    folder = Path(tempfile.mkdtemp(prefix="mp-", dir="/tmp"))
    for name in ("work", "output", "candidate", "champion"):
        (folder / name).mkdir()
    (folder / "candidate" / "model.bin").write_text("weights")
    try:
        yield Workspace(
            work_dir=folder / "work",
            output_dir=folder / "output",
            candidate_dir=folder / "candidate",
            champion_dir=folder / "champion",
            environments_dir=folder / "agent",
            socket_dir=folder / "s",
        )
    finally:
        shutil.rmtree(folder, ignore_errors=True)
