"""Models with scikit-learn's interface: ``predict`` and maybe ``predict_proba``.

Used for skops and joblib files and for MLflow's sklearn flavour. Imports pandas only when a
model needs its columns by name. Does no I/O.
"""

from __future__ import annotations

import warnings
from collections.abc import Collection, Mapping
from typing import Any

import numpy as np

from modelplane_runtime.errors import LoadError, RequestError
from modelplane_runtime.signature import ANY_SIZE, Signature, TensorSpec, fit
from modelplane_runtime.tensors import Array, datatype_of

PREDICTIONS = "predictions"
PROBABILITIES = "probabilities"

_COMPOSITE_ATTRIBUTES = ("steps", "transformers", "transformer_list", "estimator", "estimators")


class EstimatorModel:
    """An estimator behind `Model`.

    It takes one tensor per column when the model (or the declared signature) names its columns,
    and one matrix ``[n, features]`` in any case. Where nothing names the matrix, any name will do.

    Parameters
    ----------
    estimator
        A fitted object with ``predict``.
    declared
        The signature that came with the version; its outputs are not used, since the estimator
        tells its own.

    Raises
    ------
    LoadError
        The object cannot predict, or the declared columns are not the model's.
    """

    platform = "sklearn"

    def __init__(self, estimator: Any, declared: Signature | None = None) -> None:
        if not hasattr(estimator, "predict"):
            raise LoadError(f"a {type(estimator).__name__} has no predict method")
        self._estimator = estimator
        self._has_probabilities = hasattr(estimator, "predict_proba")
        self._takes_only_numbers = _takes_only_numbers(estimator)
        self._width = _feature_count(estimator)
        self._columns = _column_specs(estimator, declared, self._width)
        self._matrix_is_declared = declared is not None and declared.is_matrix()
        inputs = self._columns
        if not inputs:
            inputs = declared.inputs if declared else (_matrix_spec(self._width),)
        self.signature = Signature(inputs, _output_specs(estimator, self._has_probabilities))
        self._frames = _named_columns(estimator) is not None and not self._takes_only_numbers
        if self._frames:
            _require_pandas()
        # Plain estimators get their columns in training order as a matrix: the names are checked
        # here, and a frame for one row costs more than most predictions.
        warnings.filterwarnings("ignore", message="X does not have valid feature names")

    def prepare(self, tensors: Mapping[str, Array]) -> Any:
        """Check the tensors; return a matrix, or a frame where the model selects by name."""
        if not self._columns:
            return self._prepare_matrix(tensors)
        names = [spec.name for spec in self._columns]
        only = next(iter(tensors.values())) if len(tensors) == 1 else None
        if only is not None and only.ndim == 2 and not (set(tensors) & set(names)):
            matrix = self._check_matrix(next(iter(tensors)), only)
            return _frame_of_matrix(matrix, names) if self._frames else matrix
        columns = fit(tensors, self._columns)
        if self._takes_only_numbers:
            for name, column in columns.items():
                _refuse_strings(name, column)
        if self._frames:
            return _frame_of_columns(columns)
        return np.column_stack(list(columns.values()))

    def _prepare_matrix(self, tensors: Mapping[str, Array]) -> Array:
        if len(tensors) == 1 and self._width is None and not self._matrix_is_declared:
            return next(iter(tensors.values()))  # a pipeline over text, say
        name, matrix = next(iter(fit(tensors, self.signature.inputs).items()))
        return self._check_matrix(name, matrix)

    def _check_matrix(self, name: str, matrix: Array) -> Array:
        if self._takes_only_numbers:
            _refuse_strings(name, matrix)
        if self._width is not None and (matrix.ndim != 2 or matrix.shape[1] != self._width):
            raise RequestError(
                f'input "{name}": expected shape [-1, {self._width}] (-1 is any size), '
                f"got {list(matrix.shape)}"
            )
        return matrix

    def predict(self, prepared: Any, wanted: Collection[str]) -> dict[str, Array]:
        """Compute labels or values, and probabilities where the model has them."""
        outputs: dict[str, Array] = {}
        if not wanted or PREDICTIONS in wanted:
            outputs[PREDICTIONS] = np.asarray(self._estimator.predict(prepared))
        if self._has_probabilities and (
            not wanted or any(name.startswith(PROBABILITIES) for name in wanted)
        ):
            outputs |= _probabilities(self._estimator.predict_proba(prepared))
        return outputs


