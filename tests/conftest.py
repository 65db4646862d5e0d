"""What all tests share: how hard the property tests look, and how often memory is tidied."""

from __future__ import annotations

import gc
import os

from hypothesis import HealthCheck, settings

for _name, _examples in {"default": 25, "thorough": 1000}.items():
    settings.register_profile(
        _name,
        max_examples=_examples,
        deadline=None,
        suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
        # A gate says the same of the same code; people's machines look for what nobody saw yet.
        derandomize=os.environ.get("CI") == "true",
    )
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "default"))


def pytest_collection_finish() -> None:
    """Leave what was imported out of each garbage collection: it took a third of the time."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(50_000, 20, 20)
