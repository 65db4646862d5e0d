"""An S3 server for the tests of a module, and a bucket for each."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.s3_server import S3Server, s3_server


@pytest.fixture(scope="module")
def s3() -> Iterator[S3Server]:
    with s3_server() as server:
        yield server


@pytest.fixture
def bucket(s3: S3Server, monkeypatch: pytest.MonkeyPatch) -> str:
    """The name of an empty bucket that the environment's credentials open."""
    for name, value in s3.variables.items():
        monkeypatch.setenv(name, value)
    return s3.make_bucket()
