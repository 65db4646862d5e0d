"""One way to ask any model: check the inputs, then predict.

`load` (in ``loading``) gives a `Model`; ``inference`` is its only caller.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any, Protocol

from modelplane_runtime.signature import Signature
from modelplane_runtime.tensors import Array


class Model(Protocol):
    """A loaded model.

    Attributes
    ----------
    platform
        What runs it, as the protocol's metadata names it.
    signature
        Its inputs and outputs.
    """

    @property
    def platform(self) -> str: ...

    @property
    def signature(self) -> Signature: ...

    def prepare(self, tensors: Mapping[str, Array]) -> Any:
        """Turn a request's tensors into what `predict` takes.

        Raises
        ------
        RequestError
            They do not fit the signature.
        """
        ...

    def predict(self, prepared: Any, wanted: Collection[str]) -> dict[str, Array]:
        """Compute the outputs named in `wanted`; all of them when it is empty.

        Anything it raises is a failure of the model.
        """
        ...
