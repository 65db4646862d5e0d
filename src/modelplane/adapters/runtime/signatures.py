"""Verifying signatures with model-signing, behind `ports.signatures`.

Built by wiring, used by the agent before it builds a version's environment.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from pathlib import Path

from modelplane.client.signing import SignatureRefused, verify_files
from modelplane.errors import ModelplaneError

_TIMEOUT_S = 600.0


class ModelSignatures:
    """Verifies in a thread of its own: hashing large files takes seconds."""

    async def find_fault(
        self, artifact: Path, bundles: Sequence[str], public_keys: Sequence[str]
    ) -> str | None:
        """Verify; see `ports.signatures`."""
        try:
            async with asyncio.timeout(_TIMEOUT_S):
                await asyncio.to_thread(verify_files, artifact, bundles, public_keys)
        except SignatureRefused as error:
            return str(error)
        except TimeoutError:
            return f"the files could not be verified within {_TIMEOUT_S:g} s"
        except ModelplaneError as error:
            return f"{error} ({error.hint})" if error.hint else str(error)
        except OSError as error:
            return f"the files cannot be read: {error.strerror}"
        return None
