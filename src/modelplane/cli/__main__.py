"""Runs the command line as ``python -m modelplane.cli``, as ``up --detach`` does."""

from __future__ import annotations

from modelplane.cli.main import main

if __name__ == "__main__":
    main()
