"""Questions about lineage as calls, and their answers as a graph.

Called by `Client`.
"""

from __future__ import annotations

from pydantic import ValidationError

from modelplane.client.calls import PREFIX, Call
from modelplane.decisions.lineage import Direction, Lineage
from modelplane.errors import TerminalError


def lineage_call(of: str, direction: Direction, depth: int, ending: str = "") -> Call:
    """Return the call that asks for a lineage; with ``/events`` for its OpenLineage events."""
    return Call(
        "GET", f"{PREFIX}/lineage{ending}", {"of": of, "direction": direction, "depth": depth}
    )


def read_lineage(body: bytes) -> Lineage:
    """Return the graph in an answer; raises `TerminalError` when it is none."""
    try:
        return Lineage.model_validate_json(body)
    except ValidationError as error:
        raise TerminalError(
            f"the answer is no lineage that this version of modelplane knows: {error}",
            hint="use the same version on both sides",
        ) from None
