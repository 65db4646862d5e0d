"""Which version of a model a person means: `latest`, an integer number, or a semantic version.

Called by the API when a manifest is applied or a version promoted. Pure.
"""

from __future__ import annotations

import difflib
from collections.abc import Sequence

from modelplane.errors import FieldError, InvalidResource, NotFound
from modelplane.resources.model import ModelVersion
from modelplane.resources.versions import parse_version, version_order

LATEST = "latest"
_SHOWN = 5


def resolve_version(model: str, versions: Sequence[ModelVersion], wanted: str) -> ModelVersion:
    """Return the version of `model` that `wanted` names.

    Parameters
    ----------
    model
        Name of the model, for messages.
    versions
        All versions of the model, in any order; tombstones are never returned.
    wanted
        ``latest`` (the highest in semantic order, a pre-release only when there is nothing
        else), an integer number given by the registry, or a semantic version.

    Raises
    ------
    NotFound
        No such version; the message names the nearest ones.
    InvalidResource
        Not a version at all, or an integer that is the number of one version and the short
        form of another.
    """
    living = [version for version in versions if version.status.deleted_at is None]
    if not living:
        raise NotFound(
            f"model {model!r} has no versions",
            hint=f"push one: modelplane push {model} --version 1.0.0 --artifact PATH",
        )
    if wanted == LATEST:
        return _highest(living)
    try:
        semantic = parse_version(wanted)
    except ValueError as error:
        raise InvalidResource(
            f"{wanted[:80]!r} names no version of model {model!r}",
            [FieldError("spec.version", f"{error}, an integer number, or latest")],
        ) from None
    by_semantic = next((v for v in living if v.spec.version == semantic), None)
    if wanted.isdecimal():
        by_number = next((v for v in living if v.spec.number == int(wanted)), None)
        if by_number and by_semantic and by_number is not by_semantic:
            message = (
                f"{wanted} is the number of {by_number.spec.version} and short for {semantic}; "
                "write the semantic version in full"
            )
            raise InvalidResource(
                f"version {wanted} of model {model!r} is ambiguous",
                [FieldError("spec.version", message)],
            )
        by_semantic = by_number or by_semantic
    if by_semantic is not None:
        return by_semantic
    buried = any(v.spec.version == semantic for v in versions)
    raise NotFound(
        f"model {model!r} has no version {semantic}" + (": it was deleted" if buried else ""),
        hint=f"there are: {_describe_nearest(living, semantic)}",
    )


def _highest(versions: Sequence[ModelVersion]) -> ModelVersion:
    final = [v for v in versions if "-" not in v.spec.version.partition("+")[0]]
    return max(final or versions, key=lambda v: (version_order(v.spec.version), v.spec.number))


def _describe_nearest(versions: Sequence[ModelVersion], wanted: str) -> str:
    names = [v.spec.version for v in versions]
    near = difflib.get_close_matches(wanted, names, n=_SHOWN, cutoff=0.0)
    more = len(names) - len(near)
    return ", ".join(near) + (f" and {more} more" if more > 0 else "")
