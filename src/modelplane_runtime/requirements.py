"""What an environment needs to run this server; read by the environment builder.

Names with lower bounds only: an upper bound here could make a model's own pins unsatisfiable.
None of these packages caps numpy or protobuf. Must not import anything: the builder reads it
from another environment.

uvicorn with httptools and uvloop was chosen by measurement: 0.11-0.12 CPU ms for a request with
one row of 20 numbers over a Unix socket from 16 connections, prediction in a thread, against
0.19-0.20 with granian, whose second process also doubles the memory.
"""

from __future__ import annotations

RUNTIME_REQUIREMENTS: tuple[str, ...] = (
    "httptools>=0.6",
    "numpy>=1.23",
    "uvicorn>=0.30",
    "uvloop>=0.19",
)

# What loading a format takes, beside what the model itself needs.
LOADER_REQUIREMENTS: dict[str, tuple[str, ...]] = {
    "skops": ("skops>=0.12",),
    "joblib": ("joblib>=1.2",),
    "onnx": ("onnxruntime>=1.16",),
    "mlflow": ("joblib>=1.2", "ruamel.yaml>=0.17"),
}

# What a version gets that was pushed without requirements.
DEFAULT_REQUIREMENTS: dict[str, tuple[str, ...]] = {
    "skops": ("pandas", "scikit-learn"),
    "joblib": ("cloudpickle", "pandas", "scikit-learn"),
    "onnx": (),
    "mlflow": ("mlflow-skinny>=2.10", "pandas", "scikit-learn", "skops>=0.12"),
}

# Modules that must be importable for a format, to judge an environment that is already there.
NEEDED_MODULES: dict[str, tuple[str, ...]] = {
    "skops": ("skops", "sklearn"),
    "joblib": ("joblib",),
    "onnx": ("onnxruntime",),
    "mlflow": ("ruamel.yaml",),
}
RUNTIME_MODULES: tuple[str, ...] = ("httptools", "numpy", "uvicorn", "uvloop")
