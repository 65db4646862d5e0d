"""A registry elsewhere that is only memory: for tests of what watches registries.

Implements `ports.registries.ModelRegistry`; the methods that its users would call stand below
it. It answers as MLflow does, can be away, and can lose files.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

from modelplane.decisions.external import ExternalFiles, ExternalModel, ExternalRun, ExternalVersion
from modelplane.errors import NotFound
from modelplane.ports.registries import ArtifactUnavailable

_START = datetime(2026, 1, 1, tzinfo=UTC)


@dataclass
class FakeRegistry:
    """Models, versions and files in memory.

    Attributes
    ----------
    trouble
        Raised by every call while it is set: the registry is away.
    broken
        Raised when the files of a version (model, number) are asked for.
    files
        Contents by path of each version that has been given its own; others have one file.
    calls
        Names of the methods that were called, in order.
    """

    trouble: Exception | None = None
    broken: dict[tuple[str, int], Exception] = field(default_factory=dict)
    files: dict[tuple[str, int], Mapping[str, bytes]] = field(default_factory=dict)
    runs: dict[str, ExternalRun] = field(default_factory=dict)
    webhooks: dict[str, tuple[str, str]] = field(default_factory=dict)
    calls: list[str] = field(default_factory=list)
    _models: dict[str, ExternalModel] = field(default_factory=dict)
    _versions: dict[tuple[str, int], ExternalVersion] = field(default_factory=dict)
    _last: dict[str, int] = field(default_factory=dict)
    _ticks: int = 0

    def _called(self, name: str) -> None:
        self.calls.append(name)
        if self.trouble is not None:
            raise self.trouble

    async def models(self) -> Sequence[ExternalModel]:
        """Return all models."""
        self._called("models")
        return list(self._models.values())

    async def versions(self, model: str | None = None) -> Sequence[ExternalVersion]:
        """Return the versions of one model, or of all."""
        self._called("versions")
        return [v for v in self._versions.values() if model in {None, v.model}]

    async def find_model(self, name: str) -> ExternalModel | None:
        """Return one model, or None."""
        self._called("find_model")
        return self._models.get(name)

    async def find_version(self, model: str, number: int) -> ExternalVersion | None:
        """Return one version, or None."""
        self._called("find_version")
        return self._versions.get((model, number))

    async def describe(self, version: ExternalVersion) -> ExternalRun:
        """Return what made a version."""
        self._called("describe")
        return self.runs.get(version.run_id, ExternalRun(id=version.run_id))

    async def download(self, version: ExternalVersion, into: Path) -> ExternalFiles:
        """Write the files of a version."""
        self._called("download")
        key = (version.model, version.number)
        if key in self.broken:
            raise self.broken[key]
        contents = self.files.get(key, {"model.skops": f"{key}".encode()})
        if not contents:
            raise ArtifactUnavailable("ArtifactMissing", f"there is nothing at {version.source}")
        for path, content in contents.items():
            (into / path).parent.mkdir(parents=True, exist_ok=True)
            (into / path).write_bytes(content)
        return ExternalFiles(format="skops", flavour="skops")

    async def set_alias(self, model: str, alias: str, number: int) -> None:
        """Let an alias name a version."""
        self._called("set_alias")
        self.move_alias(model, alias, number)

    async def delete_alias(self, model: str, alias: str) -> None:
        """Take an alias away."""
        self._called("delete_alias")
        self.move_alias(model, alias, None)

    async def set_tag(self, model: str, number: int, key: str, value: str | None) -> None:
        """Set a tag of a version, or take it away."""
        self._called("set_tag")
        self.tag(model, number, key, value)

    async def ensure_webhook(self, name: str, url: str, secret: str) -> str:
        """Remember a webhook by its name."""
        self._called("ensure_webhook")
        self.webhooks[name] = (url, secret)
        return name

    async def close(self) -> None:
        """Do nothing."""

    def register(self, model: str, **fields: object) -> ExternalVersion:
        """Register a version, and the model when it is new, as its users do."""
        self._models.setdefault(model, ExternalModel(model))
        number = self._last.get(model, 0) + 1
        self._last[model] = number
        at = self._now()
        version = ExternalVersion(model, number, at, at, source=f"fake:/{model}/{number}")
        self._versions[model, number] = replace(version, **fields)  # type: ignore[arg-type]
        return self._versions[model, number]

    def move_alias(self, model: str, alias: str, number: int | None) -> None:
        """Move an alias as its users do, or take it away."""
        if number is not None and (model, number) not in self._versions:
            raise NotFound(f"there is no version {number} of {model}")
        found = self._models[model]
        aliases = {name: to for name, to in found.aliases.items() if name != alias}
        if number is not None:
            aliases[alias] = number
        self._models[model] = replace(found, aliases=aliases)

    def tag(self, model: str, number: int, key: str, value: str | None) -> None:
        """Set a tag of a version as its users do, or take it away."""
        if (model, number) not in self._versions:
            raise NotFound(f"there is no version {number} of {model}")
        version = self._versions[model, number]
        tags = {name: text for name, text in version.tags.items() if name != key}
        if value is not None:
            tags[key] = value
        self._versions[model, number] = replace(version, tags=tags)

    def change(self, model: str, number: int, **fields: object) -> None:
        """Change the description or the stage of a version as its users do."""
        version = replace(self._versions[model, number], updated_at=self._now())
        self._versions[model, number] = replace(version, **fields)  # type: ignore[arg-type]

    def describe_model(self, model: str, **fields: object) -> None:
        """Change the description or the tags of a model as its users do."""
        self._models[model] = replace(self._models[model], **fields)  # type: ignore[arg-type]

    def delete_version(self, model: str, number: int) -> None:
        """Delete a version, and the aliases that name it, as its users do."""
        del self._versions[model, number]
        for alias, to in dict(self._models[model].aliases).items():
            if to == number:
                self.move_alias(model, alias, None)

    def delete_model(self, model: str) -> None:
        """Delete a model with its versions; made anew, its numbers begin again."""
        del self._models[model]
        self._last.pop(model, None)
        for key in [key for key in self._versions if key[0] == model]:
            del self._versions[key]

    def aliases(self, model: str) -> Mapping[str, int]:
        """Return the aliases of a model."""
        return self._models[model].aliases

    def tags(self, model: str, number: int) -> Mapping[str, str]:
        """Return the tags of a version."""
        return self._versions[model, number].tags

    def _now(self) -> datetime:
        self._ticks += 1
        return _START + timedelta(seconds=self._ticks)
