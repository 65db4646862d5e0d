"""Settings: read once, from defaults, then a file, then the environment.

``STATE/config.toml`` (or the file named by ``MODELPLANE_CONFIG``) overrides the defaults,
``MODELPLANE_*`` variables override the file, and the command line overrides both. Read by the
CLI and by `wiring`; nothing below this floor reads the environment for settings.
"""

from __future__ import annotations

import hashlib
import os
import tempfile
import tomllib
from pathlib import Path
from typing import Any, Literal
from urllib.parse import urlsplit

from pydantic import Field, ValidationError, field_validator, model_validator
from pydantic_settings import BaseSettings, SettingsConfigDict

from modelplane.errors import FieldError, InvalidResource
from modelplane.resources.addresses import check_url

STATE_FORMAT = 1
"""The format of the state directory that this release writes."""

_ARTIFACT_SCHEMES = frozenset({"s3", "gs", "az"})


class Settings(BaseSettings):
    """Everything that can be set, with its unit in the name."""

    model_config = SettingsConfigDict(env_prefix="MODELPLANE_", extra="forbid", frozen=True)

    state: Path = Field(default=Path(".modelplane"), description="The state directory.")
    api_host: str = Field(default="127.0.0.1", description="Address of the API.")
    api_port: int = Field(default=7080, ge=1, le=65535, description="Port of the API.")
    artifacts_url: str = Field(
        default="",
        description="Where model files are kept: a folder, s3://BUCKET/PREFIX, gs:// or az://; "
        "default the folder artifacts in the state directory.",
    )
    predictions_url: str = Field(
        default="",
        description="Where predictions are kept as Parquet: a folder, s3://BUCKET/PREFIX, gs:// or "
        "az://; default the folder predictions in the state directory.",
    )
    public_url: str = Field(
        default="",
        description="Where people reach the API from outside, for links in notifications; default "
        "the address of the API itself.",
    )
    allowed_hosts: tuple[str, ...] = Field(
        default=(), description="Further host names that requests to the API may carry."
    )
    gateway_host: str | None = Field(
        default=None, description="Address of the gateways; default 127.0.0.1."
    )
    staging_port: int | None = Field(
        default=None, ge=1, le=65535, description="Gateway port of staging; default 7081."
    )
    production_port: int | None = Field(
        default=None, ge=1, le=65535, description="Gateway port of production; default 7082."
    )
    max_artifact_bytes: int = Field(default=10 * 2**30, description="Largest artifact accepted.")
    max_request_bytes: int = Field(
        default=8 * 2**20,
        ge=1024,
        le=2**30,
        description="Largest inference request a gateway accepts.",
    )
    certificate_life_s: float = Field(
        default=3600.0,
        ge=60,
        le=30 * 86_400,
        description="Life of the certificates of mutual TLS, seconds; renewed at about half of it, "
        "so traffic outlives an absence of the control plane of two fifths of it.",
    )
    gateway_threads: int = Field(default=1, ge=1, le=64, description="Worker threads per Envoy.")
    job_slots: int | None = Field(
        default=None,
        ge=1,
        le=1024,
        description="Jobs that run at a time; default one for each core, two at the least.",
    )
    playbook_budget_per_hour: int = Field(
        default=20,
        ge=1,
        le=1000,
        description="Runs of playbooks that may begin by themselves in an hour, all together.",
    )
    reuse_interpreter: bool = Field(
        default=True,
        description="Run versions without requirements of their own in modelplane's own Python "
        "when all the packages they need are installed there.",
    )
    prometheus_url: str = Field(
        default="",
        description="A Prometheus that evaluates alert rules and conditions; default modelplane "
        "evaluates what it measures itself.",
    )
    prometheus_rules_dir: Path | None = Field(
        default=None, description="The folder that Prometheus reads modelplane's rules from."
    )
    prometheus_token: str = Field(
        default="", description="Name of the secret that is a bearer token for Prometheus."
    )
    prometheus_username: str = Field(
        default="", description="User of Prometheus' basic authentication."
    )
    prometheus_password: str = Field(
        default="", description="Name of the secret with its password."
    )
    alertmanager_url: str = Field(
        default="", description="An Alertmanager that is told of alerts and silences."
    )
    alertmanager_token: str = Field(
        default="", description="Name of the secret that is a bearer token for Alertmanager."
    )
    alertmanager_username: str = Field(
        default="", description="User of Alertmanager's basic authentication."
    )
    alertmanager_password: str = Field(
        default="", description="Name of the secret with its password."
    )
    log_level: Literal["debug", "info", "warning", "error"] = "info"

    @field_validator("artifacts_url", "predictions_url")
    @classmethod
    def _check_artifacts_url(cls, url: str) -> str:
        scheme, colon, rest = url.partition("://")
        if not url or (Path(url).is_absolute() and not colon):
            return url.rstrip("/")
        if scheme not in _ARTIFACT_SCHEMES or not rest.strip("/"):
            raise ValueError("use an absolute folder, or s3://BUCKET/PREFIX, gs:// or az://")
        if set(rest) & set("@?#"):
            raise ValueError("leave credentials and options out of the address: set variables")
        return url.rstrip("/")

    @field_validator("prometheus_url", "alertmanager_url")
    @classmethod
    def _check_alerting_url(cls, url: str) -> str:
        if url and urlsplit(url).query:
            raise ValueError("give scheme, host, port and path only")
        return check_url(url).rstrip("/") if url else ""

    @model_validator(mode="after")
    def _check_rules_dir(self) -> Settings:
        folder = self.prometheus_rules_dir
        if bool(self.prometheus_url) != (folder is not None):
            raise ValueError("prometheus_url and prometheus_rules_dir go together: set both")
        if folder is not None and not folder.is_absolute():
            raise ValueError("prometheus_rules_dir is an absolute folder")
        return self

    @field_validator("public_url")
    @classmethod
    def _check_public_url(cls, url: str) -> str:
        parts = urlsplit(url)
        if url and (parts.scheme not in {"http", "https"} or not parts.hostname):
            raise ValueError("write it like https://modelplane.example.org")
        if "@" in parts.netloc or parts.query or parts.fragment:
            raise ValueError("give scheme, host, port and path only")
        return url.rstrip("/")

    @property
    def artifacts_location(self) -> str:
        """The folder or address where model files are kept."""
        return self.artifacts_url or str(self.paths.artifacts)

    @property
    def predictions_location(self) -> str:
        """The folder or address where predictions are kept as Parquet."""
        return self.predictions_url or str(self.paths.predictions)

    @property
    def state_dir(self) -> Path:
        """The state directory, absolute."""
        return self.state.expanduser().absolute()

    @property
    def paths(self) -> Paths:
        """Where everything lies."""
        return Paths(self.state_dir)

    @property
    def api_url(self) -> str:
        """The address at which this machine reaches the API."""
        host = "127.0.0.1" if self.api_host in {"0.0.0.0", "::"} else self.api_host  # noqa: S104
        return f"http://{f'[{host}]' if ':' in host else host}:{self.api_port}"


