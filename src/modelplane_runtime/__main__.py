"""Entry point of ``python -m modelplane_runtime``; all it does is start the server."""

from __future__ import annotations

from modelplane_runtime.server import main

if __name__ == "__main__":
    main()
