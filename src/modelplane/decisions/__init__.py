"""Pure decisions: numbers and declared state in, decisions out.

Nothing here does I/O, reads a clock or draws a random number: time, ids and randomness are
arguments. Controllers and the agent observe the world, call one function here, and apply what
it returns.
"""
