"""The command line: reads arguments, asks the control plane through the client, prints.

`main` is the entry point; each command's module is imported only when that command runs. Holds
no rule of the domain: what a command may do is decided behind the API.
"""
