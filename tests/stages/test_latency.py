"""Load on the real server: every request is accounted for, and thresholds hold what it measures.

Nothing here says how fast something is: what is fast is made so, and figures are compared with
what was made.
"""

from __future__ import annotations

import asyncio
import json
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import skops.io
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.linear_model import LogisticRegression

from modelplane.decisions.gate_metrics import LATENCY_METRICS
from modelplane.resources.checks import LatencyCheck
from modelplane.resources.gate_run import Measurement, ServedModel, StageOutcome
from modelplane.resources.revision import Artifact, RuntimeSpec, make_revision
from modelplane.stages.checks import latency
from modelplane.stages.checks.latency import (
    Measured,
    block_sizes,
    judge,
    percentile,
    slowdown_interval,
)
from modelplane.stages.failures import CheckImpossible
from modelplane.stages.load import Answers, Target, combine, run_load
from modelplane.stages.workspace import Workspace
from tests.stages.programs import program, task, workspace

pytestmark = pytest.mark.slow

GOOD = b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\n{}"
QUICK = {"requests": 40, "warm_up": 0, "concurrency": 2}


@pytest.fixture
def space() -> Iterator[Workspace]:
    with workspace() as made:
        yield made


# The load ---------------------------------------------------------------------------------------

Answer = Callable[[int, asyncio.StreamWriter], Awaitable[None]]


@asynccontextmanager
async def server(space: Workspace, answer: Answer) -> AsyncIterator[Target]:
    """Run a server on a Unix socket that answers request number N as the test says."""
    seen = iter(range(10**6))

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while True:
                head = await reader.readuntil(b"\r\n\r\n")
                length = head.lower().partition(b"content-length: ")[2].partition(b"\r\n")[0]
                assert await reader.readexactly(int(length)) == b"{}"
                await answer(next(seen), writer)
        except (asyncio.IncompleteReadError, ConnectionError):
            pass
        finally:
            writer.close()

    path = space.work_dir / "s.sock"
    listening = await asyncio.start_unix_server(serve, str(path))
    try:
        yield Target(path, "/v2/models/m/infer", b"{}")
    finally:
        listening.close()


async def test_every_request_is_answered_once(space: Workspace) -> None:
    in_flight, most = 0, 0

    async def answer(_: int, writer: asyncio.StreamWriter) -> None:
        nonlocal in_flight, most
        in_flight += 1
        most = max(most, in_flight)
        await asyncio.sleep(0.002)
        in_flight -= 1
        writer.write(GOOD)

    async with server(space, answer) as target:
        answers = await run_load(target, requests=50, concurrency=5)
    assert (len(answers.latencies_s), answers.failures, most) == (50, Counter(), 5)
    assert answers.latencies_s.min() >= 0.002
    assert answers.duration_s >= 0.02
    assert answers.throughput_rps == 50 / answers.duration_s


async def test_answers_in_any_form_of_http_are_read(space: Workspace) -> None:
    forms = [
        GOOD,
        b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n1\r\n{\r\n1\r\n}\r\n0\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nconnection: close\r\ncontent-length: 2\r\n\r\n{}",
        b"HTTP/1.1 503 Busy\r\ncontent-length: 4\r\n\r\nfull",
    ]

    async def answer(number: int, writer: asyncio.StreamWriter) -> None:
        for byte in forms[number % 4]:
            writer.write(bytes([byte]))  # however it is cut into pieces
            await writer.drain()

    async with server(space, answer) as target:
        answers = await run_load(target, requests=8, concurrency=1)
    assert len(answers.latencies_s) == 6
    assert answers.failures == {"503: full": 2}


async def test_requests_that_are_not_answered_are_failures_and_the_rest_goes_on(
    space: Workspace,
) -> None:
    async def answer(number: int, writer: asyncio.StreamWriter) -> None:
        if number % 3 == 0:
            writer.close()
        elif number % 3 == 1:
            writer.write(b"what?\r\n\r\n")
        else:
            writer.write(GOOD)

    async with server(space, answer) as target:
        answers = await run_load(target, requests=9, concurrency=1)
    assert (len(answers.latencies_s), sum(answers.failures.values())) == (3, 6)


async def test_a_server_that_is_not_there_fails_every_request(space: Workspace) -> None:
    target = Target(space.work_dir / "nobody.sock", "/", b"{}")
    answers = await run_load(target, requests=5, concurrency=2)
    assert (sum(answers.failures.values()), answers.throughput_rps) == (5, 0.0)


# What is measured -------------------------------------------------------------------------------


def answers_of(*latencies_s: float, failures: int = 0) -> Answers:
    lost = Counter({"503: full": failures}) if failures else Counter()
    return Answers(np.array(latencies_s), lost, max(sum(latencies_s), 1e-6))


