"""``/metrics``: the newest values of everything measured, in Prometheus' text format.

Called by `app`, which adds what the API counts of its own requests. Reads the ring only.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence

from modelplane.decisions.series import CATALOGUE, Sample

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"


def format_samples(samples: Sequence[Sample]) -> str:
    """Return samples in the text format 0.0.4, by series in the catalogue's order.

    Series that rules record come last, without a type: nobody declared one.

    Examples
    --------
    >>> print(format_samples([Sample("modelplane_approvals_pending", {}, 2.0)]), end="")
    # HELP modelplane_approvals_pending Questions that wait for people.
    # TYPE modelplane_approvals_pending gauge
    modelplane_approvals_pending 2
    """
    by_name: dict[str, list[Sample]] = {}
    for sample in samples:
        by_name.setdefault(sample.name, []).append(sample)
    lines: list[str] = []
    for series in CATALOGUE:
        own = by_name.pop(series.name, None)
        if own:
            help_text = series.help.replace("\\", "\\\\").replace("\n", "\\n")
            lines.append(f"# HELP {series.name} {help_text}")
            lines.append(f"# TYPE {series.name} {series.type}")
            lines.extend(_lines(own))
    for name, own in by_name.items():
        lines.append(f"# TYPE {name} untyped")
        lines.extend(_lines(own))
    return "".join(f"{line}\n" for line in lines)


def _lines(samples: Iterable[Sample]) -> Iterable[str]:
    for sample in samples:
        labels = ",".join(f'{name}="{_escape(text)}"' for name, text in sample.labels.items())
        yield (
            f"{sample.name}{{{labels}}} {_number(sample.value)}"
            if labels
            else (f"{sample.name} {_number(sample.value)}")
        )


def _escape(text: str) -> str:
    return text.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")


def _number(value: float) -> str:
    value = float(value)  # whoever measures may give a whole number
    if math.isnan(value):
        return "NaN"
    if math.isinf(value):
        return "+Inf" if value > 0 else "-Inf"
    return f"{value:.0f}" if value.is_integer() and abs(value) < 1e15 else repr(value)
