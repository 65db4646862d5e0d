"""A small Envoy with one virtual host for each predicate, which says whether it matches.

It knows nothing of modelplane's routes: the matchers alone are asked. Inputs arrive as the
gateway's script would leave them, in dynamic metadata; here from a header of the test.
"""

from __future__ import annotations

import contextlib
import json
import shutil
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from envoy.config.rbac.v3 import rbac_pb2
from envoy.config.route.v3 import route_components_pb2
from envoy.extensions.filters.http.rbac.v3 import rbac_pb2 as rbac_filter_pb2
from google.protobuf import json_format
from xds.type.matcher.v3 import http_inputs_pb2

from modelplane.adapters.proxy.bootstrap import envoy_binary
from modelplane.adapters.proxy.predicates import BODY_NAMESPACE
from modelplane.adapters.proxy.xds import pack
from modelplane.expressions.predicates import RequestFacts
from tests.ports import free_port

_TYPE = "type.googleapis.com/envoy.extensions.filters."
_INPUTS_HEADER = "x-test-inputs"
_SCRIPT = f"""
function envoy_on_request(handle)
  local given = handle:headers():get("{_INPUTS_HEADER}")
  handle:headers():remove("{_INPUTS_HEADER}")
  for name, kind, text in string.gmatch(given or "", "([^=;]+)=(%a):([^;]*)") do
    local value = text
    if kind == "n" then value = tonumber(text) elseif kind == "b" then value = text == "True" end
    handle:streamInfo():dynamicMetadata():set("{BODY_NAMESPACE}", name, value)
  end
end
"""
_AGAIN = "function envoy_on_request(handle) handle:clearRouteCache() end"


class MatchingEnvoy:
    """Answers whether the predicate with an index holds for a request."""

    def __init__(self, port: int) -> None:
        self._socket = socket.create_connection(("127.0.0.1", port), timeout=10)
        self._answers = self._socket.makefile("rb")

    def holds(self, index: int, facts: RequestFacts) -> bool:
        """Send what `facts` say over the one connection; their host has to be `host_of(index)`."""
        given = ";".join(
            f"{name}={type(value).__name__[0].replace('i', 'n').replace('f', 'n')}:{value}"
            for name, value in facts.inputs.items()
        )
        headers = {"host": host_of(index), **facts.headers}
        if given:
            headers[_INPUTS_HEADER] = given
        lines = [f"{facts.method} {facts.path} HTTP/1.1"]
        lines += [f"{name}: {value}" for name, value in headers.items()]
        self._socket.sendall("\r\n".join([*lines, "", ""]).encode())
        status, length = self._answers.readline(), 0
        while line := self._answers.readline().strip():
            name, _, value = line.partition(b":")
            length = int(value) if name.lower() == b"content-length" else length
        body = self._answers.read(length)
        assert b" 200 " in status, (status, facts)
        return body == b"yes"

    def close(self) -> None:
        self._answers.close()
        self._socket.close()


def host_of(index: int) -> str:
    """Return the host that the predicate with this index is asked at."""
    return f"p{index}"


@contextlib.contextmanager
def matching_envoy(matchers: Sequence[Any]) -> Iterator[MatchingEnvoy]:
    """Run an Envoy with these matchers; raise when it refuses one."""
    directory, port = Path(tempfile.mkdtemp(prefix="mp", dir="/tmp")), free_port()
    (directory / "envoy.json").write_text(json.dumps(_bootstrap(matchers, port)))
    command = [str(envoy_binary()), "-c", str(directory / "envoy.json"), "--use-dynamic-base-id"]
    log = directory / "log"
    with log.open("wb") as file:
        process = subprocess.Popen(
            [*command, "-l", "error", "--concurrency", "1"], stdout=file, stderr=file
        )
    try:
        asking = _connect(port, process, log)
        yield asking
        asking.close()
        assert process.poll() is None, log.read_text()[-2000:]
    finally:
        if process.poll() is None:
            process.kill()
        process.wait()
        shutil.rmtree(directory)


def _connect(port: int, process: subprocess.Popen[bytes], log: Path) -> MatchingEnvoy:
    deadline = time.monotonic() + 30
    while time.monotonic() < deadline:
        if process.poll() is not None:
            raise ValueError(log.read_text()[:1000])
        try:
            return MatchingEnvoy(port)
        except OSError:
            time.sleep(0.05)
    raise AssertionError("Envoy did not start")


def _bootstrap(matchers: Sequence[Any], port: int) -> Mapping[str, Any]:
    hosts = [_virtual_host(host_of(i), matcher) for i, matcher in enumerate(matchers)]
    filters = [
        _filter("inputs", "http.lua.v3.Lua", default_source_code={"inline_string": _SCRIPT}),
        _filter("rbac", "http.rbac.v3.RBAC", disabled=True),
        _filter("again", "http.lua.v3.Lua", default_source_code={"inline_string": _AGAIN}),
        _filter("router", "http.router.v3.Router"),
    ]
    manager = {
        "@type": f"{_TYPE}network.http_connection_manager.v3.HttpConnectionManager",
        "stat_prefix": "test",
        "route_config": {"virtual_hosts": hosts},
        "http_filters": filters,
    }
    address = {"socket_address": {"address": "127.0.0.1", "port_value": port}}
    chain = {"filters": [{"name": "manager", "typed_config": manager}]}
    listener = {"name": "test", "address": address, "filter_chains": [chain]}
    return {"static_resources": {"listeners": [listener]}}


def _filter(name: str, kind: str, *, disabled: bool = False, **config: Any) -> dict[str, Any]:
    typed = {"@type": f"{_TYPE}{kind}", **config}
    return {"name": name, "disabled": disabled, "typed_config": typed}


def _virtual_host(host: str, matcher: Any) -> dict[str, Any]:
    predicate = {
        "single_predicate": {
            "input": {
                "name": "attributes",
                "typed_config": pack(http_inputs_pb2.HttpAttributesCelMatchInput()),
            },
            "custom_match": {"name": "cel", "typed_config": pack(matcher)},
        }
    }
    action = {"name": "a", "typed_config": pack(rbac_pb2.Action(name="holds", action="ALLOW"))}
    matching = {
        "matcher_list": {"matchers": [{"predicate": predicate, "on_match": {"action": action}}]}
    }
    rbac = rbac_filter_pb2.RBACPerRoute(
        rbac={"shadow_rules_stat_prefix": "mp_", "shadow_matcher": matching}
    )
    found = {
        "filter": "envoy.filters.http.rbac",
        "path": [{"key": "mp_shadow_effective_policy_id"}],
        "value": {"string_match": {"exact": "holds"}},
    }
    message = route_components_pb2.VirtualHost(
        name=host,
        domains=[host],
        typed_per_filter_config={
            "rbac": pack(route_components_pb2.FilterConfig(config=pack(rbac)))
        },
        routes=[
            _route({"prefix": "/", "dynamic_metadata": [found]}, "yes"),
            _route({"prefix": "/"}, "no"),
        ],
    )
    data: dict[str, Any] = json_format.MessageToDict(message, preserving_proto_field_name=True)
    return data


def _route(match: Mapping[str, Any], answer: str) -> dict[str, Any]:
    return {
        "match": match,
        "direct_response": {"status": 200, "body": {"inline_string": answer}},
    }
