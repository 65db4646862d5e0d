"""What a pickle has on its stack, as far as it must be known to judge the next instruction.

Made by `pickle_program`, looked at by `pickle_calls` and `pickle_arrays`. Short text, integers,
truth values and None stand for themselves; everything else that holds no code is `DATA`.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Final

from modelplane_runtime.pickle_names import Rule

MAX_TEXT = 1000
"""Longer text is `DATA`: no name, key or type is as long."""
_MAX_KEYS = 64


class Refused(Exception):
    """The program cannot be followed, or does what it may not.

    Parameters
    ----------
    message
        What it does.
    name
        The imported name that it is about, ``module.name``, if it is about one.
    """

    def __init__(self, message: str, name: str = "") -> None:
        super().__init__(message)
        self.message = message
        self.name = name


@dataclass(frozen=True, slots=True, eq=False)
class Data:
    """A number, or text that is too long to be looked at; of text the number of characters."""

    size: int = -1


DATA: Final = Data()


@dataclass(frozen=True, slots=True, eq=False)
class Bytes:
    """Bytes, of which only the number counts."""

    size: int


@dataclass(frozen=True, slots=True, eq=False)
class Global:
    """An imported name; `rule` is None where it is refused, ``any`` where the user allowed it."""

    name: str
    rule: Rule | str | None


@dataclass(frozen=True, slots=True, eq=False)
class Items:
    """A tuple."""

    values: tuple[Any, ...]


@dataclass(slots=True, eq=False)
class Sequence:
    """A list or a set, and how many items a list was given."""

    kind: str
    size: int = 0


@dataclass(slots=True, eq=False)
class Keyed:
    """A dict: its first keys, and whether all keys are plain text.

    Attributes
    ----------
    odd
        A key that is no short text, or has two underscores in front.
    full
        More keys than are remembered.
    pinned
        An object got it as its state: it must stay as it was judged.
    """

    known: dict[str, Any] = field(default_factory=dict)
    odd: str = ""
    full: bool = False
    pinned: bool = False

    def put(self, key: Any, value: Any) -> None:
        """Take one item; raises `Refused` when the dict must not change any more."""
        if self.pinned:
            raise Refused("changes a dict after an object got it as its state")
        if not isinstance(key, str) or key.startswith("__"):
            self.odd = key if isinstance(key, str) else "a key that is no text"
        elif len(self.known) < _MAX_KEYS or key in self.known:
            self.known[key] = value
        else:
            self.full = True


@dataclass(slots=True, eq=False)
class Made:
    """An object that was made by calling or instantiating a name.

    Attributes
    ----------
    of
        The name; empty where it was refused.
    arguments
        What it was made with.
    built
        Whether a state was set.
    itemsize, has_objects
        Of a numpy type: its size in bytes, and whether it holds Python objects; -1 where it is
        not known.
    items
        What was put into it, for those that are dicts.
    """

    of: str
    arguments: tuple[Any, ...] = ()
    built: bool = False
    itemsize: int = -1
    has_objects: bool = False
    items: Keyed | None = None
