"""The only place where ports meet adapters.

`control_plane` and `agent` are the two processes; each module builds one from the settings and
runs it. `modelplane.supervisor` starts them; nothing else imports them.
"""
