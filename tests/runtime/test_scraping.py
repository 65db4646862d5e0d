"""A model server's own metrics: few plain numbers of text that nobody vouches for."""

from __future__ import annotations

import asyncio
import shutil
import tempfile
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from modelplane.adapters.runtime import servers
from modelplane.adapters.runtime.exposition import read_exposition
from modelplane.adapters.runtime.servers import RuntimeServers
from modelplane.resources.telemetry import ScrapedMetrics
from modelplane_runtime.metrics import Metrics


class TestText:
    def test_counters_and_gauges_are_kept_and_buckets_left_out(self) -> None:
        metrics = Metrics({"model": "fraud"})
        metrics.rows = 12
        metrics.predict_s.observe(0.002)
        scrape = read_exposition(metrics.render(ready=True, waiting=0))
        assert (scrape.error, scrape.truncated) == ("", False)
        assert scrape.samples['modelplane_runtime_rows_total{model="fraud"}'] == 12
        assert scrape.samples['modelplane_runtime_ready{model="fraud"}'] == 1
        assert scrape.samples['modelplane_runtime_predict_seconds_count{model="fraud"}'] == 1
        assert not any("_bucket" in name for name in scrape.samples)

    def test_what_cannot_be_shown_is_left_out(self) -> None:
        text = (
            "x_total 3\nx_created 1.7e9\nquiet NaN\nendless +Inf\n"
            'y{path="C:\\\\a\\"\\n\x1b[31m"} 4 1700000000\n'
        )
        assert read_exposition(text).samples == {
            "x_total": 3.0,
            'y{path="C:\\\\a\\"\\n\N{REPLACEMENT CHARACTER}[31m"}': 4.0,
        }

    def test_more_than_fits_is_said(self) -> None:
        many = read_exposition("".join(f"m{number} 1\n" for number in range(60)))
        assert (len(many.samples), many.truncated) == (50, True)
        assert not read_exposition("".join(f"m{n} 1\n" for n in range(50))).truncated
        long = read_exposition('m{a="' + "b" * 400 + '"} 1\nn 2\n')
        assert (long.samples, long.truncated) == ({"n": 2.0}, True)

    @pytest.mark.parametrize("text", ["<html>no metrics</html>", "m{a=", "m one", "m" * 10_000])
    def test_other_text_is_an_error(self, text: str) -> None:
        scrape = read_exposition(text)
        assert scrape.samples == {}
        assert scrape.error

    @given(
        st.text()
        | st.lists(
            st.sampled_from(["m", "{", "}", "a", "=", '"', "\\", ",", " ", "1", "\n", "# TYPE "])
        ).map("".join)
    )
    @example("# TYPE m counter\nm_total{} 1")
    def test_any_text_gives_what_telemetry_takes(self, text: str) -> None:
        scrape = read_exposition(text)
        ScrapedMetrics.model_validate(
            {
                "deployment": "fraud", "revision": "a", "replica": "r", "at": 0,
                "samples": dict(scrape.samples), "error": scrape.error,
            }
        )  # fmt: skip
        assert not (scrape.samples and scrape.error)


class Server:
    """Answers every connection with the same bytes."""

    def __init__(self) -> None:
        self.answer = b""
        self.asked = b""

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            self.asked = await reader.readuntil(b"\r\n\r\n")
            writer.write(self.answer)
            await writer.drain()
            if not self.answer:
                await reader.read()
        except ConnectionError:
            pass
        finally:
            writer.close()


@pytest.fixture
async def folder() -> AsyncIterator[Path]:
    made = Path(tempfile.mkdtemp(prefix="mp-"))
    yield made
    shutil.rmtree(made)


@pytest.fixture
async def server(folder: Path) -> AsyncIterator[Server]:
    made = Server()
    async with await asyncio.start_unix_server(made.serve, folder / "s"):
        yield made


@pytest.fixture
def model_servers(folder: Path) -> RuntimeServers:
    return RuntimeServers(folder, reuse_interpreter=True, max_body_bytes=1)


def http(body: bytes, status: str = "200 OK", headers: str = "") -> bytes:
    head = f"HTTP/1.1 {status}\r\ncontent-length: {len(body)}\r\n{headers}\r\n"
    return head.encode() + body


async def test_the_declared_path_is_asked_for(
    server: Server, model_servers: RuntimeServers, folder: Path
) -> None:
    server.answer = http(b"rows_total 7\n")
    scrape = await model_servers.scrape(folder / "s", "/own/metrics?short=1")
    assert (scrape.samples, scrape.error) == ({"rows_total": 7.0}, "")
    assert server.asked.startswith(b"GET /own/metrics?short=1 HTTP/1.1")


@pytest.mark.parametrize(
    ("answer", "error"),
    [
        (http(b"no such path", "404 Not Found"), "GET /metrics was answered 404"),
        (http(b"", "302 Found", "location: http://elsewhere/\r\n"), "was answered 302"),
        (http(b"m 1\n" * 2**18 + b"m"), "more than 1 MiB"),
        (http(b"\xff\xfe\x00"), "not in Prometheus' text format"),
        (b"not HTTP\r\n\r\n", "GET /metrics: "),
        (b"", "no answer within 0.2 s"),
    ],
)
async def test_a_bad_answer_is_told(
    server: Server,
    model_servers: RuntimeServers,
    folder: Path,
    monkeypatch: pytest.MonkeyPatch,
    answer: bytes,
    error: str,
) -> None:
    if not answer:
        monkeypatch.setattr(servers, "_SCRAPE_TIMEOUT_S", 0.2)
    server.answer = answer
    scrape = await model_servers.scrape(folder / "s", "/metrics")
    assert scrape.samples == {}
    assert error in scrape.error


async def test_nobody_there_and_no_path_are_told(
    model_servers: RuntimeServers, folder: Path
) -> None:
    assert (await model_servers.scrape(folder / "nobody", "/metrics")).error
    assert (await model_servers.scrape(folder / "nobody", "/a\nb")).error
