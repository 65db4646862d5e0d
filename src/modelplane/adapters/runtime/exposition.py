"""What a model server tells in Prometheus' text format, as few plain numbers. Pure.

Called by `adapters.runtime.servers` with what a server answered: text that nobody vouches for.
"""

from __future__ import annotations

import math
from collections.abc import Mapping

from prometheus_client.parser import text_string_to_metric_families

from modelplane.ports.servers import Scrape
from modelplane.resources.telemetry import (
    MAX_SAMPLE_NAME_CHARS,
    MAX_SCRAPE_ERROR_CHARS,
    MAX_SCRAPED_SAMPLES,
)

_MAX_LINE_CHARS = 8_192  # the parser takes time by the square of a line's length
_LEFT_OUT = ("_bucket", "_created")


def read_exposition(text: str) -> Scrape:
    """Return the first samples in `text`; where it cannot be read, why not.

    Left out are histograms' buckets, times of creation, and values that are no finite number.
    What is too much or too long leaves the result `truncated`.

    Examples
    --------
    >>> read_exposition('rows_total{model="fraud"} 7\\n').samples
    {'rows_total{model="fraud"}': 7.0}
    """
    samples: dict[str, float] = {}
    truncated = False
    if max(map(len, text.splitlines()), default=0) > _MAX_LINE_CHARS:
        return failed_scrape(f"a line is longer than {_MAX_LINE_CHARS:,} characters")
    try:
        for family in text_string_to_metric_families(text):
            for sample in family.samples:
                value = float(sample.value)
                if sample.name.endswith(_LEFT_OUT) or not math.isfinite(value):
                    continue
                name = _full_name(sample.name, sample.labels)
                if len(name) > MAX_SAMPLE_NAME_CHARS:
                    truncated = True
                    continue
                if len(samples) == MAX_SCRAPED_SAMPLES and name not in samples:
                    return Scrape(samples, truncated=True)
                samples[name] = value
    except (ValueError, LookupError, TypeError) as error:
        return failed_scrape(f"the answer is not in Prometheus' text format: {error}")
    return Scrape(samples, truncated=truncated)


def failed_scrape(message: str) -> Scrape:
    """Return a scrape that failed, its message short and without control characters."""
    return Scrape(error=_printable(message[:MAX_SCRAPE_ERROR_CHARS]))


def _full_name(name: str, labels: Mapping[str, str]) -> str:
    if not labels:
        return _printable(name)
    pairs = (f'{label}="{_escape(value)}"' for label, value in labels.items())
    return _printable(f"{name}{{{','.join(pairs)}}}")


def _escape(value: str) -> str:
    return value.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")


def _printable(text: str) -> str:
    """Return `text` with a sign in place of each control character: people read it."""
    return "".join(char if char.isprintable() else "�" for char in text)
