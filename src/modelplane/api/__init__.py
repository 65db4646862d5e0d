"""The HTTP API of the control plane: authenticate, authorize, load, decide, commit.

`app.create_app` is its one entry. Routes hold no rules: those are in `modelplane.decisions`.
"""
