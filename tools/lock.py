"""Resolves the dependencies into requirements.txt, requirements-dev.txt and -mlflow.txt.

Run by `make requirements`. Hashes are written, addresses of registries are not.
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

_COMPILE = [
    "pip", "compile", "--quiet", "--generate-hashes", "--no-emit-index-url",
    "--no-emit-find-links", "--no-header", "--no-annotate", "--universal", "--python-version",
    "3.11",
]  # fmt: skip


def lock(upgrade: bool) -> None:
    """Write the files; the smaller one takes its versions from the larger."""
    uv = str(Path(sys.executable).parent / "uv")
    more = ["--upgrade"] if upgrade else []
    groups = ["pyproject.toml", "--extra", "demo", "--group", "build"]
    extras = ["--extra", "gates", "--extra", "signing", "--extra", "predictions"]
    everything = [*groups, *extras, "--group", "dev", "-o", "requirements-dev.txt", *more]
    base = [*groups, "--constraint", "requirements-dev.txt", "-o", "requirements.txt"]
    # The real MLflow of the tests has an environment of its own: modelplane needs none of it.
    mlflow = ["--group", "mlflow", "-o", "requirements-mlflow.txt", *more]
    for arguments in (everything, base, mlflow):
        subprocess.run([uv, *_COMPILE, *arguments], check=True, stdout=subprocess.DEVNULL)


if __name__ == "__main__":
    lock(upgrade="--upgrade" in sys.argv[1:])
