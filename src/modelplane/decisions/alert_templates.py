"""Templates in labels and annotations of alerts: ``{{ $labels.instance }}``. Pure.

Called by `alert_rules` and by playbooks. A part of Prometheus' templates: labels, the value,
literals, ``humanize``, ``humanizePercentage``, ``humanizeDuration`` and ``printf`` of numbers,
nested by pipes. What is beyond it is named in the text where it stands; nothing ever fails.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass

MAX_CHARS = 4_000
"""Of a text, before and after it is filled in; the rest is cut."""

MAX_WORDS = 100
"""Of one action."""

_ACTION = re.compile(r"\{\{(-\s)?((?:\"(?:[^\"\\]|\\.)*\"|`[^`]*`|[^\"`])*?)(\s-)?\}\}")
_WORD = re.compile(
    r"""\s*(?:"(?P<text>(?:[^"\\]|\\.)*)"|`(?P<raw>[^`]*)`|(?P<number>-?\d+(?:\.\d+)?)"""
    r"""|(?P<name>[$.]?[A-Za-z_][\w]*(?:\.[A-Za-z_]\w*)?)|(?P<pipe>\|)|(?P<open>\()|(?P<close>\)))"""
)
_VERB = re.compile(r"%[-+ 0#]*\d{0,3}(?:\.\d{1,2})?([feEgGsvdq%])")
_LARGE, _SMALL = ("", "k", "M", "G", "T", "P", "E", "Z", "Y"), "munpfazy"

Term = str | float


@dataclass(frozen=True, slots=True)
class Facts:
    """What templates may name."""

    labels: Mapping[str, str]
    value: float | None = None
    external_url: str = ""


class _NotUnderstood(Exception):
    """An action is beyond what is known here."""


def fill_in(text: str, facts: Facts) -> str:
    """Return `text` with its templates filled in.

    Examples
    --------
    >>> facts = Facts({"version": "2.0.0"}, 0.4567)
    >>> fill_in("{{ $labels.version }} fails {{ $value | humanizePercentage }}", facts)
    '2.0.0 fails 45.67%'
    >>> fill_in("{{ range query }}", facts)
    '[not filled in: {{ range query }}]'
    """
    text = text[:MAX_CHARS]
    filled: list[str] = []
    at = 0
    # An action that is never closed ends the search: one pass over the text, whatever is in it.
    while (start := text.find("{{", at)) >= 0 and (match := _ACTION.match(text, start)):
        trims_left, action, trims_right = match.groups()
        before = text[at:start]
        filled += [before.rstrip() if trims_left else before, _fill_in_action(action, facts)]
        at = match.end()
        if trims_right:
            at += len(text[at:]) - len(text[at:].lstrip())
    return "".join([*filled, text[at:]])[:MAX_CHARS]


def _fill_in_action(action: str, facts: Facts) -> str:
    if action.strip().startswith("/*"):
        return ""
    try:
        return _show(_Action(action, facts).compute())
    except _NotUnderstood:
        return f"[not filled in: {{{{ {action.strip()} }}}}]"


class _Action:
    """One ``{{ … }}``: a term, or functions of terms, joined by pipes."""

    def __init__(self, text: str, facts: Facts) -> None:
        self._facts = facts
        self._words = _split(text)

    def compute(self) -> Term:
        value = self._pipeline()
        if self._words:
            raise _NotUnderstood
        return value

    def _pipeline(self) -> Term:
        value = self._command(None)
        while self._words and self._words[0][0] == "pipe":
            self._words.pop(0)
            value = self._command(value)
        return value

    def _command(self, piped: Term | None) -> Term:
        """One term alone, or a function with its arguments, the piped one last."""
        if not self._words:
            raise _NotUnderstood
        kind, word = self._words[0]
        if kind != "name" or word[0] in "$.":
            if piped is not None:
                raise _NotUnderstood
            return self._term()
        self._words.pop(0)
        arguments = []
        while self._words and self._words[0][0] not in {"pipe", "close"}:
            arguments.append(self._term())
        if piped is not None:
            arguments.append(piped)
        return _call(word, arguments)

    def _term(self) -> Term:
        kind, word = self._words.pop(0)
        if kind in {"text", "raw"}:
            return word
        if kind == "number":
            return float(word)
        if kind == "open":
            value = self._pipeline()
            if not self._words or self._words.pop(0)[0] != "close":
                raise _NotUnderstood
            return value
        if kind != "name":
            raise _NotUnderstood
        return self._variable(word)

    def _variable(self, word: str) -> Term:
        root, _, name = word.partition(".") if word[0] == "$" else word[1:].partition(".")
        if root in {"$labels", "Labels"} and name:
            return self._facts.labels.get(name, "")
        if root in {"$value", "Value"} and not name:
            return "" if self._facts.value is None else self._facts.value
        if root in {"$externalURL", "ExternalURL"} and not name:
            return self._facts.external_url
        raise _NotUnderstood


