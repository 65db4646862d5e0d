"""Alert rules, silences and `/metrics` over HTTP."""

from __future__ import annotations

from prometheus_client.parser import text_string_to_metric_families

from modelplane.adapters.metrics.series import MemorySeriesRing
from modelplane.decisions.series import sample
from modelplane.testing.clock import ManualClock
from tests.api.world import READER, URL, World, make_world

RULES = {"spec": {"groups": [{"name": "g", "rules": [
    {"alert": "Ours", "expr": "modelplane_jobs > 1"},
    {"alert": "Node", "expr": "node_load1 > 3"},
]}]}}  # fmt: skip


async def test_applying_rules_warns_of_those_that_need_a_prometheus(world: World) -> None:
    for query in ({"dryRun": "true"}, {}):
        applied = await world.ok("PUT", "/alert-rules/own", RULES, **query)
        assert applied["warnings"] == [
            "g/Node: it needs a Prometheus: modelplane does not measure node_load1"
        ]
    assert (await world.ok("PUT", "/alert-rules/own", RULES))["result"] == "unchanged"


async def test_with_a_prometheus_there_is_nothing_to_warn_of() -> None:
    async with make_world(evaluates_rules=False) as world:
        assert (await world.ok("PUT", "/alert-rules/own", RULES))["warnings"] == []


async def test_an_expression_with_a_fault_is_refused_with_its_place(world: World) -> None:
    rules = {"spec": {"groups": [{"name": "g", "rules": [{"alert": "A", "expr": "up == = 1"}]}]}}
    response = await world.call("PUT", "/alert-rules/own", rules)
    assert response.status_code == 422
    (fault,) = response.json()["fields"]
    assert fault["path"] == "spec.groups[0].rules[0].expr"
    assert fault["message"].startswith("not PromQL: line 1, column 7")


async def test_a_silence_says_who_asked(world: World) -> None:
    spec = {"matchers": ['alertname="X"'], "endsAt": "2030-01-01T00:00:00Z", "comment": "disks"}
    applied = await world.ok("PUT", "/silences/quiet", {"spec": spec})
    assert applied["resource"]["spec"]["createdBy"] == "admin"
    refused = await world.call("PUT", "/silences/quiet", {"spec": spec}, token=READER)
    assert refused.status_code == 403


async def test_metrics_are_the_newest_set_and_the_api_s_own_counts() -> None:
    ring, clock = MemorySeriesRing(), ManualClock()
    async with make_world(series=ring) as world:
        for value in (1.0, 4.0):
            clock.step(1)
            ring.record(clock.now(), [sample("modelplane_jobs", value, phase="Running")])
        await world.ok("GET", "/jobs")
        response = await world.http.get(f"{URL}/metrics")
        assert response.status_code == 200
        families = {one.name: one for one in text_string_to_metric_families(response.text)}
        assert [one.value for one in families["modelplane_jobs"].samples] == [4.0]
        assert "modelplane_http_requests" in families
        assert response.headers["content-type"].startswith("text/plain")


async def test_elsewhere_than_on_loopback_metrics_need_a_token() -> None:
    async with make_world(series=MemorySeriesRing(), on_loopback=False) as world:
        world.http._transport.client = ("192.0.2.7", 1)  # type: ignore[attr-defined]
        assert (await world.http.get(f"{URL}/metrics")).status_code == 401