class Paths:
    """The state directory's layout; names only, nothing is created here."""

    def __init__(self, state_dir: Path) -> None:
        self.state_dir = state_dir
        self.version = state_dir / "version"
        self.config = state_dir / "config.toml"
        self.endpoint = state_dir / "endpoint.json"
        self.database = state_dir / "store.db"
        self.audit = state_dir / "audit"
        self.admin_token = state_dir / "admin-token"
        self.agent_token = state_dir / "agent-token"
        self.gateway_token = state_dir / "gateway-token"
        self.link_key = state_dir / "link-key"
        self.ca = state_dir / "ca"
        self.artifacts = state_dir / "artifacts"
        self.predictions_index = state_dir / "predictions.db"
        self.predictions = state_dir / "predictions"
        self.logs = state_dir / "logs"
        self.agent = state_dir / "agent"
        self.processes = state_dir / "processes"
        self.secrets = state_dir / "secrets"
        self.signing = state_dir / "signing"
        self.imports = state_dir / "imports"
        self.lock = state_dir / "up.lock"

    @property
    def runtime_dir(self) -> Path:
        """A short directory for sockets: their paths are limited to 107 bytes."""
        digest = hashlib.sha256(str(self.state_dir).encode()).hexdigest()[:8]
        base = os.environ.get("XDG_RUNTIME_DIR", "")
        if base and len(base) < 40 and os.access(base, os.W_OK):
            return Path(base) / f"modelplane-{digest}"
        return Path(tempfile.gettempdir()) / f"modelplane-{os.getuid()}-{digest}"


def load_settings(**overrides: Any) -> Settings:
    """Read the settings; `overrides` that are None count as not given.

    Raises
    ------
    InvalidResource
        When the file is malformed or a value does not fit; names the setting.
    """
    given = {name: value for name, value in overrides.items() if value is not None}
    try:
        first = Settings(**given)
        file = Path(os.environ.get("MODELPLANE_CONFIG") or first.paths.config)
        if not file.is_file():
            return first
        with file.open("rb") as stream:
            from_file = tomllib.load(stream)
        prefix = "MODELPLANE_"
        from_environment = {
            name for name in Settings.model_fields if prefix + name.upper() in os.environ
        }
        kept = {name: value for name, value in from_file.items() if name not in from_environment}
        return Settings(**{**kept, **given})
    except tomllib.TOMLDecodeError as error:
        raise InvalidResource(f"{file} is not TOML: {error}") from error
    except ValidationError as error:
        faults = [
            FieldError(".".join(str(part) for part in fault["loc"]), fault["msg"])
            for fault in error.errors()
        ]
        raise InvalidResource("a setting is not valid", faults) from error
