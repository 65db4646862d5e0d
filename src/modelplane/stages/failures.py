"""How a check ends without an outcome; raised by checks, told to the agent by `running`.

Anything else that a check raises is a fault of the check itself: its stage is errored and not
tried again.
"""

from __future__ import annotations


class CheckImpossible(Exception):
    """The check cannot be made, now or later: no label column, data gone, no such metric.

    The stage is errored with this message and not tried again.
    """


class InfrastructureFailed(Exception):
    """Something outside did not work; another attempt may.

    The stage is tried again as often as its `retries` say.
    """
