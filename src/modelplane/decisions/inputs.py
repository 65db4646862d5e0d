"""What a model's inputs are called and what they hold, as predicates may name them.

Called when a traffic policy is admitted and when a traffic split is computed. Pure.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from modelplane.resources.traffic_split import InputType

_TYPES: Mapping[str, InputType] = {"BOOL": "truth", "BYTES": "text"}


def input_types(signatures: Iterable[Mapping[str, Any] | None]) -> dict[str, InputType]:
    """Return the inputs of all signatures by name; of one in several, the first tells the type.

    Parameters
    ----------
    signatures
        As in `ModelVersionSpec.signature`, in the Open Inference Protocol's words; None and what
        has another form tell nothing.

    Examples
    --------
    >>> input_types([{"inputs": [{"name": "amount", "datatype": "FP64", "shape": [-1, 1]}]}])
    {'amount': 'number'}
    """
    types: dict[str, InputType] = {}
    for signature in signatures:
        inputs = signature.get("inputs") if signature is not None else None
        for tensor in inputs if isinstance(inputs, list) else ():
            if not isinstance(tensor, Mapping) or not isinstance(tensor.get("name"), str):
                continue
            datatype = str(tensor.get("datatype", "")).upper()
            types.setdefault(tensor["name"], _TYPES.get(datatype, "number"))
    return types
