"""Train a small model, log and register it, load it back by its alias, compare predictions.

Run with MLflow's own Python. Prints one line of JSON: what was registered and what it predicts.
With a folder as argument the model is saved there besides.
"""

from __future__ import annotations

import json
import sys

import mlflow
import numpy as np
from sklearn.linear_model import LogisticRegression

NAME = "trained model"
FEATURES = np.array([[0.0, 1.0], [1.0, 0.0], [1.0, 1.0], [0.0, 0.0]])


def main() -> None:
    """Train, log, register, load."""
    model = LogisticRegression().fit(FEATURES, [0, 1, 1, 0])
    expected = model.predict(FEATURES).tolist()
    client = mlflow.MlflowClient()
    with mlflow.start_run():
        logged = mlflow.sklearn.log_model(model, name="model", registered_model_name=NAME)
    version = logged.registered_model_version
    client.set_registered_model_alias(NAME, "champion", version)
    found = client.get_model_version_by_alias(NAME, "champion")
    by_alias = mlflow.pyfunc.load_model(f"models:/{NAME}@champion").predict(FEATURES).tolist()
    by_number = mlflow.sklearn.load_model(f"models:/{NAME}/{version}").predict(FEATURES).tolist()
    latest = mlflow.pyfunc.load_model(f"models:/{NAME}/latest").predict(FEATURES).tolist()
    if len(sys.argv) > 1:
        mlflow.sklearn.save_model(model, sys.argv[1])
    print(
        json.dumps(
            {
                "expected": expected,
                "predicted": [by_alias, by_number, latest],
                "version": str(version),
                "source": found.source,
            }
        )
    )


if __name__ == "__main__":
    main()
