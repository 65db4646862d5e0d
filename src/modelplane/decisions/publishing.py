"""Where a version goes that a script publishes by its status: ``production``, ``staging``.

Called by the publishing endpoint and by stage transitions of the MLflow registry. Pure: it
finds the environment and the deployment; what promoting means is in `decisions.admission`.
"""

from __future__ import annotations

from collections.abc import Sequence

from modelplane.errors import Conflict, FieldError, InvalidResource, NotFound
from modelplane.resources.environment import Environment
from modelplane.resources.model_deployment import ModelDeployment


class NoDeployment(NotFound):
    """The model is deployed neither there nor in an environment before."""

    code = "no-deployment"


def choose_environment(status: str, environments: Sequence[Environment]) -> Environment:
    """Return the environment that `status` names, by its own name or else by its stage.

    Upper and lower case do not matter for a stage.

    Raises
    ------
    InvalidResource
        None has that name or stage; says which there are.
    Conflict
        Several have that stage.
    """
    for environment in environments:
        if environment.metadata.name == status:
            return environment
    staged = [e for e in environments if e.spec.stage == status.lower()]
    if len(staged) == 1:
        return staged[0]
    names = ", ".join(sorted(e.metadata.name for e in staged or environments)) or "none"
    if staged:
        raise Conflict(
            f"several environments have stage {status!r}: {names}",
            hint="give the name of one of them as status",
        )
    message = f"is no environment and no stage of one; there are: {names}"
    raise InvalidResource("the body is not valid", [FieldError("status", message)])


def choose_deployment(
    model: str,
    target: Environment,
    environments: Sequence[Environment],
    deployments: Sequence[ModelDeployment],
    *,
    wanted: str | None = None,
) -> ModelDeployment:
    """Return the deployment of `model` that a promotion into `target` starts from.

    That is the one deployment of the model in `target` or, when there is none, the one in the
    environment nearest before it on the way to production, which is then copied.

    Parameters
    ----------
    model
        Name of the model.
    target
        Where the version is to serve.
    environments, deployments
        All there are.
    wanted
        Name of the deployment, where the model has several.

    Raises
    ------
    NoDeployment
        The model has none there or before (or none of that name); says how to declare one.
    Conflict
        It has several and none was named, or the name belongs to another model there.
    """
    place = target.metadata.name
    own = [d for d in deployments if d.spec.model == model and wanted in {None, d.metadata.name}]
    earlier = [e for e in environments if e.spec.order < target.spec.order]
    earlier.sort(key=lambda e: (-e.spec.order, e.metadata.name))
    for environment in (target, *earlier):
        here = [d for d in own if d.metadata.environment == environment.metadata.name]
        if len(here) > 1:
            names = ", ".join(sorted(d.metadata.name for d in here))
            raise Conflict(
                f"model {model!r} has several deployments in {environment.metadata.name}: {names}",
                hint="say which: deployment",
            )
        if here:
            _check_free(here[0], place, deployments)
            return here[0]
    name = f"deployment {wanted!r} of model {model!r}" if wanted else f"deployment of {model!r}"
    elsewhere = sorted({str(d.metadata.environment) for d in own})
    raise NoDeployment(
        f"there is no {name} in {place}, nor in an environment before it"
        + (f"; it is in: {', '.join(elsewhere)}" if elsewhere else ""),
        hint=f"declare one: modelplane apply -f FILE, a ModelDeployment with model {model} and "
        f"environment {place}",
    )


def _check_free(
    source: ModelDeployment, place: str, deployments: Sequence[ModelDeployment]
) -> None:
    """Raise `Conflict` when the name that would be copied to is another model's."""
    name = source.metadata.name
    for other in deployments:
        key = (other.metadata.environment, other.metadata.name)
        if key == (place, name) and other.spec.model != source.spec.model:
            raise Conflict(
                f"deployment {name!r} in {place} is of model {other.spec.model!r}, "
                f"not {source.spec.model!r}",
                hint=f"declare another deployment of {source.spec.model} in {place}",
            )
