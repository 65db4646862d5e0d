"""Datasets and their versions: what models are made from and judged on. Pure data.

A `DatasetVersion` is named ``DATASET@VERSION``; it records what the data was (digest, schema,
rows) and where it lay; the data itself stays there.
"""

from __future__ import annotations

from functools import lru_cache
from typing import Annotated, ClassVar, Literal

from pydantic import AfterValidator, Field

from modelplane.resources.meta import ModelName, NoStatus, Part, Resource

DatasetFormat = Literal[
    "file", "folder", "parquet", "delta", "dvc", "frame", "mlflow", "unknown"
]  # fmt: skip


class DataColumn(Part):
    """One column of tabular data; the type in the words of what holds it."""

    name: str
    type: str


@lru_cache(maxsize=4096)
def _share(columns: tuple[DataColumn, ...]) -> tuple[DataColumn, ...]:
    """Return one copy of equal schemas: many versions are made from data of the same one."""
    return columns


DataColumns = Annotated[tuple[DataColumn, ...], AfterValidator(_share)]


class DatasetReference(Part):
    """Data that a version was made from or judged on, as it was then."""

    name: str
    digest: str = Field(
        default="unknown", description="`sha256:` (or `md5:`, `delta:` …) and the value; `unknown`."
    )
    version: str | None = Field(default=None, description="Of the DatasetVersion it is.")
    rows: int | None = Field(default=None, ge=0)
    size_bytes: int | None = Field(default=None, ge=0)
    files: int | None = Field(default=None, ge=0)
    uri: str | None = None
    format: DatasetFormat = "unknown"
    columns: DataColumns = Field(default=(), description="Its schema, where known.")
    context: str = Field(default="training", description="What it was used for.")


class DatasetSpec(Part):
    """What is said of a dataset as a whole."""

    description: str = Field(
        default="", max_length=10_000, description="What people should know of it."
    )


class DatasetStatus(Part):
    """What the registry counts."""

    last_number: int = Field(default=0, ge=0, description="The version number given last.")


class Dataset(Resource[DatasetSpec, DatasetStatus]):
    """A dataset: a name that versions of data belong to."""

    scoped: ClassVar[bool] = False
    plural: ClassVar[str] = "datasets"
    declared: ClassVar[bool] = True
    short_names: ClassVar[tuple[str, ...]] = ("dataset",)

    kind: Literal["Dataset"] = "Dataset"
    spec: DatasetSpec = Field(default_factory=DatasetSpec)
    status: DatasetStatus = Field(default_factory=DatasetStatus)


class DatasetVersionSpec(Part):
    """The immutable record of a version of data."""

    dataset: ModelName
    version: str = Field(description="The number, or what the data's own tool calls it.")
    number: int = Field(ge=1, description="Increasing integer given by the registry.")
    digest: str = Field(description="As in DatasetReference; the same digest is the same data.")
    format: DatasetFormat = "unknown"
    uri: str | None = Field(default=None, description="Where it lay.")
    rows: int | None = Field(default=None, ge=0)
    size_bytes: int | None = Field(default=None, ge=0)
    files: int | None = Field(default=None, ge=0)
    columns: DataColumns = ()
    author: str = ""


class DatasetVersion(Resource[DatasetVersionSpec, NoStatus]):
    """One version of a dataset: digest, schema and row count, never changed."""

    scoped: ClassVar[bool] = False
    plural: ClassVar[str] = "dataset-versions"
    short_names: ClassVar[tuple[str, ...]] = ("dsv",)

    kind: Literal["DatasetVersion"] = "DatasetVersion"
    spec: DatasetVersionSpec
    status: NoStatus = Field(default_factory=NoStatus)
