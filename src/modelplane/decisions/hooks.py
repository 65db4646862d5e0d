"""Monitoring hooks: the words by which people say what a version is watched for.

Called when a traffic policy is admitted, by `decisions.rollout` for the strategy that holds, and
for a policy's status. Pure. A hook becomes a metric of the strategy's analysis, so that what
watches is the one sequential test there is, with its error control; a hook is no second alarm.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, get_args

from modelplane.errors import FieldError, InvalidResource
from modelplane.resources.strategy import Analysis, MetricRule, Strategy
from modelplane.resources.traffic_policy import HookStatus
from modelplane.stats.latency import DEFAULT_SLOWDOWN

Percentile = Literal[50, 95, 99]
PERCENTILES: tuple[int, ...] = get_args(Percentile)

KNOWN_HOOKS = (
    "latency_alert",
    "latency_alert>95th",
    "latency_alert>95th>20%",
    "error_alert",
    "error_alert>1%",
    "drift_detection/enabled",
)
"""One of each form, as messages show them."""

_KNOWN = ", ".join(KNOWN_HOOKS)
_EVERY_PERCENTILE = "50th, 95th and 99th percentiles"
_FORM = re.compile(
    r"(?P<name>[a-z][a-z_ -]*?)\s*"
    r"(?:/\s*(?P<switch>[a-z]+)\s*)?"
    r"(?:[>@:/]\s*p?(?P<percentile>\d{1,2}(?:\.\d+)?)\s*(?P<ordinal>th|st|nd|rd)?(?!\s*[%\d.])\s*)?"
    r"(?:[>@:]\s*(?P<margin>\d+(?:\.\d+)?)\s*%\s*)?",
    re.IGNORECASE,
)
_WATCHED = {
    "latency": "latency",
    "latencyalert": "latency",
    "error": "errors",
    "errors": "errors",
    "errorrate": "errors",
    "erroralert": "errors",
    "errorsalert": "errors",
    "errorratealert": "errors",
    "drift": "drift",
    "driftdetection": "drift",
    "driftalert": "drift",
}


@dataclass(frozen=True, slots=True)
class Hook:
    """One hook, read.

    Attributes
    ----------
    text
        As it was written.
    watches
        The metric of the analysis, or ``drift``.
    percentile
        ``latency`` only: of stable, beyond which the candidate is judged; None: 50, 95 and 99.
    margin
        How much worse the candidate may be, as `MetricRule.margin`; None: its default.
    """

    text: str
    watches: Literal["latency", "errors", "drift"]
    percentile: Percentile | None = None
    margin: float | None = None


def parse_hook(text: str) -> Hook:
    """Return the hook that `text` writes.

    Raises
    ------
    ValueError
        It is none; says which there are.

    Examples
    --------
    >>> parse_hook("latency_alert>95th").percentile, parse_hook("error_alert>1%").margin
    (95, 0.01)
    """
    match = _FORM.fullmatch(text.strip())
    plain = "".join(c for c in (match["name"] if match else "").lower() if c.isalpha())
    watches: Any = _WATCHED.get(plain)
    if match is None or watches is None:
        raise ValueError(f"not a hook: {text[:80]!r}; known are {_KNOWN}")
    if match["switch"] and (watches != "drift" or match["switch"].lower() != "enabled"):
        raise ValueError(f"not a hook: {text[:80]!r}; to switch one off, leave it out")
    if watches == "drift" and (match["percentile"] or match["margin"]):
        raise ValueError(f"not a hook: {text[:80]!r}; write drift_detection/enabled")
    return Hook(text, watches, _percentile(match, watches, text), _margin(match, watches, text))


def _percentile(match: re.Match[str], watches: str, text: str) -> Any:
    written = match["percentile"]
    if written is None:
        return None
    if watches != "latency":
        raise ValueError(
            f"not a hook: {text[:80]!r}; errors have no percentile: write error_alert>1%"
        )
    if float(written) not in PERCENTILES:
        known = ", ".join(f"{percentile}th" for percentile in PERCENTILES)
        raise ValueError(f"not a hook: {text[:80]!r}; percentiles are {known}")
    return int(float(written))


def _margin(match: re.Match[str], watches: str, text: str) -> float | None:
    if match["margin"] is None:
        return None
    margin = float(match["margin"]) / 100
    most = 10.0 if watches == "latency" else 1.0
    if margin <= 0 or margin > most or (watches == "errors" and margin == most):
        below = "at most 1000 %" if watches == "latency" else "below 100 %"
        raise ValueError(f"not a hook: {text[:80]!r}; a margin lies above 0 and {below}")
    return margin


def check_hooks(hooks: Sequence[str], *, path: str = "spec.monitoringHooks") -> tuple[Hook, ...]:
    """Return all hooks, read.

    Raises
    ------
    InvalidResource
        With each one that is unknown and each that contradicts one before it.
    """
    faults: list[FieldError] = []
    read: dict[str, Hook] = {}
    found: list[Hook] = []
    for index, text in enumerate(hooks):
        try:
            hook = parse_hook(text)
        except ValueError as error:
            faults.append(FieldError(f"{path}[{index}]", str(error)))
            continue
        before = read.setdefault(hook.watches, hook)
        if (before.percentile, before.margin) != (hook.percentile, hook.margin):
            message = f"{hook.watches} is watched twice, also by {before.text!r}; write one of them"
            faults.append(FieldError(f"{path}[{index}]", message))
        found.append(hook)
    if faults:
        raise InvalidResource("a monitoring hook is not known", faults)
    return tuple(found)


def apply_hooks(strategy: Strategy, hooks: Sequence[str]) -> Strategy:
    """Return `strategy` with its analysis watching what the hooks say.

    A hook adds its metric or sharpens the one that is there; whatever else is judged stays so.
    A strategy that compares nothing stays as it is. Hooks that are not known (any more) are
    passed over: they were refused when the policy was admitted.
    """
    analysis = strategy.analysis
    if analysis is None:
        return strategy
    metrics = {metric.name: metric for metric in analysis.metrics}
    for hook in filter(None, map(_find, hooks)):
        if hook.watches == "drift":
            continue
        rule = metrics.get(hook.watches) or MetricRule(name=hook.watches)
        if hook.margin is not None:
            rule = rule.with_(margin=hook.margin)
        if hook.percentile is not None:
            rule = rule.with_(percentile=hook.percentile)
        metrics[hook.watches] = rule
    return _with_analysis(strategy, analysis.with_(metrics=tuple(metrics.values())))


def _with_analysis(strategy: Strategy, analysis: Analysis) -> Strategy:
    if strategy.canary is not None:
        return strategy.with_(canary=strategy.canary.with_(analysis=analysis))
    if strategy.rolling is not None:
        return strategy.with_(rolling=strategy.rolling.with_(analysis=analysis))
    if strategy.shadow is not None:
        return strategy.with_(shadow=strategy.shadow.with_(analysis=analysis))
    if strategy.ab is not None:
        return strategy.with_(ab=strategy.ab.with_(analysis=analysis))
    return strategy


def watches_drift(hooks: Sequence[str]) -> bool:
    """Whether drift is among what the hooks watch."""
    return any(hook.watches == "drift" for hook in filter(None, map(_find, hooks)))


def hook_statuses(
    hooks: Sequence[str], strategy: Strategy | None = None, *, keeps_predictions: bool = True
) -> tuple[HookStatus, ...]:
    """Return what each hook watches, or what it waits for.

    `strategy` is the one it is to watch; one that compares nothing has nothing to be watched.
    Drift is watched in the predictions that the deployment keeps.
    """
    blind = strategy.type if strategy is not None and strategy.analysis is None else ""
    analysis = apply_hooks(strategy, hooks).analysis if strategy is not None else None
    rules = {rule.name: rule for rule in analysis.metrics} if analysis is not None else {}
    return tuple(
        _drift_status(text, keeps_predictions)
        if watches_drift([text])
        else _status(text, _find(text), rules, blind)
        for text in hooks
    )


def _drift_status(text: str, keeps_predictions: bool) -> HookStatus:
    if not keeps_predictions:
        message = "the deployment keeps no predictions: write `predictions: {}` in its spec"
        return HookStatus(hook=text, state="waiting", message=message)
    message = "holds the ramp while the version's inputs or outputs are not as in its reference"
    return HookStatus(hook=text, state="active", message=message)


def _find(text: str) -> Hook | None:
    try:
        return parse_hook(text)
    except ValueError:
        return None


def _status(
    text: str, hook: Hook | None, rules: Mapping[str, MetricRule], blind: str
) -> HookStatus:
    if hook is None:
        message = f"not a hook that is known; known are {_KNOWN}"
        return HookStatus(hook=text, state="waiting", message=message)
    if blind:
        message = f"{blind} compares nothing: use canary, rolling, shadow or ab"
        return HookStatus(hook=hook.text, state="waiting", message=message)
    own = MetricRule(name=hook.watches, margin=hook.margin, percentile=hook.percentile)
    message = _describe(rules.get(hook.watches, own))
    return HookStatus(hook=hook.text, state="active", message=message)


def _describe(rule: MetricRule) -> str:
    margin = rule.margin
    if rule.name == "errors":
        within = f"; passes within {margin * 100:.4g} points of it" if margin is not None else ""
        return f"rolls back when the version fails more than stable{within}"
    which = f"{rule.percentile}th percentile" if rule.percentile else _EVERY_PERCENTILE
    by = f"{(DEFAULT_SLOWDOWN if margin is None else margin) * 100:.4g} %"
    return f"rolls back when the version is slower than stable's {which} by more than {by}"
