"""What the job of a validation stage runs: ``python -m modelplane.stages``.

Started by the agent as a `Job`, alone in its working directory. It knows the task it was given
and nothing of the control plane: it reads its input, runs the candidate's real model server where
a check needs it, and writes one outcome.
"""
