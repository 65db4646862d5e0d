"""What can be wrong with a bucket, in words and without its secrets; what is only for a moment."""

from __future__ import annotations

import os
import socket
import sys
from collections.abc import AsyncIterator
from pathlib import Path

import fsspec
import pytest

from modelplane.adapters.blobs.trees import TreeBlobs
from modelplane.client.artifacts import digest_tree, tar_stream
from modelplane.errors import TerminalError, TransientError
from tests.s3_server import KEY, SECRET, S3Server, s3_server, stumbling

pytestmark = pytest.mark.slow


@pytest.fixture
def model(tmp_path: Path) -> Path:
    (tmp_path / "model").mkdir()
    for name in ("MLmodel", "weights"):
        (tmp_path / "model" / name).write_text(name * 1000)
    return tmp_path / "model"


async def stream(path: Path) -> AsyncIterator[bytes]:
    for piece in tar_stream(path):
        yield piece


async def test_one_that_does_not_exist(bucket: str, model: Path) -> None:
    blobs = TreeBlobs("s3://nobody-made-this/models")
    with pytest.raises(TerminalError, match="bucket of nobody-made-this/models does not exist"):
        blobs.prepare()
    with pytest.raises(TerminalError, match="does not exist"):
        await blobs.put(stream(model), digest_tree(model).digest)


async def test_one_that_is_removed_later(bucket: str, model: Path, s3: S3Server) -> None:
    blobs = TreeBlobs(f"s3://{bucket}")
    blobs.prepare()
    fsspec.core.url_to_fs(f"s3://{bucket}", skip_instance_cache=True)[0].rmdir(bucket)
    for asking in (blobs.list(), blobs.labels()):
        with pytest.raises(TerminalError, match="does not exist"):
            await asking


async def test_credentials_that_nobody_knows(bucket: str, model: Path, s3: S3Server) -> None:
    with s3.refusing():
        blobs = TreeBlobs(f"s3://{bucket}")
        for asking in (blobs.list(), blobs.put(stream(model), digest_tree(model).digest)):
            with pytest.raises(TerminalError, match="refuses access") as caught:
                await asking
            assert "AWS_ACCESS_KEY_ID" in caught.value.hint
            assert SECRET not in str(caught.value)
            assert KEY not in str(caught.value)


async def test_no_credentials(bucket: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("AWS_ACCESS_KEY_ID")
    monkeypatch.delenv("AWS_SECRET_ACCESS_KEY")
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", os.devnull)
    monkeypatch.setenv("AWS_CONFIG_FILE", os.devnull)
    with pytest.raises(TerminalError, match="refuses access: Unable to locate credentials"):
        TreeBlobs(f"s3://{bucket}").prepare()


@pytest.mark.slow
async def test_an_endpoint_that_is_down_and_comes_back(
    bucket: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        port = closed.getsockname()[1]
    monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://127.0.0.1:{port}")
    blobs = TreeBlobs(f"s3://{bucket}")
    with pytest.raises(TransientError, match="cannot be reached"):
        blobs.prepare()
    with s3_server(port):
        blobs.prepare()
        assert await blobs.list() == []


async def test_what_fails_for_a_moment_is_tried_again(
    bucket: str, model: Path, monkeypatch: pytest.MonkeyPatch, s3: S3Server
) -> None:
    tree = digest_tree(model)
    with stumbling(s3.url) as (url, connections):
        monkeypatch.setenv("AWS_ENDPOINT_URL", url)
        blobs = TreeBlobs(f"s3://{bucket}")
        stored = await blobs.put(stream(model), tree.digest)
        assert [piece async for piece in blobs.read(stored.digest)]
        assert len(connections) >= 10


@pytest.mark.parametrize(
    ("url", "library", "extra"),
    [("gs://b/p", "gcsfs", "gs"), ("az://b/p", "adlfs", "az")],
)
def test_a_library_that_is_not_installed_is_named(
    monkeypatch: pytest.MonkeyPatch, url: str, library: str, extra: str
) -> None:
    monkeypatch.setitem(sys.modules, library, None)
    with pytest.raises(TerminalError) as caught:
        TreeBlobs(url)
    assert caught.value.hint == f"pip install 'modelplane[{extra}]'"
