"""An MLServer runtime for ONNX files, for ``serving``; for sklearn MLServer has its own.

Imported by MLServer inside an environment that has the ``mlserver`` package.
"""

from __future__ import annotations

from typing import Any

import onnxruntime
from mlserver import MLModel
from mlserver.codecs import NumpyCodec, NumpyRequestCodec
from mlserver.types import InferenceRequest, InferenceResponse


class OnnxRuntime(MLModel):  # type: ignore[misc]
    """Answers with the graph's labels."""

    async def load(self) -> bool:
        """Open the session."""
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = options.inter_op_num_threads = 1
        uri = self.settings.parameters.uri
        self._session: Any = onnxruntime.InferenceSession(uri, options)
        self._input = self._session.get_inputs()[0].name
        self._label = self._session.get_outputs()[0].name
        return True

    async def predict(self, payload: InferenceRequest) -> InferenceResponse:
        """Answer one inference request."""
        rows = self.decode_request(payload, default_codec=NumpyRequestCodec)
        labels = self._session.run([self._label], {self._input: rows})[0]
        output = NumpyCodec.encode_output("predictions", labels)
        return InferenceResponse(model_name=self.name, model_version=self.version, outputs=[output])
