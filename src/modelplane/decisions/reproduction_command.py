"""How a recorded command line is run again: its words, its secrets, its interpreter. Pure.

Called by ``modelplane reproduce``. Runs nothing.
"""

from __future__ import annotations

import re
import shlex
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import PurePosixPath

from modelplane.decisions.reproduction import UNKNOWN

HIDDEN = "***"
"""What stands in a recorded command line in the place of a secret."""

_PYTHON = re.compile(r"python[0-9.]*(\.exe)?")
_NOTEBOOKS = ("ipykernel_launcher", "ipykernel", "colab_kernel_launcher")
_RECORDED_LIMIT = 4000


@dataclass(frozen=True, slots=True)
class RecordedCommand:
    """A command line that can be run.

    Attributes
    ----------
    words
        Program and arguments, secrets filled in: not to be shown.
    shown
        The command line as it was recorded.
    secrets
        The values that were filled in, to keep them out of logs.
    """

    words: tuple[str, ...]
    shown: str
    secrets: tuple[str, ...] = ()

    @property
    def is_python(self) -> bool:
        """Whether the program is a Python interpreter."""
        return _PYTHON.fullmatch(PurePosixPath(self.words[0]).name) is not None

    @property
    def script(self) -> int | None:
        """Where in `words` the path of the Python script stands; None when there is none."""
        if not self.is_python:
            return None
        skip = False
        for index, word in enumerate(self.words[1:], 1):
            if skip:
                skip = False
            elif word in {"-c", "-m", "-"} or word.startswith(("-c", "-m")):
                return None
            elif word in {"-W", "-X", "--check-hash-based-pycs"}:
                skip = True
            elif not word.startswith("-"):
                return index
        return None


def read_command(recorded: str, secrets: Mapping[str, str]) -> RecordedCommand | str:
    """Return the recorded command line as one that can be run, or why it cannot.

    Parameters
    ----------
    recorded
        The command line, quoted as a shell does; ``unknown`` when none was recorded.
    secrets
        Values by option, written without leading hyphens: ``api-key``.

    Examples
    --------
    >>> read_command("python train.py --api-key '***'", {"api-key": "k"}).words
    ('python', 'train.py', '--api-key', 'k')
    >>> read_command("unknown", {})
    'no command was recorded'
    """
    if recorded in {UNKNOWN, ""}:
        return "no command was recorded"
    if len(recorded) >= _RECORDED_LIMIT:
        return f"the command was longer than {_RECORDED_LIMIT:,} characters and was recorded cut"
    try:
        words = shlex.split(recorded)
    except ValueError as error:
        return f"the recorded command cannot be read: {error}"
    if not words or not words[0]:
        return "no command was recorded"
    if any(notebook in word for word in words[:4] for notebook in _NOTEBOOKS):
        return "it was trained in a notebook, whose cells were not recorded"
    typed = len(words) == 1 or words[-1] in {"-", "-i"}
    if typed and _PYTHON.fullmatch(PurePosixPath(words[0]).name):
        return "it was trained at Python's prompt, whose lines were not recorded"
    return _fill(words, recorded, secrets)


def _fill(words: list[str], recorded: str, secrets: Mapping[str, str]) -> RecordedCommand | str:
    known = {_option_name(name): value for name, value in secrets.items()}
    filled, used, missing = [], [], []
    for index, word in enumerate(words):
        option, _, value = word.partition("=")
        if word == HIDDEN and index:
            option, prefix = words[index - 1], ""
        elif value == HIDDEN:
            prefix = f"{option}="
        else:
            filled.append(word)
            continue
        secret = known.get(_option_name(option))
        if secret is None:
            missing.append(option)
        else:
            used.append(secret)
            filled.append(prefix + secret)
    if missing:
        options = " ".join(f"--secret {_option_name(option)}=VARIABLE" for option in missing)
        return (
            f"the value of {', '.join(missing)} was not recorded, being a secret: put it into a "
            f"variable and name that with {options}"
        )
    return RecordedCommand(tuple(filled), recorded, tuple(used))


def _option_name(option: str) -> str:
    return option.lstrip("-").replace("_", "-").lower()


def hide_secrets(text: str, secrets: tuple[str, ...]) -> str:
    """Return text with every secret replaced by ``***``."""
    # The longest first: of one that begins with another, nothing may be left over.
    for secret in sorted(filter(None, secrets), key=len, reverse=True):
        text = text.replace(secret, HIDDEN)
    return text
