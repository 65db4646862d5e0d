"""Entry point of ``python -m modelplane.stages``: the job of one validation stage."""

from __future__ import annotations

import sys

from modelplane.stages.running import main

if __name__ == "__main__":
    sys.exit(main())
