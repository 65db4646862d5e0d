"""skops files: scikit-learn objects without pickles, loaded with named types only."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from modelplane_runtime.errors import LoadError

TRUSTED_PREFIXES = ("sklearn.", "numpy.", "scipy.")


def load_skops(path: Path) -> Any:
    """Load a skops file, trusting the types of scikit-learn, numpy and scipy.

    Raises
    ------
    LoadError
        The file is damaged, or needs a type from elsewhere; the message names the types.
    """
    try:
        import skops.io  # noqa: PLC0415
    except ImportError as error:
        raise LoadError("a skops file takes skops, which is not installed") from error
    try:
        types = skops.io.get_untrusted_types(file=path)
        refused = [name for name in types if not name.startswith(TRUSTED_PREFIXES)]
        if not refused:
            return skops.io.load(path, trusted=types)
    except Exception as error:  # a damaged zip, a missing class, a version that skops cannot read
        raise LoadError(
            f"skops cannot load {path.name}: {type(error).__name__}: {error}"
        ) from error
    raise LoadError(
        f"{path.name} needs types that are not trusted: {', '.join(refused)}. "
        "Only those of sklearn, numpy and scipy are"
    )
