"""skops files: scikit-learn objects without pickles, loaded with trusted types only.

A name in a file is trusted when it begins with scikit-learn, numpy or scipy *and* what it names
was made there: ``sklearn.some_module.Popen`` would otherwise do. Functions that read files or run
programs are refused all the same.
"""

from __future__ import annotations

import importlib
from pathlib import Path
from typing import Any

from modelplane_runtime.errors import LoadError

TRUSTED_PREFIXES = ("sklearn.", "numpy.", "scipy.")
# What a partial calls stands in the file by itself, and is judged by itself.
TRUSTED_NAMES = frozenset({"functools.partial"})

_REFUSED_PREFIXES = (
    *("numpy.load", "numpy.from", "numpy.genfromtxt", "numpy.save", "numpy.memmap"),
    *("numpy.ctypeslib", "numpy.distutils", "numpy.f2py", "numpy.lib.", "numpy.testing"),
    *("scipy.datasets", "scipy.io", "sklearn.datasets", "sklearn.utils._testing"),
)


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
        refused = [name for name in types if not is_trusted(name)]
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


def is_trusted(name: str) -> bool:
    """Tell whether a name that a file uses may be loaded."""
    if name in TRUSTED_NAMES:
        return True
    if not name.startswith(TRUSTED_PREFIXES) or name.startswith(_REFUSED_PREFIXES):
        return False
    module, _, attribute = name.rpartition(".")
    try:
        found = getattr(importlib.import_module(module), attribute)
    except (ImportError, AttributeError):
        return False
    home = getattr(found, "__module__", None)
    if not callable(found) or not isinstance(home, str):
        return False
    return f"{home}.".startswith(TRUSTED_PREFIXES) and not home.startswith(_REFUSED_PREFIXES)
