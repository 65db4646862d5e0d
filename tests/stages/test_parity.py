"""The check `parity`: the same inputs give the same outputs, here and behind each gateway."""

from __future__ import annotations

import asyncio
import copy
import doctest
import json
import math
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sklearn.linear_model import LogisticRegression

from modelplane.decisions import answers
from modelplane.decisions.answers import compare_answers
from modelplane.decisions.gate_metrics import metrics_of
from modelplane.resources.gate_run import ServedModel, StageOutcome, StageTask
from modelplane.stages.checks import parity
from modelplane.stages.checks.parity import run
from modelplane.stages.failures import CheckImpossible, InfrastructureFailed
from tests.stages.tabular import (
    Answering,
    cancer,
    columns_signature,
    real_workspace,
    register,
    served,
    stand_in,
    task,
)

FRAME = cancer()
NAMES = ["mean_radius", "mean_texture", "mean_smoothness"]
MODEL = LogisticRegression(max_iter=2000).fit(FRAME[NAMES], FRAME["target"])
OTHER = LogisticRegression(max_iter=2000, C=1e-4).fit(FRAME[NAMES], FRAME["target"])
EXAMPLE = {
    "inputs": [
        {"name": name, "datatype": "FP64", "shape": [2], "data": FRAME[name][:2].tolist()}
        for name in NAMES
    ]
}
VERSION = served("2.0.0", columns_signature(FRAME, NAMES), input_example=EXAMPLE)
Reply = tuple[int, dict[str, str], bytes]


@asynccontextmanager
async def gateway(reply: Callable[[dict[str, Any]], Reply]) -> AsyncIterator[str]:
    """A gateway on loopback: answers each request with what `reply` makes of its body."""

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while True:
                head = (await reader.readuntil(b"\r\n\r\n")).decode().lower()
                assert head.startswith("post /v2/models/tumour/infer ")
                length = int(head.split("content-length:")[1].split()[0])
                body = json.loads(await reader.readexactly(length))
                status, headers, content = reply(body)
                lines = [f"HTTP/1.1 {status} x", f"content-length: {len(content)}"]
                lines += [f"{name}: {value}" for name, value in headers.items()]
                writer.write(("\r\n".join(lines) + "\r\n\r\n").encode() + content)
                await writer.drain()
        except (asyncio.IncompleteReadError, ConnectionError):
            pass
        finally:
            writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    try:
        yield f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
    finally:
        server.close()


def serving(model: Any, version: str = "2.0.0") -> Callable[[dict[str, Any]], Reply]:
    """Answer as a gateway in front of `model` does."""
    asked = Answering(model)

    def reply(body: dict[str, Any]) -> Reply:
        answer = asked._inference.answer(json.dumps(body).encode())
        return answer.status, {"x-modelplane-version": version}, answer.body

    return reply


def make_task(
    url: str, *, version: str = "2.0.0", digest: str | None = None, **check: Any
) -> StageTask:
    artifact = VERSION.revision.artifact.digest if digest is None else digest
    deployment = {"name": "tumour", "version": version, "digest": artifact, "headers": {}}
    return task(
        {"parity": check},
        candidate=VERSION,
        endpoints={"staging": url},
        deployments={"staging": deployment},
    )


async def check(made: StageTask, folder: Path, **models: Any) -> StageOutcome:
    outcome = await run(
        made, stand_in(folder, **{"candidate": MODEL, "candidate-2": MODEL, **models})
    )
    assert tuple(one.name for one in outcome.measurements) == metrics_of(made.stage)
    return outcome


async def test_the_same_files_give_the_same_outputs(tmp_path: Path) -> None:
    async with gateway(serving(MODEL)) as url:
        outcome = await check(make_task(url), tmp_path)
    assert outcome.passed
    assert outcome.message == "2 golden inputs give the same outputs in staging"
    assert [(one.name, one.passed, one.skipped) for one in outcome.cases][-1] == (
        "staging", True, False,
    )  # fmt: skip
    assert len(json.loads((tmp_path / "golden.json").read_text())["answers"]) == 1


