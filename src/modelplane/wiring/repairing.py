"""Where playbooks meet what they ask and what they post with. Called by `wiring.controllers`."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from modelplane.adapters.notify.webhook import WebhookNotifier
from modelplane.controllers.loop import Fence, Reconciler
from modelplane.controllers.playbook_starts import PlaybookStartController
from modelplane.controllers.playbooks import PlaybookController
from modelplane.ports.alerting import Querier
from modelplane.ports.clock import Clock
from modelplane.ports.notifier import Notifier
from modelplane.ports.store import Store
from modelplane.settings import Settings


@dataclass(frozen=True, slots=True)
class RepairControllers:
    """What begins runs of playbooks, and what carries them out."""

    starts: PlaybookStartController
    runs: PlaybookController
    poster: Notifier

    @property
    def reconcilers(self) -> Sequence[Reconciler]:
        """What is run by the loop."""
        return [self.starts, self.runs]

    async def close(self) -> None:
        """Close connections."""
        await self.poster.close()


def make_repair_controllers(
    settings: Settings,
    store: Store,
    fence: Fence,
    clock: Clock,
    *,
    querier: Querier,
    secret: Callable[[str], str | None],
) -> RepairControllers:
    """Return the controllers of playbooks.

    Parameters
    ----------
    settings
        The budget, and the address of this modelplane.
    store, fence, clock
        The ports.
    querier
        Answers conditions.
    secret
        Returns a secret by its name, or None.
    """
    poster = WebhookNotifier(secret, clock)
    return RepairControllers(
        PlaybookStartController(
            store, fence, clock, budget_per_hour=settings.playbook_budget_per_hour
        ),
        PlaybookController(
            store,
            fence,
            clock,
            querier=querier,
            poster=poster,
            source=settings.public_url or settings.api_url,
        ),
        poster,
    )
