"""The script that Envoy runs for deployments whose rules look at bodies, cookies or slices.

Pure but for reading its own two files once; called by `filters`. `users.lua` says what the
script does, `body.lua` reads bodies for it.
"""

from __future__ import annotations

from functools import lru_cache
from importlib import resources
from typing import Any
from urllib.parse import quote, unquote

from modelplane.decisions.routing import RoutePlan

USER_HEADER = "x-modelplane-user"
"""Inner request header with the value of the cookie that tells users apart."""

USER_NAMESPACE = "mp_user"
"""Metadata of what the script found out about the user."""

MAX_SLICE_NAMES = 3
"""Slices of one plan that are counted; the counters of `traffic` are as many."""


@lru_cache(maxsize=1)
def users_script() -> str:
    """Return the source of the script."""
    package = resources.files("modelplane.adapters.proxy")
    return "\n".join((package / name).read_text("utf-8") for name in ("body.lua", "users.lua"))


def script_context(plan: RoutePlan, inputs: frozenset[str]) -> dict[str, Any]:
    """Return what the script should do for `plan`; empty when there is nothing.

    Parameters
    ----------
    plan
        The plan.
    inputs
        Names that the plan's predicates look for in bodies.
    """
    context: dict[str, Any] = {}
    if plan.sticky_cookie:
        context["cookie"] = plan.sticky_cookie
    if plan.slices:
        context["slices"] = [
            {
                "header": slice_header(part.by),
                "tags": {value: slice_tag(f"{part.by}={value}") for value in part.values},
            }
            for part in plan.slices[:MAX_SLICE_NAMES]
        ]
    if inputs:
        context["inputs"] = sorted(inputs)
    return context


def slice_header(by: str) -> str:
    """Return the request header of a name such as ``user.plan_id``.

    Examples
    --------
    >>> slice_header("user.plan_id")
    'x-user-plan-id'
    """
    return f"x-{by.replace('.', '-').replace('_', '-')}"


def slice_tag(name: str) -> str:
    """Return ``user.region=west`` as counters carry it: without what separates their tags."""
    return quote(name, safe="=").replace(".", "%2E")


def slice_name(tag: str) -> str:
    """Return the name that `slice_tag` made a tag of."""
    return unquote(tag)
