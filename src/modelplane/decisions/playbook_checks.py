"""What is wrong with a playbook before it ever runs. Pure. Called by the API at each apply."""

from __future__ import annotations

from collections.abc import Collection, Iterator

from modelplane.decisions.playbook_text import find_text_faults, with_sample
from modelplane.decisions.promql_reading import NeedsPrometheus, read_promql
from modelplane.errors import FieldError
from modelplane.resources.playbook import PlaybookSpec


def find_faults(spec: PlaybookSpec) -> list[FieldError]:
    """Return what could never work: unknown templates, and expressions that are no PromQL."""
    faults = find_text_faults(spec)
    wrong = {fault.path for fault in faults}
    for path, expression in _expressions(spec):
        if path in wrong:
            continue
        try:
            read_promql(with_sample(expression))
        except ValueError as error:
            faults.append(FieldError(path, str(error)))
    return faults


def warn_of_expressions(spec: PlaybookSpec, recorded: Collection[str] = ()) -> tuple[str, ...]:
    """Return a warning for each expression that nobody answers without a Prometheus.

    Parameters
    ----------
    spec
        Without faults.
    recorded
        Names of series that rules record.
    """
    warnings = []
    for path, expression in _expressions(spec):
        read = read_promql(with_sample(expression), recorded)
        if isinstance(read, NeedsPrometheus):
            warnings.append(f"{path}: {read.reason}")
    return tuple(warnings)


def _expressions(spec: PlaybookSpec) -> Iterator[tuple[str, str]]:
    for index, step in enumerate(spec.steps):
        if step.wait_for is not None:
            yield f"spec.steps[{index}].waitFor.expr", step.wait_for.expr
    if spec.verify.expr is not None:
        yield "spec.verify.expr", spec.verify.expr
