"""Alerts that others tell of: one life for all of them, and nothing that is told twice."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from modelplane.decisions.alert_delivery import SOURCE_LABEL
from modelplane.decisions.alert_webhook import NotAlertmanager, read_group
from modelplane.decisions.told_alerts import ToldAlert, take_alert
from modelplane.resources.alerting import Alert, AlertPhase, AlertSource

NOW = datetime(2026, 3, 1, 12, 0, tzinfo=UTC)
LABELS = {"alertname": "ReplicaDown", "deployment": "fraud"}


def told(
    phase: AlertPhase, source: AlertSource = "prometheus", value: float | None = 1.0
) -> ToldAlert:
    return ToldAlert(source, LABELS, phase, NOW - timedelta(seconds=30), "ours", value)


def after(*steps: tuple[float, ToldAlert], start: Alert | None = None) -> Alert | None:
    """Return the alert after it was told of, each time so many seconds after noon."""
    alert = start
    for seconds, one in steps:
        alert = take_alert(alert, one, NOW + timedelta(seconds=seconds)) or alert
    return alert


def test_an_alert_fires_since_when_its_condition_holds_there() -> None:
    alert = after((0, told("Firing")))
    assert alert is not None
    assert alert.metadata.name.startswith("ReplicaDown-")
    assert (alert.spec.source, alert.spec.rules) == ("prometheus", "ours")
    assert alert.status.phase == "Firing"
    assert alert.status.active_at == NOW - timedelta(seconds=30)
    assert alert.status.fired_at == NOW
    assert [change.phase for change in alert.status.history] == ["Pending", "Firing"]


def test_one_that_is_pending_there_is_pending_here_until_it_fires_there() -> None:
    alert = after((0, told("Pending")), (3600, told("Pending")))
    assert alert is not None
    assert alert.status.phase == "Pending"
    fired = after((3601, told("Firing")), start=alert)
    assert fired is not None
    assert (fired.status.phase, fired.status.episode) == ("Firing", 1)


def test_what_came_back_unseen_is_another_episode() -> None:
    alert = after((0, told("Firing")), (60, told("Pending")))
    assert alert is not None
    assert (alert.status.phase, alert.status.episode) == ("Pending", 2)
    assert "Resolved" in [change.phase for change in alert.status.history]


def test_the_end_of_what_was_never_known_is_nothing() -> None:
    assert take_alert(None, told("Resolved"), NOW) is None
    ended = after((0, told("Firing")), (5, told("Resolved")))
    assert ended is not None
    assert take_alert(ended, told("Resolved"), NOW + timedelta(seconds=6)) is None


def test_an_alertmanager_does_not_end_an_alert_of_our_rules_nor_the_other_way_round() -> None:
    ours = after((0, told("Firing")))
    assert take_alert(ours, told("Resolved", "alertmanager"), NOW) is None
    theirs = after((0, told("Firing", "alertmanager")))
    assert take_alert(theirs, told("Resolved", "prometheus"), NOW) is None


def test_a_prometheus_goes_on_with_what_modelplane_evaluated() -> None:
    ours = after((0, told("Firing", "modelplane")))
    ended = take_alert(ours, told("Resolved"), NOW + timedelta(seconds=5))
    assert ended is not None
    assert ended.status.phase == "Resolved"


def test_a_value_that_is_unknown_is_no_condition_that_is_gone() -> None:
    alert = after((0, told("Firing", value=None)))
    assert alert is not None
    assert (alert.status.phase, alert.status.value) == ("Firing", None)


def test_what_comes_and_goes_is_flapping_and_goes_on() -> None:
    steps = [(60.0 * n, told("Firing" if n % 2 == 0 else "Resolved")) for n in range(12)]
    alert = after(*steps)
    assert alert is not None
    assert alert.status.flapping
    assert alert.status.phase == "Firing"
    rested = after((3600, told("Resolved")), (4000, told("Resolved")), start=alert)
    assert rested is not None
    assert (rested.status.phase, rested.status.flapping) == ("Resolved", False)


@given(st.lists(st.sampled_from(["Pending", "Firing", "Resolved"]), max_size=30))
def test_what_is_told_again_changes_nothing_and_the_last_word_counts(
    phases: list[AlertPhase],
) -> None:
    alert: Alert | None = None
    for n, phase in enumerate(phases):
        now = NOW + timedelta(hours=n)  # slow enough not to be flapping
        alert = take_alert(alert, told(phase), now) or alert
        assert take_alert(alert, told(phase), now + timedelta(seconds=1)) is None
        assert (alert.status.phase if alert else "Resolved") == phase
        if alert is not None:
            assert alert == Alert.model_validate(alert.to_dict(), by_alias=True, by_name=False)


# The webhook -------------------------------------------------------------------------------------


def message(**changes: Any) -> dict[str, Any]:
    alert = {
        "status": "firing",
        "labels": LABELS,
        "annotations": {"summary": "down"},
        "startsAt": "2026-03-01T11:59:00.123456789Z",
        "endsAt": "0001-01-01T00:00:00Z",
        "generatorURL": "http://prometheus/graph",
        "fingerprint": "00",
    }
    return {
        "version": "4",
        "groupKey": "{}:{}",
        "truncatedAlerts": 0,
        "status": "firing",
        "receiver": "modelplane",
        "groupLabels": {},
        "commonLabels": {},
        "commonAnnotations": {},
        "externalURL": "http://alertmanager",
        "alerts": [alert],
        **changes,
    }


def one(**changes: Any) -> dict[str, Any]:
    return message(alerts=[{**message()["alerts"][0], **changes}])


def test_a_message_of_version_4_is_read() -> None:
    group = read_group(message(truncatedAlerts=7), NOW)
    [alert] = group.alerts
    assert (alert.source, alert.labels, alert.phase) == ("alertmanager", LABELS, "Firing")
    assert alert.since == datetime(2026, 3, 1, 11, 59, 0, 123456, tzinfo=UTC)
    assert alert.annotations == {"summary": "down"}
    assert group.truncated == 7


def test_fields_that_are_absent_or_unknown_are_no_matter() -> None:
    lean = {"version": "4", "alerts": [{"status": "resolved", "labels": LABELS}]}
    [alert] = read_group(lean, NOW).alerts
    assert (alert.phase, alert.since) == ("Resolved", NOW)
    assert read_group(message(news={"a": 1}), NOW).alerts


def test_what_we_posted_ourselves_is_not_taken_twice() -> None:
    group = read_group(one(labels={**LABELS, SOURCE_LABEL: "ours"}), NOW)
    assert (group.alerts, group.own) == ((), 1)


@pytest.mark.parametrize(
    ("body", "path"),
    [
        ({}, "version"),
        (message(version="3"), "version"),
        (message(version=4), "version"),
        (message(alerts=None), "alerts"),
        (message(alerts=[7]), "alerts[0]"),
        (message(truncatedAlerts="many"), "truncatedAlerts"),
        (one(status="burning"), "alerts[0].status"),
        (one(status=[]), "alerts[0].status"),
        (one(labels=None), "alerts[0].labels"),
        (one(labels={"a": 1}), "alerts[0].labels"),
        (one(annotations=[1]), "alerts[0].annotations"),
        (one(startsAt="yesterday"), "alerts[0].startsAt"),
        (one(startsAt=12), "alerts[0].startsAt"),
        ({"eventName": "push", "repository": {}}, "version"),
    ],
)
def test_what_is_no_such_message_is_refused_with_what_is_wrong(
    body: dict[str, Any], path: str
) -> None:
    with pytest.raises(NotAlertmanager) as raised:
        read_group(body, NOW)
    assert raised.value.path == path


_JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=10) | st.just("4"),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(["version", "alerts", "status", "labels", "startsAt", "x"]), inner
        )
    ),
    max_leaves=15,
)


@given(st.dictionaries(st.sampled_from(["version", "alerts", "truncatedAlerts"]), _JSON))
def test_whatever_comes_is_read_or_refused(body: dict[str, Any]) -> None:
    refused = None
    try:
        group = read_group({**body, "version": "4"}, NOW)
    except NotAlertmanager as error:
        refused = error
    if refused is not None:
        assert refused.path
        assert refused.message
    else:
        assert len(group.alerts) + group.own == len(body["alerts"])


def test_too_much_is_not_taken() -> None:
    long = {"alertname": "A", "text": "x" * 20_000}
    with pytest.raises(ValueError, match="16,000 characters"):
        take_alert(None, ToldAlert("alertmanager", long, "Firing", NOW), NOW)
    texts = {"summary": "y" * 1_000_000}
    told_of = ToldAlert("alertmanager", LABELS, "Firing", NOW, annotations=texts)
    alert = take_alert(None, told_of, NOW)
    assert alert is not None
    assert len(alert.status.annotations["summary"]) == 4_000
    assert take_alert(alert, told_of, NOW) is None, "the same again is no news"
