"""The demo: real flights, three real models, live traffic. Needs the extra ``demo``.

Nothing in the control plane imports this package; ``run`` drives it from outside, as a user would.
"""
