"""Can it be deployed: consumers against versions of models, in one environment. Pure.

Answers what `can-i-deploy` of a pact broker answers, in its shape, for both sides: a version of a
model (is every consumer that is deployed there content with it?) and a version of a consumer (do
the models that serve there give what it needs?). Called by the API and by promotion policies.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime

from pydantic import Field

from modelplane.decisions.contracts import find_verification
from modelplane.resources.contract import Contract
from modelplane.resources.meta import Part

_SHOWN = 3


class Pacticipant(Part):
    """One side of a contract; no version when none serves there."""

    name: str
    version: str | None = None


class VerificationResult(Part):
    """What a verification found."""

    success: bool
    verified_at: datetime
    result: str = Field(description="The StageResult that says so.")
    message: str = ""


class MatrixRow(Part):
    """A version of a consumer against a version of a model; not verified: no result."""

    contract: str
    consumer: Pacticipant
    provider: Pacticipant
    verification_result: VerificationResult | None = None


class Summary(Part):
    """The answer. `deployable` is absent (null) when something was not verified."""

    deployable: bool | None
    reason: str
    success: int = 0
    failed: int = 0
    unknown: int = 0


class Deployability(Part):
    """The answer with everything that it rests on."""

    summary: Summary
    matrix: tuple[MatrixRow, ...] = ()


@dataclass(frozen=True, slots=True)
class ServedVersion:
    """A version of a model and the digest of its files."""

    version: str
    artifact: str


def rows_of_model(
    contracts: Iterable[Contract], model: str, served: ServedVersion, environment: str
) -> list[MatrixRow]:
    """Return a version of a model against every consumer that is deployed in `environment`."""
    return [
        _row(contract, served)
        for contract in _ordered(contracts)
        if contract.spec.model == model and environment in contract.spec.environments
    ]


def rows_of_consumer(
    contracts: Iterable[Contract],
    consumer: str,
    version: str,
    serving: Mapping[str, Sequence[ServedVersion]],
) -> list[MatrixRow]:
    """Return a version of a consumer against what serves: versions by model."""
    return [
        _row(contract, served)
        for contract in _ordered(contracts)
        if (contract.spec.consumer, contract.spec.consumer_version) == (consumer, version)
        for served in serving.get(contract.spec.model) or (None,)
    ]


def summarize(rows: Sequence[MatrixRow], environment: str) -> Summary:
    """Return what the rows mean: yes, no, or not known because something was not verified."""
    failed = [r for r in rows if r.verification_result and not r.verification_result.success]
    unknown = [r for r in rows if r.verification_result is None]
    counts = {
        "success": len(rows) - len(failed) - len(unknown),
        "failed": len(failed),
        "unknown": len(unknown),
    }
    if failed:
        reason = f"broken: {_list([_tell_broken(row) for row in failed])}"
        return Summary(deployable=False, reason=reason, **counts)
    if unknown:
        told = _list([_tell_unknown(row, environment) for row in unknown])
        return Summary(deployable=None, reason=f"not verified: {told}", **counts)
    if not rows:
        reason = f"no contract binds it in {environment}: no consumer is recorded as deployed there"
        return Summary(deployable=True, reason=reason, **counts)
    contracts = "the contract is" if len(rows) == 1 else f"all {len(rows)} contracts are"
    return Summary(deployable=True, reason=f"{contracts} kept in {environment}", **counts)


def can_deploy(
    contracts: Iterable[Contract], model: str, version: str, artifact_digest: str, environment: str
) -> tuple[bool, str]:
    """Return whether a version of a model may go to `environment`, and why or why not.

    Every version of a consumer that is deployed there must have been verified with success. A
    consumer that nobody recorded as deployed there binds nothing.
    """
    served = ServedVersion(version, artifact_digest)
    summary = summarize(rows_of_model(contracts, model, served, environment), environment)
    return summary.deployable is True, summary.reason


def _ordered(contracts: Iterable[Contract]) -> list[Contract]:
    return sorted(contracts, key=lambda contract: contract.metadata.name)


def _row(contract: Contract, served: ServedVersion | None) -> MatrixRow:
    spec = contract.spec
    found = find_verification(contract, served.version, served.artifact) if served else None
    return MatrixRow(
        contract=contract.metadata.name,
        consumer=Pacticipant(name=spec.consumer, version=spec.consumer_version),
        provider=Pacticipant(name=spec.model, version=served.version if served else None),
        verification_result=found
        and VerificationResult(
            success=found.passed, verified_at=found.at, result=found.result, message=found.message
        ),
    )


def _tell_broken(row: MatrixRow) -> str:
    message = row.verification_result.message if row.verification_result else ""
    return f"{_pair(row)}" + (f" ({message})" if message else "")


def _tell_unknown(row: MatrixRow, environment: str) -> str:
    if row.provider.version is None:
        return f"{row.contract}, since no version of {row.provider.name} serves in {environment}"
    return _pair(row)


def _pair(row: MatrixRow) -> str:
    return f"{row.contract} by {row.provider.name}@{row.provider.version}"


def _list(items: Sequence[str]) -> str:
    more = f" and {len(items) - _SHOWN} more" if len(items) > _SHOWN else ""
    return "; ".join(items[:_SHOWN]) + more
