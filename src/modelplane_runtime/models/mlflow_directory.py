"""MLflow model directories: read by ourselves where that is light, else by mlflow.

The sklearn and onnx flavours need no mlflow package, and answer with probabilities, which pyfunc
does not. Everything else goes through ``mlflow.pyfunc``, and only with leave to load any pickle,
since most flavours hold pickles or Python code that nobody has looked at.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from modelplane_runtime.errors import LoadError
from modelplane_runtime.models import Model
from modelplane_runtime.models.estimators import PREDICTIONS, EstimatorModel
from modelplane_runtime.models.onnx_graph import OnnxModel
from modelplane_runtime.models.pickle_file import PickleRule, load_pickle
from modelplane_runtime.models.skops_file import load_skops
from modelplane_runtime.signature import Signature, fit, parse_mlflow_signature
from modelplane_runtime.tensors import Array

# Loaders whose files are a library's own data format, not pickles.
_DATA_ONLY_LOADERS = frozenset({"mlflow.catboost", "mlflow.lightgbm", "mlflow.xgboost"})
_PICKLE_SUFFIXES = frozenset({".pkl", ".pickle", ".joblib", ".pt", ".pth"})


def load_mlflow(directory: Path, declared: Signature | None, *, allow_pickle: PickleRule) -> Model:
    """Load an MLflow model directory.

    Raises
    ------
    LoadError
        It is not one, holds pickles or code without leave, or mlflow is needed and absent.
    """
    document = _read_mlmodel(directory)
    flavors: Mapping[str, Any] = document.get("flavors") or {}
    signature = declared or parse_mlflow_signature(document.get("signature"))
    sklearn = flavors.get("sklearn")
    if sklearn and sklearn.get("serialization_format") == "skops":
        path = _inside(directory, sklearn.get("pickled_model"))
        return EstimatorModel(load_skops(path), signature)
    if sklearn and allow_pickle != "never" and not sklearn.get("code"):
        path = _inside(directory, sklearn.get("pickled_model"))
        return EstimatorModel(load_pickle(path, allow_pickle), signature)
    if onnx := flavors.get("onnx"):
        return OnnxModel(_inside(directory, onnx.get("data")), declared)
    pyfunc = flavors.get("python_function")
    if not pyfunc:
        raise LoadError(
            f"no flavour of this MLflow model can be served; it has {', '.join(flavors) or 'none'}"
        )
    if allow_pickle != "always" and (reason := _why_unsafe(directory, pyfunc)):
        raise LoadError(
            f"this MLflow model {reason}: loading it can run any code. "
            "It loads only where pickles are allowed"
        )
    return _load_pyfunc(directory, signature)


def _read_mlmodel(directory: Path) -> Mapping[str, Any]:
    path = directory / "MLmodel"
    if not path.is_file():
        raise LoadError(
            f"{directory.name} is not an MLflow model directory: it has no MLmodel file"
        )
    try:
        from ruamel.yaml import YAML  # noqa: PLC0415
        from ruamel.yaml.error import YAMLError  # noqa: PLC0415
    except ImportError as error:
        raise LoadError("an MLflow model takes ruamel.yaml, which is not installed") from error
    try:
        document = YAML(typ="safe", pure=True).load(path.read_text(encoding="utf-8"))
    except (YAMLError, UnicodeDecodeError) as error:
        raise LoadError(f"the MLmodel file cannot be read: {error}") from error
    if not isinstance(document, dict) or not isinstance(document.get("flavors"), dict):
        raise LoadError("the MLmodel file names no flavours")
    return document


def _inside(directory: Path, name: object) -> Path:
    if not isinstance(name, str):
        raise LoadError("the MLmodel file does not name the model's file")
    path = (directory / name).resolve()
    if not path.is_relative_to(directory.resolve()) or not path.exists():
        raise LoadError(f"the MLmodel file names {name}, which is not in the directory")
    return path


def _why_unsafe(directory: Path, pyfunc: Mapping[str, Any]) -> str | None:
    loader = str(pyfunc.get("loader_module"))
    if loader not in _DATA_ONLY_LOADERS:
        return f"is loaded by {loader}, which unpickles"
    if pyfunc.get("code") or pyfunc.get("model_code_path"):
        return "carries Python code"
    pickles = [p.name for p in directory.rglob("*") if p.suffix.lower() in _PICKLE_SUFFIXES]
    return f"holds a pickle ({pickles[0]})" if pickles else None


def _load_pyfunc(directory: Path, signature: Signature | None) -> Model:
    try:
        import mlflow.pyfunc  # noqa: PLC0415
    except ImportError as error:
        raise LoadError(
            "this flavour is loaded by mlflow.pyfunc: add mlflow to the version's requirements"
        ) from error
    try:
        model = mlflow.pyfunc.load_model(str(directory))
    except Exception as error:  # a flavour's loader may raise anything
        raise LoadError(f"mlflow cannot load the model: {type(error).__name__}: {error}") from error
    return PyfuncModel(model, signature)


class PyfuncModel:
    """An ``mlflow.pyfunc`` model behind `Model`; without a signature any columns are taken."""

    platform = "mlflow_pyfunc"

    def __init__(self, model: Any, signature: Signature | None) -> None:
        self._model = model
        self._inputs = signature.inputs if signature else ()
        self.signature = Signature(self._inputs, signature.outputs if signature else ())

    def prepare(self, tensors: Mapping[str, Array]) -> Any:
        """Check the tensors; return a frame for columns, an array or dict for tensors."""
        arrays = fit(tensors, self._inputs) if self._inputs else dict(tensors)
        if any(array.ndim > 1 for array in arrays.values()):
            return next(iter(arrays.values())) if len(arrays) == 1 else arrays
        import pandas as pd  # noqa: PLC0415

        return pd.DataFrame(arrays)

    def predict(self, prepared: Any, wanted: Collection[str]) -> dict[str, Array]:
        """Predict; a frame gives one output per column."""
        result = self._model.predict(prepared)
        if hasattr(result, "columns"):
            outputs = {str(name): _plain(result[name]) for name in result.columns}
        elif isinstance(result, dict):
            outputs = {str(name): _plain(value) for name, value in result.items()}
        else:
            outputs = {self._only_output(): _plain(result)}
        return {name: value for name, value in outputs.items() if not wanted or name in wanted}

    def _only_output(self) -> str:
        declared = self.signature.outputs
        return declared[0].name if len(declared) == 1 else PREDICTIONS


def _plain(value: Any) -> Array:
    return np.atleast_1d(np.asarray(value))
