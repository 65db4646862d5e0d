"""What a stage's result depends on, by name, and the key made of it. Pure.

Called by `decisions.gate_plans`. A stage whose every input has the digest of an earlier one is
not run again. Whatever cannot be known makes a stage that is never reused; it says so itself.

The inputs are: ``check``, its ``configuration``, the ``code`` of stages and of the model server,
the ``environment`` (every package installed here, with its version: the lock), the ``model``
(digest of its files), its ``runtime`` (requirements, variables, limits, format) and ``interface``
(signature and example), ``data:NAME`` for each dataset, the ``champion`` where it is compared with,
``contracts`` and ``signatures`` where they are looked at, and the ``node`` where speed is
measured. Neither the stage's name nor its time-out, retries, memory or shards are among them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from modelplane.decisions.gate_runs import digest_json
from modelplane.resources.checks import (
    AccuracyCheck,
    CommandCheck,
    DataCheck,
    LatencyCheck,
    ParityCheck,
    SchemaCheck,
    SecurityScanCheck,
)
from modelplane.resources.gate_run import DataInput, ServedModel, StageResult, StageTask
from modelplane.resources.validation_pipeline import Stage

NODE = "local"
"""Where jobs of stages run."""


@dataclass(frozen=True, slots=True)
class StagePlace:
    """What stages are run by here.

    Attributes
    ----------
    code
        Digest of the source of stages and of the model server.
    environment
        Digest of the installed packages and of the Python version.
    public_key
        This modelplane's own key, PEM, that signatures are checked with; empty when it has none.
    """

    code: str
    environment: str
    public_key: str = ""


def compares(stage: Stage) -> bool:
    """Whether the stage looks at the champion."""
    check = stage.configuration
    if isinstance(check, LatencyCheck):
        return check.max_slowdown is not None
    if isinstance(check, SchemaCheck):
        return check.compatible_with != "consumers"
    return isinstance(check, AccuracyCheck)


def compute_inputs(task: StageTask, place: StagePlace) -> dict[str, str]:
    """Return what the result of a stage depends on: a digest or a word, by name.

    Parameters
    ----------
    task
        As the stage's job will be given it, filled with only what the check looks at.
    place
        What it is run by.
    """
    candidate = task.candidate
    inputs = {
        "check": task.stage.check,
        "configuration": digest_json(task.stage.configuration.to_dict()),
        "code": place.code,
        "environment": place.environment,
        "model": candidate.revision.artifact.digest,
        "runtime": _runtime(candidate),
        "interface": _interface(candidate),
    }
    for data in task.datasets:
        inputs[f"data:{data.name}"] = data.digest
    if compares(task.stage):
        inputs["champion"] = _identity(task.champion) if task.champion else "none"
    if task.stage.check in {"contract", "schema"}:
        inputs["contracts"] = digest_json(sorted(map(_contract, task.contracts)))
    if task.stage.check == "security_scan":
        inputs["signatures"] = digest_json([*task.signatures, sorted(task.trusted_keys)])
    if task.stage.check == "latency":
        inputs["node"] = NODE
    return inputs


def why_never_reused(stage: Stage, datasets: Sequence[DataInput]) -> str:
    """Return why no result of the stage is ever reused; empty when it may be."""
    check = stage.configuration
    for data in datasets:
        if ":" not in data.digest:
            return f"the content of {data.name} is not known: it was registered without a digest"
    if isinstance(check, ParityCheck):
        return "it asks what runs in the environments just now"
    if isinstance(check, DataCheck):
        return "it asks what production is asked just now"
    if isinstance(check, SecurityScanCheck) and check.vulnerabilities:
        return f"the content of {check.vulnerabilities} is not known here"
    if isinstance(check, CommandCheck):
        outside = [word for word in check.run if _is_path(word, check.files)]
        if outside:
            return f"the content of {outside[0][:200]} is not known here; give it under files"
    return ""


def _is_path(word: str, files: Mapping[str, str]) -> bool:
    """Whether a word of a command names a file that is not one of the stage's own."""
    if word.startswith("{") or "://" in word or word.removeprefix("./") in files:
        return False
    return "/" in word and not any(character.isspace() for character in word)


def compute_key(inputs: Mapping[str, str]) -> str:
    """Return the key of a result with `inputs`.

    Examples
    --------
    >>> compute_key({"a": "1", "b": "2"}) == compute_key({"b": "2", "a": "1"})
    True
    """
    return digest_json(dict(inputs))


def changed_inputs(inputs: Mapping[str, str], before: StageResult) -> tuple[str, ...]:
    """Return the names of the inputs that differ from those of an earlier result."""
    known = before.spec.inputs
    return tuple(name for name in sorted({*inputs, *known}) if inputs.get(name) != known.get(name))


def _identity(served: ServedModel) -> str:
    return digest_json([served.revision.artifact.digest, _runtime(served), _interface(served)])


def _runtime(served: ServedModel) -> str:
    runtime, artifact = served.revision.runtime, served.revision.artifact
    return digest_json(
        {
            "requirements": runtime.requirements,
            "env": runtime.env,
            "resources": runtime.resources.to_dict(),
            "format": artifact.format,
            "command": list(artifact.command),
        }
    )


def _contract(contract: Mapping[str, Any]) -> str:
    """Return the identity of a contract, which its verifications and deployments do not change."""
    spec = contract["spec"]
    return digest_json([spec["consumer"], spec["consumerVersion"], spec["pact"]])


def _interface(served: ServedModel) -> str:
    return digest_json([served.signature, served.input_example, served.flavour])
