"""How the runs of triggers and their tokens are called. Pure; used by `training` and the API."""

from __future__ import annotations

import re

from modelplane.resources.token import Token

TRAINING_GROUP_PREFIX = "system:training/"
"""Groups of the tokens of runs begin so; the model's name follows."""

_TOKEN_PREFIX = "training-"  # noqa: S105 - how tokens are named


def run_number(trigger: str, run: str) -> int:
    """Return the number in the name of a trigger's run, 0 for a run of another trigger.

    Examples
    --------
    >>> run_number("fraud", "fraud-12"), run_number("fraud", "fraud-eu-3")
    (12, 0)
    """
    match = re.fullmatch(re.escape(trigger) + r"-(\d+)", run)
    return int(match[1]) if match else 0


def token_name(run: str) -> str:
    """Return the name of the Token that a run registers versions with."""
    return f"{_TOKEN_PREFIX}{run}"


def run_of_token(name: str) -> str:
    """Return the run whose Token is called `name`."""
    return name.removeprefix(_TOKEN_PREFIX)


def training_group(model: str) -> str:
    """Return the group whose tokens may register versions of `model`, as runs of training do."""
    return f"{TRAINING_GROUP_PREFIX}{model}"


def model_of_group(group: str) -> str | None:
    """Return the model of a group that `training_group` made; None for any other."""
    model = group.removeprefix(TRAINING_GROUP_PREFIX)
    return model if model != group and model else None


def is_training_token(token: Token) -> bool:
    """Whether a token is that of a run: people's may have a name that looks like one."""
    return any(model_of_group(group) is not None for group in token.spec.groups)
