"""One request for a version: its own example, or one made from its signature.

Called by checks that need the model to answer something. Pure.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from modelplane.resources.gate_run import ServedModel
from modelplane.stages.failures import CheckImpossible

_VALUES: Mapping[str, Any] = {"BOOL": False, "BYTES": "a", "FP16": 0.5, "FP32": 0.5, "FP64": 0.5}
_MAX_ELEMENTS = 1_000_000


def example_request(served: ServedModel) -> dict[str, Any]:
    """Return an Open Inference Protocol request that the version should answer.

    Raises
    ------
    CheckImpossible
        It was pushed with neither an example nor a signature.

    Examples
    --------
    >>> from modelplane.resources.revision import Artifact, RuntimeSpec, make_revision
    >>> revision = make_revision("m", "1.0.0", Artifact(format="onnx", digest="d"), RuntimeSpec())
    >>> signature = {"inputs": [{"name": "x", "datatype": "FP32", "shape": [-1, 2]}]}
    >>> example_request(ServedModel(revision=revision, signature=signature))
    {'inputs': [{'name': 'x', 'datatype': 'FP32', 'shape': [1, 2], 'data': [0.5, 0.5]}]}
    """
    if served.input_example is not None:
        return dict(served.input_example)
    inputs = (served.signature or {}).get("inputs")
    if not isinstance(inputs, list) or not inputs:
        raise CheckImpossible(
            f"{served.revision.model}@{served.revision.version} has neither an input example nor "
            "a signature, so that nobody knows what to ask it: push it with one"
        )
    return {"inputs": [_example_tensor(tensor) for tensor in inputs]}


def _example_tensor(tensor: Any) -> dict[str, Any]:
    try:
        name, datatype = str(tensor["name"]), str(tensor["datatype"])
        shape = [int(size) if int(size) >= 0 else 1 for size in tensor.get("shape", [1])]
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise CheckImpossible(f"the signature has no input of this form: {tensor!r}") from error
    elements = math.prod(shape)
    if elements > _MAX_ELEMENTS:
        raise CheckImpossible(f"the input {name} has {elements:,} elements; give an example")
    data = [_VALUES.get(datatype, 1)] * elements
    return {"name": name, "datatype": datatype, "shape": shape, "data": data}
