"""Counters and histograms of the model server as Prometheus text.

Used by ``app``, on the event loop's thread only. Small and by hand, so that the model's
environment needs no metrics package.
"""

from __future__ import annotations

import os
import resource
from bisect import bisect_left
from collections import Counter
from pathlib import Path

# Seconds; models for tabular data answer in 0.1 ms to 100 ms.
BUCKETS_S = (
    *(0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025),
    *(0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0),
)

_PREFIX = "modelplane_runtime"


class Histogram:
    """A cumulative histogram over `BUCKETS_S`."""

    def __init__(self) -> None:
        self._counts = [0] * (len(BUCKETS_S) + 1)
        self._sum_s = 0.0

    def observe(self, seconds: float) -> None:
        """Count one duration."""
        self._counts[bisect_left(BUCKETS_S, seconds)] += 1
        self._sum_s += seconds

    def lines(self, name: str, labels: str) -> list[str]:
        """Write the series of this histogram."""
        lines, total = [], 0
        for bound, count in zip((*map(str, BUCKETS_S), "+Inf"), self._counts, strict=True):
            total += count
            lines.append(f'{name}_bucket{{{labels},le="{bound}"}} {total}')
        return [
            *lines,
            f"{name}_sum{{{labels}}} {self._sum_s!r}",
            f"{name}_count{{{labels}}} {total}",
        ]


class Metrics:
    """What one server counts.

    Parameters
    ----------
    labels
        Label values by name, on every series: model, version and replica.
    """

    def __init__(self, labels: dict[str, str]) -> None:
        self._labels = ",".join(f'{name}="{_escape(value)}"' for name, value in labels.items())
        self.requests: Counter[int] = Counter()
        self.request_s = Histogram()
        self.predict_s = Histogram()
        self.rows = 0
        self.load_s = 0.0

    def render(
        self, *, ready: bool, waiting: int, log_waiting: int = 0, log_dropped: int = 0
    ) -> str:
        """Write everything in Prometheus' text format 0.0.4."""
        labels = self._labels
        requests = [
            f'{_PREFIX}_requests_total{{{labels},code="{code}"}} {count}'
            for code, count in sorted(self.requests.items())
        ]
        usage = resource.getrusage(resource.RUSAGE_SELF)
        singles: list[tuple[str, str, str, float]] = [
            ("rows_total", "counter", "Rows predicted.", self.rows),
            ("ready", "gauge", "1 while the model takes requests.", int(ready)),
            ("queue_waiting", "gauge", "Requests that wait for a prediction thread.", waiting),
            ("log_waiting", "gauge", "Answered requests in the prediction log.", log_waiting),
            (
                "log_dropped_rows_total",
                "counter",
                "Rows that were predicted and left the prediction log unread.",
                log_dropped,
            ),
            ("model_load_seconds", "gauge", "How long loading the model took.", self.load_s),
            (
                "cpu_seconds_total",
                "counter",
                "Processor time of this process.",
                usage.ru_utime + usage.ru_stime,
            ),
            ("resident_memory_bytes", "gauge", "Resident memory.", _resident_memory_bytes()),
        ]
        lines = [*_head("requests_total", "counter", "Inference requests by status."), *requests]
        for name, histogram, text in (
            ("request_seconds", self.request_s, "From the request's head to its answer."),
            ("predict_seconds", self.predict_s, "Inside the model."),
        ):
            lines += _head(name, "histogram", text)
            lines += histogram.lines(f"{_PREFIX}_{name}", labels)
        for name, kind, text, value in singles:
            lines += [*_head(name, kind, text), f"{_PREFIX}_{name}{{{labels}}} {value}"]
        return "\n".join(lines) + "\n"


def _head(name: str, kind: str, text: str) -> list[str]:
    return [f"# HELP {_PREFIX}_{name} {text}", f"# TYPE {_PREFIX}_{name} {kind}"]


def _escape(value: str) -> str:
    return value.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")


def _resident_memory_bytes() -> int:
    try:
        pages = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[1])
    except (OSError, ValueError, IndexError):  # not Linux
        return 0
    return pages * os.sysconf("SC_PAGE_SIZE")
