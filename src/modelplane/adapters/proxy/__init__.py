"""Envoy behind `ports.proxy`: plans become xDS resources, access counters become readings.

`envoy.EnvoyProxy` is the implementation; `bootstrap` says how to start the process it
configures. Built by wiring for the agent; nothing else imports this package.
"""
