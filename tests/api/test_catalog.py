"""The registry in memory is the registry that is stored, however it was kept up."""

from __future__ import annotations

from modelplane.api.catalog import Catalog
from modelplane.decisions.registry_index import RegistryIndex
from modelplane.ports.store import Transaction
from modelplane.resources.meta import Metadata
from modelplane.resources.model import Model, ModelVersion, ModelVersionSpec
from tests.api.world import SYSTEM, World


def make_version(number: int, **tags: str) -> ModelVersion:
    spec = ModelVersionSpec(model="fraud", version=f"{number}.0.0", number=number)
    version = ModelVersion(metadata=Metadata(name=f"fraud@{number}.0.0"), spec=spec)
    return version.with_status(tags=tags)


async def same_as_stored(world: World, index: RegistryIndex) -> bool:
    """Whether an index holds what one holds that reads the store anew."""
    stored = await Catalog(world.store).current()
    held = index.models == stored.models and index.versions == stored.versions
    tags = [dict(i.tagged("team", "risk")) for i in (index, stored)]
    return held and tags[0] == tags[1]


async def test_what_was_committed_here_is_known_without_asking(world: World) -> None:
    catalog = Catalog(world.store)
    await catalog.current()
    transaction = Transaction(SYSTEM)
    transaction.create(Model(metadata=Metadata(name="fraud")))
    transaction.create(make_version(1, team="risk"))
    catalog.absorb(await world.store.commit(transaction))
    assert catalog.through == world.store.newest_version()
    assert await same_as_stored(world, await catalog.current())


async def test_what_comes_out_of_order_or_from_others_is_found_as_ever(world: World) -> None:
    catalog = Catalog(world.store)
    await catalog.current()
    commits = []
    for number in range(1, 6):
        transaction = Transaction(SYSTEM)
        transaction.create(make_version(number, team="risk"))
        commits.append(await world.store.commit(transaction))
    for written in (commits[1], commits[0], commits[4], commits[0], commits[1], commits[3]):
        catalog.absorb(written)
    index = await catalog.current()
    assert len(index.tagged("team", "risk")) == 5
    assert await same_as_stored(world, index)
    changes = Transaction(SYSTEM)
    changes.update(commits[0][0].with_status(tags={"team": "fraud"}))
    changes.delete(commits[1][0])
    catalog.absorb(await world.store.commit(changes))
    index = await catalog.current()
    assert set(index.tagged("team", "risk")) == {f"fraud@{n}.0.0" for n in (3, 4, 5)}
    assert await same_as_stored(world, index)
