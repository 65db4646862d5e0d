"""From an artifact to a `Model`: one function per format, chosen by name.

Called by ``server`` in a thread of its own. Unpickles only what the rule for pickles allows.
"""

from __future__ import annotations

from pathlib import Path

from modelplane_runtime.errors import LoadError
from modelplane_runtime.models import Model
from modelplane_runtime.models.estimators import EstimatorModel
from modelplane_runtime.models.mlflow_directory import load_mlflow
from modelplane_runtime.models.onnx_graph import OnnxModel
from modelplane_runtime.models.pickle_file import PickleRule, load_pickle
from modelplane_runtime.models.skops_file import load_skops
from modelplane_runtime.signature import Signature

FORMATS = ("mlflow", "onnx", "skops", "joblib")

_SUFFIXES = {
    "onnx": (".onnx",),
    "skops": (".skops",),
    "joblib": (".joblib", ".pkl", ".pickle"),
}


def load_model(
    format: str,
    artifact: Path,
    declared: Signature | None = None,
    *,
    allow_pickle: PickleRule = "never",
) -> Model:
    """Load an artifact.

    Parameters
    ----------
    format
        One of `FORMATS`.
    artifact
        The file, or a directory that holds one file of the format; a directory for mlflow.
    declared
        The signature that came with the version, if any.
    allow_pickle
        Which files that can run any code when loaded may be loaded: none, those whose every
        import is on the allowlist, or all.

    Raises
    ------
    LoadError
        With what is wrong and what to do.
    """
    if not artifact.exists():
        raise LoadError(f"there is no artifact at {artifact}")
    if format == "mlflow":
        return load_mlflow(artifact, declared, allow_pickle=allow_pickle)
    path = _only_file(artifact, format)
    if format == "onnx":
        return OnnxModel(path, declared)
    estimator = load_skops(path) if format == "skops" else load_pickle(path, allow_pickle)
    return EstimatorModel(estimator, declared)


def _only_file(artifact: Path, format: str) -> Path:
    if artifact.is_file():
        return artifact
    files = [p for p in sorted(artifact.rglob("*")) if p.suffix.lower() in _SUFFIXES[format]]
    if len(files) != 1:
        raise LoadError(
            f"expected one {' or '.join(_SUFFIXES[format])} file in {artifact.name}, "
            f"found {len(files)}"
        )
    return files[0]