def _split(text: str) -> list[tuple[str, str]]:
    words: list[tuple[str, str]] = []
    at = 0
    text = text.strip()
    while at < len(text):
        match = _WORD.match(text, at)
        if match is None or len(words) >= MAX_WORDS:
            raise _NotUnderstood
        kind = match.lastgroup or ""
        word = match[kind]
        words.append((kind, re.sub(r"\\(.)", r"\1", word) if kind == "text" else word))
        at = match.end()
    return words


def _call(function: str, arguments: list[Term]) -> Term:
    if function == "printf" and arguments and isinstance(arguments[0], str):
        return _printf(arguments[0], arguments[1:])
    compute = _FUNCTIONS.get(function)
    if compute is None or len(arguments) != 1:
        raise _NotUnderstood
    try:
        return compute(float(arguments[0]))
    except ValueError:
        raise _NotUnderstood from None


def _printf(pattern: str, values: list[Term]) -> str:
    left = list(values)

    def replace(match: re.Match[str]) -> str:
        verb = match[1]
        if verb == "%":
            return "%"
        if not left:
            raise _NotUnderstood
        value = left.pop(0)
        if verb in "vsq":
            return _show(value)
        if isinstance(value, str) or verb == "d":
            raise _NotUnderstood
        if not math.isfinite(value):
            return _show(value)
        return match[0] % value

    filled = _VERB.sub(replace, pattern)
    if left or "%" in _VERB.sub("", pattern):
        raise _NotUnderstood
    return filled


def _show(term: Term) -> str:
    """Print a number as Go does: the shortest that reads back, exponents only far out."""
    if isinstance(term, str):
        return term
    if math.isnan(term):
        return "NaN"
    if math.isinf(term):
        return "+Inf" if term > 0 else "-Inf"
    if term and not 1e-4 <= abs(term) < 1e21:
        mantissa, _, exponent = f"{term!r}".partition("e")
        if exponent:
            return f"{mantissa.removesuffix('.0')}e{exponent}"
    text = f"{term!r}" if "e" not in f"{term!r}" else f"{term:.0f}"
    return text.removesuffix(".0")


def _humanize(value: float) -> str:
    if value == 0 or not math.isfinite(value):
        return _short(value)
    prefix = ""
    if abs(value) >= 1:
        steps = 0
        while abs(value) >= 1000 and steps < len(_LARGE) - 1:
            value, steps = value / 1000, steps + 1
        prefix = _LARGE[steps]
    else:
        for prefix in _SMALL:  # noqa: B007 (the last one stays)
            value *= 1000
            if abs(value) >= 1:
                break
    return f"{_short(value)}{prefix}"


def _humanize_percentage(value: float) -> str:
    return f"{_short(value * 100)}%"


def _humanize_duration(value: float) -> str:
    if not math.isfinite(value):
        return _short(value)
    if abs(value) < 1:
        return f"{_humanize(value)}s"
    sign, value = "-" if value < 0 else "", abs(value)
    whole = int(value)
    days, hours = divmod(whole // 3600, 24)
    minutes, seconds = whole // 60 % 60, whole % 60
    if days:
        return f"{sign}{days}d {hours}h {minutes}m {seconds}s"
    if hours:
        return f"{sign}{hours}h {minutes}m {seconds}s"
    if minutes:
        return f"{sign}{minutes}m {seconds}s"
    return f"{sign}{_short(value)}s"


def _short(value: float) -> str:
    return f"{value:.4g}" if math.isfinite(value) else _show(value)


_FUNCTIONS: Mapping[str, Callable[[float], str]] = {
    "humanize": _humanize,
    "humanizePercentage": _humanize_percentage,
    "humanizeDuration": _humanize_duration,
}
