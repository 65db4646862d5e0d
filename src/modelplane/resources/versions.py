"""Semantic versions as people write them: ``1.2.0`` and ``v1.2.0`` are the same.

Pure; used when manifests and pushes are read and when versions are ordered.
"""

from __future__ import annotations

import re

_SEMVER = re.compile(
    r"(0|[1-9]\d*)(?:\.(0|[1-9]\d*))?(?:\.(0|[1-9]\d*))?"
    r"(?:-([0-9A-Za-z-]+(?:\.[0-9A-Za-z-]+)*))?(?:\+([0-9A-Za-z-]+(?:\.[0-9A-Za-z-]+)*))?"
)


def parse_version(text: str) -> str:
    """Return the canonical semantic version.

    Missing minor and patch are zero; a leading ``v`` is dropped.

    Raises
    ------
    ValueError
        When it is no semantic version.

    Examples
    --------
    >>> parse_version("v3.2.1"), parse_version("2.0"), parse_version("1.0.0-rc.1")
    ('3.2.1', '2.0.0', '1.0.0-rc.1')
    """
    match = _SEMVER.fullmatch(text.strip().removeprefix("v").removeprefix("V"))
    if not match:
        raise ValueError(f"not a semantic version: {text!r}; write it like 1.2.0")
    major, minor, patch, pre, build = match.groups()
    version = f"{major}.{minor or 0}.{patch or 0}"
    return version + (f"-{pre}" if pre else "") + (f"+{build}" if build else "")


def version_order(version: str) -> tuple[int, int, int, int, tuple[tuple[int, int, str], ...]]:
    """Return a sort key in the precedence of semver.org, section 11 (build data ignored).

    Examples
    --------
    >>> sorted(["1.10.0", "1.9.0", "1.10.0-rc.1"], key=version_order)
    ['1.9.0', '1.10.0-rc.1', '1.10.0']
    """
    match = _SEMVER.fullmatch(version)
    if not match:
        raise ValueError(f"not a semantic version: {version!r}")
    major, minor, patch, pre, _ = match.groups()
    identifiers = tuple(
        (0, int(part), "") if part.isdigit() else (1, 0, part)
        for part in (pre.split(".") if pre else ())
    )
    return int(major), int(minor or 0), int(patch or 0), 0 if pre else 1, identifiers


def version_in_document(value: object) -> object:
    """Return a version as YAML or JSON gave it: a whole number is the registry's, as text.

    Raises
    ------
    ValueError
        It was written without quotes and read as another number.

    Examples
    --------
    >>> version_in_document(3), version_in_document("1.2.0")
    ('3', '1.2.0')
    """
    if isinstance(value, float):
        raise ValueError(f'reads as the number {value}; put it in quotes, like "1.2.0"')
    return str(value) if isinstance(value, int) and not isinstance(value, bool) else value
