"""Files of versions that lie in a bucket: read directly, over HTTP."""

from __future__ import annotations

import tempfile
from collections.abc import AsyncIterator, Iterator
from datetime import UTC, datetime
from pathlib import Path

import fsspec
import pytest

from modelplane.adapters.registry.mlflow import MlflowRegistry
from modelplane.adapters.registry.mlflow_http import Credentials
from modelplane.decisions.external import ExternalVersion
from modelplane.errors import TransientError
from modelplane.ports.registries import ArtifactUnavailable
from tests.s3_server import SECRET, S3Server, s3_server

pytestmark = pytest.mark.slow

NOW = datetime(2026, 1, 5, tzinfo=UTC)


@pytest.fixture(scope="module")
def s3() -> Iterator[S3Server]:
    with s3_server() as server:
        yield server


@pytest.fixture
def bucket(s3: S3Server, monkeypatch: pytest.MonkeyPatch) -> str:
    """A bucket that holds one model."""
    for name, value in s3.variables.items():
        monkeypatch.setenv(name, value)
    made = s3.make_bucket()
    files = fsspec.core.url_to_fs(f"s3://{made}", skip_instance_cache=True)[0]
    for name in ("model.skops", "data/notes.txt"):
        files.pipe_file(f"{made}/1/model/{name}", name.encode())
    return made


@pytest.fixture
async def registry(bucket: str) -> AsyncIterator[MlflowRegistry]:
    made = MlflowRegistry(
        "http://127.0.0.1:9",
        Credentials(),
        5.0,
        roots=(f"s3://{bucket}/", "s3://nobody-made-this"),
        max_artifact_bytes=1000,
    )
    yield made
    await made.close()


@pytest.fixture
def folder() -> Iterator[Path]:
    with tempfile.TemporaryDirectory(prefix="mp-buckets-") as name:
        yield Path(name)


def version(source: str) -> ExternalVersion:
    return ExternalVersion("fraud", 1, NOW, NOW, source=source)


@pytest.mark.parametrize("scheme", ["s3", "s3a"])
async def test_a_model_in_a_bucket_arrives(
    bucket: str, registry: MlflowRegistry, folder: Path, scheme: str
) -> None:
    await registry._files.copy(f"{scheme}://{bucket}/1/model", folder)
    found = {p.relative_to(folder).as_posix(): p.read_text() for p in folder.rglob("*.*")}
    assert found == {"model.skops": "model.skops", "data/notes.txt": "data/notes.txt"}


async def test_one_file_in_a_bucket_arrives(
    bucket: str, registry: MlflowRegistry, folder: Path
) -> None:
    files = await registry.download(version(f"s3://{bucket}/1/model/model.skops"), folder)
    assert files.format == "skops"
    assert [p.name for p in folder.iterdir()] == ["model.skops"]


async def test_what_is_not_there_is_missing(
    bucket: str, registry: MlflowRegistry, folder: Path
) -> None:
    for source in (f"s3://{bucket}/2/model", "s3://nobody-made-this/1"):
        with pytest.raises(ArtifactUnavailable) as caught:
            await registry.download(version(source), folder)
        assert caught.value.reason == "ArtifactMissing"


async def test_too_much_is_refused(bucket: str, registry: MlflowRegistry, folder: Path) -> None:
    files = fsspec.core.url_to_fs(f"s3://{bucket}", skip_instance_cache=True)[0]
    files.pipe_file(f"{bucket}/3/large", b"x" * 1001)
    with pytest.raises(ArtifactUnavailable) as caught:
        await registry.download(version(f"s3://{bucket}/3"), folder)
    assert caught.value.reason == "ArtifactTooLarge"
    assert list(folder.iterdir()) == []


async def test_credentials_that_nobody_knows_are_told_without_showing_them(
    bucket: str, s3: S3Server, registry: MlflowRegistry, folder: Path
) -> None:
    with s3.refusing(), pytest.raises(ArtifactUnavailable) as caught:
        await registry.download(version(f"s3://{bucket}/1/model"), folder)
    assert caught.value.reason == "ArtifactRefused"
    assert SECRET not in str(caught.value)


async def test_a_store_that_is_away_is_tried_again(
    bucket: str, registry: MlflowRegistry, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:9")
    with pytest.raises(TransientError, match="cannot be read"):
        await registry.download(version(f"s3://{bucket}/1/model"), folder)
