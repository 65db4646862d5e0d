"""The store of predictions that the settings name, open for as long as the control plane runs.

Called by `wiring.control_plane`.
"""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator

from modelplane.adapters.clock import SystemClock
from modelplane.adapters.predictions.sqlite import SqlitePredictions
from modelplane.settings import Settings


@contextlib.asynccontextmanager
async def open_predictions(settings: Settings) -> AsyncIterator[SqlitePredictions]:
    """Open the store in a prepared state directory.

    Raises
    ------
    TerminalError
        Nothing installed opens the address for Parquet files, or the index cannot be used.
    """
    paths = settings.paths
    predictions = SqlitePredictions(
        paths.predictions_index, settings.predictions_location, SystemClock()
    )
    await predictions.open()
    try:
        yield predictions
    finally:
        await predictions.close()
