"""Which ranges of users each version of a deployment has, as shares grow and shrink.

Called by `decisions.traffic`. Pure. Users lie on a line of `TOTAL_WEIGHT` basis points by the
hash of their id; a version has one or more ranges of it. The ranges of before are an input, so
that a version that grows takes users from stable alone and never from another version, however
many there are, and one that shrinks gives them back to stable alone.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from modelplane.decisions.routing import TOTAL_WEIGHT

Ranges = tuple[tuple[str, int], ...]
"""Revisions and the widths of their ranges, in the order of the hash."""


def allocate(previous: Sequence[tuple[str, int]], shares: Mapping[str, int], stable: str) -> Ranges:
    """Return the ranges that give each revision its share.

    Parameters
    ----------
    previous
        The ranges now; empty when there are none. Of revisions that have no share any more,
        stable takes them.
    shares
        Basis points of each revision but stable, at most `TOTAL_WEIGHT` in sum.
    stable
        The revision that has the rest.

    Examples
    --------
    >>> allocate((), {"b": 1000}, "a")
    (('b', 1000), ('a', 9000))
    >>> allocate((("b", 1000), ("a", 9000)), {"b": 2000, "c": 500}, "a")
    (('b', 2000), ('a', 7500), ('c', 500))
    """
    if sum(shares.values()) > TOTAL_WEIGHT:
        raise ValueError(f"shares sum to {sum(shares.values())}, above {TOTAL_WEIGHT}")
    line: list[tuple[str, int]] = [
        (revision if revision in shares else stable, width) for revision, width in previous
    ]
    if sum(width for _, width in line) != TOTAL_WEIGHT:
        line = [(stable, TOTAL_WEIGHT)]
    for revision, share in shares.items():
        line = _shrink(_merge(line), revision, share, stable)
    for revision, share in shares.items():
        line = _grow(_merge(line), revision, share, stable)
    return tuple(_merge(line))


def _merge(line: Sequence[tuple[str, int]]) -> list[tuple[str, int]]:
    merged: list[tuple[str, int]] = []
    for revision, width in line:
        if merged and merged[-1][0] == revision:
            merged[-1] = (revision, merged[-1][1] + width)
        elif width:
            merged.append((revision, width))
    return merged


def _held(line: Sequence[tuple[str, int]], revision: str) -> int:
    return sum(width for name, width in line if name == revision)


def _shrink(
    line: list[tuple[str, int]], revision: str, share: int, stable: str
) -> list[tuple[str, int]]:
    """Give the end of a revision's last ranges back to stable."""
    surplus = _held(line, revision) - share
    result: list[tuple[str, int]] = []
    for name, width in reversed(line):
        given = min(width, surplus) if name == revision and surplus > 0 else 0
        surplus -= given
        result += [(stable, given), (name, width - given)]
    return list(reversed(result))


def _grow(
    line: list[tuple[str, int]], revision: str, share: int, stable: str
) -> list[tuple[str, int]]:
    """Take from stable beside the revision's own ranges first, then where there is most.

    The first revision begins at the bottom of the line, the second at the top, and others in
    the middle of the widest range that is left, so that each has room to grow in one piece.
    """
    missing = share - _held(line, revision)
    while missing > 0:
        index = _next_to(line, revision, stable)
        if index is None:
            free = [i for i, (name, _) in enumerate(line) if name == stable]
            index = max(free, key=lambda i: line[i][1])
        width = line[index][1]
        taken = min(width, missing)
        missing -= taken
        below = _left_below(line, index, revision, width - taken)
        parts = [(stable, below), (revision, taken), (stable, width - taken - below)]
        line = _merge([*line[:index], *parts, *line[index + 1 :]])
    return line


def _left_below(line: Sequence[tuple[str, int]], index: int, revision: str, left: int) -> int:
    """Return how much of a range of stable stays below what `revision` takes of it."""
    if index and line[index - 1][0] == revision:
        return 0
    if index + 1 < len(line):
        return left if line[index + 1][0] == revision else left // 2
    return left if index else 0


def _next_to(line: Sequence[tuple[str, int]], revision: str, stable: str) -> int | None:
    for index, (name, _) in enumerate(line):
        beside = (*line[max(0, index - 1) : index], *line[index + 1 : index + 2])
        if name == stable and any(other == revision for other, _ in beside):
            return index
    return None
