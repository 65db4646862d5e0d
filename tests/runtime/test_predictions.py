"""Predictions are remembered for whoever fetches them: bounded, redacted, sampled, at no cost."""

from __future__ import annotations

import asyncio
import json
import math
import re
from pathlib import Path
from typing import Any

import httpx
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic_core import from_json

from modelplane.adapters.runtime.servers import RuntimeServers
from modelplane.resources.monitoring import PredictionLog as DeclaredLog
from modelplane_runtime import predictions
from modelplane_runtime.app import RuntimeApp
from modelplane_runtime.models.loading import load_model
from modelplane_runtime.options import parse_options
from modelplane_runtime.prediction_events import (
    MAX_BODY_BYTES,
    REQUEST_TYPE,
    RESPONSE_TYPE,
    LogSettings,
    parse_settings,
)
from modelplane_runtime.predictions import PREDICTIONS_PATH, PredictionLog, is_sampled
from modelplane_runtime.signature import Signature, TensorSpec

from .conftest import COLUMNS
from .logged import add, matrix, page_of, writer
from .test_process import running
from .test_routes import IDENTITY, INFER, columns_body, make_client

ALL = LogSettings()
RULE = {"x-modelplane-rule": "default"}
RFC_3339 = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{6}Z")


async def fetch(
    client: httpx.AsyncClient, after: str = "", **log: Any
) -> tuple[list[dict[str, Any]], dict[str, Any]]:
    answer = await client.post(PREDICTIONS_PATH, json={"after": after, "log": log})
    assert answer.status_code == 200
    page = answer.json()
    return page.pop("events"), page


@pytest.fixture
async def app(artifacts: Path) -> RuntimeApp:
    made = RuntimeApp(IDENTITY, log_settings=ALL)
    made.serve(load_model("skops", artifacts / "columns.skops"))
    return made


# What an answered request becomes ---------------------------------------------------------------


async def test_an_answered_request_is_one_pair_of_events_however_many_rows(app: RuntimeApp) -> None:
    async with await make_client(app) as client:
        body = columns_body(*(float(n) for n in range(1000)), id="body-7")
        answer = await client.post(INFER, json=body, headers={**RULE, "x-request-id": "r-1"})
        (request, response), page = await fetch(client)
    assert answer.status_code == 200
    assert (page["rows"], page["dropped"], page["more"]) == (1000, 0, False)
    assert (request["type"], response["type"]) == (REQUEST_TYPE, RESPONSE_TYPE)
    assert (request["id"], response["id"], response["rows"]) == ("r-1", "r-1", 1000)
    assert request["data"]["inputs"] == body["inputs"]
    assert response["data"]["outputs"] == answer.json()["outputs"]
    for event in (request, response):
        assert event["specversion"] == "1.0"
        assert event["inferenceservicename"] == "flights"
        assert event["modelversion"] == "1.2.0"
        assert RFC_3339.fullmatch(event["time"])
        assert re.fullmatch("[a-z]+", "".join(event)), "names of attributes are lower-case letters"
    assert request["time"] <= response["time"]
    assert response["latencyus"] > 0


async def test_rules_and_copies_are_told_apart(app: RuntimeApp) -> None:
    async with await make_client(app) as client:
        named = {"x-modelplane-rule": "rule-1f"}
        for headers in (RULE, named, {**named, "x-modelplane-copy": "rule-1f"}):
            await client.post(INFER, json=columns_body(1.0), headers=headers)
        events, _ = await fetch(client)
    told = [(event.get("rule"), event.get("mirrored")) for event in events]
    assert told == [(None, None)] * 2 + [("rule-1f", None)] * 2 + [("rule-1f", "true")] * 2


async def test_what_no_gateway_sent_and_what_failed_is_not_kept(app: RuntimeApp) -> None:
    async with await make_client(app) as client:
        assert (await client.post(INFER, json=columns_body(1.0))).status_code == 200
        assert (await client.post(INFER, json={"inputs": []}, headers=RULE)).status_code == 400
        assert (await fetch(client))[0] == []


async def test_the_log_is_no_part_of_what_a_gateway_routes(app: RuntimeApp) -> None:
    async with await make_client(app) as client:
        for path in (f"/v2/models/flights{PREDICTIONS_PATH}", f"/v2{PREDICTIONS_PATH}"):
            assert (await client.get(path)).status_code == 404
        assert (await client.get(PREDICTIONS_PATH)).status_code == 405


# Bounds -----------------------------------------------------------------------------------------


async def test_bodies_that_are_too_large_are_told_of_without_data() -> None:
    log = PredictionLog(LogSettings(join_key="id"))
    large = b'{"inputs": [], "x": "%s"}' % (b"x" * MAX_BODY_BYTES)
    add(log, large, rows=5, request_id="large-request")
    add(log, matrix([[1, 2, 3]]), large, rows=5, request_id="large-answer")
    first, second, third, fourth = (await page_of(log))["events"]
    assert ("data" in first, first["truncated"]) == (False, "true")
    assert ("data" in second, second.get("truncated")) == (True, None)
    assert ("data" in third, third.get("truncated")) == (True, None)
    assert ("data" in fourth, fourth["truncated"], fourth["rows"]) == (False, "true", 5)


