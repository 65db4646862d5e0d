"""Resolves the dependencies into requirements.txt and requirements-dev.txt.

Run by `make requirements`. Hashes are written, addresses of registries are not.
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

_COMPILE = [
    "pip", "compile", "pyproject.toml", "--quiet", "--generate-hashes", "--no-emit-index-url",
    "--no-emit-find-links", "--no-header", "--no-annotate", "--universal", "--python-version",
    "3.11",
]  # fmt: skip


def lock(upgrade: bool) -> None:
    """Write both files; the smaller one takes its versions from the larger."""
    uv = str(Path(sys.executable).parent / "uv")
    more = ["--upgrade"] if upgrade else []
    groups = ["--extra", "demo", "--group", "build"]
    everything = [*groups, "--group", "dev", "-o", "requirements-dev.txt", *more]
    base = [*groups, "--constraint", "requirements-dev.txt", "-o", "requirements.txt"]
    for arguments in (everything, base):
        subprocess.run([uv, *_COMPILE, *arguments], check=True, stdout=subprocess.DEVNULL)


if __name__ == "__main__":
    lock(upgrade="--upgrade" in sys.argv[1:])
