"""Settings of a Prometheus and an Alertmanager: refused at start rather than found out later."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from modelplane.errors import InvalidResource
from modelplane.settings import load_settings

URL = "https://metrics.example.org/prometheus/"


def test_they_are_read(tmp_path: Path) -> None:
    given = {"prometheus_url": URL, "prometheus_rules_dir": tmp_path, "alertmanager_url": URL}
    settings = load_settings(state=tmp_path, **given)
    assert settings.prometheus_url == settings.alertmanager_url == URL.rstrip("/")


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({"prometheus_url": URL}, "go together"),
        ({"prometheus_rules_dir": "/rules"}, "go together"),
        ({"prometheus_url": URL, "prometheus_rules_dir": "rules"}, "absolute"),
        ({"alertmanager_url": "metrics:9093"}, "not an address"),
        ({"alertmanager_url": "http://ada:secret-word@metrics"}, "leave credentials out"),
        ({"alertmanager_url": "http://metrics/?tenant=1"}, "path only"),
    ],
)
def test_those_that_cannot_be_are_refused(
    tmp_path: Path, given: dict[str, Any], words: str
) -> None:
    with pytest.raises(InvalidResource) as raised:
        load_settings(state=tmp_path, **given)
    assert words in str(raised.value)
    assert "secret-word" not in str(raised.value)