def measured(*blocks: Answers, memory: int = 100, cold_start_s: float = 0.5) -> Measured:
    return Measured(blocks, memory, cold_start_s)


def found(outcome: StageOutcome, name: str) -> Measurement:
    (one,) = [m for m in outcome.measurements if m.name == name]
    return one


def test_it_measures_what_policies_may_refer_to() -> None:
    outcome = judge(LatencyCheck(), measured(answers_of(*np.arange(1, 101) / 1000)), None)
    assert tuple(m.name for m in outcome.measurements) == LATENCY_METRICS
    values = [found(outcome, name).value for name in LATENCY_METRICS]
    # The nearest rank: of 1 to 100 ms, half took at most 50.
    assert values == [0.05, 0.095, 0.099, pytest.approx(100 / 5.05), 100.0, 0.5]
    assert (outcome.passed, {m.passed for m in outcome.measurements}) == (True, {None})


@pytest.mark.parametrize(
    ("limit", "name", "passed"),
    [
        ({"p50_s": 0.05}, "latency_p50_s", True),
        ({"p50_s": 0.049}, "latency_p50_s", False),
        ({"p95_s": 0.094}, "latency_p95_s", False),
        ({"p99_s": 0.098}, "latency_p99_s", False),
        ({"min_throughput_rps": 19.0}, "throughput_rps", True),
        ({"min_throughput_rps": 20.0}, "throughput_rps", False),
        ({"max_memory": 100}, "peak_memory_bytes", True),
        ({"max_memory": 99}, "peak_memory_bytes", False),
        ({"cold_start_s": 0.4}, "cold_start_s", False),
    ],
)
def test_each_threshold_decides(limit: dict[str, Any], name: str, passed: bool) -> None:
    outcome = judge(LatencyCheck(**limit), measured(answers_of(*np.arange(1, 101) / 1000)), None)
    assert (outcome.passed, found(outcome, name).passed) == (passed, passed)
    assert (name in outcome.message) is not passed


def test_errors_under_load_fail_the_stage_whatever_the_latency() -> None:
    outcome = judge(LatencyCheck(p95_s=1), measured(answers_of(0.1, failures=2)), None)
    assert not outcome.passed
    assert [f.code for f in outcome.findings] == ["errors_under_load"]
    assert "2 times: 503: full" in outcome.message


def test_a_server_that_answers_nothing_fails_and_has_no_latency() -> None:
    outcome = judge(LatencyCheck(p95_s=1), measured(answers_of(failures=20)), None)
    assert not outcome.passed
    assert "latency_p95_s" not in [m.name for m in outcome.measurements]


# Beside the champion ----------------------------------------------------------------------------


def blocks(scale: float, seed: int, number: int = 20) -> list[Answers]:
    random = np.random.default_rng(seed)
    return [answers_of(*(scale * random.lognormal(-6, 0.3, 100))) for _ in range(number)]


@pytest.mark.parametrize(("scale", "passed"), [(1.0, True), (0.5, True), (1.6, False)])
def test_it_may_be_a_little_slower_than_the_champion(scale: float, passed: bool) -> None:
    check = LatencyCheck(max_slowdown=0.2)
    outcome = judge(check, measured(*blocks(scale, 1)), measured(*blocks(1.0, 2)))
    slowdown = found(outcome, "latency_p95_slowdown")
    assert (outcome.passed, slowdown.passed) == (passed, passed)
    assert slowdown.lower is not None
    assert slowdown.upper is not None
    assert slowdown.lower <= slowdown.value <= slowdown.upper
    assert slowdown.value == pytest.approx(scale - 1, abs=0.15)
    assert found(outcome, "latency_p95_s").champion is not None


def test_too_little_to_tell_is_no_pass() -> None:
    noisy = [answers_of(x) for x in (0.001, 0.1, 0.002, 0.05)]
    calm = [answers_of(x) for x in (0.05, 0.001, 0.1, 0.002)]
    outcome = judge(LatencyCheck(max_slowdown=0.2), measured(*noisy), measured(*calm))
    assert found(outcome, "latency_p95_slowdown").value <= 0.2
    assert not outcome.passed


def test_what_slows_the_machine_down_slows_both() -> None:
    drift = np.linspace(1, 5, 20)
    own = [answers_of(*(d * b.latencies_s)) for d, b in zip(drift, blocks(1, 3), strict=True)]
    other = [answers_of(*(d * b.latencies_s)) for d, b in zip(drift, blocks(1, 4), strict=True)]
    assert judge(LatencyCheck(max_slowdown=0.2), measured(*own), measured(*other)).passed


