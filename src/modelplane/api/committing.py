"""Load, decide, commit: again from the start when somebody else was faster.

Used by every route that writes.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from typing import TypeVar

from modelplane.errors import Conflict
from modelplane.ports.store import AnyResource, Store, Transaction

T = TypeVar("T")

_ATTEMPTS = 5


async def commit(
    store: Store, prepare: Callable[[], Awaitable[tuple[Transaction, T]]]
) -> tuple[T, Sequence[AnyResource]]:
    """Commit what `prepare` loads and decides; return its result and what was written.

    Parameters
    ----------
    store
        Where to.
    prepare
        Loads the present state and decides; called again after a conflict, so it must have no
        effect of its own. What it raises is not tried again.

    Raises
    ------
    Conflict
        Somebody else was faster five times in a row.
    """
    for attempt in range(1, _ATTEMPTS + 1):
        transaction, result = await prepare()
        if not transaction:
            return result, ()
        try:
            return result, await store.commit(transaction)
        except Conflict:
            if attempt == _ATTEMPTS:
                raise
    raise AssertionError("unreachable")