async def test_another_answer_fails_and_says_where(tmp_path: Path) -> None:
    async with gateway(serving(OTHER)) as url:
        outcome = await check(make_task(url), tmp_path)
    assert not outcome.passed
    assert outcome.measurements[0].value >= 4
    error = next(one for one in outcome.findings if one.severity == "error")
    assert error.where.startswith("input 0, p")
    assert error.message.startswith("staging: ")
    assert outcome.cases[-1].passed is False


async def test_an_environment_that_serves_other_files_is_not_compared(tmp_path: Path) -> None:
    async with gateway(serving(OTHER)) as url:
        outcome = await check(make_task(url, version="1.0.0", digest="sha256:other"), tmp_path)
    assert outcome.passed
    assert [one.code for one in outcome.findings] == ["OtherVersion", "NothingToCompare"]
    assert outcome.cases[-1].skipped


async def test_a_named_environment_that_does_not_serve_the_model_is_told(tmp_path: Path) -> None:
    made = task({"parity": {"environments": ["production"]}}, candidate=VERSION)
    outcome = await check(made, tmp_path)
    assert outcome.passed
    assert [one.code for one in outcome.findings] == ["NotServed", "NothingToCompare"]


class Drifting:
    """Predicts something else each time."""

    classes_ = np.array([0.0, 1.0])

    def __init__(self) -> None:
        self.calls = 0.0

    def predict(self, rows: Any) -> Any:
        self.calls += 1
        return np.full(len(rows), self.calls)


async def test_a_model_that_contradicts_itself_fails(tmp_path: Path) -> None:
    matrix = {"inputs": [{"name": "x", "datatype": "FP64", "shape": [2, 1], "data": [1.0, 2.0]}]}
    version = served("2.0.0", input_example=matrix)
    made = task({"parity": {}}, candidate=version)
    outcome = await run(
        made, stand_in(tmp_path, **{"candidate": Drifting(), "candidate-2": Drifting()})
    )
    assert not outcome.passed
    assert "the same process, asked again" in outcome.message
    other = await check(
        make_task("http://127.0.0.1:1", digest="x"), tmp_path, **{"candidate-2": OTHER}
    )
    assert not other.passed
    assert "a second process" in other.message


async def test_during_a_rollout_it_asks_until_the_right_version_answers(tmp_path: Path) -> None:
    right, wrong, turn = serving(MODEL), serving(OTHER, "3.0.0"), [0]

    def either(body: dict[str, Any]) -> Reply:
        turn[0] += 1
        return right(body) if turn[0] % 4 == 0 else wrong(body)

    async with gateway(either) as url:
        assert (await check(make_task(url), tmp_path)).passed
    assert turn == [4]
    async with gateway(wrong) as url:
        never = await check(make_task(url), tmp_path)
    assert [one.code for one in never.findings] == ["OtherVersion", "NothingToCompare"]


async def test_a_gateway_that_refuses_differs_and_one_that_is_away_is_tried_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(parity, "_RETRY_S", 0.0)
    async with gateway(lambda body: (500, {}, b'{"error": "the model failed"}')) as url:
        outcome = await check(make_task(url), tmp_path)
    assert not outcome.passed
    assert "answered 500" in outcome.cases[-1].message
    async with gateway(lambda body: (401, {}, b"{}")) as url:
        with pytest.raises(CheckImpossible, match="wants a token"):
            await check(make_task(url), tmp_path)
    async with gateway(lambda body: (503, {}, b"no replica")) as url:
        with pytest.raises(InfrastructureFailed, match="503: no replica"):
            await check(make_task(url), tmp_path)
    with pytest.raises(InfrastructureFailed, match="gateway of staging"):
        await check(make_task(url), tmp_path)


