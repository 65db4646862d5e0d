"""How the API and the controllers read a model that they are about to write.

Stands beside the store's port because both floors need it and neither knows the other.
"""

from __future__ import annotations

from modelplane.decisions.aliases import continue_history
from modelplane.ports.store import Store
from modelplane.resources.meta import Metadata
from modelplane.resources.model import AliasMove, Model


async def load_model(store: Store, name: str) -> Model:
    """Return a model as it is stored, or a new one of that name that is not stored yet.

    A new one counts on from the moves of a deleted model of its name, whose records stay.
    """
    found = await store.find(Model, name)
    if found is not None:
        return found
    moves, _ = await store.list(AliasMove, prefix=f"{name}@")
    return continue_history(Model(metadata=Metadata(name=name)), moves)
