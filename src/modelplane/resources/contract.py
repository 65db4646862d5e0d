"""Contracts: what a consumer expects of a model's answers, as a pact. Pure data."""

from __future__ import annotations

from datetime import datetime
from typing import Any, ClassVar, Literal

from pydantic import Field

from modelplane.resources.meta import ModelName, Name, Part, Resource


class ContractSpec(Part):
    """One version of one consumer's expectations of one model."""

    consumer: ModelName = Field(description="Who expects it, as the pact calls it.")
    consumer_version: str = Field(
        pattern=r"^[0-9A-Za-z][-0-9A-Za-z.+]*$",
        max_length=100,
        description="As the consumer counts: a semantic version, a commit …",
    )
    model: ModelName = Field(description="The provider.")
    digest: str = Field(default="", description="SHA-256 of the pact, canonical JSON, hex.")
    pact: dict[str, Any] = Field(
        description="The pact file, version 2, 3 or 4 of its specification."
    )
    environments: tuple[Name, ...] = Field(
        default=(), description="Where this version of the consumer is deployed."
    )


class Verification(Part):
    """Whether a version of the model keeps the contract, as was found last."""

    version: str
    artifact: str = Field(description="Digest of the version's files.")
    passed: bool
    result: str = Field(description="Name of the StageResult that says so.")
    at: datetime
    message: str = ""


class ContractStatus(Part):
    """Which versions keep it; the latest verification of each."""

    verifications: tuple[Verification, ...] = Field(
        default=(), description="Of the newest 200 versions, oldest first."
    )


class Contract(Resource[ContractSpec, ContractStatus]):
    """What a consumer expects of a model. Named ``CONSUMER.MODEL@CONSUMER_VERSION``."""

    scoped: ClassVar[bool] = False
    plural: ClassVar[str] = "contracts"
    short_names: ClassVar[tuple[str, ...]] = ("contract",)

    kind: Literal["Contract"] = "Contract"
    spec: ContractSpec
    status: ContractStatus = Field(default_factory=ContractStatus)
