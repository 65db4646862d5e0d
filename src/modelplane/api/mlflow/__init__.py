"""The API of MLflow's model registry, so that unchanged MLflow clients use modelplane as one.

Served below ``/api/2.0/mlflow``; added to the application by `api.app`. What requests mean is
decided in `decisions.mlflow_registry` and `decisions.mlflow_changes`.
"""
