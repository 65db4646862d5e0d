"""Contracts: published by consumers, deployed with them, kept or broken by versions. Pure.

Called by the API (`api.contracts`), by the controller that records verifications, and by whoever
gives a stage the contracts that it looks at. Whether a version may go somewhere is decided in
`decisions.deployability`.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Literal

from pydantic import ValidationError

from modelplane.decisions.pacts import digest_pact, read_pact
from modelplane.errors import Conflict, FieldError, InvalidResource
from modelplane.resources.checks import ContractCheck, SchemaCheck
from modelplane.resources.contract import Contract, ContractSpec, ContractStatus, Verification
from modelplane.resources.gate_run import GateRun, StageResult
from modelplane.resources.meta import Metadata

MAX_VERIFICATIONS = 200
"""Kept with a contract: of the versions that were verified last."""
_MESSAGE_CHARS = 500
_NEVER = datetime.min.replace(tzinfo=UTC)


@dataclass(frozen=True, slots=True)
class Published:
    """A contract that was published, and what that changes.

    Attributes
    ----------
    contract
        As it is now.
    result
        What became of it.
    moved
        Other contracts of the consumer that change with it: its other versions leave the
        environments that this one is deployed in.
    """

    contract: Contract
    result: Literal["created", "changed", "unchanged"]
    moved: tuple[Contract, ...] = ()

    @property
    def written(self) -> tuple[Contract, ...]:
        """Everything to be written."""
        return self.moved if self.result == "unchanged" else (self.contract, *self.moved)


def contract_name(consumer: str, model: str, consumer_version: str) -> str:
    """Return the name of a contract.

    Examples
    --------
    >>> contract_name("shop", "fraud", "3.1.0")
    'shop.fraud@3.1.0'
    """
    return f"{consumer}.{model}@{consumer_version}"


def contract_labels(consumer: str, model: str) -> dict[str, str]:
    """Return the labels by which contracts are found."""
    return {"consumer": consumer, "model": model}


def read_contract(
    pact: Mapping[str, Any],
    consumer_version: str,
    *,
    models: Collection[str],
    model: str | None = None,
) -> Contract:
    """Return the contract that a pact file is, as one that was not published yet.

    Parameters
    ----------
    pact
        The file's content.
    consumer_version
        The version of the consumer that expects this.
    models
        The models that there are.
    model
        The provider, where the pact calls it by another name.

    Raises
    ------
    InvalidResource
        It is no pact, names are not valid, or the provider is no model; with every path.
    """
    read = read_pact(pact)
    provider = model or read.provider
    if provider not in models:
        path = "model" if model else "pact.provider.name"
        message = f"there is no model {provider[:80]!r}"
        hint = "push a version first, or say which model is meant with `model`"
        raise InvalidResource("the contract is with nobody", [FieldError(path, message)], hint=hint)
    try:
        spec = ContractSpec(
            consumer=read.consumer,
            consumer_version=consumer_version,
            model=provider,
            digest=digest_pact(pact),
            pact=dict(pact),
        )
        metadata = Metadata(
            name=contract_name(spec.consumer, spec.model, spec.consumer_version),
            labels=contract_labels(spec.consumer, spec.model),
        )
    except ValidationError as error:
        raise InvalidResource("the contract is not valid", _faults(error)) from None
    return Contract(metadata=metadata, spec=spec)


_PLACES = {"consumer": "pact.consumer.name", "name": "pact.consumer.name", "model": "model"}


def _faults(error: ValidationError) -> list[FieldError]:
    faults = []
    for fault in error.errors(include_url=False, include_input=False, include_context=False):
        field = str(fault["loc"][0])
        message = str(fault["msg"]).removeprefix("Value error, ")
        if field == "consumer_version":
            field, message = "consumerVersion", "1 to 100 letters, digits and - . +"
        faults.append(FieldError(_PLACES.get(field, field), message))
    return faults


def publish_contract(
    wanted: Contract, environments: Iterable[str], of_consumer: Sequence[Contract]
) -> Published:
    """Publish `wanted`; the same again changes nothing.

    Parameters
    ----------
    wanted
        From `read_contract`.
    environments
        Where this version of the consumer is deployed from now on.
    of_consumer
        All contracts of the consumer, and the one of this name, if there is one.

    Raises
    ------
    Conflict
        This version of the consumer was published with another pact.
    """
    name = wanted.metadata.name
    before = next((c for c in of_consumer if c.metadata.name == name), None)
    if before is not None:
        _check_same(before, wanted)
    contract = before or wanted
    others = [c for c in of_consumer if c.metadata.name != name]
    added = dict.fromkeys(environments)
    deployed = _deploy([contract, *others], contract.spec.consumer, _version(contract), added)
    after = next((c for c in deployed if c.metadata.name == name), contract)
    moved = tuple(c for c in deployed if c.metadata.name != name)
    if before is None:
        return Published(after, "created", moved)
    return Published(after, "unchanged" if after == before else "changed", moved)


def _check_same(before: Contract, wanted: Contract) -> None:
    had, has = before.spec, wanted.spec
    if (had.consumer, had.model) != (has.consumer, has.model):
        raise Conflict(
            f"the name {before.metadata.name} is taken by the contract of {had.consumer!r} with "
            f"{had.model!r}",
            hint="rename the consumer",
        )
    if had.digest != has.digest:
        raise Conflict(
            f"{had.consumer} {had.consumer_version} has published another pact with {had.model}",
            hint="publish a changed pact as another version of the consumer",
        )


def record_deployment(
    contracts: Iterable[Contract], consumer: str, consumer_version: str, environment: str
) -> tuple[Contract, ...]:
    """Return the contracts that change when a version of a consumer goes to an environment.

    It takes the place of the consumer's other versions there.
    """
    return _deploy(contracts, consumer, consumer_version, (environment,))


def _deploy(
    contracts: Iterable[Contract], consumer: str, version: str, environments: Iterable[str]
) -> tuple[Contract, ...]:
    places = tuple(environments)
    changed = []
    for contract in contracts:
        if contract.spec.consumer != consumer:
            continue
        had = contract.spec.environments
        if _version(contract) == version:
            has = tuple(sorted({*had, *places}))
        else:
            has = tuple(place for place in had if place not in places)
        if set(has) != set(had):
            changed.append(contract.with_spec(environments=has))
    return tuple(changed)


def record_undeployment(
    contracts: Iterable[Contract], consumer: str, consumer_version: str, environment: str
) -> tuple[Contract, ...]:
    """Return the contracts that change when a version of a consumer leaves an environment."""
    return tuple(
        contract.with_spec(
            environments=tuple(e for e in contract.spec.environments if e != environment)
        )
        for contract in contracts
        if contract.spec.consumer == consumer
        and _version(contract) == consumer_version
        and environment in contract.spec.environments
    )


def _version(contract: Contract) -> str:
    return contract.spec.consumer_version


# -- what is verified -----------------------------------------------------------------------


def contracts_of(
    contracts: Iterable[Contract], model: str, configuration: ContractCheck | SchemaCheck
) -> tuple[dict[str, Any], ...]:
    """Return the contracts that a stage looks at, in their outside form, by name.

    Of each consumer of the model the version published last, and every version that is deployed
    somewhere. What does not matter to the stage is left out (verifications, environments), so
    that the result changes only when there is something else to verify.
    """
    wanted: Sequence[str] = ()
    if isinstance(configuration, ContractCheck):
        wanted = configuration.consumers
    elif configuration.compatible_with == "champion":
        return ()
    mine = [
        c for c in contracts if c.spec.model == model and (not wanted or c.spec.consumer in wanted)
    ]
    newest = {c.spec.consumer: c for c in sorted(mine, key=_published)}
    chosen = {c.metadata.name: c for c in (*newest.values(), *mine)
              if c.spec.environments or newest[c.spec.consumer] is c}  # fmt: skip
    return tuple(_for_stage(chosen[name]) for name in sorted(chosen))


def newest_contract(contracts: Iterable[Contract]) -> Contract | None:
    """Return the contract that was published last."""
    return max(contracts, key=_published, default=None)


def _published(contract: Contract) -> tuple[datetime, str]:
    return contract.metadata.created_at or _NEVER, contract.metadata.name


def _for_stage(contract: Contract) -> dict[str, Any]:
    bare = Contract(
        metadata=Metadata(name=contract.metadata.name),
        spec=contract.spec.with_(environments=()),
        status=ContractStatus(),
    )
    return bare.to_dict()


# -- what was found -------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Verdict:
    """What a result says of one contract: its name, the digest of its pact, and the finding."""

    contract: str
    digest: str
    verification: Verification


def results_on_contracts(run: GateRun) -> tuple[str, ...]:
    """Return the names of the results of a run's checks `contract`, as far as there are some."""
    checks = {stage.name for stage in run.spec.stages if stage.check == "contract"}
    return tuple(s.result for s in run.status.stages if s.name in checks and s.result)