async def test_golden_inputs_may_be_a_dataset(tmp_path: Path) -> None:
    data = register(tmp_path / "golden.parquet", FRAME)
    made = task({"parity": {"dataset": "golden", "maxRows": 45}}, data, candidate=VERSION)
    outcome = await check(made, tmp_path / "out")
    assert outcome.passed
    assert outcome.measurements[0].rows == 45
    without = VERSION.with_(input_example=None)
    with pytest.raises(CheckImpossible, match="no golden inputs"):
        await check(task({"parity": {}}, candidate=without), tmp_path)
    with pytest.raises(CheckImpossible, match="no data"):
        await check(task({"parity": {"dataset": "golden"}}, candidate=VERSION), tmp_path)


def test_examples_in_the_docstrings_hold() -> None:
    assert doctest.testmod(answers).failed == 0


_VALUES = {
    "FP64": st.none() | st.floats(-1e6, 1e6),
    "INT64": st.integers(-(2**40), 2**40),
    "BOOL": st.booleans(),
    "BYTES": st.text(max_size=5),
}


@st.composite
def answer(draw: st.DrawFn) -> dict[str, Any]:
    outputs = []
    for name in draw(st.lists(st.sampled_from("abc"), min_size=1, max_size=3, unique=True)):
        kind = draw(st.sampled_from(sorted(_VALUES)))
        data = draw(st.lists(_VALUES[kind], min_size=1, max_size=5))
        outputs.append({"name": name, "datatype": kind, "shape": [len(data)], "data": data})
    return {"outputs": outputs}


@given(answer())
def test_an_answer_equals_itself_in_any_order_and_nesting(one: dict[str, Any]) -> None:
    other = copy.deepcopy(one)
    other["outputs"].reverse()
    assert compare_answers(one, other, 0.0) == []
    for output in other["outputs"]:
        output["data"] = [[value] for value in output["data"]]
    assert compare_answers(one, other, 0.0) == []


@given(answer(), st.data())
def test_each_change_is_found(one: dict[str, Any], data: st.DataObject) -> None:
    other = copy.deepcopy(one)
    output = data.draw(st.sampled_from(other["outputs"]))
    place = data.draw(st.integers(0, len(output["data"]) - 1))
    value = output["data"][place]
    change: Mapping[str, Callable[[Any], Any]] = {
        "FP64": lambda number: 1.0 if number is None else number + 1 + abs(number) / 100,
        "INT64": lambda number: number + 1,
        "BOOL": lambda truth: not truth,
        "BYTES": lambda text: text + "x",
    }
    output["data"][place] = change[output["datatype"]](value)
    found = compare_answers(one, other, 1e-3)
    assert [difference.where for difference in found] == [f"{output['name']}[{place}]"]
    for part, changed in (("shape", [99]), ("datatype", "X"), ("name", "z")):
        broken = copy.deepcopy(one)
        broken["outputs"][0][part] = changed
        assert compare_answers(one, broken, 1e-3)


@given(st.floats(-1e9, 1e9), st.floats(1e-12, 1e-3))
def test_numbers_within_the_tolerance_are_equal(number: float, tolerance: float) -> None:
    def said(value: float) -> dict[str, Any]:
        return {"outputs": [{"name": "y", "datatype": "FP64", "shape": [1], "data": [value]}]}

    within = number + 0.9 * tolerance * max(1.0, abs(number))
    assert compare_answers(said(number), said(within), tolerance) == []
    beyond = number + 2.1 * tolerance * max(1.0, abs(number))
    assert (not compare_answers(said(number), said(beyond), tolerance)) == math.isclose(
        number, beyond, rel_tol=tolerance, abs_tol=tolerance
    )


@pytest.mark.slow
async def test_two_real_processes_agree(tmp_path: Path) -> None:
    with real_workspace(candidate=MODEL) as (workspace, artifacts):
        version: ServedModel = served(
            "2.0.0", VERSION.signature, artifact=artifacts["candidate"], input_example=EXAMPLE
        )
        outcome = await run(task({"parity": {}}, candidate=version), workspace)
    assert outcome.passed
    assert [one.passed for one in outcome.cases] == [True, True]
