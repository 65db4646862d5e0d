"""Where files may be read from with the control plane's own rights: only where that is declared."""

from __future__ import annotations

import tempfile
from datetime import UTC, datetime
from pathlib import Path

import pytest

from modelplane.adapters.registry.mlflow import MlflowRegistry
from modelplane.adapters.registry.mlflow_http import Credentials
from modelplane.decisions.external import ExternalVersion
from modelplane.ports.registries import ArtifactUnavailable

NOW = datetime(2026, 1, 5, tzinfo=UTC)


@pytest.mark.parametrize(
    ("roots", "source"),
    [
        ((), "s3://models/team/1"),
        (("s3://models/team",), "s3://other/team/1"),
        (("s3://models/team",), "s3://models/team-b/1"),
        (("s3://models/team",), "s3://models/1"),
        (("s3://models/team",), "s3a://models/team/../b/1"),
        (("s3://models/team",), "gs://models/team/1"),
        (("s3://models/team",), "az://models/team/1"),
        (("/models", "/s3:/models"), "s3://models/team/1"),
        (("s3://models/team",), "/models/team/1"),
    ],
)
async def test_what_is_not_declared_is_not_read(roots: tuple[str, ...], source: str) -> None:
    """Else whoever may register a version could read what only the control plane may."""
    registry = MlflowRegistry("http://127.0.0.1:9", Credentials(), 5.0, roots=roots)
    version = ExternalVersion("fraud", 1, NOW, NOW, source=source)
    with tempfile.TemporaryDirectory(prefix="mp-roots-") as folder:
        with pytest.raises(ArtifactUnavailable, match="may not be read here") as caught:
            await registry.download(version, Path(folder))
        assert list(Path(folder).iterdir()) == []
    assert caught.value.reason == "ArtifactRefused"
    assert "spec.artifactRoots" in caught.value.hint
    await registry.close()
