"""From a model server's log through the agent's stamp to rows: the two ends mean the same."""

from __future__ import annotations

import asyncio
import json
from datetime import UTC, datetime

from pydantic_core import from_json, to_json

from modelplane.adapters.runtime.servers import _read_predictions
from modelplane.agent.prediction_spool import Origin
from modelplane.agent.predictions import dropped_event, stamped
from modelplane.decisions.prediction_events import PredictionEvent, make_predictions, read_event
from modelplane.ports.predictions import Place
from modelplane.resources.monitoring import Labels, PredictionLog
from modelplane_runtime.prediction_events import EventWriter, parse_settings
from modelplane_runtime.predictions import PredictionLog as ServerLog
from modelplane_runtime.signature import Signature, TensorSpec

ORIGIN = Origin("production", "flights", "1.2.0", "0a1b2c3d", "flights-0")
PLACE = Place("production", "flights", "1.2.0", "0a1b2c3d", "rule-1f", mirrored=True)
NOW = datetime(2026, 1, 5, 9, tzinfo=UTC)
COLUMNS = ("delay", "ssn", "carrier")


def test_what_a_server_logs_becomes_the_rows_that_were_predicted() -> None:
    declared = PredictionLog(
        redact=("ssn", "probabilities"),
        join_key="input.delay",
        slices=("user.region", "input.carrier"),
    )
    log = ServerLog(parse_settings(json.loads(json.dumps(declared.to_dict()))))
    columns = {"delay": [1.0, 2.5], "ssn": [7.0, 8.0], "carrier": ["AA", "UA"]}
    types = {"delay": "FP64", "ssn": "FP64", "carrier": "BYTES"}
    inputs = [
        {"name": name, "datatype": types[name], "shape": [2], "data": data}
        for name, data in columns.items()
    ]
    outputs = [
        {"name": "predictions", "datatype": "INT64", "shape": [2], "data": [0, 1]},
        {
            "name": "probabilities",
            "datatype": "FP64",
            "shape": [2, 2],
            "data": [0.9, 0.1, 0.2, 0.8],
        },
    ]
    log.add(
        {
            b"x-modelplane-rule": b"rule-1f",
            b"x-modelplane-copy": b"rule-1f",
            b"x-user-region": b"west",
        },
        json.dumps({"inputs": inputs}).encode(),
        json.dumps({"outputs": outputs}).encode(),
        request_id="r-1",
        body_id=None,
        rows=2,
        latency_s=0.002,
    )
    signature = Signature(tuple(TensorSpec(name, types[name], (-1,)) for name in COLUMNS))
    page = _read_predictions(
        asyncio.run(log.write_page("", EventWriter("flights", "1.2.0", signature)))
    )
    assert page is not None
    sent = from_json(to_json([stamped(event, ORIGIN) for event in page.events]))
    request, response = (read_event(item) for item in sent)
    assert isinstance(request, PredictionEvent)
    assert isinstance(response, PredictionEvent)
    assert request.pair_key == response.pair_key
    assert (response.environment, response.deployment) == ("production", "flights")
    assert (response.version, response.endpoint) == ("1.2.0", "0a1b2c3d")
    assert response.is_mirrored
    rows = make_predictions(request, response, PLACE, log=declared, labels=Labels(), now=NOW)
    assert [row.predicted for row in rows] == [0, 1]
    assert [row.key for row in rows] == ["1", "2.5"]
    assert [row.inputs for row in rows] == [
        {"delay": 1.0, "carrier": "AA"},
        {"delay": 2.5, "carrier": "UA"},
    ]
    assert [set(row.parts) for row in rows] == [
        {"user.region=west", "input.carrier=AA"},
        {"user.region=west", "input.carrier=UA"},
    ]
    assert [row.latency_s for row in rows] == [0.002, 0.002]
    assert all(row.score is None for row in rows), "redacted"


def test_what_an_agent_lost_is_understood() -> None:
    event = read_event(from_json(to_json(dropped_event(ORIGIN, 12, NOW))))
    assert isinstance(event, PredictionEvent)
    assert event.count("rows") == 12
    assert (event.environment, event.deployment) == ("production", "flights")