async def test_a_reader_that_never_comes_costs_a_bounded_memory() -> None:
    log = PredictionLog(ALL, max_bytes=4 * 2**20)
    for size in (2**23, 200 * 1024, 8):
        for _ in range(100):
            add(log, b"x" * size, b"y" * size)
            held = sum(exchange.size_bytes for exchange in log._kept)
            assert held <= 4 * 2**20
    assert log.dropped > 0
    assert log.dropped + len(log) == 300


@given(
    bound=st.integers(1, 5),
    acts=st.lists(st.sampled_from(["add", "fetch", "fetch and lose"]), max_size=40),
)
def test_each_row_arrives_once_or_is_counted(bound: int, acts: list[str]) -> None:
    """A page that is lost on its way is fetched again, as far as it is still there."""

    async def play() -> None:
        log = PredictionLog(ALL, max_requests=bound)
        sent, cursor, dropped = 0, "", 0
        arrived: list[str] = []
        for act in [*acts, "fetch"]:
            if act == "add":
                add(log, matrix([[1, 2, 3]]), request_id=f"r{sent}")
                sent += 1
                continue
            page = await page_of(log, cursor)
            names = [event["id"] for event in page["events"] if event["type"] == REQUEST_TYPE]
            if act == "fetch":
                arrived += names
                dropped += page["dropped"]
                cursor = page["next"]
        assert len(arrived) == len(set(arrived)), "none twice"
        missing = {f"r{n}" for n in range(sent)} - set(arrived)
        assert dropped == len(missing), "also what was in a page that got lost, and had to go"

    asyncio.run(play())


async def test_pages_are_bounded_and_go_on_where_they_ended() -> None:
    log = PredictionLog(ALL)
    for number in range(40):
        add(log, matrix([[0.125] * 3] * 5000), rows=5000, request_id=f"r{number}")
    cursor, names = "", list[str]()
    for _ in range(40):
        written = await log.write_page(cursor, writer())
        assert len(written) < 2 * predictions.PAGE_BYTES
        page = from_json(written)
        names += [event["id"] for event in page["events"][::2]]
        cursor = page["next"]
        if not page["more"]:
            break
    assert names == [f"r{number}" for number in range(40)]


async def test_a_matrix_of_very_many_columns_leaves_its_data_out() -> None:
    width = 60_000
    signature = Signature(tuple(TensorSpec(f"column-{n:09d}", "FP64", (-1,)) for n in range(width)))
    log = PredictionLog(ALL)
    add(log, matrix([[0] * width]), request_id="wide")
    add(log, matrix([[1.0]], "column-000000000"), request_id="narrow")
    page = await page_of(log, signature=signature)
    assert [event.get("truncated") for event in page["events"]] == ["true", None, None, None]


async def test_a_new_life_of_the_server_begins_anew() -> None:
    old, new = PredictionLog(ALL), PredictionLog(ALL)
    for log in (old, new):
        add(log, matrix([[1, 2, 3]]))
    cursor = (await page_of(old))["next"]
    assert (await page_of(new, cursor))["rows"] == 1
    for nonsense in ("", "x", "1.2.3", f"{cursor}9" * 50, "²"):
        assert (await page_of(old, nonsense))["rows"] == 1


async def test_serving_goes_on_while_pages_are_written(app: RuntimeApp) -> None:
    log = app._predictions
    for number in range(200):
        add(log, matrix([[0.125] * 3] * 20), rows=20, request_id=f"r{number}")
    async with await make_client(app) as client:
        fetching = asyncio.create_task(fetch(client))
        answered = 0
        while not fetching.done():
            answer = await client.post(INFER, json=columns_body(1.0))
            answered += not fetching.done() and answer.status_code == 200
        events, _ = await fetching
    assert len(events) == 400
    assert answered > 0


@pytest.mark.e2e
async def test_a_reader_that_hangs_holds_up_no_request(
    short_directory: Path, artifacts: Path
) -> None:
    path = short_directory / "s"
    options = ["--format", "skops", "--artifact", str(artifacts / "columns.skops")]
    servers = RuntimeServers(short_directory, reuse_interpreter=True, max_body_bytes=2**20)
    async with running(path, *options, "--log-predictions", "{}") as server:
        await server.until_ready()
        body = columns_body(*([0.125] * 2000))
        for _ in range(30):
            answer = await server.client.post("/v2/models/m/infer", json=body, headers=RULE)
            assert answer.status_code == 200
        question = b'{"after": "", "log": {}}'
        head = b"POST %s HTTP/1.1\r\nhost: m\r\ncontent-length: %d\r\n\r\n"
        hanging = []
        try:
            for _ in range(3):
                # Each asks for a megabyte, and takes none of it.
                reader, asking = await asyncio.open_unix_connection(str(path), limit=1)
                hanging.append((reader, asking))
                asking.write(head % (PREDICTIONS_PATH.encode(), len(question)) + question)
            for _ in range(50):
                answer = await server.client.post("/v2/models/m/infer", json=body, headers=RULE)
                assert answer.status_code == 200
            rows, cursor, more = 0, "", True
            while more:
                page = await servers.read_predictions(path, cursor, DeclaredLog())
                assert page is not None
                assert page.dropped == 0
                rows, cursor, more = rows + page.rows, page.next, page.more
        finally:
            for _, asking in hanging:
                asking.close()
    assert rows == 80 * 2000


