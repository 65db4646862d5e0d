"""Which metrics a stage measures, by the names that policies use. Pure.

Called when a policy is applied (an unknown name is refused) and when it is evaluated. A check
must report each of these as a `Measurement` of its name, without a slice.
"""

from __future__ import annotations

from modelplane.resources.checks import AccuracyCheck, CommandCheck, FairnessCheck
from modelplane.resources.validation_pipeline import Stage

LATENCY_METRICS = (
    "latency_p50_s", "latency_p95_s", "latency_p99_s", "throughput_rps", "peak_memory_bytes",
    "cold_start_s",
)  # fmt: skip

_FIXED: dict[str, tuple[str, ...]] = {
    "latency": LATENCY_METRICS,
    "security_scan": ("security_errors", "security_warnings"),
    "schema": ("schema_breaks",),
    "contract": ("contracts_verified", "contracts_broken"),
    "parity": ("parity_differences",),
    "data": ("data_psi", "data_columns_different"),
}


def metrics_of(stage: Stage) -> tuple[str, ...]:
    """Return the names of what `stage` measures.

    Examples
    --------
    >>> from modelplane.resources.checks import AccuracyCheck
    >>> metrics_of(Stage(name="quality", accuracy=AccuracyCheck(metric="f1_score")))
    ('f1_score', 'rows')
    """
    configuration = stage.configuration
    if isinstance(configuration, AccuracyCheck):
        return (configuration.metric, "rows")
    if isinstance(configuration, FairnessCheck):
        return (f"fairness_{configuration.metric}_difference",)
    if isinstance(configuration, CommandCheck):
        return configuration.metrics
    return _FIXED[stage.check]
