"""Reads what past promotions were decided by, with other policies in place of the applied ones.

Used by the API to replay policies. Reads everything once, since many promotions share it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from modelplane.decisions.deployability import can_deploy
from modelplane.decisions.gate_runs import number_of
from modelplane.decisions.policies import Surroundings, matching_policies, mentions
from modelplane.decisions.policy_replay import pipeline_of
from modelplane.decisions.promotion_guards import Gate, Guards, required_pipelines
from modelplane.decisions.rollout_ab import last_verdict
from modelplane.ports.promotion_guards import Policies, load_surroundings
from modelplane.ports.store import Store
from modelplane.resources.approval import Approval
from modelplane.resources.contract import Contract
from modelplane.resources.environment import Environment
from modelplane.resources.gate_run import GateRun, StageResult
from modelplane.resources.meta import Metadata
from modelplane.resources.model import Model, ModelVersion
from modelplane.resources.promotion import Promotion
from modelplane.resources.rollout import Rollout


class PastPromotions:
    """Finds what there was of each promotion; call `open` once before `guards`."""

    def __init__(self, store: Store, policies: Policies) -> None:
        self._store = store
        self._policies = policies
        self._around = Surroundings()
        self._environments: Mapping[str, Environment] = {}
        self._models: Mapping[str, Model] = {}
        self._runs: Mapping[tuple[str, str], Sequence[GateRun]] = {}
        self._approvals: Mapping[str, Sequence[Approval]] = {}
        self._contracts: Sequence[Contract] = ()
        self._rollouts: Sequence[Rollout] = ()
        self._versions: dict[str, ModelVersion | None] = {}
        self._results: dict[str, StageResult | None] = {}

    async def open(self) -> None:
        """Read what all promotions share."""
        store = self._store
        self._around = await load_surroundings(store)
        environments, _ = await store.list(Environment)
        self._environments = {e.metadata.name: e for e in environments}
        self._models = {m.metadata.name: m for m in (await store.list(Model))[0]}
        runs: dict[tuple[str, str], list[GateRun]] = {}
        for run in (await store.list(GateRun))[0]:
            key = run.spec.pipeline, run.spec.candidate.revision.digest
            runs.setdefault(key, []).append(run)
        self._runs = runs
        approvals: dict[str, list[Approval]] = {}
        for approval in (await store.list(Approval))[0]:
            approvals.setdefault(approval.spec.revision_digest, []).append(approval)
        self._approvals = approvals
        if mentions([*self._policies.promotion, *self._policies.approval], "contracts."):
            self._contracts, _ = await store.list(Contract)
        if mentions([*self._policies.promotion, *self._policies.approval], "ab."):
            self._rollouts, _ = await store.list(Rollout)

    async def guards(self, promotion: Promotion) -> Guards | None:
        """Return what would have guarded `promotion`; None when its environment is gone.

        Of a pipeline that is required, the run that the promotion rested on counts, or else the
        newest one of its revision; its stages as they were then.
        """
        revision, place = promotion.spec.revision, promotion.metadata.environment or ""
        environment = self._environments.get(place)
        if environment is None:
            return None
        empty = Model(metadata=Metadata(name=revision.model))
        model = self._models.get(revision.model, empty)
        version = await self._version(f"{revision.model}@{revision.version}")
        matching = matching_policies(self._policies.promotion, place, model)
        gates, pipelines = {}, dict(self._around.pipelines)
        for name in required_pipelines(matching):
            run = self._run(name, promotion)
            if run is not None:
                gates[name] = Gate(run, results=await self._results_of(run))
                pipelines[name] = pipeline_of(run)
        digest = revision.artifact.digest
        deployable = can_deploy(self._contracts, revision.model, revision.version, digest, place)
        return Guards(
            environment, model, version,
            matching, self._policies.approval, self._approvals.get(revision.digest, ()),
            gates=gates,
            around=Surroundings(pipelines, self._around.datasets, self._around.environments),
            can_deploy=deployable[0],
            ab_verdict=last_verdict(self._rollouts, revision, promotion.metadata.created_at),
        )  # fmt: skip

    def _run(self, pipeline: str, promotion: Promotion) -> GateRun | None:
        runs = self._runs.get((pipeline, promotion.spec.revision.digest), ())
        noted = {gate.run for gate in promotion.status.gates if gate.pipeline == pipeline}
        own = [run for run in runs if run.metadata.name in noted]
        return max(own or runs, key=number_of, default=None)

    async def _version(self, name: str) -> ModelVersion | None:
        if name not in self._versions:
            self._versions[name] = await self._store.find(ModelVersion, name)
        return self._versions[name]

    async def _results_of(self, run: GateRun) -> dict[str, StageResult]:
        found = {}
        for stage in run.status.stages:
            if stage.result and stage.result not in self._results:
                self._results[stage.result] = await self._store.find(StageResult, stage.result)
            result = self._results.get(stage.result or "")
            if result is not None:
                found[stage.name] = result
        return found
