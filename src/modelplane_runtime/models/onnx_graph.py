"""ONNX graphs, run by onnxruntime.

Used for ONNX files and for MLflow's onnx flavour. The graph names its inputs and outputs; a
declared signature of columns is stacked into the graph's one matrix.
"""

from __future__ import annotations

import os
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from modelplane_runtime.errors import LoadError, ModelOutputError
from modelplane_runtime.signature import ANY_SIZE, Signature, TensorSpec, fit, fit_datatype
from modelplane_runtime.tensors import Array

_DATATYPES = {
    "tensor(bool)": "BOOL",
    "tensor(uint8)": "UINT8",
    "tensor(uint16)": "UINT16",
    "tensor(uint32)": "UINT32",
    "tensor(uint64)": "UINT64",
    "tensor(int8)": "INT8",
    "tensor(int16)": "INT16",
    "tensor(int32)": "INT32",
    "tensor(int64)": "INT64",
    "tensor(float16)": "FP16",
    "tensor(float)": "FP32",
    "tensor(double)": "FP64",
    "tensor(string)": "BYTES",
}


class OnnxModel:
    """An onnxruntime session behind `Model`.

    Parameters
    ----------
    path
        The ``.onnx`` file.
    declared
        The signature that came with the version. It must have the graph's input names, or be a
        set of columns as wide as the graph's only matrix.

    Raises
    ------
    LoadError
        onnxruntime refuses the file, or an input has a type that JSON cannot carry.
    """

    platform = "onnxruntime"

    def __init__(self, path: Path, declared: Signature | None = None) -> None:
        self._session = _open_session(path)
        graph_inputs = tuple(_input_spec(node) for node in self._session.get_inputs())
        outputs = tuple(_output_spec(node) for node in self._session.get_outputs())
        self._graph_inputs = graph_inputs
        self._stacks_columns = False
        inputs = graph_inputs
        if declared is not None and not _same_names(declared.inputs, graph_inputs):
            _check_columns(declared, graph_inputs)
            self._stacks_columns = True
            inputs = declared.inputs
        self._output_names = [spec.name for spec in outputs]
        self.signature = Signature(inputs, outputs)

    def prepare(self, tensors: Mapping[str, Array]) -> dict[str, Array]:
        """Check the tensors against the graph's inputs, converting the width of numbers."""
        fitted = fit(tensors, self.signature.inputs)
        if not self._stacks_columns:
            return fitted
        matrix = self._graph_inputs[0]
        columns = [
            fit_datatype(column, TensorSpec(name, matrix.datatype, (ANY_SIZE,)))
            for name, column in fitted.items()
        ]
        return {matrix.name: np.column_stack(columns)}

    def predict(self, prepared: Any, wanted: Collection[str]) -> dict[str, Array]:
        """Run the graph for the outputs that are wanted."""
        names = [name for name in self._output_names if not wanted or name in wanted]
        values = self._session.run(names, prepared)
        return {name: _as_array(name, value) for name, value in zip(names, values, strict=True)}


def _open_session(path: Path) -> Any:
    try:
        import onnxruntime  # noqa: PLC0415
    except ImportError as error:
        raise LoadError("an ONNX model takes onnxruntime, which is not installed") from error
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = _thread_count()
    options.inter_op_num_threads = 1
    # Spinning threads would burn the cores that replicas share.
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    options.log_severity_level = 3
    try:
        return onnxruntime.InferenceSession(
            str(path), sess_options=options, providers=["CPUExecutionProvider"]
        )
    except Exception as error:  # onnxruntime raises a class of its own for each kind of damage
        raise LoadError(f"onnxruntime cannot load {path.name}: {error}") from error


def _thread_count() -> int:
    text = os.environ.get("OMP_NUM_THREADS", "1")
    return int(text) if text.isdigit() and int(text) > 0 else 1


def _sizes(shape: list[Any]) -> tuple[int, ...]:
    return tuple(size if isinstance(size, int) and size >= 0 else ANY_SIZE for size in shape)


def _input_spec(node: Any) -> TensorSpec:
    if node.type not in _DATATYPES:
        raise LoadError(f'the graph\'s input "{node.name}" has type {node.type}, not a tensor')
    return TensorSpec(node.name, _DATATYPES[node.type], _sizes(node.shape))


def _output_spec(node: Any) -> TensorSpec:
    if node.type in _DATATYPES:
        return TensorSpec(node.name, _DATATYPES[node.type], _sizes(node.shape))
    # Classifiers converted with ZipMap give a list of {label: probability}.
    return TensorSpec(node.name, "FP32", (ANY_SIZE, ANY_SIZE))


def _same_names(declared: tuple[TensorSpec, ...], graph: tuple[TensorSpec, ...]) -> bool:
    return {spec.name for spec in declared} == {spec.name for spec in graph}


def _check_columns(declared: Signature, graph: tuple[TensorSpec, ...]) -> None:
    names = ", ".join(spec.name for spec in graph)
    width = graph[0].shape[1] if len(graph) == 1 and len(graph[0].shape) == 2 else None
    columns = all(len(spec.shape) == 1 for spec in declared.inputs)
    if width is None or not columns or width not in (ANY_SIZE, len(declared.inputs)):
        raise LoadError(f"the signature's inputs do not fit the graph's, which are {names}")


def _as_array(name: str, value: Any) -> Array:
    if isinstance(value, np.ndarray):
        return value
    if isinstance(value, list) and value and isinstance(value[0], dict):
        return np.array([list(row.values()) for row in value], dtype=np.float32)
    raise ModelOutputError(f'output "{name}" is a {type(value).__name__}, not a tensor')
