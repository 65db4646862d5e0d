"""A run of a pipeline from its beginning: what it is called, what is pinned in it. Pure.

Called by whoever starts one: the API (by hand), `controllers.gate_triggers`, and
`controllers.promotion` for a pipeline that a policy requires. What happens to a run afterwards is
decided in `decisions.gates`.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Sequence
from typing import Any

from modelplane.errors import FieldError, InvalidResource
from modelplane.resources.gate_run import GateRun, GateRunSpec, ServedModel, Trigger
from modelplane.resources.meta import Metadata, Subject
from modelplane.resources.model import Model, ModelVersion
from modelplane.resources.revision import Revision
from modelplane.resources.validation_pipeline import ValidationPipeline, ValidationPipelineSpec

AUTOMATIC: frozenset[Trigger] = frozenset({"push", "dataset", "contract", "schedule"})
"""Triggers of runs that nobody waits for."""


def digest_json(value: Any) -> str:
    """Return the SHA-256 of plain data as canonical JSON, hex.

    Examples
    --------
    >>> digest_json({"b": 1, "a": [2]}) == digest_json({"a": [2], "b": 1})
    True
    """
    text = json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
    return hashlib.sha256(text.encode()).hexdigest()


def digest_pipeline(spec: ValidationPipelineSpec) -> str:
    """Return the digest that tells whether a run was made by the pipeline as it is now."""
    return digest_json(spec.to_dict())


def make_run(
    pipeline: ValidationPipeline,
    candidate: ServedModel,
    champion: ServedModel | None,
    *,
    number: int,
    trigger: Trigger,
    subject: Subject,
    reason: str = "",
    no_cache: bool = False,
) -> GateRun:
    """Return a new run of `pipeline`, to be created.

    Parameters
    ----------
    pipeline
        As it is now; its stages are pinned.
    candidate
        What is to be checked.
    champion
        What serves, to compare with; left out when it is the candidate itself.
    number
        The next of the pipeline's runs; the store refuses one that is taken.
    trigger, subject, reason
        Why, and who wanted it.
    no_cache
        Whether every stage is run anew.
    """
    revision = candidate.revision
    if champion is not None and champion.revision.digest == revision.digest:
        champion = None
    name = pipeline.metadata.name
    return GateRun(
        metadata=Metadata(
            name=f"{name}-{number}",
            labels={
                "model": revision.model,
                "version": revision.version,
                "pipeline": name,
                "revision": revision.short,
            },
        ),
        spec=GateRunSpec(
            pipeline=name,
            pipeline_digest=digest_pipeline(pipeline.spec),
            stages=pipeline.spec.stages,
            max_parallel=pipeline.spec.max_parallel,
            candidate=candidate,
            champion=champion,
            trigger=trigger,
            subject=subject,
            reason=reason,
            no_cache=no_cache,
        ),
    )


def check_meant(pipeline: ValidationPipeline, name: str, model: Model | None) -> None:
    """Raise `InvalidResource` when `pipeline` is not for the model of this name."""
    labels = model.metadata.labels if model else {}
    if not pipeline.spec.models.matches(name, labels):
        message = f"the pipeline is for other models: {pipeline.spec.models.to_dict()}"
        raise InvalidResource(
            f"{pipeline.metadata.name} is not for model {name}", [FieldError("model", message)]
        )


def number_of(run: GateRun) -> int:
    """Return the number in a run's name, 0 when it has none."""
    number = run.metadata.name.rpartition("-")[2]
    return int(number) if number.isdecimal() else 0


def newest_run(
    runs: Iterable[GateRun], pipeline: ValidationPipeline, revision: Revision
) -> GateRun | None:
    """Return the newest run of the pipeline as it is now for exactly `revision`.

    Cancelled runs say nothing and do not count.
    """
    digest = digest_pipeline(pipeline.spec)
    found = [
        run
        for run in runs
        if run.spec.pipeline == pipeline.metadata.name
        and run.spec.pipeline_digest == digest
        and run.spec.candidate.revision.digest == revision.digest
        and not run.spec.cancelled
        and run.status.phase != "Cancelled"
    ]
    return max(found, key=number_of, default=None)


def next_number(runs: Sequence[GateRun]) -> int:
    """Return the number of a pipeline's next run."""
    return max((number_of(run) for run in runs), default=0) + 1


def serve_version(version: ModelVersion, revision: Revision) -> ServedModel:
    """Return `version` under `revision` as its stages run it."""
    return ServedModel(
        revision=revision,
        signature=version.spec.signature,
        input_example=version.spec.input_example,
        flavour=version.spec.flavour,
    )
