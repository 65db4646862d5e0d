"""A KServe SDK server of one sklearn (skops) or ONNX file, for ``serving``.

Run by ``serving`` inside an environment that has the ``kserve`` package:
``python serving_kserve.py FORMAT ARTIFACT PORT``. As KServe's own predictors do, it answers with
the labels alone.
"""

from __future__ import annotations

import sys
import uuid
from typing import Any

import kserve


class FileModel(kserve.Model):  # type: ignore[misc]
    """Predicts labels with the file's model."""

    def __init__(self, name: str, format: str, artifact: str) -> None:
        super().__init__(name)
        self.predict_labels = load(format, artifact)
        self.ready = True

    def predict(self, payload: Any, headers: Any = None, response_headers: Any = None) -> Any:
        """Answer one inference request."""
        labels = self.predict_labels(payload.inputs[0].as_numpy())
        output = kserve.InferOutput("predictions", list(labels.shape), "INT64", labels.tolist())
        return kserve.InferResponse(payload.id or str(uuid.uuid4()), self.name, [output])


def load(format: str, artifact: str) -> Any:
    """Load the file; return a function from rows to labels."""
    if format == "onnx":
        import onnxruntime  # noqa: PLC0415

        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = options.inter_op_num_threads = 1
        session = onnxruntime.InferenceSession(artifact, options)
        name, label = session.get_inputs()[0].name, session.get_outputs()[0].name
        return lambda rows: session.run([label], {name: rows})[0]
    import skops.io  # noqa: PLC0415

    trusted = skops.io.get_untrusted_types(file=artifact)
    return skops.io.load(artifact, trusted=trusted).predict


if __name__ == "__main__":
    _, file_format, path, port = sys.argv
    server = kserve.ModelServer(
        http_port=int(port), enable_grpc=False, enable_latency_logging=False, workers=1
    )
    server.start([FileModel("m", file_format, path)])
