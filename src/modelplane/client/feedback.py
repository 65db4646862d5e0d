"""Predictions and what turned out to be true, as calls. A part of `Client`; holds no rules."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from datetime import datetime
from typing import Any

from modelplane.client.answers import read_object
from modelplane.client.calls import PREFIX, Call, resource_path
from modelplane.client.resources import ResourceClient
from modelplane.resources.meta import DEFAULT_ENVIRONMENT
from modelplane.resources.model_deployment import ModelDeployment

PAGE_ROWS = 5_000


class FeedbackClient(ResourceClient):
    """Tells labels and rewards, and reads what was predicted."""

    def send_feedback(
        self,
        deployment: str,
        labels: Sequence[Mapping[str, Any]],
        environment: str = DEFAULT_ENVIRONMENT,
    ) -> dict[str, Any]:
        """Tell labels or rewards; sending them again changes nothing.

        Parameters
        ----------
        labels
            At most 10,000 of ``{"requestId" | "key", "row"?, "label"?, "reward"?, "at"?}``.

        Returns
        -------
        dict
            ``fates``: how many were joined, wait, were known, were refused; ``faults``: path
            (``labels[3].reward``) and message of those that were refused.

        Examples
        --------
        >>> with Client() as client:  # doctest: +SKIP
        ...     client.send_feedback("fraud", [{"requestId": "7c1f", "label": 1}])
        """
        body = {"deployment": deployment, "environment": environment, "labels": list(labels)}
        return read_object(self._connection.send(Call("POST", f"{PREFIX}/feedback", body=body)))

    def count_predictions(
        self, deployment: str, environment: str = DEFAULT_ENVIRONMENT, *, seconds: int = 86_400
    ) -> dict[str, Any]:
        """Return how many predictions were kept and lost, and how many have labels, by place."""
        path = resource_path(ModelDeployment, deployment, "/predictions")
        query: dict[str, str | int] = {"environment": environment, "seconds": seconds}
        return read_object(self._connection.send(Call("GET", path, query)))

    def predictions(
        self,
        deployment: str,
        environment: str = DEFAULT_ENVIRONMENT,
        *,
        since: datetime,
        until: datetime,
    ) -> Iterator[dict[str, Any]]:
        """Yield stored predictions with inputs, outputs and labels, oldest first."""
        path = resource_path(ModelDeployment, deployment, "/predictions/rows")
        query: dict[str, str | int] = {
            "environment": environment,
            "since": since.isoformat(),
            "until": until.isoformat(),
            "limit": PAGE_ROWS,
        }
        while True:
            page = read_object(self._connection.send(Call("GET", path, query)))
            yield from page["items"]
            if "next" not in page:
                return
            query |= page["next"]
