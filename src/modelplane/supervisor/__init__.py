"""`modelplane up` and `down`: keeps the control plane and the agent running, as two processes.

`supervisor.Supervisor` is `up`, `stopping.stop_all` is `down`, `detaching.detach` puts `up` in the
background. Used by the CLI, which brings the process keepers; nothing here knows what the two
processes do.
"""
