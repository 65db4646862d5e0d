"""Kinds and names as people type them on the command line: ``deployment/fraud``.

Called by the commands that take any kind.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from modelplane.errors import InvalidResource
from modelplane.resources.fields import suggest
from modelplane.resources.kinds import KINDS, find_kind
from modelplane.resources.meta import DEFAULT_ENVIRONMENT, Resource

AnyResource = Resource[Any, Any]


def parse_kind(word: str) -> type[AnyResource]:
    """Return the kind that `word` names; raises `InvalidResource` with the nearest."""
    kind = find_kind(word)
    if kind is None:
        names = [kind.plural for kind in KINDS.values()]
        raise InvalidResource(f"no kind {word!r}", hint=suggest(word, names))
    return kind


def parse_target(words: Sequence[str]) -> tuple[type[AnyResource], list[str]]:
    """Return kind and names in ``KIND``, ``KIND NAME…`` or ``KIND/NAME…``.

    Raises
    ------
    InvalidResource
        No such kind, or several kinds at once.
    """
    if "/" not in words[0]:
        return parse_kind(words[0]), list(words[1:])
    pairs = [word.partition("/") for word in words]
    kinds = {parse_kind(kind) for kind, _, _ in pairs}
    names = [name for _, _, name in pairs]
    if len(kinds) > 1 or not all(names):
        raise InvalidResource("name one kind at a time, such as deployment/a deployment/b")
    return kinds.pop(), names


def place_of(kind: type[AnyResource], environment: str | None) -> str | None:
    """Return the environment to ask in: the one given, or production; None for global kinds.

    Raises
    ------
    InvalidResource
        An environment was given for a kind that belongs to none.
    """
    if kind.scoped:
        return environment or DEFAULT_ENVIRONMENT
    if environment is not None:
        raise InvalidResource(
            f"kind {kind.__name__} belongs to no environment", hint="leave out --environment"
        )
    return None


def parse_pairs(option: str, texts: Sequence[str]) -> dict[str, str]:
    """Return ``KEY=VALUE`` texts as a dict; raises `InvalidResource` naming the option."""
    pairs = {}
    for text in texts:
        key, equals, value = text.partition("=")
        if not equals or not key.strip():
            raise InvalidResource(f"{option} {text!r}: write it like key=value")
        pairs[key.strip()] = value
    return pairs
