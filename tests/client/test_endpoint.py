"""Where a client finds the API and its token."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from modelplane.client.endpoint import DEFAULT_URL, find_endpoint
from modelplane.errors import InvalidResource


@pytest.fixture
def state(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    for name in ("URL", "TOKEN", "STATE", "GATEWAY_TOKEN"):
        monkeypatch.delenv(f"MODELPLANE_{name}", raising=False)
    monkeypatch.chdir(tmp_path)
    directory = tmp_path / ".modelplane"
    directory.mkdir()
    (directory / "endpoint.json").write_text(json.dumps({"url": "http://127.0.0.1:9000"}))
    (directory / "admin-token").write_text("from-state\n")
    return directory


def test_arguments_stand_before_the_environment_before_the_state(
    state: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = find_endpoint()
    assert (found.url, found.token) == ("http://127.0.0.1:9000", "from-state")
    monkeypatch.setenv("MODELPLANE_URL", "http://10.0.0.1:7080/")
    monkeypatch.setenv("MODELPLANE_TOKEN", "from-environment")
    found = find_endpoint()
    assert (found.url, found.token) == ("http://10.0.0.1:7080", "from-environment")
    found = find_endpoint("https://mp.example", "given")
    assert (found.url, found.token) == ("https://mp.example", "given")


def test_without_a_state_it_is_the_default_and_no_token(
    state: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MODELPLANE_STATE", str(tmp_path / "elsewhere"))
    found = find_endpoint()
    assert (found.url, found.token, found.gateway_token) == (DEFAULT_URL, "", "")


@pytest.mark.parametrize("text", ["{", "[]", "{}", '"x"'])
def test_a_damaged_state_says_which_file(state: Path, text: str) -> None:
    (state / "endpoint.json").write_text(text)
    with pytest.raises(InvalidResource, match=r"endpoint\.json"):
        find_endpoint()


@pytest.mark.parametrize("url", ["localhost:7080", "http://", "http://[::1", "http://h:port"])
def test_an_address_is_an_http_url(state: Path, url: str) -> None:
    with pytest.raises(InvalidResource, match="not the address"):
        find_endpoint(url)


def test_tokens_do_not_show_when_an_endpoint_is_printed(state: Path) -> None:
    assert "from-state" not in repr(find_endpoint())
