"""Load a model from the registry by its URI and print what it predicts, as one line of JSON.

Run with MLflow's own Python.
"""

from __future__ import annotations

import json
import sys

import mlflow
import numpy as np

FEATURES = np.array([[0.0, 1.0], [1.0, 0.0], [1.0, 1.0], [0.0, 0.0]])


def main() -> None:
    """Load and predict."""
    predictions = [mlflow.pyfunc.load_model(uri).predict(FEATURES).tolist() for uri in sys.argv[1:]]
    print(json.dumps(predictions))


if __name__ == "__main__":
    main()