def _probabilities(values: Any) -> dict[str, Array]:
    if isinstance(values, list):  # one array per target
        return {f"{PROBABILITIES}_{i}": np.asarray(value) for i, value in enumerate(values)}
    return {PROBABILITIES: np.asarray(values)}


def _named_columns(estimator: Any) -> list[str] | None:
    names = getattr(estimator, "feature_names_in_", None)
    return None if names is None else [str(name) for name in names]


def _feature_count(estimator: Any) -> int | None:
    count = getattr(estimator, "n_features_in_", None)
    return None if count is None else int(count)


def _column_specs(
    estimator: Any, declared: Signature | None, width: int | None
) -> tuple[TensorSpec, ...]:
    names = _named_columns(estimator)
    if declared is None or declared.is_matrix():
        if names is None or (declared is not None and declared.is_matrix()):
            return ()
        checks = _takes_only_numbers(estimator)
        # What a name's column holds is not kept in a model; where it can only be a number, any
        # number will do.
        return tuple(
            TensorSpec(name, "FP64", (ANY_SIZE,), checks_datatype=checks) for name in names
        )
    declared_names = [spec.name for spec in declared.inputs]
    if names is not None:
        if sorted(names) != sorted(declared_names):
            differing = sorted(set(names) ^ set(declared_names))
            raise LoadError(
                "the signature's columns are not those the model was trained on; "
                f"they differ in {', '.join(differing[:10])}"
            )
        by_name = {spec.name: spec for spec in declared.inputs}
        return tuple(by_name[name] for name in names)
    if width is not None and width != len(declared_names):
        raise LoadError(f"the signature has {len(declared_names)} columns, the model takes {width}")
    return declared.inputs


def _matrix_spec(width: int | None) -> TensorSpec:
    size = ANY_SIZE if width is None else width
    return TensorSpec("input", "FP64", (ANY_SIZE, size), checks_datatype=False, any_name=True)


def _output_specs(estimator: Any, has_probabilities: bool) -> tuple[TensorSpec, ...]:
    classes = getattr(estimator, "classes_", None)
    if isinstance(classes, list):
        probabilities = tuple(
            TensorSpec(f"{PROBABILITIES}_{i}", "FP64", (ANY_SIZE, len(labels)))
            for i, labels in enumerate(classes)
        )
        labels_type = datatype_of(np.asarray(classes[0]).dtype)
        predictions = TensorSpec(PREDICTIONS, labels_type, (ANY_SIZE, len(classes)))
        return (predictions, *probabilities) if has_probabilities else (predictions,)
    labels_type = "FP64" if classes is None else datatype_of(np.asarray(classes).dtype)
    predictions = TensorSpec(PREDICTIONS, labels_type, (ANY_SIZE,))
    if not has_probabilities:
        return (predictions,)
    size = ANY_SIZE if classes is None else len(classes)
    return (predictions, TensorSpec(PROBABILITIES, "FP64", (ANY_SIZE, size)))


def _takes_only_numbers(estimator: Any) -> bool:
    """Tell whether strings can only be a client's mistake: a plain estimator of scikit-learn.

    A composite (pipeline, column transformer, meta-estimator) or another library's model may
    take strings, so nothing is refused for it; a declared signature makes that strict.
    """
    if not type(estimator).__module__.startswith("sklearn."):
        return False
    if any(hasattr(estimator, name) for name in _COMPOSITE_ATTRIBUTES):
        return False
    categorical = getattr(estimator, "is_categorical_", None)
    return categorical is None or not bool(np.any(categorical))


def _refuse_strings(name: str, array: Array) -> None:
    if array.dtype.kind == "O":
        raise RequestError(f'input "{name}": expected datatype FP64, got BYTES')


def _require_pandas() -> None:
    try:
        import pandas  # noqa: F401, PLC0415
    except ImportError as error:
        raise LoadError(
            "the model selects its columns by name, which takes pandas: "
            "add pandas to the version's requirements"
        ) from error


def _frame_of_matrix(matrix: Array, names: list[str]) -> Any:
    import pandas as pd  # noqa: PLC0415

    return pd.DataFrame(matrix, columns=names)


def _frame_of_columns(columns: Mapping[str, Array]) -> Any:
    import pandas as pd  # noqa: PLC0415

    dtypes = {column.dtype for column in columns.values()}
    if len(dtypes) == 1 and next(iter(dtypes)).kind != "O":
        return pd.DataFrame(np.column_stack(list(columns.values())), columns=list(columns))
    return pd.DataFrame(dict(columns))
