"""Environments: where deployments run, each with a gateway of its own. Pure data."""

from __future__ import annotations

from typing import Annotated, ClassVar, Literal

from pydantic import Field, model_validator

from modelplane.resources.addresses import Url
from modelplane.resources.meta import Part, Resource
from modelplane.resources.strategy import Strategy


class GatewayTls(Part):
    """The certificate that clients see."""

    certificate: str = Field(
        description="Name of the secret that holds the certificate chain, PEM."
    )
    key: str = Field(description="Name of the secret that holds its private key, PEM.")


class GatewayJwt(Part):
    """Tokens that the gateway verifies: requests without a valid one get 401."""

    issuer: str = Field(min_length=1, description="What `iss` must say.")
    audiences: tuple[str, ...] = Field(
        default=(), description="One of them `aud` must say; absent: any."
    )
    jwks_file: str | None = Field(
        default=None, pattern=r"^/", description="File with the issuer's keys (JWKS)."
    )
    jwks_url: Url | None = Field(
        default=None,
        description="Where the issuer publishes its keys; without a user and a password in it.",
    )
    claims: tuple[Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9_]{0,39}$")], ...] = Field(
        default=("sub",),
        max_length=20,
        description="Claims that become `user.CLAIM` (header `x-user-CLAIM`); what clients send "
        "under these names themselves is dropped.",
    )

    @model_validator(mode="after")
    def _keys_come_from_one_place(self) -> GatewayJwt:
        if (self.jwks_file is None) == (self.jwks_url is None):
            raise ValueError("give the issuer's keys once: jwksFile or jwksUrl")
        return self


class GatewayMesh(Part):
    """Where gateways of other environments come in, over mutual TLS only."""

    host: str = Field(default="127.0.0.1", description="Address to listen on.")
    port: int = Field(ge=1, le=65535, description="TCP port.")
    allow: tuple[str, ...] = Field(
        default=(),
        description="SPIFFE ids, or names of environments, whose gateways may come in.",
    )


class Gateway(Part):
    """Where an environment's inference requests arrive."""

    host: str = Field(
        default="127.0.0.1",
        description="Address to listen on. Other than loopback, requests need the gateway's token, "
        "or with `jwt` one of the issuer.",
    )
    port: int = Field(ge=1, le=65535, description="TCP port.")
    tls: GatewayTls | None = Field(default=None, description="Absent: plain HTTP.")
    jwt: GatewayJwt | None = Field(default=None, description="Absent: tokens are not read.")
    mesh: GatewayMesh | None = Field(
        default=None, description="A second listener, for gateways of other environments."
    )

    @property
    def url(self) -> str:
        """Where it is reached from its own machine."""
        return self.url_at(self.host)

    def url_at(self, host: str) -> str:
        """Return where it is reached under another name or address of its machine."""
        scheme = "https" if self.tls else "http"
        return f"{scheme}://{f'[{host}]' if ':' in host else host}:{self.port}"


class EnvironmentSpec(Part):
    """What holds for all deployments of an environment."""

    stage: Literal["development", "staging", "production"] = Field(
        description="What kind of place it is; policies and defaults go by it."
    )
    order: int = Field(default=0, description="Place on the way to production, rising.")
    gateway: Gateway
    mtls: Literal["DISABLED", "STRICT"] = Field(
        default="DISABLED",
        description="`STRICT`: the gateway reaches model servers over mutual TLS only, through "
        "the agent's own proxy.",
    )
    allow_pickle: Literal["never", "scanned", "always"] = Field(
        default="scanned",
        description="Whether artifacts that hold pickles may be loaded; `scanned`: those whose "
        "every import is on the allowlist.",
    )
    require_signature: bool = Field(
        default=False,
        description="Whether only files with a signature by one of `trustedKeys` are started.",
    )
    trusted_keys: tuple[str, ...] = Field(
        default=(), description="Public keys, PEM; absent: this modelplane's own."
    )
    strategy: Strategy | None = Field(
        default=None,
        description="For deployments that name none. Absent: canary in production, all at once "
        "elsewhere.",
    )


class EnvironmentStatus(Part):
    """What the agent says about an environment's gateway."""

    gateway_fault: str = Field(
        default="", description="Why the gateway does not serve as declared; empty: it does."
    )


class Environment(Resource[EnvironmentSpec, EnvironmentStatus]):
    """A place where deployments run: staging and production exist from the start."""

    scoped: ClassVar[bool] = False
    plural: ClassVar[str] = "environments"
    declared: ClassVar[bool] = True
    short_names: ClassVar[tuple[str, ...]] = ("env", "environment")

    kind: Literal["Environment"] = "Environment"
    spec: EnvironmentSpec
    status: EnvironmentStatus = Field(default_factory=EnvironmentStatus)
