"""Tokens: who may ask. Only a digest of the secret is kept. Pure data."""

from __future__ import annotations

from datetime import datetime
from typing import ClassVar, Literal

from pydantic import Field

from modelplane.resources.meta import NoStatus, Part, Resource


class TokenSpec(Part):
    """A name with groups; the secret itself is shown once and never stored."""

    groups: tuple[str, ...] = ()
    digest: str = Field(description="SHA-256 of the secret, hex.")
    expires_at: datetime | None = None


class Token(Resource[TokenSpec, NoStatus]):
    """A secret that stands for a subject; written through the token actions only."""

    scoped: ClassVar[bool] = False
    plural: ClassVar[str] = "tokens"

    kind: Literal["Token"] = "Token"
    spec: TokenSpec
    status: NoStatus = Field(default_factory=NoStatus)
