"""Whether a gateway takes a regular expression: its grammar is RE2's, its program is bounded.

Called by `predicate_reading`. Pure. Envoy refuses a program of more than `MAX_PROGRAM`
instructions; RE2 alone knows the exact number, so this one is estimated from above: whatever
passes here, Envoy takes.
"""

from __future__ import annotations

import re
from functools import lru_cache

from cel_expr_python import cel

MAX_PROGRAM = 100
"""Instructions of the compiled expression that Envoy allows; one for a plain letter."""

_TOKEN = re.compile(
    r"""(?P<unicode>\\[pPXC])
      | (?P<quoted>\\Q.*?(?:\\E|$))
      | (?P<named>\[\[:\^?\w+:\]\]|\[:\^?\w+:\])
      | (?P<set>\[\^?\]?(?:\\.|\[:\^?\w+:\]|[^\]\\])*\])
      | (?P<escape>\\(?:x\{[0-9A-Fa-f]+\}|x[0-9A-Fa-f]{2}|[0-7]{3}|.))
      | (?P<open>\((?:\?(?:P?<\w+>|[imsU-]*:|[imsU-]+(?=\))))?)
      | (?P<close>\))
      | (?P<repeat>[*+?]\??|\{\d+(?:,\d*)?\}\??)
      | (?P<either>\|)
      | (?P<any>\.)
      | (?P<letter>.)""",
    re.VERBOSE | re.DOTALL,
)
_COUNTS = re.compile(r"\{(\d+)(,?)(\d*)\}")
_WIDE = 15
"""Instructions of a class that takes in almost every character, whose UTF-8 has 1 to 4 bytes."""

_ESCAPES = {"d": 1, "w": 4, "s": 3, "D": _WIDE, "W": _WIDE, "S": _WIDE}


def find_regex_fault(pattern: str) -> str:
    """Say what is wrong with a regular expression; nothing when a gateway takes it.

    Examples
    --------
    >>> find_regex_fault("^(west|east)-[0-9]{1,3}$")
    ''
    >>> find_regex_fault("west(")
    'bad regular expression: missing ): west('
    """
    try:
        value = _matching().eval(data={"text": "", "pattern": pattern})
        bad = "" if value.type() == cel.Type.BOOL else str(value.value())
    except Exception as error:  # the library raises RuntimeError, and says no more in its types
        bad = str(error)
    if bad:
        words = bad.partition("invalid regular expression: ")[2] or bad
        return f"bad regular expression: {words.partition(' [INVALID')[0][:200]}"
    size = estimate_program(pattern)
    if size > MAX_PROGRAM:
        return (
            f"the regular expression is too large for the gateway: about {size} steps, "
            f"{MAX_PROGRAM} at the most; count less, or use startsWith, contains, endsWith"
        )
    return ""


def estimate_program(pattern: str) -> int:
    """Return at least as many instructions as RE2 makes of a valid `pattern`.

    Examples
    --------
    >>> estimate_program("a{50}") <= MAX_PROGRAM < estimate_program("a{200}")
    True
    """
    folds = "(?i" in pattern or re.search(r"\(\?[imsU]*i", pattern) is not None
    done: list[int] = []  # the size of each group that is open, without its last part
    total, last = 6, 0
    for match in _TOKEN.finditer(pattern):
        kind, text = match.lastgroup, match.group()
        if kind == "open":
            done.append(total + last)
            total, last = 2, 0
        elif kind == "close":
            total, last = (done.pop() if done else 0), total + last
        elif kind == "repeat":
            last = _repeated(last, text)
        else:
            total, last = total + last, _size_of(kind or "", text, folds=folds)
    return total + last + sum(done)


def _repeated(size: int, text: str) -> int:
    counts = _COUNTS.match(text)
    if counts is None:
        return size + 2
    least = int(counts[1])
    most = int(counts[3]) if counts[3] else least
    return max(1, least, most) * (size + (1 if counts[2] else 0)) + 2


def _size_of(kind: str, text: str, *, folds: bool) -> int:
    if kind == "unicode":
        return MAX_PROGRAM + 1
    if kind == "any":
        return _WIDE
    if kind == "either":
        return 2
    if kind == "set":
        return _size_of_set(text, folds=folds)
    if kind == "named":
        return _WIDE if "^" in text else 10
    if kind == "quoted":
        return sum(_size_of_letter(letter, folds=folds) for letter in text[2:])
    if kind == "escape":
        if text[1] in _ESCAPES:
            return _ESCAPES[text[1]] + (_WIDE if folds else 0)
        return _size_of_letter(text[1:], folds=folds)
    return _size_of_letter(text, folds=folds)


def _size_of_letter(text: str, *, folds: bool) -> int:
    plain = text.isascii() and not text.startswith("x{")
    if plain:
        return 5 if folds and text.lower() in {"k", "s"} else 1
    return 20 if folds else 4


def _size_of_set(text: str, *, folds: bool) -> int:
    if text.startswith("[^") or re.search(r"\\[DWS]|\[:\^", text):
        wide = _WIDE + (_WIDE if folds else 0)
        return wide + (len(text) if text.isascii() else 8 * len(text))
    if "\\p" in text or "\\P" in text:
        return MAX_PROGRAM + 1
    if not text.isascii() or "\\x{" in text:
        return 20 * len(text)
    ranges = re.sub(r"[A-Za-z0-9]-[A-Za-z0-9]", "-", text[1:-1])
    return len(ranges) + text.count("\\w") * 3 + text.count("[:") * 6 + (8 if folds else 0)


@lru_cache(maxsize=1)
def _matching() -> cel.Expression:
    names = {"text": cel.Type.STRING, "pattern": cel.Type.STRING}
    return cel.NewEnv(variables=names).compile("text.matches(pattern)")
