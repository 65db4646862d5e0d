"""An Envoy that runs the gateway's script alone and answers with what it found out."""

from __future__ import annotations

import contextlib
import http.client
import json
import shutil
import subprocess
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from modelplane.adapters.proxy.bootstrap import envoy_binary
from modelplane.adapters.proxy.script import users_script
from tests.ports import free_port

_TYPE = "type.googleapis.com/envoy."
_LUA = _TYPE + "extensions.filters.http.lua.v3.Lua"

# Answers with each datum as NAMESPACE NAME TYPE VALUE, bytes in hexadecimal.
_TELL = """
local function hex(text)
  return (string.gsub(text, ".", function(c) return string.format("%02x", string.byte(c)) end))
end

function envoy_on_request(handle)
  local lines = {}
  for _, namespace in ipairs({"mp", "mp_user"}) do
    for name, value in pairs(handle:streamInfo():dynamicMetadata():get(namespace) or {}) do
      local text = type(value) == "number" and string.format("%.17g", value) or tostring(value)
      lines[#lines + 1] = table.concat({namespace, hex(name), type(value), hex(text)}, " ")
    end
  end
  handle:respond({
    [":status"] = "200",
    ["x-user"] = handle:headers():get("x-modelplane-user") or "",
  }, table.concat(lines, "\\n"))
end
"""

Found = dict[str, dict[str, float | str | bool]]


class Scripted:
    """Asks the Envoy, on one connection."""

    def __init__(self, port: int) -> None:
        self._connection = http.client.HTTPConnection("127.0.0.1", port, timeout=10)

    def ask(self, body: bytes | None = None, headers: Any = ()) -> tuple[Found, Any]:
        """Return the metadata by namespace and name, and the answer's headers."""
        connection = self._connection
        connection.putrequest("GET" if body is None else "POST", "/")
        for name, value in headers:
            connection.putheader(name, value)
        if body is not None:
            connection.putheader("content-length", str(len(body)))
        connection.endheaders(body)
        answer = connection.getresponse()
        text = answer.read().decode()
        assert answer.status == 200, (answer.status, text)
        found: Found = {"mp": {}, "mp_user": {}}
        for line in text.splitlines():
            namespace, name, kind, value = (line + " ").split(" ")[:4]
            found[namespace][bytes.fromhex(name).decode()] = _value(kind, bytes.fromhex(value))
        return found, answer.headers

    def inputs(self, body: bytes) -> dict[str, float | str | bool]:
        """Return what the script read from `body`."""
        return self.ask(body)[0]["mp"]


def _value(kind: str, text: bytes) -> float | str | bool:
    if kind == "number":
        return float(text)
    return text == b"true" if kind == "boolean" else text.decode()


@contextlib.contextmanager
def scripted(**context: Any) -> Iterator[Scripted]:
    """Run an Envoy whose script has `context`."""
    directory, port = Path(tempfile.mkdtemp(prefix="mp", dir="/tmp")), free_port()
    (directory / "envoy.json").write_text(json.dumps(_bootstrap(port, directory, context)))
    command = [str(envoy_binary()), "-c", str(directory / "envoy.json"), "--use-dynamic-base-id"]
    log = (directory / "envoy.log").open("wb")
    process = subprocess.Popen([*command, "--concurrency", "1"], stdout=log, stderr=log)
    try:
        yield _connected(port)
        assert process.poll() is None, (directory / "envoy.log").read_text()[-2000:]
    finally:
        process.kill()
        process.wait()
        log.close()
        shutil.rmtree(directory)


def _connected(port: int) -> Scripted:
    until = time.monotonic() + 15
    while True:
        try:
            one = Scripted(port)
            one.ask()
        except OSError:
            assert time.monotonic() < until, "Envoy does not listen"
            time.sleep(0.05)
        else:
            return one


def _bootstrap(port: int, directory: Path, context: dict[str, Any]) -> dict[str, Any]:
    filters = [
        ("users", {"@type": _LUA, "default_source_code": {"inline_string": users_script()}}),
        ("tell", {"@type": _LUA, "default_source_code": {"inline_string": _TELL}}),
        ("router", {"@type": _TYPE + "extensions.filters.http.router.v3.Router"}),
    ]
    settings = {"@type": _TYPE + "extensions.filters.http.lua.v3.LuaPerRoute"}
    host = {
        "name": "v",
        "domains": ["*"],
        "routes": [{"match": {"prefix": "/"}, "direct_response": {"status": 404}}],
        "typed_per_filter_config": {"users": {**settings, "filter_context": context}},
    }
    manager = {
        "@type": _TYPE
        + "extensions.filters.network.http_connection_manager.v3.HttpConnectionManager",
        "stat_prefix": "in",
        "use_remote_address": True,
        "preserve_external_request_id": True,
        "route_config": {"virtual_hosts": [host]},
        "http_filters": [{"name": name, "typed_config": config} for name, config in filters],
    }
    listener = {
        "name": "l",
        "address": {"socket_address": {"address": "127.0.0.1", "port_value": port}},
        "per_connection_buffer_limit_bytes": 16 * 1024 * 1024,
        "filter_chains": [{"filters": [{"name": "hcm", "typed_config": manager}]}],
    }
    return {
        "admin": {"address": {"pipe": {"path": str(directory / "admin.sock")}}},
        "static_resources": {"listeners": [listener]},
    }
