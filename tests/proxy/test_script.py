"""The script in Envoy: what it reads of bodies, cookies and headers, and that nothing stops it."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.proxy.scripted import Scripted, scripted

pytestmark = [pytest.mark.e2e, pytest.mark.slow]

NAMES = ["a", "b", "naïve name", "inputs", "id"]
_often = settings(max_examples=1_000, deadline=None, suppress_health_check=[HealthCheck.too_slow])


@pytest.fixture(scope="module")
def envoy() -> Iterator[Scripted]:
    """An Envoy that reads `NAMES`, a cookie and two slices."""
    slices = [
        {"header": "x-user-region", "tags": {"west": "user.region=west", "ö": "user.region=%C3"}},
        {"header": "x-user-plan", "tags": {"pro": "user.plan=pro"}},
    ]
    with scripted(inputs=NAMES, cookie="uid", slices=slices) as one:
        yield one


class _Members(list[Any]):
    """An object of JSON as its members, the repeated ones too."""


def _once(members: list[tuple[Any, Any]]) -> dict[Any, Any]:
    """Return members whose names stand once; of the others, None."""
    found: dict[Any, Any] = {}
    for name, value in members:
        found[name] = None if name in found else value
    return found


def _scalar(value: Any) -> float | str | bool | None:
    if isinstance(value, bool):
        return value
    if isinstance(value, int | float):
        number = _double(value)
        return number if math.isfinite(number) else None
    return value if isinstance(value, str) and "\0" not in value else None


def _double(value: float) -> float:
    try:
        return float(value)
    except OverflowError:
        return math.inf


def _single(value: Any) -> float | str | bool | None:
    if not isinstance(value, list) or isinstance(value, _Members):
        return None
    while isinstance(value, list) and not isinstance(value, _Members) and len(value) == 1:
        value = value[0]
    return _scalar(value)


def expected(body: bytes) -> dict[str, float | str | bool]:
    """Return what the script should read from a body that is JSON."""
    document = json.loads(body, object_pairs_hook=_Members)
    if not isinstance(document, _Members):
        return {}
    tensors: list[tuple[Any, Any]] = []
    fields: list[tuple[Any, Any]] = []
    for name, value in document:
        if name == "inputs" and isinstance(value, list) and not isinstance(value, _Members):
            for part in value:
                if isinstance(part, _Members):
                    tensor = _once(
                        [(k, _single(v) if k == "data" else _scalar(v)) for k, v in part]
                    )
                    if tensor.get("name") is not None:
                        tensors.append((tensor["name"], tensor.get("data")))
        else:
            fields.append((name, _scalar(value)))
    found = {**_once(fields), **_once(tensors)}
    return {name: found[name] for name in NAMES if found.get(name) is not None}


_text = st.text(max_size=8) | st.sampled_from(['"', "\\", "\x7f", "€", "😀", "a\0b"])
_scalars = (
    st.none()
    | st.booleans()
    | st.integers(-(2**70), 2**70)
    | st.floats(allow_nan=False, allow_infinity=False)
    | _text
)
_names = st.sampled_from([*NAMES, "name", "data"]) | _text
_values = st.recursive(
    _scalars,
    lambda v: st.lists(v, max_size=3) | st.dictionaries(_names, v, max_size=3),
    max_leaves=8,
)
_data = st.lists(_values, max_size=2) | _scalars.map(lambda v: [[v]]) | _scalars.map(lambda v: [v])
_tensor = st.fixed_dictionaries(
    {"name": _names, "data": _data}, optional={"shape": st.lists(st.integers(0, 9)), "b": _values}
)
_documents = st.one_of(
    st.dictionaries(_names, _values, max_size=5),
    st.fixed_dictionaries(
        {"inputs": st.lists(_tensor | _values, max_size=4)},
        optional={"id": _scalars, "a": _values, "parameters": _values},
    ),
    _values,
)


@_often
@given(_documents, st.booleans(), st.sampled_from([None, 0, 3, "\t"]))
def test_what_is_read_is_what_json_means(
    envoy: Scripted, document: Any, ascii_only: bool, indent: Any
) -> None:
    body = json.dumps(document, ensure_ascii=ascii_only, indent=indent).encode()
    assert envoy.inputs(body) == expected(body)


@_often
@given(_documents, st.data())
def test_no_body_stops_the_script(envoy: Scripted, document: Any, data: st.DataObject) -> None:
    body = bytearray(json.dumps(document).encode())
    for _ in range(data.draw(st.integers(0, 4))):
        at = data.draw(st.integers(0, len(body)))
        piece = data.draw(st.binary(max_size=3) | st.sampled_from([b'"', b"{", b"]", b"\\u", b","]))
        body[at : at + data.draw(st.integers(0, 3))] = piece
    envoy.inputs(bytes(body))
    assert envoy.inputs(b'{"a": 1}') == {"a": 1}


TENSOR = '{"inputs": [{"name": "a", "shape": [1], "datatype": "FP64", "data": %s}]}'


@pytest.mark.parametrize(
    ("body", "found"),
    [
        ('{"a": 250.5}', {"a": 250.5}),
        ('{"a": "west", "b": false}', {"a": "west", "b": False}),
        (' \r\n\t{ "a" :\n1 } ', {"a": 1}),
        ('{"\\u0061": "\\u00e9\\ud83d\\ude00\\n\\/"}', {"a": "é😀\n/"}),
        ('{"naïve name": 1e3}', {"naïve name": 1000}),
        (TENSOR % "[3.5]", {"a": 3.5}),
        (TENSOR % "[[3.5]]", {"a": 3.5}),
        (TENSOR % '["x"]', {"a": "x"}),
        (TENSOR % "[true]", {"a": True}),
        (TENSOR % "[1, 2]", {}),
        (TENSOR % "[[1], [2]]", {}),
        (TENSOR % "[]", {}),
        (TENSOR % "[null]", {}),
        (TENSOR % "3.5", {}),
        ('{"inputs": [{"data": [7], "name": "a"}], "a": 1}', {"a": 7}),
        ('{"a": 1, "inputs": [{"name": "a", "data": [1, 2]}]}', {}),
        ('{"inputs": [{"name": "a", "data": [1]}, {"name": "a", "data": [2]}]}', {}),
        ('{"a": 1, "a": 2}', {}),
        ('{"a": null}', {}),
        ('{"a": [1]}', {}),
        ('{"a": {"a": 1}}', {}),
        ('{"a": 1e999}', {}),
        ('{"a": "x\\u0000y"}', {}),
        ('{"a": "' + "x" * 4096 + '"}', {"a": "x" * 4096}),
        ('{"a": "' + "x" * 4097 + '", "b": 1}', {"b": 1}),
        ("", {}),
        ("null", {}),
        ("[1]", {}),
        ('"a"', {}),
        ('{"a": 1', {}),
        ('{"a": 1}}', {}),
        ('{"a": 1} x', {}),
        ('{"a": 1,}', {}),
        ('{"a" 1}', {}),
        ("{'a': 1}", {}),
        ('{"a": 01}', {}),
        ('{"a": +1}', {}),
        ('{"a": .5}', {}),
        ('{"a": 1.}', {}),
        ('{"a": 0x10}', {}),
        ('{"a": NaN}', {}),
        ('{"a": Infinity}', {}),
        ('{"a": "\t"}', {}),
        ('{"a": "\\x"}', {}),
        ('{"a": "\\ud83d"}', {}),
        ('{"a": "\\ude00\\ud83d"}', {}),
        ('{"a": "\\u12', {}),
        ('{"a": 1, "x": [}]}', {}),
        ('{"a": 1, "x": ' + "[" * 64 + "]" * 64 + "}", {"a": 1}),
        ('{"a": 1, "x": ' + "[" * 65 + "]" * 65 + "}", {}),
        ('{"a": 1, "x": ' + "[" * 400_000, {}),
        ('{"a": 1, "x": "' + "\\\\" * 400_000 + '"}', {}),
        ('{"a": 1, "x": "' + "y" * 1_000_000 + '"}', {"a": 1}),
        ('{"a": 1, "x": "' + "y" * 1_048_600 + '"}', {}),
        ('{"a": 1, "x": [' + '"",' * 300_000 + "1]}", {}),
        ('{"a": 1, "x": [' + "1," * 500_000 + "1]}", {"a": 1}),
    ],
)
def test_bodies(envoy: Scripted, body: str, found: dict[str, Any]) -> None:
    assert envoy.inputs(body.encode()) == found


@pytest.mark.parametrize(
    "body",
    [
        b'{"a": "\xff"}',
        b'{"a": "\xc0\xaf"}',
        b'{"a": "\xed\xa0\x80"}',
        b'{"a": "\xf4\x90\x80\x80"}',
        b'{"a": "\xe2\x82"}',
        b'\xef\xbb\xbf{"a": 1}',
        "{'a': 1}".encode("utf-16"),
        b"\x1f\x8b\x08\x00\x00\x00\x00\x00",
        b"\x00" * 100,
    ],
)
def test_bytes_that_are_no_text_say_nothing(envoy: Scripted, body: bytes) -> None:
    assert envoy.inputs(body) == {}


def test_a_request_without_a_body_has_no_inputs(envoy: Scripted) -> None:
    assert envoy.ask(None)[0]["mp"] == {}


@pytest.mark.parametrize(
    ("cookies", "user"),
    [
        (["uid=u-1"], "u-1"),
        (["a=b; uid=u-1;c=d"], "u-1"),
        (["a=b", "uid=u-1"], "u-1"),
        (["uid = u-1 "], "u-1"),
        (["uid=a=b=="], "a=b=="),
        (["uid=one; uid=two"], "one"),
        (["uid="], None),
        (["xuid=1; uidx=2"], None),
        (["uid"], None),
        (["uid=" + "x" * 257], None),
        (["uid=" + "x" * 256], "x" * 256),
        ([], None),
    ],
)
def test_cookies(envoy: Scripted, cookies: list[str], user: str | None) -> None:
    sent = [("cookie", cookie) for cookie in cookies]
    _, headers = envoy.ask(None, sent)
    issued = headers.get("set-cookie")
    if user is not None:
        assert (headers["x-user"], issued) == (user, None)
        return
    made = headers["x-user"]
    assert made
    assert issued == f"uid={made}; Path=/; Max-Age=2592000; HttpOnly; SameSite=Lax"
    assert envoy.ask(None, [("cookie", issued.partition(";")[0])])[1]["x-user"] == made


def test_the_issued_cookie_holds_only_what_cookies_may(envoy: Scripted) -> None:
    _, headers = envoy.ask(None, [("x-request-id", 'a b;"c"\\,=\xe9d_e-f')])
    assert headers["set-cookie"].startswith("uid=abcd_e-f; Path=/")
    assert headers["x-user"] == "abcd_e-f"


@pytest.mark.parametrize(
    ("headers", "found"),
    [
        ([], {}),
        ([("x-user-region", "west")], {"slice1": "user.region=west", "sliced": True}),
        ([("x-user-plan", "pro")], {"slice2": "user.plan=pro", "sliced": True}),
        (
            [("x-user-plan", "pro"), ("x-user-region", "west")],
            {"slice1": "user.region=west", "slice2": "user.plan=pro", "sliced": True},
        ),
        ([("x-user-region", "elsewhere")], {}),
        ([("x-user-region", "")], {}),
        ([("x-user-region", "WEST")], {}),
        ([("x-user-region", "user.region=west")], {}),
    ],
)
def test_slices(envoy: Scripted, headers: Any, found: dict[str, Any]) -> None:
    noted, _ = envoy.ask(None, [("cookie", "uid=1"), *headers])
    assert noted["mp_user"] == found
