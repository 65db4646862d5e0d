"""Quantities as people write them: durations, percentages, sizes.

Used by the resource types; each parses the field's usual spellings, keeps one unit inside
(seconds, percent, bytes) and prints one canonical form. Does no I/O.
"""

from __future__ import annotations

import math
import re
from typing import Annotated, Any

from pydantic import BeforeValidator, PlainSerializer, WithJsonSchema

_DURATION_UNITS_S = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0}
_DURATION_PART = re.compile(r"(\d+(?:\.\d+)?)(ms|s|m|h|d)")
_SIZE_UNITS = {
    "": 1,
    "k": 10**3, "M": 10**6, "G": 10**9, "T": 10**12,
    "Ki": 2**10, "Mi": 2**20, "Gi": 2**30, "Ti": 2**40,
}  # fmt: skip
_SIZE = re.compile(r"(\d+(?:\.\d+)?)\s*(Ki|Mi|Gi|Ti|k|M|G|T)?B?")


def parse_duration(value: Any) -> float:
    """Read a duration as seconds.

    Parameters
    ----------
    value
        ``"30s"``, ``"2m"``, ``"1h30m"``, ``"250ms"``, ``"1d"``, or a number of seconds.

    Returns
    -------
    float
        Seconds, not negative.

    Raises
    ------
    ValueError
        When it is none of these.

    Examples
    --------
    >>> parse_duration("1m30s")
    90.0
    >>> parse_duration(5)
    5.0
    """
    if isinstance(value, bool):
        raise ValueError(f"not a duration: {value!r}; write it like 30s, 2m or 1h30m")
    if isinstance(value, int | float):
        exact = float(value) if abs(value) < 1e12 else math.inf
    else:
        text = str(value).strip()
        parts = _DURATION_PART.findall(text)
        if not parts or "".join(number + unit for number, unit in parts) != text:
            raise ValueError(f"not a duration: {value!r}; write it like 30s, 2m or 1h30m")
        exact = sum(float(number) * _DURATION_UNITS_S[unit] for number, unit in parts)
    # To milliseconds, as `format_duration` writes them: what was stored is read again.
    seconds = round(exact, 3) if math.isfinite(exact) else math.inf
    if not 0 <= seconds < 10 * 366 * 86400:
        raise ValueError(f"a duration lies between 0 and ten years, got {value!r}")
    return seconds


def format_duration(seconds: float) -> str:
    """Print seconds in the canonical form.

    Examples
    --------
    >>> format_duration(90), format_duration(86400), format_duration(0.25)
    ('1m30s', '24h', '250ms')
    """
    milliseconds = round(seconds * 1000)
    parts = []
    for unit, size in (("h", 3_600_000), ("m", 60_000), ("s", 1000), ("ms", 1)):
        count, milliseconds = divmod(milliseconds, size)
        if count:
            parts.append(f"{count}{unit}")
    return "".join(parts) or "0s"


def parse_percent(value: Any) -> float:
    """Read a share of traffic in percent: ``10``, ``10.5`` or ``"10%"``.

    Raises
    ------
    ValueError
        When it is not a number between 0 and 100.

    Examples
    --------
    >>> parse_percent("10%"), parse_percent(5)
    (10.0, 5.0)
    """
    if isinstance(value, bool):
        raise ValueError(f"not a percentage: {value!r}; write it like 10% or 10")
    try:
        number = float(str(value).strip().removesuffix("%").strip())
    except ValueError:
        raise ValueError(f"not a percentage: {value!r}; write it like 10% or 10") from None
    if not 0 <= number <= 100:
        raise ValueError(f"a percentage lies between 0 and 100, got {value}")
    return number


def parse_size(value: Any) -> int:
    """Read a size in bytes: ``"512Mi"``, ``"2G"``, or a number of bytes.

    Examples
    --------
    >>> parse_size("512Mi")
    536870912
    """
    if isinstance(value, bool):
        raise ValueError(f"not a size: {value!r}; write it like 512Mi or 2G")
    match = _SIZE.fullmatch(str(value).strip())
    if not match:
        raise ValueError(f"not a size: {value!r}; write it like 512Mi or 2G")
    size_bytes = float(match[1]) * _SIZE_UNITS[match[2] or ""]
    if size_bytes > 2**60:
        raise ValueError(f"a size lies below 1024 Pi, got {str(value)[:40]!r}")
    return int(size_bytes)


def format_size(size_bytes: int) -> str:
    """Print bytes in the largest binary unit that divides them.

    Examples
    --------
    >>> format_size(536870912), format_size(1000)
    ('512Mi', '1000')
    """
    for unit in ("Ti", "Gi", "Mi", "Ki"):
        if size_bytes and size_bytes % _SIZE_UNITS[unit] == 0:
            return f"{size_bytes // _SIZE_UNITS[unit]}{unit}"
    return str(size_bytes)


def _format_percent(percent: float) -> float | int:
    return int(percent) if percent == int(percent) else percent


Duration = Annotated[
    float,
    BeforeValidator(parse_duration),
    PlainSerializer(format_duration, return_type=str),
    WithJsonSchema({"type": "string", "examples": ["30s", "2m", "1h30m"]}),
]
"""Seconds inside; ``30s``, ``2m``, ``1h30m`` outside."""

Percent = Annotated[
    float,
    BeforeValidator(parse_percent),
    PlainSerializer(_format_percent),
    WithJsonSchema({"type": "number", "minimum": 0, "maximum": 100}),
]
"""0 to 100; ``10`` or ``10%`` outside."""

ByteSize = Annotated[
    int,
    BeforeValidator(parse_size),
    PlainSerializer(format_size, return_type=str),
    WithJsonSchema({"type": "string", "examples": ["512Mi", "2Gi"]}),
]
"""Bytes inside; ``512Mi`` outside."""
