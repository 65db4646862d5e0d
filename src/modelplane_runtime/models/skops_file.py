"""skops files: scikit-learn objects without pickles, loaded with trusted types only.

A name in a file is trusted when the allowlist of pickles has it (`pickle_names`), beside those
that skops trusts by itself. Being of scikit-learn, numpy or scipy is not enough: there are
functions among these that read files, and classes that execute text from their state.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from modelplane_runtime.errors import LoadError
from modelplane_runtime.pickle_names import judge

# What a partial calls stands in the file by itself, and is judged by itself.
TRUSTED_NAMES = frozenset({"functools.partial"})


def load_skops(path: Path) -> Any:
    """Load a skops file, trusting what the allowlist has of scikit-learn, numpy and scipy.

    Raises
    ------
    LoadError
        The file is damaged, or needs a type that is not trusted; the message names the types.
    """
    try:
        import skops.io  # noqa: PLC0415
    except ImportError as error:
        raise LoadError("a skops file takes skops, which is not installed") from error
    try:
        types = skops.io.get_untrusted_types(file=path)
        refused = [name for name in types if not is_trusted(name)]
        if not refused:
            return skops.io.load(path, trusted=types)
    except Exception as error:  # a damaged zip, a missing class, a version that skops cannot read
        raise LoadError(
            f"skops cannot load {path.name}: {type(error).__name__}: {error}"
        ) from error
    raise LoadError(
        f"{path.name} needs types that are not trusted: {', '.join(refused)}. "
        "Those of which models of sklearn, numpy and scipy consist are"
    )


def is_trusted(name: str) -> bool:
    """Tell whether a name that a file uses may be loaded."""
    module, _, attribute = name.rpartition(".")
    return name in TRUSTED_NAMES or judge(module, attribute) is not None