@settings(max_examples=25)
@given(
    st.lists(
        st.tuples(
            st.lists(st.floats(1e-5, 10), max_size=5), st.lists(st.floats(1e-5, 10), max_size=5)
        ),
        min_size=1,
        max_size=6,
    )
)
def test_the_interval_is_the_same_for_the_same_blocks(
    pairs: Sequence[tuple[list[float], list[float]]],
) -> None:
    own, other = ([np.array(pair[side]) for pair in pairs] for side in (0, 1))
    try:
        slowdown, lower, upper = slowdown_interval(own, other)
    except CheckImpossible:
        assert not any(len(a) and len(b) for a, b in pairs)
        return
    assert -1 < lower <= upper
    assert slowdown > -1
    assert slowdown_interval(own, other) == (slowdown, lower, upper)


def test_a_champion_that_answers_nothing_is_nothing_to_compare_with() -> None:
    check = LatencyCheck(max_slowdown=0.2)
    with pytest.raises(CheckImpossible, match="champion"):
        judge(check, measured(answers_of(0.1)), measured(answers_of(failures=1)))


@given(st.lists(st.floats(0, 10), min_size=1, max_size=50), st.sampled_from([0.5, 0.9, 0.95, 0.99]))
def test_a_percentile_is_the_nearest_rank(values: list[float], part: float) -> None:
    latencies = np.array(values)
    assert percentile(latencies, part) == np.quantile(latencies, part, method="inverted_cdf")


@given(st.integers(20, 10**6))
def test_the_blocks_are_all_of_the_requests(requests: int) -> None:
    sizes = block_sizes(requests)
    assert sum(sizes) == requests
    assert max(sizes) - min(sizes) <= 1
    assert min(sizes) >= 2


def test_blocks_are_put_together() -> None:
    whole = combine([answers_of(0.1, failures=1), answers_of(0.2, 0.3, failures=2)])
    assert list(whole.latencies_s) == [0.1, 0.2, 0.3]
    assert whole.failures == {"503: full": 3}
    assert whole.duration_s == pytest.approx(0.6)
    assert len(combine([]).latencies_s) == 0


# With a real server -----------------------------------------------------------------------------


async def test_the_candidate_is_measured(space: Workspace) -> None:
    given = task(program("1.0.0", "0", "3"), of={"latency": QUICK})
    outcome = await latency.run(given, space)
    assert outcome.passed, outcome.message
    assert found(outcome, "latency_p50_s").value >= 0.003
    assert found(outcome, "peak_memory_bytes").value > 10**6
    assert found(outcome, "cold_start_s").value > 0
    assert (outcome.details["answered"], outcome.details["failed"]) == (40, 0)


async def test_a_slow_candidate_is_found_beside_the_champion(space: Workspace) -> None:
    given = task(
        program("2.0.0", "0", "20"),
        of={"latency": {**QUICK, "max_slowdown": 0.5}},
        champion=program("1.0.0", "0", "2"),
    )
    outcome = await latency.run(given, space)
    slowdown = found(outcome, "latency_p95_slowdown")
    assert (outcome.passed, slowdown.passed) == (False, False)
    assert slowdown.value > 0.5
    assert outcome.details["blocks"] == 8


async def test_without_a_champion_there_is_nothing_to_be_slower_than(space: Workspace) -> None:
    outcome = await latency.run(task(of={"latency": {**QUICK, "max_slowdown": 0.5}}), space)
    assert (outcome.passed, [f.code for f in outcome.findings]) == (True, ["no_champion"])


async def test_a_candidate_that_fails_under_load_fails(space: Workspace) -> None:
    # Its smoke prediction is one of the first that it answers well.
    given = task(program("1.0.0", "0.2", input_example=None, signature=SIGNATURE),
                 of={"latency": QUICK})  # fmt: skip
    outcome = await latency.run(given, space)
    assert not outcome.passed
    assert "made to fail" in outcome.message


SIGNATURE = {"inputs": [{"name": "x", "datatype": "FP64", "shape": [-1, 3]}]}


async def test_a_real_model_in_its_real_server(space: Workspace, tmp_path: Path) -> None:
    rows = np.random.default_rng(7).normal(size=(200, 3))
    skops.io.dump(LogisticRegression().fit(rows, rows[:, 0] > 0), tmp_path / "model.skops")
    revision = make_revision("m", "1.0.0", Artifact(format="skops", digest="d"), RuntimeSpec())
    inputs = [{"name": "x", "datatype": "FP64", "shape": [1, 3], "data": [0.1, 0.2, 0.3]}]
    candidate = ServedModel(
        revision=revision, signature=SIGNATURE, input_example={"inputs": inputs}
    )
    async with space.serve(candidate, tmp_path) as model:
        target = Target(model.socket, model.infer_path, json.dumps({"inputs": inputs}).encode())
        answers = await run_load(target, requests=50, concurrency=4)
        assert model.peak_memory_bytes() > 20 * 2**20
    assert (len(answers.latencies_s), answers.failures) == (50, Counter())
