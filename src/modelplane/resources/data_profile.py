"""How the columns of some data are distributed, in little: what drift is measured against.

Made by the client from training data (`client.profile`) or by `controllers.drift` from the first
window of a version's traffic; sent with a push and kept beside the version. Pure data.
"""

from __future__ import annotations

import json
from datetime import datetime
from typing import Literal

from pydantic import Field, model_validator

from modelplane.resources.meta import Part
from modelplane.resources.monitoring import ColumnName

MAX_BINS = 20
MAX_VALUES = 50
MAX_PROFILE_BYTES = 64 * 2**10
MAX_VALUE_CHARS = 100

ColumnKind = Literal["number", "category", "text"]
"""``text``: nearly every row has a value of its own (ids, free text), so only whether there is one
is looked at."""


class ColumnProfile(Part):
    """One column: its bins, and how many rows fell into each.

    A number's bins lie between `edges`; a category has one for each of `values` and one for all
    others; of a text there is one. Missing values are counted apart.
    """

    name: ColumnName
    kind: ColumnKind
    edges: tuple[float, ...] = Field(default=(), max_length=MAX_BINS - 1)
    values: tuple[str, ...] = Field(default=(), max_length=MAX_VALUES)
    counts: tuple[int, ...] = Field(min_length=1, max_length=MAX_VALUES + 1)
    means: tuple[float, ...] = Field(
        default=(), max_length=MAX_BINS, description="Of the numbers in each bin."
    )
    missing: int = Field(default=0, ge=0)
    scatter: float = Field(
        default=1.0, ge=1, description="How much more the rows scatter than independent ones."
    )

    @model_validator(mode="after")
    def _has_a_count_for_each_bin(self) -> ColumnProfile:
        wanted = {"number": len(self.edges), "category": len(self.values), "text": 0}[self.kind] + 1
        if len(self.counts) != wanted or min(self.counts) < 0:
            raise ValueError(f"a {self.kind} with such bins has {wanted} counts, none below 0")
        if self.kind == "number" and len(self.means) != wanted:
            raise ValueError(f"a number with {wanted} bins has as many means")
        if any(not low < high for low, high in zip(self.edges, self.edges[1:], strict=False)):
            raise ValueError("edges rise")
        if len(set(self.values)) < len(self.values):
            raise ValueError("each value stands once in values")
        return self

    @property
    def cells(self) -> tuple[int, ...]:
        """Rows in each bin, and last those without a value."""
        return (*self.counts, self.missing)


class DataProfile(Part):
    """The columns of some data, and what data that was."""

    origin: Literal["data", "traffic"] = Field(
        default="data", description="Training data, or the first window of a version's traffic."
    )
    name: str = Field(default="", max_length=300, description="What the data is called.")
    rows: int = Field(ge=1, description="How many were looked at.")
    at: datetime | None = Field(default=None, description="When the traffic was looked at.")
    columns: tuple[ColumnProfile, ...] = Field(default=(), max_length=1000)

    @model_validator(mode="after")
    def _is_compact(self) -> DataProfile:
        names = [column.name for column in self.columns]
        if len(set(names)) < len(names):
            raise ValueError("two columns have one name")
        if profile_bytes(self) > MAX_PROFILE_BYTES:
            raise ValueError(f"larger than {MAX_PROFILE_BYTES // 2**10} KiB")
        return self


def profile_bytes(profile: DataProfile) -> int:
    """Return the size of a profile as JSON."""
    return len(json.dumps(profile.to_dict(), separators=(",", ":")).encode())
