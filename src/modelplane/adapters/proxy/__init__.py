"""Envoy behind `ports.proxy`: plans become xDS resources, access counters become readings.

`envoy.EnvoyProxy` is the implementation; `bootstrap` says how to start the process it
configures. Built by wiring for the agent; nothing else imports this package.
"""

from __future__ import annotations

import os

# Read by gRPC when it is imported. Its handlers around fork() are for children that go on using
# gRPC; ours only exec, and with a server running the handlers now and then crash such a child
# before it does (uvloop starts processes by fork(), so an environment's build would fail).
os.environ["GRPC_ENABLE_FORK_SUPPORT"] = "0"
