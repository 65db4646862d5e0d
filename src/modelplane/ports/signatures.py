"""Whether a version's files are signed as its environment requires, as the agent asks it."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Protocol


class SignatureVerifier(Protocol):
    """Verifies signatures over files."""

    async def find_fault(
        self, artifact: Path, bundles: Sequence[str], public_keys: Sequence[str]
    ) -> str | None:
        """Return what is wrong; None when one of `public_keys` signed exactly these files.

        Whatever keeps it from finding out is a fault too. Takes as long as reading the files.
        """