def read_verdicts(result: StageResult, version: str) -> tuple[Verdict, ...]:
    """Return what the result of a check `contract` says of each contract; of others nothing.

    Parameters
    ----------
    result
        Made of `version`, or of another one with the same files whose result was reused.
    version
        The version that it is taken for.
    """
    details = result.spec.outcome.details
    artifact, items = details.get("artifact"), details.get("contracts")
    if result.spec.check != "contract" or not isinstance(artifact, str):
        return ()
    at = result.metadata.created_at or _NEVER
    verdicts = []
    for item in items if isinstance(items, list) else ():
        if not isinstance(item, Mapping) or not isinstance(item.get("name"), str):
            continue
        verification = Verification(
            version=version,
            artifact=artifact,
            passed=item.get("passed") is True,
            result=result.metadata.name,
            at=at,
            message=str(item.get("message", ""))[:_MESSAGE_CHARS],
        )
        verdicts.append(Verdict(item["name"], str(item.get("digest", "")), verification))
    return tuple(verdicts)


def add_verdict(contract: Contract, verdict: Verdict) -> Contract:
    """Return `contract` with a verdict about it; unchanged when it says nothing new.

    Of each version and its files the latest verification stays; of all versions the newest
    `MAX_VERIFICATIONS`. So results may come in any order, and again.
    """
    new = verdict.verification
    if verdict.digest != contract.spec.digest:
        return contract
    kept = {(v.version, v.artifact): v for v in contract.status.verifications}
    before = kept.get((new.version, new.artifact))
    if before is not None and (before.at, before.result) >= (new.at, new.result):
        return contract
    kept[new.version, new.artifact] = new
    ordered = sorted(kept.values(), key=lambda v: (v.at, v.version, v.artifact))
    return contract.with_status(verifications=tuple(ordered[-MAX_VERIFICATIONS:]))


def find_verification(contract: Contract, version: str, artifact: str) -> Verification | None:
    """Return what was found of a version with these files, if it was verified."""
    found = (
        v for v in contract.status.verifications if (v.version, v.artifact) == (version, artifact)
    )
    return next(found, None)
