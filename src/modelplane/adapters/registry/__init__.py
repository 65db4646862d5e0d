"""Registries elsewhere: MLflow over its REST API. Nothing here imports mlflow."""
