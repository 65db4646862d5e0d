"""The model server: one model version behind the Open Inference Protocol (REST) on a Unix socket.

Started by the agent as ``python -m modelplane_runtime`` inside the version's own virtual
environment, next to the packages that the model pins. So it imports the standard library, its
HTTP stack and numpy, and a model's library only when that model is loaded; it never imports
``modelplane``.
"""

from __future__ import annotations

__version__ = "0.1.0"