# What is kept, and changes of that --------------------------------------------------------------


@given(sampling=st.floats(0, 100), names=st.lists(st.text(min_size=1), min_size=1))
def test_sampling_hangs_on_the_request_id_alone(sampling: float, names: list[str]) -> None:
    for name in names:
        assert is_sampled(name, sampling) == is_sampled(name, sampling)
        assert not is_sampled(name, sampling) or is_sampled(name, min(100.0, sampling * 2))
        assert is_sampled(name, 100.0)
        assert not is_sampled(name, 0.0)


def test_the_sample_has_the_size_that_was_asked_for() -> None:
    count, share = 20_000, 0.3
    found = sum(is_sampled(f"request-{n}", 100 * share) for n in range(count))
    assert abs(found / count - share) < 5 * math.sqrt(share * (1 - share) / count)


async def test_a_request_and_its_copy_are_both_kept_or_neither() -> None:
    stable, shadow = (PredictionLog(LogSettings(sampling=40)) for _ in range(2))
    for number in range(50):
        add(stable, matrix([[1, 2, 3]]), request_id=f"r{number}")
        copy = {b"x-modelplane-copy": b"default"}
        add(shadow, matrix([[1, 2, 3]]), request_id=f"r{number}", headers=copy)
    kept = [[e["id"] for e in (await page_of(log))["events"]] for log in (stable, shadow)]
    assert kept[0] == kept[1]
    assert 0 < len(kept[0]) < 100


async def test_a_change_takes_effect_with_the_next_question(app: RuntimeApp) -> None:
    async with await make_client(app) as client:
        await client.post(INFER, json=columns_body(1.0), headers=RULE)
        # Asked for from now on, and of what is still there.
        events, page = await fetch(client, redact=["wind"])
        assert [t["name"] for t in events[0]["data"]["inputs"]] == ["delay", "distance"]
        await client.post(INFER, json=columns_body(1.0), headers=RULE)
        # What was not to be kept when it came is not told, though it might be kept now.
        events, page = await fetch(client, page["next"])
        assert [t["name"] for t in events[0]["data"]["inputs"]] == ["delay", "distance"]
        await client.post(INFER, json=columns_body(1.0), headers=RULE)
        events, page = await fetch(client, page["next"])
        assert [t["name"] for t in events[0]["data"]["inputs"]] == list(COLUMNS)


async def test_taking_it_away_stops_the_log_and_forgets(app: RuntimeApp) -> None:
    async with await make_client(app) as client:
        await client.post(INFER, json=columns_body(1.0), headers=RULE)
        gone = await client.post(PREDICTIONS_PATH, json={"after": "", "log": None})
        assert gone.json()["events"] == []
        await client.post(INFER, json=columns_body(1.0), headers=RULE)
        events, page = await fetch(client)
        assert (events, page["dropped"]) == ([], 0), "forgotten by wish is not lost"
        await client.post(INFER, json=columns_body(1.0), headers=RULE)
        assert len((await fetch(client, page["next"]))[0]) == 2


@pytest.mark.parametrize(
    "question",
    [
        b"", b"[]", b"{}", b'{"after": 7}', b'{"after": "", "log": 7}',
        b'{"after": "", "log": {"sampling": "all"}}', b'{"after": "", "log": {"sampling": 101}}',
        b'{"after": "", "log": {"redact": "ssn"}}', b'{"after": "", "log": {"inputs": 1}}',
        b"[" * 50_000, b"x" * 300_000,
    ],
)  # fmt: skip
async def test_a_question_that_is_none_is_refused(app: RuntimeApp, question: bytes) -> None:
    async with await make_client(app) as client:
        await client.post(INFER, json=columns_body(1.0), headers=RULE)
        assert (await client.post(PREDICTIONS_PATH, content=question)).status_code == 400
        assert len((await fetch(client))[0]) == 2, "and changes nothing"


def test_the_server_reads_what_a_deployment_declares() -> None:
    declared = DeclaredLog(
        sampling=12.5,
        inputs=False,
        redact=("ssn",),
        join_key="header.x-order-id",
        slices=("user.region",),
    )
    expected = LogSettings(12.5, False, frozenset({"ssn"}), "header.x-order-id", ("user.region",))
    document = json.dumps(declared.to_dict())
    assert parse_settings(json.loads(document)) == expected
    arguments = ["--uds", "s", "--model-name", "m", "--model-version", "1", "--format", "onnx"]
    arguments += ["--artifact", "a"]
    assert parse_options([*arguments, "--log-predictions", document]).log_settings == expected
    assert parse_options(arguments).log_settings is None
    with pytest.raises(SystemExit):
        parse_options([*arguments, "--log-predictions", '{"sampling": -1}'])
