"""What every Prometheus and every Alertmanager does for the controllers: fakes and real ones."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, TypeVar

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from ruamel.yaml import YAML

from modelplane.adapters.alerting.alertmanager import Alertmanager
from modelplane.adapters.alerting.http import AlertingHttp, Credentials, read_time
from modelplane.adapters.alerting.prometheus import Prometheus
from modelplane.adapters.alerting.rule_files import RuleFolder, render_rules
from modelplane.decisions.alert_delivery import SOURCE_LABEL
from modelplane.errors import TerminalError, TransientError
from modelplane.ports.alerting import (
    AlertReceiver,
    PostedAlert,
    QueryRefused,
    Result,
    RuleServer,
    ServedAlert,
)
from modelplane.resources.alerting import AlertRule, AlertRulesSpec, Matcher, RuleGroup
from modelplane.testing.alerting import FakeAlertmanager, FakeRuleServer
from tests.ports import free_port
from tests.prometheus_server import RealServer, alertmanager, prometheus

T = TypeVar("T")

pytestmark = pytest.mark.slow


def rules(expr: str = "vector(1)", alert: str = "Down", **more: Any) -> AlertRulesSpec:
    group = {"name": "g", "rules": [{"alert": alert, "expr": expr, **more}]}
    return AlertRulesSpec.model_validate({"groups": [group]})


def wrong() -> AlertRulesSpec:
    """Rules that were not checked here: a Prometheus that knows less refuses them so."""
    rule = AlertRule.model_construct(alert="Wrong", expr="sum(", record=None)
    return AlertRulesSpec(groups=(RuleGroup.model_construct(name="g", rules=(rule,)),))


async def eventually(what: str, probe: Callable[[], Awaitable[T]], timeout_s: float = 60) -> T:
    async with asyncio.timeout(timeout_s):
        while True:
            found = await probe()
            if found:
                return found
            await asyncio.sleep(0.1)
    raise AssertionError(what)


# A Prometheus ------------------------------------------------------------------------------------


@dataclass
class Served:
    """A rule server, and what its surroundings can do to it."""

    server: RuleServer
    real: RealServer | None = None

    @property
    def folder(self) -> Path:
        assert self.real is not None
        return self.real.folder / "rules"


@pytest.fixture(scope="module")
def real_prometheus() -> Iterator[RealServer]:
    with prometheus() as server:
        yield server


@pytest.fixture(params=["fake", "real"])
async def served(request: pytest.FixtureRequest) -> AsyncIterator[Served]:
    if request.param == "fake":
        fake = FakeRuleServer(answers={"vector(7)": [Result({}, 7.0)]})
        since = datetime(2026, 1, 1, tzinfo=UTC)
        labels = {"alertname": "Down", "severity": "page"}
        fake.served = [ServedAlert("ours", labels, {"summary": "it is 1"}, True, since, 1.0)]
        yield Served(fake)
        return
    real: RealServer = request.getfixturevalue("real_prometheus")
    server = Prometheus(AlertingHttp("Prometheus", real.url), real.folder / "rules")
    yield Served(server, real)
    await server.publish({})
    await server.close()


async def test_an_expression_is_answered_now(served: Served) -> None:
    assert await served.server.query("vector(7)") == [Result({}, 7.0)]
    assert await served.server.query("vector(1) > 2") == []


async def test_an_expression_that_is_wrong_is_refused_with_the_reason(served: Served) -> None:
    refused = await served.server.query("sum(")
    assert isinstance(refused, QueryRefused)
    assert "parenthesis" in refused.message


async def test_published_rules_are_evaluated_and_those_not_named_any_more_are_not(
    served: Served,
) -> None:
    server = served.server
    assert await server.publish({"ours": rules(), "more": rules(alert="Other")}) == {}

    async def both() -> bool:
        health = await server.health()
        return {(h.rules, h.rule, h.fault) for h in health} == {
            ("ours", "Down", ""),
            ("more", "Other", ""),
        }

    await eventually("health of both", both)
    assert await server.publish({"ours": rules()}) == {}

    async def one() -> bool:
        return [h.rules for h in await server.health()] == ["ours"]

    await eventually("health of one", one)


async def test_rules_that_are_refused_are_named_and_the_others_are_taken(served: Served) -> None:
    server = served.server
    assert await server.publish({"ours": rules()}) == {}
    refused = await server.publish({"ours": rules(alert="Changed"), "bad": wrong()})
    assert list(refused) == ["bad"]
    assert "refuses" in refused["bad"]

    async def taken() -> bool:
        return [(h.rules, h.rule) for h in await server.health()] == [("ours", "Changed")]

    await eventually("the good one", taken)


async def test_alerts_of_our_rules_say_whose_they_are(served: Served) -> None:
    spec = rules(labels={"severity": "page"}, annotations={"summary": "it is {{ $value }}"})
    await served.server.publish({"ours": spec})

    async def firing() -> list[ServedAlert]:
        return [alert for alert in await served.server.alerts() if alert.is_firing]

    [alert] = await eventually("the alert", firing)
    assert alert.rules == "ours"
    assert alert.labels == {"alertname": "Down", "severity": "page"}
    assert alert.annotations == {"summary": "it is 1"}
    assert alert.value == 1.0
    assert alert.active_at.tzinfo is not None


async def test_a_real_prometheus_is_given_files_and_nothing_else_is_touched(
    real_prometheus: RealServer,
) -> None:
    folder = real_prometheus.folder / "rules"
    foreign = folder / "mine.yml"
    foreign.write_text(json.dumps({"groups": [{"name": "theirs", "rules": []}]}))
    (folder / "notes.txt").write_text("mine")
    server = Prometheus(AlertingHttp("Prometheus", real_prometheus.url), folder)
    try:
        await server.publish({"a.b": rules()})
        assert {file.name for file in folder.iterdir()} == {
            "mine.yml", "notes.txt", "modelplane-a.b.yml",
        }  # fmt: skip
        await server.publish({})
        assert {file.name for file in folder.iterdir()} == {"mine.yml", "notes.txt"}
    finally:
        foreign.unlink()
        (folder / "notes.txt").unlink()
        await server.close()


async def test_a_refused_change_leaves_the_file_that_was_there(real_prometheus: RealServer) -> None:
    folder = real_prometheus.folder / "rules"
    server = Prometheus(AlertingHttp("Prometheus", real_prometheus.url), folder)
    try:
        await server.publish({"ours": rules()})
        before = (folder / "modelplane-ours.yml").read_text()
        assert list(await server.publish({"ours": wrong()})) == ["ours"]
        assert (folder / "modelplane-ours.yml").read_text() == before
        assert [file.name for file in folder.iterdir()] == ["modelplane-ours.yml"]
        # It is well as it is: what it has loaded is what lies there.
        assert "prometheus_config_last_reload_successful 1" in real_prometheus.metrics()
    finally:
        await server.publish({})
        await server.close()


async def test_what_was_refused_is_not_offered_again_and_again(
    real_prometheus: RealServer,
) -> None:
    def reloads_that_failed() -> int:
        return real_prometheus.log().count("Failed to apply configuration")

    folder = real_prometheus.folder / "rules"
    server = Prometheus(AlertingHttp("Prometheus", real_prometheus.url), folder)
    try:
        first = await server.publish({"ours": wrong(), "more": rules()})
        failed = reloads_that_failed()
        assert failed > 0
        for _ in range(3):
            assert await server.publish({"ours": wrong(), "more": rules()}) == first
        assert reloads_that_failed() == failed
        assert await server.publish({"ours": rules(), "more": rules()}) == {}
        assert (folder / "modelplane-ours.yml").exists()
    finally:
        await server.publish({})
        await server.close()


async def test_a_file_that_prometheus_does_not_read_is_a_fault(
    real_prometheus: RealServer, tmp_path: Path
) -> None:
    server = Prometheus(AlertingHttp("Prometheus", real_prometheus.url), tmp_path)
    await server.publish({"ours": rules()})
    [health] = await server.health()
    assert "does not read" in health.fault
    assert str(tmp_path / "modelplane-ours.yml") in health.fault
    await server.close()


async def test_a_rule_that_fails_says_why(real_prometheus: RealServer) -> None:
    folder = real_prometheus.folder / "rules"
    server = Prometheus(AlertingHttp("Prometheus", real_prometheus.url), folder)
    many = (
        'label_replace(vector(1), "a", "x", "", "") or label_replace(vector(1), "a", "y", "", "")'
    )
    spec = rules(f"({many}) + on() ({many})")
    try:
        await server.publish({"ours": spec})

        async def fault() -> str:
            return "".join(health.fault for health in await server.health())

        assert "many-to-many" in await eventually("the fault", fault)
    finally:
        await server.publish({})
        await server.close()


async def test_what_died_in_the_middle_leaves_the_rules_that_were_accepted(
    real_prometheus: RealServer,
) -> None:
    """A process wrote a file and died before Prometheus took it."""
    folder = real_prometheus.folder / "rules"
    server = Prometheus(AlertingHttp("Prometheus", real_prometheus.url), folder)
    await server.publish({"ours": rules()})
    accepted = (folder / "modelplane-ours.yml").read_text()
    RuleFolder(folder).change({"ours": render_rules("ours", wrong())})
    again = Prometheus(AlertingHttp("Prometheus", real_prometheus.url), folder)
    try:
        assert list(await again.publish({"ours": wrong()})) == ["ours"]
        assert (folder / "modelplane-ours.yml").read_text() == accepted
    finally:
        await again.publish({})
        await server.close()
        await again.close()


async def test_while_prometheus_is_away_the_files_stay_as_they_were(tmp_path: Path) -> None:
    url = f"http://127.0.0.1:{free_port()}"
    server = Prometheus(AlertingHttp("Prometheus", url), tmp_path)
    with pytest.raises(TransientError, match="cannot be reached"):
        await server.publish({"ours": rules()})
    assert list(tmp_path.iterdir()) == []
    with pytest.raises(TransientError):
        await server.query("vector(1)")
    await server.close()


async def test_a_folder_that_is_not_there_is_named(tmp_path: Path) -> None:
    server = Prometheus(AlertingHttp("Prometheus", "http://127.0.0.1:9"), tmp_path / "none")
    with pytest.raises(TransientError, match=r"the rules' folder .*none"):
        await server.publish({"ours": rules()})
    await server.close()


async def test_a_prometheus_that_may_not_reload_says_what_to_do() -> None:
    with prometheus(lifecycle=False) as real:
        server = Prometheus(AlertingHttp("Prometheus", real.url), real.folder / "rules")
        with pytest.raises(TransientError) as raised:
            await server.publish({"ours": rules()})
        assert "--web.enable-lifecycle" in raised.value.hint
        assert list((real.folder / "rules").iterdir()) == []
        await server.close()


async def test_basic_authentication_is_by_secrets_that_stand_in_no_message() -> None:
    secrets = {"prometheus": "wrong-horse"}
    hashed = "$2b$04$IcQcYd0VUO6FS1.GQOoXk.UlbyR.T7FuhVg3EHr2Ke0qawVibNIK2"
    with prometheus(web={"basic_auth_users": {"plane": hashed}}) as real:
        credentials = Credentials(secrets.get, username="plane", password="prometheus")
        server = Prometheus(AlertingHttp("Prometheus", real.url, credentials), real.folder)
        with pytest.raises(TransientError, match="refuses the credentials") as raised:
            await server.query("vector(1)")
        assert "wrong-horse" not in f"{raised.value!r} {raised.value} {credentials!r}"
        secrets["prometheus"] = "correct-horse"
        assert await server.query("vector(1)") == [Result({}, 1.0)]
        del secrets["prometheus"]
        with pytest.raises(TransientError, match="there is no secret 'prometheus'"):
            await server.query("vector(1)")
        await server.close()


# Rule files --------------------------------------------------------------------------------------

_LABELS = st.dictionaries(
    st.from_regex(r"[a-z_][a-z0-9_]{0,10}", fullmatch=True), st.text(max_size=20), max_size=3
)


@example(own={"a": "\x85"}, of_group={"b": "\u2028"}, text="\x85ü", for_s=0.0)
@given(own=_LABELS, of_group=_LABELS, text=st.text(max_size=60), for_s=st.floats(0, 1e5))
def test_a_rule_file_says_what_the_rules_say(
    own: dict[str, str], of_group: dict[str, str], text: str, for_s: float
) -> None:
    given_rule = {"alert": "A", "expr": "up == 0", "for": for_s, "labels": own}
    recorded = {"record": "a:b", "expr": "sum(up)"}
    group = {"name": text or "g", "labels": of_group, "limit": 3}
    rule = {**given_rule, "annotations": {"summary": text}}
    spec = AlertRulesSpec.model_validate({"groups": [{**group, "rules": [rule, recorded]}]})
    [written] = YAML(typ="safe", pure=True).load(render_rules("ours", spec))["groups"]
    alert, record = written["rules"]
    assert written["name"] == (text or "g")
    assert alert["labels"] == {**of_group, **own, SOURCE_LABEL: "ours"}
    assert alert["annotations"] == {"summary": text}
    assert record.get("labels", {}) == of_group
    waits = alert.get("for", "0s")
    seconds = float(waits[:-2]) / 1000 if waits.endswith("ms") else float(waits[:-1])
    assert seconds == pytest.approx(for_s, abs=0.0006)


@pytest.mark.parametrize(
    ("written", "read"),
    [
        ("2026-11-23T23:45:06Z", "2026-11-23T23:45:06+00:00"),
        ("2026-11-23T23:45:06.123456789Z", "2026-11-23T23:45:06.123456+00:00"),
        ("2026-11-23T23:45:06.5+01:00", "2026-11-23T22:45:06.500000+00:00"),
    ],
)
def test_times_are_read_as_go_writes_them(written: str, read: str) -> None:
    assert read_time(written) == datetime.fromisoformat(read)


# An Alertmanager ---------------------------------------------------------------------------------


@dataclass
class Received:
    """An Alertmanager, and what people see there."""

    receiver: AlertReceiver
    active: Callable[[], list[dict[str, Any]]]


@pytest.fixture(scope="module")
def real_alertmanager() -> Iterator[RealServer]:
    with alertmanager() as server:
        yield server


@pytest.fixture(params=["fake", "real"])
async def received(request: pytest.FixtureRequest) -> AsyncIterator[Received]:
    if request.param == "fake":
        fake = FakeAlertmanager(now)
        yield Received(
            fake,
            lambda: [
                {"labels": dict(a.labels), "annotations": dict(a.annotations)}
                for a in fake.active()
            ],
        )
        return
    real: RealServer = request.getfixturevalue("real_alertmanager")
    receiver = Alertmanager(AlertingHttp("Alertmanager", real.url))
    yield Received(receiver, lambda: list(real.get("/api/v2/alerts")))
    for silence in await receiver.silences():
        await receiver.expire_silence(silence.id)
    await receiver.close()


def now() -> datetime:
    return datetime.now(UTC)


def matchers(*texts: str) -> tuple[Matcher, ...]:
    return tuple(Matcher.model_validate(text) for text in texts)


async def test_an_alert_is_there_until_its_end_is_posted(received: Received) -> None:
    labels, started = {"alertname": "Down", "case": "posted"}, now()
    first = PostedAlert(labels, started, now() + timedelta(minutes=3), {"summary": "one"})
    await received.receiver.post([first])

    def there() -> list[dict[str, Any]]:
        return [alert for alert in received.active() if alert["labels"] == labels]

    assert [alert["annotations"] for alert in there()] == [{"summary": "one"}]
    await received.receiver.post([first])
    assert len(there()) == 1
    await received.receiver.post([PostedAlert(labels, started, now(), {"modelplane_closing": "x"})])
    assert there() == []


async def test_a_silence_is_made_changed_and_ended(received: Received) -> None:
    receiver = received.receiver
    wanted = matchers('alertname="Down"', 'team=~"a|b"', 'env!="test"', 'zone!~"x.*"')
    until = now() + timedelta(hours=1)
    made = await receiver.silence(
        wanted, starts_at=now(), ends_at=until, created_by="ada", comment="a test"
    )
    [served] = await receiver.silences()
    assert (served.id, served.created_by, served.comment) == (made, "ada", "a test")
    assert {(m.name, m.operator, m.value) for m in served.matchers} == {
        (m.name, m.operator, m.value) for m in wanted
    }
    assert abs(served.ends_at - until) < timedelta(seconds=1)
    longer = until + timedelta(hours=1)
    same = await receiver.silence(
        wanted, starts_at=now(), ends_at=longer, created_by="ada", comment="a test", id=made
    )
    [served] = await receiver.silences()
    assert (served.id, same) == (made, made)
    assert abs(served.ends_at - longer) < timedelta(seconds=1)
    other = await receiver.silence(
        wanted[:1], starts_at=now(), ends_at=longer, created_by="ada", comment="a test", id=made
    )
    assert [served.id for served in await receiver.silences()] == [other]
    await receiver.expire_silence(other)
    await receiver.expire_silence(other)
    assert await receiver.silences() == []
    again = await receiver.silence(
        wanted, starts_at=now(), ends_at=longer, created_by="ada", comment="a test", id=other
    )
    assert [served.id for served in await receiver.silences()] == [again]


async def test_a_silence_of_everything_is_refused(received: Received) -> None:
    with pytest.raises(TerminalError, match="refuses the silence"):
        await received.receiver.silence(
            matchers('alertname=""'),
            starts_at=now(),
            ends_at=now() + timedelta(hours=1),
            created_by="ada",
            comment="too much",
        )


async def test_an_alertmanager_that_is_away_is_no_failure_for_good() -> None:
    receiver = Alertmanager(AlertingHttp("Alertmanager", f"http://127.0.0.1:{free_port()}"))
    with pytest.raises(TransientError, match="cannot be reached"):
        await receiver.post([PostedAlert({"alertname": "Down"}, now())])
    await receiver.close()


async def test_what_is_no_alertmanager_is_told_apart(real_prometheus: RealServer) -> None:
    receiver = Alertmanager(AlertingHttp("Alertmanager", real_prometheus.url))
    with pytest.raises(TransientError) as raised:
        await receiver.silences()
    assert raised.value.hint == "is it the address of an Alertmanager?"
    await receiver.close()
