"""What protects a deployment from too much: declared with it, enforced by the gateway. Pure."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from modelplane.resources.meta import Part
from modelplane.resources.quantities import ByteSize, Duration, Percent


class RateLimit(Part):
    """How many requests one client may send; further ones get 429 with Retry-After."""

    requests: int = Field(ge=1, le=1_000_000, description="So many requests,")
    per_s: Duration = Field(
        default=1.0, alias="per", ge=0.1, le=3600, description="in so much time;"
    )
    burst: int | None = Field(
        default=None, ge=1, le=1_000_000, description="at once at the most; absent: `requests`."
    )
    by: Literal["address", "user"] = Field(
        default="address",
        description="Who a client is: its address, or the user that `userHeader` names (where it "
        "names none, the address).",
    )


class Limits(Part):
    """Bounds on what a deployment takes. Times are `timeout` and `tryTimeout` beside it."""

    max_body: ByteSize | None = Field(
        default=None,
        ge=1,
        description="Larger requests get 413; absent, or more than that: the gateway's own bound.",
    )
    max_concurrency: int | None = Field(
        default=None,
        ge=1,
        le=100_000,
        description="Requests at a time for each version; further ones get 503 with Retry-After "
        "at once.",
    )
    rate: RateLimit | None = Field(default=None, description="For each client; absent: none.")
    retry_budget: Percent | None = Field(
        default=None,
        description="Retries at a time as a share of the requests in flight; absent: 1,024. "
        "Less than the candidate's weight lets its failures through to clients.",
    )
    max_connections: int = Field(
        default=4096, ge=1, le=100_000, description="Connections to the replicas of a version."
    )
    max_pending: int = Field(
        default=4096, ge=1, le=100_000, description="Requests that wait for a connection."
    )
    eject_after: int = Field(
        default=3,
        ge=1,
        le=1000,
        description="A replica that cannot be reached or does not answer so often in a row rests.",
    )
    eject_for_s: Duration = Field(
        default=2.0, alias="ejectFor", gt=0, le=300, description="How long it rests at first."
    )
